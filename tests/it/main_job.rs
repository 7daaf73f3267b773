//! The main job with real processes: submit to one gateway, run by a worker elsewhere, watched through other gateways.
//!
//! Two gateways and three workers of the real binary, on a real Postgres, and a real Redis in Redis mode. Every step
//! below runs in both modes.

use std::collections::BTreeSet;

use milepost_harness::{Hub, HubMode, HubSpec};
use serde_json::{Value, json};

use crate::support::{Api, PATIENCE, Watcher, assert_orderly, ended, is_terminal, names, order, wait_batch};

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_in_redis_mode() {
    the_main_job(HubMode::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_in_postgres_mode() {
    the_main_job(HubMode::Postgres).await;
}

async fn the_main_job(mode: HubMode) {
    let spec = HubSpec { nodes: 20, ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode) }
        .set("MILEPOST_WORKER__PER_CLUSTER_MAX", "200");
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    submitted_here_run_there_seen_elsewhere(&hub).await;
    two_tabs_on_two_gateways_get_every_event(&hub).await;
    who_comes_back_has_every_missed_event(&hub).await;
    a_hundred_users_get_exactly_their_own(&hub).await;
    counts_agree_in_events_api_and_sql(&hub).await;
    a_worker_that_is_told_to_stop_hands_over(&hub).await;
}

/// (a) The user's socket is at gateway 0, the submit goes to gateway 1, some worker process cordons the nodes, and
/// `kubectl` sees them cordoned.
async fn submitted_here_run_there_seen_elsewhere(hub: &Hub) {
    let token = hub.token("ann", "operator").unwrap();
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let nodes: Vec<String> = (1..=20).map(|n| format!("node-{n:03}")).collect();
    let batch = json!({ "action": "cordon", "cluster": "sim", "items": nodes, "reason": "kernel update" });
    let task = Api::new(&hub.gateways[1].url(), &token).submit(&batch).await;
    let events = socket.events_until(&task, is_terminal).await;
    assert_orderly(&events);
    assert_eq!(ended(&events).len(), 20);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["status"], &last["progress"]),
        (&json!("complete"), &json!("completed"), &json!(100))
    );
    let record = hub.sql(&format!("SELECT status, attempt FROM tasks WHERE id = '{task}'")).unwrap();
    assert_eq!(record, "completed|1");
    let ran: f64 = hub
        .workers
        .iter()
        .map(|w| w.metric("milepost_items_finished_total{status=\"succeeded\"}").unwrap())
        .sum();
    assert!(ran >= 20.0, "the workers' own metrics count {ran} items");
    assert_eq!(cordoned_by(hub, &task), nodes);
}

/// The nodes that ann's task has cordoned for her reason, as `kubectl` lists them.
fn cordoned_by(hub: &Hub, task: &str) -> Vec<String> {
    let mut command = std::process::Command::new("kubectl");
    command.args(["get", "nodes", "-o", "json", "--kubeconfig"]).arg(hub.kubeconfig());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = list["items"].as_array().unwrap().iter();
    let nodes = nodes.filter(|node| {
        let note = |name: &str| &node["metadata"]["annotations"][format!("milepost.dev/cordon-{name}")];
        node["spec"]["unschedulable"] == true
            && (note("reason"), note("actor"), note("task"))
                == (&json!("kernel update"), &json!("ann"), &json!(task))
    });
    nodes.map(|node| node["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// (b) Both tabs see the same events, each once and in order.
async fn two_tabs_on_two_gateways_get_every_event(hub: &Hub) {
    let token = hub.token("bob", "operator").unwrap();
    let mut one = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let mut two = Watcher::connect(&hub.gateways[1].url(), &token, None).await;
    let task = Api::new(&hub.gateways[0].url(), &token).submit(&wait_batch(&names("b", 100), 10, 0)).await;
    let one = one.events_until(&task, is_terminal).await;
    let two = two.events_until(&task, is_terminal).await;
    assert_orderly(&one);
    assert_eq!(order(&one[0]), (0, 1), "the first event is the queued one: {}", one[0]);
    assert_eq!(one, two);
}

/// (c) Leaves at half, comes back to the other gateway with its position, then once more without.
async fn who_comes_back_has_every_missed_event(hub: &Hub) {
    let token = hub.token("cid", "operator").unwrap();
    let api = Api::new(&hub.gateways[0].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let mut batch = wait_batch(&names("c", 100), 20, 0);
    batch["concurrency"] = json!(5);
    let task = api.submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["current"].as_u64() >= Some(50)).await;
    assert!(!is_terminal(events.last().unwrap()), "half of the batch must be left to miss");
    drop(socket);
    api.finished(&task).await;
    let place = events.last().unwrap()["position"].as_str().unwrap().to_owned();
    let mut socket = Watcher::connect(&hub.gateways[1].url(), &token, Some(&place)).await;
    assert_eq!(socket.hello["recovered"], true, "{}", socket.hello);
    events.extend(socket.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let names: BTreeSet<String> = ended(&events).into_iter().collect();
    assert_eq!((names.len(), ended(&events).len()), (100, 100), "every item once");
    let socket = Watcher::connect(&hub.gateways[1].url(), &token, None).await;
    let snapshot = socket.snapshot.expect("a late joiner gets a snapshot");
    let view = find(&snapshot["tasks"], &task);
    assert_eq!((&view["status"], &view["current"]), (&json!("completed"), &json!(100)));
}

fn find<'a>(tasks: &'a Value, id: &str) -> &'a Value {
    let tasks = tasks.as_array().unwrap();
    tasks.iter().find(|task| task["task_id"] == id).unwrap_or_else(|| panic!("{id} is not in {tasks:?}"))
}

/// (d) All at once; `events_until` fails on an event of anybody else's task.
async fn a_hundred_users_get_exactly_their_own(hub: &Hub) {
    let urls = hub.urls();
    let mut users = tokio::task::JoinSet::new();
    for n in 0..100 {
        let token = hub.token(&format!("user-{n}"), "operator").unwrap();
        let (home, other) = (urls[n % 2].clone(), urls[(n + 1) % 2].clone());
        users.spawn(async move {
            let mut socket = Watcher::connect(&home, &token, None).await;
            let items = names(&format!("u{n}"), 10);
            let task = Api::new(&other, &token).submit(&wait_batch(&items, 5, 0)).await;
            let events = socket.events_until(&task, is_terminal).await;
            assert_orderly(&events);
            let mut seen = ended(&events);
            seen.sort();
            assert_eq!(seen, items);
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
}

/// (e) Ten batches with failures: the terminal event, the API and SQL say the same.
async fn counts_agree_in_events_api_and_sql(hub: &Hub) {
    let token = hub.token("eve", "operator").unwrap();
    let api = Api::new(&hub.gateways[1].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let mut open = BTreeSet::new();
    for n in 0..10 {
        open.insert(api.submit(&wait_batch(&names(&format!("e{n}"), 50), 2, 7)).await);
    }
    let mut last = Vec::new();
    while !open.is_empty() {
        let event = socket.next().await;
        if is_terminal(&event) {
            assert!(open.remove(event["task_id"].as_str().unwrap()), "a second end: {event}");
            last.push(event);
        }
    }
    for event in last {
        let task = event["task_id"].as_str().unwrap();
        let record = api.get(&format!("tasks/{task}")).await;
        let rows = format!(
            "SELECT count(*) FILTER (WHERE state = 'succeeded'), count(*) FILTER (WHERE state = 'failed') FROM items WHERE task_id = '{task}'"
        );
        let counted = format!("{}|{}", event["succeeded"], event["failed"]);
        assert_eq!(hub.sql(&rows).unwrap(), counted);
        assert_eq!(format!("{}|{}", record["succeeded"], record["failed"]), counted);
        assert_eq!(record["status"], "completed_with_errors");
        let failed = api.get(&format!("tasks/{task}/items?state=failed&limit=1000")).await;
        assert_eq!(
            failed["items"].as_array().map(Vec::len),
            event["failed"].as_u64().map(|n| usize::try_from(n).unwrap())
        );
    }
}

/// SIGTERM to the worker that holds a batch: it leaves long before the end, another one goes on, no item runs twice.
async fn a_worker_that_is_told_to_stop_hands_over(hub: &Hub) {
    let token = hub.token("fay", "operator").unwrap();
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let mut batch = wait_batch(&names("f", 100), 200, 0);
    batch["concurrency"] = json!(5);
    let task = Api::new(&hub.gateways[1].url(), &token).submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["current"].as_u64() >= Some(10)).await;
    let holds = |worker: &&milepost_harness::Replica| worker.metric("milepost_tasks_held").unwrap() > 0.0;
    let holder = hub.workers.iter().find(holds).expect("a worker holds the batch");
    tokio::task::block_in_place(|| holder.stop(PATIENCE)).unwrap();
    events.extend(socket.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let names: BTreeSet<String> = ended(&events).into_iter().collect();
    assert_eq!((names.len(), ended(&events).len()), (100, 100), "every item once");
    assert!(events.iter().any(|event| event["type"] == "requeued"), "the hand-over is told");
    let record = hub.sql(&format!("SELECT status, attempt, tries FROM tasks WHERE id = '{task}'")).unwrap();
    assert_eq!(record, "completed|2|1", "it cost no try");
}
