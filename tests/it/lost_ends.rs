//! The last event of a task is taken by the bus and forgotten, as in a failover: no event after it reveals the gap. Real
//! processes; the gateway stands still while that happens.

use milepost_harness::{Hub, HubMode, HubSpec};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Api, Watcher, assert_orderly, is_terminal, names, until, wait_batch};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_is_told_within_seconds_in_redis_mode() {
    lost(HubMode::Redis, forget_in_redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_is_told_within_seconds_in_postgres_mode() {
    lost(HubMode::Postgres, forget_in_postgres).await;
}

#[expect(clippy::print_stdout, reason = "the figure is what people run this test for")]
async fn lost(mode: HubMode, forget: fn(&Hub, &str)) {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode);
    (spec.gateways, spec.workers) = (1, 1);
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let (gateway, token) = (&hub.gateways[0], hub.token("lea", "operator").unwrap());
    let mut socket = Watcher::connect(&gateway.url(), &token, None).await;
    let mut batch = wait_batch(&names("l", 20), 300, 0);
    batch["concurrency"] = json!(2);
    let task = Api::new(&gateway.url(), &token).submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["current"].as_u64() >= Some(4)).await;
    gateway.process().signal(Signal::SIGSTOP).unwrap();
    let told = "SELECT count(*) FROM outbox WHERE published_at IS NOT NULL";
    until("the end is told", async || hub.sql(told).unwrap() == "1").await;
    forget(&hub, &task);
    gateway.process().signal(Signal::SIGCONT).unwrap();
    let began = Instant::now();
    events.extend(socket.events_until(&task, is_terminal).await);
    let took = began.elapsed().as_secs_f64();
    println!("{}: a lost end is told after {took:.2} s", mode.name());
    // 5 s are promised; the rest is for a machine that is busy.
    assert!(took < 15.0, "told after {took} s");
    assert_orderly(&events);
    assert_eq!(events.last().unwrap()["current"], 20);
    let mended = || gateway.metric("milepost_lost_ends_total{kind=\"published\"}").unwrap();
    until("the end was lost, and found in the record", async || mended() >= 1.0).await;
}

fn forget_in_redis(hub: &Hub, task: &str) {
    let redis = hub.redis.as_ref().unwrap();
    let all = redis.command(&["KEYS", "*"]).unwrap();
    let key = |end: &str| all.lines().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("no {end}"));
    let script = "
        local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
        redis.call('XDEL', KEYS[1], last[1])
        redis.call('HSET', KEYS[2], 'last', last[2][8])
        redis.call('DEL', KEYS[3])
        return last[2][6]";
    let was = redis.command(&["EVAL", script, "3", key(":events"), key(":epoch"), key(task)]).unwrap();
    assert!(was.contains("\r\n1\r\n"), "the last entry was the end: {was:?}");
}

fn forget_in_postgres(hub: &Hub, task: &str) {
    let lost = hub.sql(&format!(
        "WITH lost AS (DELETE FROM bus_events WHERE terminal AND task_id = '{task}' RETURNING stream),
            fence AS (DELETE FROM bus_live WHERE task_id = '{task}')
         UPDATE bus_streams SET head = head - 1 FROM lost WHERE bus_streams.stream = lost.stream
         RETURNING 'lost'"
    ));
    assert!(lost.unwrap().contains("lost"), "the last event was the end");
}
