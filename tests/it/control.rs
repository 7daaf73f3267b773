//! Control of a task that runs on a worker elsewhere: real processes, every mode.
//!
//! Renewals are minutes apart here, so whatever takes effect within seconds came by the wake-up that goes with the change.

use std::time::Duration;

use milepost::clock::{Clock, SystemClock};
use milepost_harness::{Hub, HubMode, HubSpec};
use serde_json::{Value, json};

use crate::support::{Api, Watcher, assert_orderly, is_terminal, names, until, wait_batch};

/// Far below the time to the next renewal, and far above what a loaded machine needs. On a quiet one it is some
/// milliseconds.
const SOON: Duration = Duration::from_secs(20);

fn start(mode: HubMode) -> Hub {
    let spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode)
        .set("MILEPOST_WORKER__LEASE", "600s")
        .set("MILEPOST_WORKER__RENEW_INTERVAL", "200s");
    let spec = HubSpec { gateways: 1, workers: 1, ..spec };
    Hub::start(spec).unwrap()
}

/// How long after `asked` the event was made, by the clocks of this machine.
fn delay(asked: jiff::Timestamp, event: &Value) -> Duration {
    let told: jiff::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
    told.duration_since(asked).try_into().unwrap_or_default()
}

/// Asks for a change and waits for the event by which the worker tells that it obeys.
async fn obeyed(
    api: &Api,
    watcher: &mut Watcher,
    task: &str,
    verb: &str,
    body: Option<Value>,
    kind: &str,
) -> Value {
    let asked = SystemClock.now();
    let (status, answer) = api.call("POST", &format!("tasks/{task}/{verb}"), body.as_ref()).await;
    assert_eq!(status, 200, "{verb}: {answer}");
    let events = watcher.events_until(task, |event| event["type"] == kind).await;
    let event = events.last().unwrap().clone();
    assert!(delay(asked, &event) < SOON, "{verb} took {:?}", delay(asked, &event));
    event
}

async fn a_worker_obeys_at_once(mode: HubMode) {
    let hub = start(mode);
    let token = hub.token("ada", "operator").unwrap();
    let base = &hub.urls()[0];
    let api = Api::new(base, &token);
    let mut batch = wait_batch(&names("n", 2_000), 50, 0);
    batch["concurrency"] = json!(2);
    let task = api.submit(&batch).await;
    let mut watcher = Watcher::connect(base, &token, None).await;
    let ran = |event: &Value| event["current"].as_u64() > Some(0);
    watcher.events_until(&task, ran).await;

    let wider = json!({"concurrency": 8});
    let event = obeyed(&api, &mut watcher, &task, "concurrency", Some(wider), "concurrency_changed").await;
    assert_eq!(
        (&event["concurrency"], &event["status"]),
        (&json!(8), &json!("running")),
        "by the worker: {event}"
    );
    assert_eq!(event["attempt"], 1);
    obeyed(&api, &mut watcher, &task, "pause", None, "paused").await;
    until("it rests", async || api.get(&format!("tasks/{task}")).await.get("worker").is_none()).await;
    let (status, _) = api.call("POST", &format!("tasks/{task}/resume"), None).await;
    assert_eq!(status, 200);
    let started = watcher.events_until(&task, |event| event["type"] == "started").await;
    assert_eq!(started.last().unwrap()["attempt"], 2);
    obeyed(&api, &mut watcher, &task, "cancel", None, "cancelling").await;
    let events = watcher.events_until(&task, is_terminal).await;
    assert_orderly(&events);
    assert_eq!(events.last().unwrap()["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_effect_at_once_in_memory_mode() {
    a_worker_obeys_at_once(HubMode::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_effect_at_once_on_a_worker_elsewhere_with_postgres() {
    a_worker_obeys_at_once(HubMode::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_effect_at_once_on_a_worker_elsewhere_with_redis() {
    a_worker_obeys_at_once(HubMode::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_a_change_comes_with_the_next_renewal() {
    let spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::PostgresPoll)
        .set("MILEPOST_WORKER__RENEW_INTERVAL", "500ms");
    let hub = Hub::start(spec).unwrap();
    let api = Api::new(&hub.urls()[0], &hub.token("ada", "operator").unwrap());
    let task = api.submit(&wait_batch(&names("n", 5_000), 50, 0)).await;
    let path = format!("tasks/{task}");
    until("it runs", async || api.get(&path).await["current"].as_u64() > Some(0)).await;
    assert_eq!(api.call("POST", &format!("{path}/cancel"), None).await.0, 200);
    assert_eq!(api.finished(&task).await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_stops_a_task_and_what_failed_is_retried() {
    let hub = Hub::start(HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis)).unwrap();
    let token = hub.token("ada", "operator").unwrap();
    let base = &hub.urls()[0];
    let api = Api::new(base, &token);
    let mut watcher = Watcher::connect(base, &token, None).await;
    let mut batch = wait_batch(&names("n", 40), 20, 4);
    batch["concurrency"] = json!(1);
    batch["failure_budget"] = json!({"failed": 2});
    let task = api.submit(&batch).await;
    let events = watcher.events_until(&task, |event| event["type"] == "paused").await;
    assert_orderly(&events);
    let why = "the failure budget is used up: 3 failed, and 2 may";
    assert_eq!(events.last().unwrap()["message"], why);
    let path = format!("tasks/{task}");
    until("it rests", async || api.get(&path).await.get("worker").is_none()).await;
    let paused = api.get(&path).await;
    assert_eq!((&paused["status"], &paused["message"]), (&json!("paused"), &json!(why)), "{paused}");
    assert_eq!((&paused["failed"], &paused["current"]), (&json!(3), &json!(12)), "{paused}");
    assert_eq!(api.call("POST", &format!("{path}/resume"), None).await.0, 200);
    watcher.events_until(&task, |event| event["type"] == "paused").await;
    until("it rests", async || api.get(&path).await.get("worker").is_none()).await;
    assert_eq!(api.call("POST", &format!("{path}/cancel"), None).await.0, 200);
    let over = api.finished(&task).await;
    assert_eq!((&over["status"], &over["failed"]), (&json!("cancelled"), &json!(6)), "{over}");

    let include = json!({"include": ["failed", "cancelled"]});
    let (status, retry) = api.call("POST", &format!("{path}/retry"), Some(&include)).await;
    assert_eq!((status, &retry["parent_id"], &retry["total"]), (202, &json!(task), &json!(22)), "{retry}");
    let child = retry["task_id"].as_str().unwrap();
    until("the retry is stopped too", async || {
        let child = api.get(&format!("tasks/{child}")).await;
        child["status"] == "paused" && child.get("worker").is_none()
    })
    .await;
    assert_eq!(api.call("POST", &format!("tasks/{child}/cancel"), None).await.0, 200);
    let merged = &api.get(&path).await["merged"];
    let sum = ["succeeded", "failed", "skipped", "cancelled"].iter().map(|n| merged[n].as_u64().unwrap());
    assert_eq!((merged["total"].as_u64(), sum.sum::<u64>()), (Some(40), 40), "{merged}");
}

/// A task whose worker dies in every attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_task_ends_after_its_attempts_and_is_retried_from_the_command_line() {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Postgres)
        .set("MILEPOST_WORKER__LEASE", "2s")
        .set("MILEPOST_WORKER__RENEW_INTERVAL", "500ms");
    spec.workers = 1;
    let mut hub = Hub::start(spec).unwrap();
    let token = hub.token("ada", "operator").unwrap();
    let base = hub.urls()[0].clone();
    let api = Api::new(&base, &token);
    let mut watcher = Watcher::connect(&base, &token, None).await;
    let mut batch = wait_batch(&names("n", 3), 3_600_000, 0);
    batch["max_attempts"] = json!(2);
    let task = api.submit(&batch).await;
    let mut events = Vec::new();
    for attempt in 1..=2 {
        let began = |event: &Value| event["type"] == "started" && event["attempt"] == attempt;
        events.extend(watcher.events_until(&task, began).await);
        let last = hub.workers.len() - 1;
        hub.workers[last].kill().unwrap();
        hub.add_worker().unwrap();
    }
    let over = api.finished(&task).await;
    assert_eq!((&over["status"], &over["error"]), (&json!("failed"), &json!("gave up after 2 attempts")));
    assert_eq!((&over["failed"], &over["attempt"]), (&json!(3), &json!(3)), "{over}");
    events.extend(watcher.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["error"]), (&json!("error"), &json!("gave up after 2 attempts")));

    let command = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_milepost"));
        command.args(args).env_clear().env("MILEPOST_SERVER_URL", &base).env("MILEPOST_TOKEN", &token);
        let output = command.current_dir(hub.folder()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let shown = command(&["tasks", "show", &task]);
    assert!(shown.contains("failed, attempt 3") && shown.contains("gave up after 2 attempts"), "{shown}");
    let retried = command(&["retry", &task, "--json"]);
    let retry: Value = serde_json::from_str(retried.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&retry["task"]["parent_id"], &retry["task"]["total"]),
        (&json!(task), &json!(3)),
        "{retried}"
    );
    let child = retry["task"]["task_id"].as_str().unwrap();
    until("the retry runs", async || api.get(&format!("tasks/{child}")).await["status"] == "running").await;
}
