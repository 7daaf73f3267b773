//! F01 to F03: a worker dies, is told to stop, or sleeps through its lease.

use std::time::Duration;

use milepost::task::EventKind;
use milepost_harness::{FakeClock, HubSpec, ReplicaSpec, Trap};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::stage::{Stage, blocking, spec};
use crate::support::{PATIENCE, names, until, wait_batch};

/// Items of one batch that run at once.
const LANES: u32 = 8;
/// How long an item takes.
const ITEM: Duration = Duration::from_millis(150);

async fn another_attempt(stage: &Stage, task: &str) {
    until("another attempt begins", async || stage.row("attempt >= 2", task).await == "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_worker_killed_mid_batch() {
    let mut stage = Stage::with_cluster(spec(), 120, ITEM).await;
    stage.watch("ann", 2).await;
    let batch = stage.node_batch("killed", LANES);
    let task = stage.submit("ann", &batch).await;
    stage.recorded(&task, 30).await;
    let holder = stage.holder().await;
    let done = stage.recorded_names(&task).await;
    let fault = stage.fault("kill-worker");
    blocking(|| stage.hub.workers[holder].kill()).unwrap();
    another_attempt(&stage, &task).await;
    stage.ended(&task).await;
    assert_eq!(stage.row("attempt, tries", &task).await, "2|2");
    fault.bit("another attempt went on");
    let runs = stage.runs();
    assert!(runs.values().all(|runs| *runs <= 2), "I6: {runs:?}");
    let again: Vec<_> = done.iter().filter(|node| runs[*node] > 1).collect();
    assert!(again.is_empty(), "I6: {again:?} ran again although their results were recorded");
    stage.judge().await;
}

/// The claim is committed, and the token was not acked: it is there for somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn f01_worker_killed_between_claim_and_ack() {
    // Tokens alone lead to claims, so that the worker with the claim is the one with the token.
    let mut stage = Stage::start(spec().proxied().set("MILEPOST_WORKER__POLL_INTERVAL", "60s"));
    stage.watch("ann", 1).await;
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    proxy.set_trap(Trap::Hold { request: b"_ack\r\n".to_vec() }, 1);
    let task = stage.submit("ann", &wait_batch(&names("a", 60), 300, 7)).await;
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    until("an ack is on its way", async || proxy.sprung() == 1).await;
    let holder = stage.holder().await;
    let fault = stage.fault("kill-worker");
    blocking(|| stage.hub.workers[holder].kill()).unwrap();
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    // The ack that was sent and has not arrived dies with its connection.
    proxy.reset();
    let redis = stage.hub.redis.as_ref().unwrap();
    let pending = blocking(|| redis.command(&["XPENDING", "mp:dispatch", "workers"])).unwrap();
    if !pending.starts_with("*4\r\n:0\r\n") {
        fault.bit("the token is pending with a worker that is gone");
    }
    another_attempt(&stage, &task).await;
    stage.judge().await;
}

/// The end is committed and was not told: the outbox tells it, once.
#[tokio::test(flavor = "multi_thread")]
async fn f01_worker_killed_between_the_end_and_telling_it() {
    let mut stage = Stage::start(spec().proxied());
    stage.watch("ann", 2).await;
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    proxy.set_trap(Trap::Hold { request: br#""type":"complete""#.to_vec() }, 1);
    let task = stage.submit("ann", &wait_batch(&names("a", 20), 100, 0)).await;
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    until("the end is on its way", async || proxy.sprung() == 1).await;
    assert_eq!(stage.row("status", &task).await, "completed");
    let holder = stage.holder().await;
    let fault = stage.fault("kill-worker");
    blocking(|| stage.hub.workers[holder].kill()).unwrap();
    if stage.sockets().iter().all(|socket| !socket.has_end(&task)) {
        fault.bit("the end is committed, and nobody was told");
    }
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    proxy.reset();
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_worker_told_to_stop() {
    let mut stage = Stage::with_cluster(spec(), 120, ITEM).await;
    stage.watch("ann", 2).await;
    let batch = stage.node_batch("stopped", LANES);
    let task = stage.submit("ann", &batch).await;
    stage.recorded(&task, 20).await;
    let holder = stage.holder().await;
    let fault = stage.fault("term-worker");
    blocking(|| stage.hub.workers[holder].stop(PATIENCE)).unwrap();
    stage.ended(&task).await;
    assert_eq!(stage.row("attempt, tries", &task).await, "2|1", "it was not handed over, or it cost a try");
    fault.bit("another attempt went on");
    let runs = stage.runs();
    assert!(runs.len() == 120 && runs.values().all(|runs| *runs == 1), "I6: {runs:?}");
    let gap = handed_over(&stage);
    assert!(gap < Duration::from_secs(2), "the next start came {gap:?} after the hand-over");
    stage.judge().await;
}

/// From the hand-over to the first event of the next attempt, as a socket saw them.
fn handed_over(stage: &Stage) -> Duration {
    let socket = &stage.sockets()[0];
    let at = |kind: EventKind, attempt: u32| {
        let events = socket.events(|event| event.kind == kind && event.attempt.0 == attempt);
        events.first().unwrap_or_else(|| panic!("no {kind:?} event of attempt {attempt}")).0
    };
    at(EventKind::Started, 2) - at(EventKind::Requeued, 1)
}

/// Stopped for longer than its lease, it wakes and finds that it may not go on.
#[tokio::test(flavor = "multi_thread")]
async fn f03_zombie_worker() {
    let mut stage = Stage::with_cluster(spec(), 120, ITEM).await;
    stage.watch("ann", 2).await;
    let batch = stage.node_batch("zombie", LANES);
    let task = stage.submit("ann", &batch).await;
    stage.recorded(&task, 20).await;
    let holder = stage.holder().await;
    let zombie = &stage.hub.workers[holder];
    let fault = stage.fault("stop-worker");
    zombie.process().signal(Signal::SIGSTOP).unwrap();
    another_attempt(&stage, &task).await;
    zombie.process().signal(Signal::SIGCONT).unwrap();
    let held = || blocking(|| zombie.metric("milepost_tasks_held")).ok();
    until("the zombie lets go", async || held() == Some(0.0)).await;
    // Whichever of its parts is first to find out.
    let log = zombie.log();
    let told =
        ["could not be renewed in time", "lost the lease", "another attempt publishes", "leaving a task"];
    assert!(told.iter().any(|words| log.contains(words)), "{log}");
    fault.bit("the zombie found that its lease was over");
    fault.healed();
    stage.ended(&task).await;
    assert_eq!(
        stage.row("attempt, tries", &task).await,
        "2|2",
        "it changed something, or it was fenced by chance"
    );
    assert!(stage.runs().values().all(|runs| *runs <= 2), "I6: {:?}", stage.runs());
    stage.judge().await;
}

/// The clock of a suspended host stands still, so this zombie believes in its lease and goes on as if nothing had been.
/// What it writes is refused where it is written.
#[tokio::test(flavor = "multi_thread")]
async fn f03_zombie_worker_on_a_suspended_host() {
    let clock = FakeClock::of_suspended_host().unwrap();
    let mut stage = Stage::with_cluster(HubSpec { workers: 0, ..spec() }, 150, ITEM).await;
    blocking(|| stage.hub.add_worker_with(&ReplicaSpec { clock: Some(&clock), ..ReplicaSpec::default() }))
        .unwrap();
    stage.watch("ann", 2).await;
    let batch = stage.node_batch("suspended", LANES);
    let task = stage.submit("ann", &batch).await;
    stage.recorded(&task, 20).await;
    blocking(|| stage.hub.add_worker()).unwrap();
    let zombie = &stage.hub.workers[0];
    let began = Instant::now();
    let fault = stage.fault("suspend-host");
    zombie.process().signal(Signal::SIGSTOP).unwrap();
    another_attempt(&stage, &task).await;
    clock.behind(began.elapsed()).unwrap();
    zombie.process().signal(Signal::SIGCONT).unwrap();
    let refused = || blocking(|| zombie.total("milepost_fenced_writes_total")).ok();
    until("a write of the zombie is refused", async || refused() > Some(0.0)).await;
    fault.bit("a write of the zombie was refused");
    fault.healed();
    stage.ended(&task).await;
    assert_eq!(stage.row("attempt, tries", &task).await, "2|2");
    assert!(stage.runs().values().all(|runs| *runs <= 2), "I6: {:?}", stage.runs());
    stage.judge().await;
}
