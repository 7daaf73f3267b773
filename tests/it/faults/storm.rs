//! F21: all sockets are cut at once, and come back at once.

use std::time::Duration;

use milepost_harness::Proxy;
use tokio::time::Instant;

use super::gateways::{all_back, lost, user};
use super::stage::{Stage, spec};
use crate::support::{PATIENCE, names, until, wait_batch};

/// So many users, each with ten sockets. Larger storms are for load tests.
const STORM_USERS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn f21_reconnect_storm() {
    let mut stage = Stage::start(spec());
    let port = |url: &String| url.rsplit(':').next().unwrap().parse().unwrap();
    let proxies: Vec<Proxy> = stage.hub.urls().iter().map(|url| Proxy::to(port(url)).unwrap()).collect();
    *stage.servers.lock().unwrap() =
        proxies.iter().map(|proxy| format!("http://127.0.0.1:{}", proxy.port())).collect();
    for n in 0..STORM_USERS {
        stage.watch(&user(n), 9).await;
    }
    for n in 0..10 {
        let mut batch = wait_batch(&names(&user(n), 100), 200, 9);
        batch["concurrency"] = 4.into();
        stage.submit_at(n % 2, &user(n), &batch).await;
    }
    let reads = stage.on_gateways("milepost_db_queries_total{op=\"read\"}");
    let (began, fault) = (Instant::now(), stage.fault("reconnect-storm"));
    proxies.iter().for_each(Proxy::reset);
    until("the sockets notice", async || lost(&stage, began).len() == STORM_USERS * 10).await;
    fault.bit(format!("{} sockets were cut at once", STORM_USERS * 10));
    all_back(&stage.sockets()).await;
    let mut took: Vec<Duration> =
        stage.sockets().iter().filter_map(|socket| socket.back(began)).map(|at| at - began).collect();
    took.sort();
    let p95 = took[took.len() * 95 / 100];
    assert!(p95 < PATIENCE, "p95 of reconnects is {p95:?}");
    let reads = stage.on_gateways("milepost_db_queries_total{op=\"read\"}") - reads;
    // A position that is continued costs the record nothing; what is counted is looked at by checks and submits.
    assert!(reads < 150.0, "the reconnects cost the record {reads} reads");
    stage.judge().await;
}
