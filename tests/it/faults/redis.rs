//! F06 to F08, F10, F11: Redis dies with and without its data, forgets, stands still, or takes no writes.

use std::time::Duration;

use milepost_harness::{Flow, Redis, Way};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::notes::Fault;
use super::stage::{Stage, blocking, spec};
use crate::support::{names, until, wait_batch};

/// A request has its answer by then, whatever Redis does: a submit tells watchers and workers, each for 2 s at most.
const ANSWERED: Duration = Duration::from_secs(10);

/// Two watchers and a batch that goes on for some seconds.
async fn busy(stage: &mut Stage) -> String {
    stage.watch("ann", 2).await;
    stage.watch("bob", 1).await;
    let task = stage.submit("ann", &batch("before")).await;
    stage.seen(&task, 20).await;
    task
}

fn batch(prefix: &str) -> serde_json::Value {
    let mut batch = wait_batch(&names(prefix, 150), 200, 13);
    batch["concurrency"] = 5.into();
    batch
}

fn redis(stage: &Stage) -> &Redis {
    stage.hub.redis.as_ref().unwrap()
}

fn ask(stage: &Stage, words: &[&str]) -> String {
    blocking(|| redis(stage).command(words)).unwrap()
}

/// Waits until the gateways say that they are not ready, and asserts that they say all the same that they live.
async fn readiness_is_off(stage: &Stage) {
    for gateway in &stage.hub.gateways {
        until("readiness is off", async || blocking(|| gateway.probe("/readyz")).unwrap() == 503).await;
        assert_eq!(blocking(|| gateway.probe("/livez")).unwrap(), 200, "an outage elsewhere restarts nobody");
    }
}

async fn readiness_is_on(stage: &Stage) {
    for gateway in &stage.hub.gateways {
        until("readiness is on", async || blocking(|| gateway.probe("/readyz")).unwrap() == 200).await;
    }
}

/// Postgres accepts while Redis is away: a 202, in time.
async fn a_submit_is_accepted(stage: &mut Stage) {
    let began = Instant::now();
    stage.submit_at(1, "bob", &batch("meanwhile")).await;
    assert!(began.elapsed() < ANSWERED, "a submit took {:?}", began.elapsed());
}

/// Waits until somebody could not publish.
async fn missed(stage: &Stage, fault: &Fault) {
    let errors = "milepost_publish_errors_total";
    until("Redis is missed", async || stage.on_workers(errors) + stage.on_gateways(errors) > 0.0).await;
    fault.bit("events could not be published");
}

/// Waits until every socket was told that its position cannot be continued. How long that took.
async fn resynced(stage: &Stage, since: Instant) -> Duration {
    let told = |since| stage.sockets().iter().all(|socket| socket.resynced(since).is_some());
    until("every socket is told of the loss", async || told(since)).await;
    stage.sockets().iter().filter_map(|socket| socket.resynced(since)).max().unwrap() - since
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_redis_restarted_with_its_data() {
    let args = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"];
    let mut stage = Stage::start_on(spec(), blocking(|| Redis::with_args(&args)).unwrap());
    busy(&mut stage).await;
    // Nobody can know that all is there: watchers get a snapshot, which may stand for what was published just before.
    let fault = stage.loss("kill-redis");
    blocking(|| redis(&stage).process().kill()).unwrap();
    readiness_is_off(&stage).await;
    a_submit_is_accepted(&mut stage).await;
    missed(&stage, &fault).await;
    blocking(|| stage.hub.redis.as_mut().unwrap().run()).unwrap();
    fault.healed();
    readiness_is_on(&stage).await;
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_redis_restarted_empty() {
    let mut stage = Stage::start(spec());
    busy(&mut stage).await;
    let fault = stage.loss("kill-redis");
    blocking(|| redis(&stage).process().kill()).unwrap();
    readiness_is_off(&stage).await;
    a_submit_is_accepted(&mut stage).await;
    let began = Instant::now();
    blocking(|| stage.hub.redis.as_mut().unwrap().run()).unwrap();
    fault.healed();
    let took = resynced(&stage, began).await;
    assert!(took < Duration::from_secs(10), "the loss was told after {took:?}");
    fault.bit(format!("the loss was told after {took:?}"));
    assert!(stage.on_gateways("milepost_resyncs_total{kind=\"epoch\"}") > 0.0);
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_redis_flushed_and_keys_deleted() {
    let mut stage = Stage::start(spec());
    busy(&mut stage).await;
    let (began, fault) = (Instant::now(), stage.loss("flush-redis"));
    ask(&stage, &["FLUSHALL"]);
    fault.healed();
    let took = resynced(&stage, began).await;
    assert!(took < Duration::from_secs(10), "the loss was told after {took:?}");
    fault.bit(format!("the loss was told after {took:?}"));
    // One user's stream, the group of the workers, and the functions: each is found missing by whoever needs it.
    let task = stage.submit("bob", &batch("later")).await;
    stage.seen(&task, 5).await;
    let keys = ask(&stage, &["KEYS", "*:u:bob:events"]);
    let key = keys.lines().find(|line| line.starts_with("mp:")).expect("a stream").to_owned();
    let (began, fault) = (Instant::now(), stage.loss("delete-keys"));
    ask(&stage, &["DEL", &key, "mp:dispatch"]);
    ask(&stage, &["FUNCTION", "FLUSH"]);
    let of_bob = |socket: &&std::sync::Arc<super::watch::Socket>| socket.user == "bob";
    until("bob is told of the loss", async || {
        stage.sockets().iter().filter(of_bob).all(|socket| socket.resynced(began).is_some())
    })
    .await;
    fault.bit("bob was told of the loss");
    fault.healed();
    stage.submit("ann", &batch("last")).await;
    stage.judge().await;
}

/// Past every deadline, up to the one after which readiness goes off.
#[tokio::test(flavor = "multi_thread")]
async fn f10_redis_stalled() {
    let mut stage = Stage::start(spec());
    busy(&mut stage).await;
    let fault = stage.fault("stop-redis");
    redis(&stage).process().signal(Signal::SIGSTOP).unwrap();
    a_submit_is_accepted(&mut stage).await;
    readiness_is_off(&stage).await;
    missed(&stage, &fault).await;
    redis(&stage).process().signal(Signal::SIGCONT).unwrap();
    fault.healed();
    readiness_is_on(&stage).await;
    stage.judge().await;
}

/// Redis does what it is asked, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn f10_redis_replies_stalled() {
    let mut stage = Stage::start(spec().proxied());
    busy(&mut stage).await;
    let fault = stage.fault("stall-redis");
    stage.hub.proxies.redis.as_ref().unwrap().set(Way::Down, Flow::Stall);
    a_submit_is_accepted(&mut stage).await;
    missed(&stage, &fault).await;
    super::pass(Duration::from_secs(3)).await;
    stage.hub.proxies.redis.as_ref().unwrap().heal();
    fault.healed();
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_redis_out_of_memory() {
    let mut stage = Stage::start(spec());
    busy(&mut stage).await;
    let fault = stage.fault("fill-redis");
    ask(&stage, &["CONFIG", "SET", "maxmemory", "1"]);
    a_submit_is_accepted(&mut stage).await;
    missed(&stage, &fault).await;
    super::pass(Duration::from_secs(2)).await;
    ask(&stage, &["CONFIG", "SET", "maxmemory", "0"]);
    fault.healed();
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_redis_cannot_write_its_disk() {
    let args = ["--save", "3600 1", "--stop-writes-on-bgsave-error", "yes", "--dbfilename", "dump.rdb"];
    let mut stage = Stage::start_on(spec(), blocking(|| Redis::with_args(&args)).unwrap());
    busy(&mut stage).await;
    let dump = redis(&stage).folder().join("dump.rdb");
    // A folder where the file belongs fails the save of whoever runs the server, also that of root.
    std::fs::create_dir(&dump).unwrap();
    std::fs::write(dump.join("full"), "").unwrap();
    let fault = stage.fault("fail-disk-of-redis");
    ask(&stage, &["BGSAVE"]);
    until("writes are refused", async || {
        blocking(|| redis(&stage).command(&["SET", "probe", "1"]))
            .is_err_and(|e| e.to_string().contains("MISCONF"))
    })
    .await;
    a_submit_is_accepted(&mut stage).await;
    missed(&stage, &fault).await;
    std::fs::remove_dir_all(&dump).unwrap();
    ask(&stage, &["BGSAVE"]);
    fault.healed();
    stage.judge().await;
}
