//! F16: clocks jump an hour ahead and two hours back.

use std::time::Duration;

use milepost::clock::{Clock, SystemClock};
use milepost_harness::{FakeClock, Hub, HubSpec, Redis, ReplicaSpec};

use super::stage::{Stage, blocking, spec};
use crate::support::{names, until, wait_batch};

const HOUR: Duration = Duration::from_secs(3_600);

fn with(clock: &FakeClock) -> ReplicaSpec<'_> {
    ReplicaSpec { clock: Some(clock), ..ReplicaSpec::default() }
}

/// One of two gateways and the only worker go by `clock`.
fn stage(clock: &FakeClock, redis: Redis) -> Stage {
    let spec = HubSpec { gateways: 1, workers: 0, ..spec() };
    let mut stage = Stage::start_on(spec, redis);
    let add =
        |hub: &mut Hub| hub.add_gateway_with(&with(clock)).and_then(|()| hub.add_worker_with(&with(clock)));
    blocking(|| add(&mut stage.hub)).unwrap();
    *stage.servers.lock().unwrap() = stage.hub.urls();
    stage
}

/// A batch in the middle of which the clock is moved.
async fn jump(stage: &mut Stage, name: &str, jump: impl Fn()) {
    let mut batch = wait_batch(&names(name, 60), 200, 9);
    batch["concurrency"] = 5.into();
    let task = stage.submit("ann", &batch).await;
    stage.seen(&task, 10).await;
    jump();
    stage.ended(&task).await;
    assert_eq!(stage.row("attempt", &task).await, "1", "a lease goes by the clock of the database alone");
}

/// Seconds from an event's own time to ours, the largest and the smallest that any socket saw.
fn skew(stage: &Stage) -> (i64, i64) {
    let now = SystemClock.now().as_second();
    let events = stage.sockets()[0].events(|_| true);
    let skews = events.iter().map(|(_, event)| event.timestamp.as_second() - now);
    (skews.clone().max().unwrap(), skews.min().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_clocks_of_a_worker_and_a_gateway_jump() {
    let clock = FakeClock::new().unwrap();
    let mut stage = stage(&clock, blocking(Redis::start).unwrap());
    stage.watch("ann", 2).await;
    let fault = stage.fault("move-clock");
    jump(&mut stage, "ahead", || clock.ahead(HOUR).unwrap()).await;
    jump(&mut stage, "behind", || clock.behind(HOUR).unwrap()).await;
    let (ahead, behind) = skew(&stage);
    assert!(ahead > 3_000 && behind < -3_000, "void: events are between {behind} s and {ahead} s off");
    fault.bit(format!("events are between {behind} s and {ahead} s off"));
    fault.healed();
    for gateway in &stage.hub.gateways {
        let sum = blocking(|| gateway.metric("milepost_event_delivery_seconds_sum")).unwrap();
        assert!(sum >= 0.0, "a negative latency was counted: {sum}");
    }
    stage.judge().await;
}

/// An hour is also the time that streams are kept, so they are gone when the clock of Redis jumps ahead.
#[tokio::test(flavor = "multi_thread")]
async fn f16_clock_of_redis_jumps() {
    let (clock, right) = (FakeClock::new().unwrap(), FakeClock::new().unwrap());
    let mut stage = stage(&right, blocking(|| Redis::with_clock(&clock)).unwrap());
    stage.watch("ann", 2).await;
    let fault = stage.loss("move-clock");
    let time = |stage: &Stage| -> i64 {
        let reply = blocking(|| stage.hub.redis.as_ref().unwrap().command(&["TIME"])).unwrap();
        reply.lines().nth(2).unwrap().parse::<i64>().unwrap() - SystemClock.now().as_second()
    };
    jump(&mut stage, "ahead", || clock.ahead(HOUR).unwrap()).await;
    assert!(time(&stage) > 3_000, "void: Redis goes by the real clock");
    jump(&mut stage, "behind", || clock.behind(HOUR).unwrap()).await;
    assert!(time(&stage) < -3_000, "void: Redis goes by the real clock");
    fault.bit("Redis goes by another clock");
    fault.healed();
    until("readiness is on", async || blocking(|| stage.hub.gateways[0].probe("/readyz")).unwrap() == 200)
        .await;
    stage.judge().await;
}
