//! F15: a client that stops reading, while others read on.

use super::stage::{Stage, spec};
use crate::support::{names, until, wait_batch};

#[tokio::test(flavor = "multi_thread")]
async fn f15_slow_consumer() {
    let spec = spec()
        .set("MILEPOST_LIVE__QUEUE_BYTES_MAX", "65536")
        .set("MILEPOST_LIVE__COALESCE_BYTES", "16384")
        .set("MILEPOST_LIVE__WRITE_TIMEOUT", "3s");
    let mut stage = Stage::start(spec);
    stage.watch("ann", 1).await;
    let gate = stage.watch_slowly("ann").await;
    let fault = stage.fault("stop-reading");
    gate.send_replace(false);
    for n in 0..20 {
        let mut batch = wait_batch(&names(&format!("a-rather-long-name-of-an-item-{n}"), 150), 60, 17);
        batch["concurrency"] = 5.into();
        stage.submit_at(n % 2, "ann", &batch).await;
    }
    let merged = || stage.on_gateways("milepost_events_coalesced_total");
    let closed = || stage.on_gateways("milepost_slow_sockets_closed_total");
    until("the queue is full", async || merged() > 0.0).await;
    until("the gateway gives the connection up", async || closed() > 0.0).await;
    let fast = stage.sockets();
    let ends = || stage.accepted.iter().filter(|accepted| fast[0].has_end(&accepted.task)).count();
    until("others have seen it all", async || ends() == 20).await;
    let slow = fast.last().unwrap();
    let missed = stage.accepted.iter().filter(|accepted| !slow.has_end(&accepted.task)).count();
    assert!(missed > 0, "void: the slow one had it all as well");
    fault.bit(format!("{} events were merged, and {missed} ends not read", merged()));
    gate.send_replace(true);
    fault.healed();
    stage.judge().await;
}
