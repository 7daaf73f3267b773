//! F12 and F13: Postgres dies, or stands still.

use std::time::Duration;

use milepost_harness::Postgres;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::stage::{Stage, blocking, spec};
use crate::support::{PATIENCE, names, until, wait_batch};

/// A call to a database that stands still ends by then: 2 s for a connection, 5 s for a statement, 1 s over.
const DEADLINE: Duration = Duration::from_secs(8);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);

fn postgres(stage: &Stage) -> &Postgres {
    stage.hub.postgres.as_ref().unwrap()
}

async fn busy(stage: &mut Stage) -> String {
    stage.watch("ann", 2).await;
    let batch = stage.node_batch("before", 5);
    let task = stage.submit("ann", &batch).await;
    stage.seen(&task, 20).await;
    task
}

/// A submit is refused in time, and says when to come back.
async fn a_submit_is_refused(stage: &mut Stage) {
    let began = Instant::now();
    let body = wait_batch(&names("refused", 5), 10, 0);
    let (status, after, problem) = stage.api("ann", 1).refused("tasks", &body).await;
    assert_eq!(status, 503, "I13: {problem}");
    assert!(after >= Some(1), "no Retry-After: {problem}");
    assert!(began.elapsed() < DEADLINE + SLACK, "a submit took {:?}", began.elapsed());
}

/// How long it takes until submits work again.
async fn recovery(stage: &mut Stage) -> Duration {
    let began = Instant::now();
    let body = wait_batch(&names("after", 20), 10, 0);
    let api = stage.api("ann", 1);
    let task = crate::support::eventually("a submit is accepted", async || {
        let (status, task) = api.call("POST", "tasks", Some(&body)).await;
        (status == 202).then(|| task["task_id"].as_str().unwrap().to_owned())
    })
    .await;
    stage.accept("ann", &task, &body);
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_postgres_restarted() {
    let mut stage = Stage::with_cluster(spec(), 120, Duration::from_millis(200)).await;
    busy(&mut stage).await;
    let fault = stage.fault("kill-postgres");
    // An immediate shutdown: every session is cut in the middle of what it does.
    postgres(&stage).process().signal(Signal::SIGQUIT).unwrap();
    blocking(|| postgres(&stage).process().wait_gone(PATIENCE)).unwrap();
    a_submit_is_refused(&mut stage).await;
    fault.bit("a submit was refused");
    let told: f64 =
        stage.hub.gateways.iter().map(|g| f64::from(blocking(|| g.probe("/livez")).unwrap())).sum();
    assert_eq!(told, 400.0, "an outage elsewhere restarts nobody");
    blocking(|| stage.hub.postgres.as_mut().unwrap().run()).unwrap();
    fault.healed();
    let took = recovery(&mut stage).await;
    assert!(took < Duration::from_secs(10), "the pools recovered after {took:?}");
    assert!(stage.runs().values().all(|runs| *runs <= 3), "I6: {:?}", stage.runs());
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_postgres_stalled() {
    let mut stage = Stage::with_cluster(spec(), 120, Duration::from_millis(200)).await;
    let task = busy(&mut stage).await;
    let holder = stage.holder().await;
    let fault = stage.fault("stop-postgres");
    postgres(&stage).freeze().unwrap();
    // What a worker cannot renew it lets go, by its own clock.
    let worker = &stage.hub.workers[holder];
    until("the worker stops itself", async || {
        blocking(|| worker.metric("milepost_tasks_held")).ok() == Some(0.0)
    })
    .await;
    fault.bit("the worker could not renew its lease");
    a_submit_is_refused(&mut stage).await;
    postgres(&stage).thaw().unwrap();
    fault.healed();
    let took = recovery(&mut stage).await;
    assert!(took < Duration::from_secs(10), "the pools recovered after {took:?}");
    stage.ended(&task).await;
    assert_eq!(stage.row("attempt >= 2", &task).await, "t");
    let runs = stage.runs();
    assert!(runs.values().all(|runs| *runs <= 2), "I6: {runs:?}");
    stage.judge().await;
}
