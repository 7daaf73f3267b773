//! Tasks that run by a strategy, on real processes and a simulated cluster in this process that remembers every request.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use milepost::clock::{Clock, SystemClock};
use milepost::simulator::{Fault, LoggedRequest, Rule, Simulator, SimulatorConfig};
use milepost_harness::{Hub, HubMode, HubSpec};
use serde_json::{Value, json};

use crate::support::{Api, Watcher, assert_orderly, is_terminal, until};

/// Nodes in work at once.
const LANES: usize = 8;

/// A cluster that takes a while to answer.
async fn cluster(nodes: u32) -> (Simulator, tempfile::NamedTempFile) {
    let config = SimulatorConfig { nodes, log_max: 100_000, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let (from, to) = (Duration::from_millis(10), Duration::from_millis(40));
    let latency = |verb| Rule::on(verb, Fault::Latency { from, to });
    simulator.set_rules(vec![latency("get"), latency("patch")]);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kubeconfig.path(), simulator.kubeconfig_yaml()).unwrap();
    (simulator, kubeconfig)
}

async fn start(mode: HubMode, kubeconfig: &tempfile::NamedTempFile, workers: usize) -> Hub {
    let clusters = json!([{"name": "sim", "kubeconfig": kubeconfig.path()}]).to_string();
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode)
        .set("MILEPOST_CLUSTERS", &clusters)
        .set("MILEPOST_WORKER__LEASE", "3s")
        .set("MILEPOST_WORKER__LANES_PER_TASK", &LANES.to_string())
        .set("MILEPOST_ACTIONS__CALLS_PER_SECOND", "100000");
    (spec.gateways, spec.workers) = (1, workers);
    tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap()
}

/// What `milepost` prints.
fn command(hub: &Hub, token: &str, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milepost"));
    command.args(args).env_clear().env("MILEPOST_SERVER_URL", &hub.urls()[0]).env("MILEPOST_TOKEN", token);
    let output = command.current_dir(hub.folder()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn node_of(request: &LoggedRequest) -> Option<&str> {
    request.path.strip_prefix("/api/v1/nodes/")
}

/// When each node was first read, and when it was last changed.
fn spans(requests: &[LoggedRequest]) -> BTreeMap<&str, (Duration, Option<Duration>)> {
    let mut spans: BTreeMap<&str, (Duration, Option<Duration>)> = BTreeMap::new();
    for request in requests {
        let Some(node) = node_of(request) else { continue };
        let span = spans.entry(node).or_insert((request.at, None));
        if request.verb == "patch" {
            span.1 = Some(request.at);
        }
    }
    spans
}

/// The most nodes in work at once: from the last read before a change to that change.
fn most_at_once(requests: &[LoggedRequest]) -> usize {
    let (mut open, mut changes) = (BTreeMap::new(), Vec::new());
    for request in requests {
        match (node_of(request), request.verb) {
            (Some(node), "get") => drop(open.insert(node, request.at)),
            (Some(node), "patch") => changes.extend(open.remove(node).map(|began| (began, request.at))),
            _ => {}
        }
    }
    let at =
        |moment: Duration| changes.iter().filter(|(began, end)| *began <= moment && moment < *end).count();
    changes.iter().map(|(began, _)| at(*began)).max().unwrap_or(0)
}

/// 200 nodes in 10 waves, the canary first, the control plane last. One node fails and uses the budget up; after the resume
/// the worker dies in the middle of a wave.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_waves_is_stopped_by_its_budget_resumed_and_taken_over() {
    let (simulator, kubeconfig) = cluster(200).await;
    let hub = start(HubMode::Redis, &kubeconfig, 3).await;
    let token = hub.token("ada", "operator").unwrap();
    let (api, mut watcher) =
        (Api::new(&hub.urls()[0], &token), Watcher::connect(&hub.urls()[0], &token, None).await);
    let mut items = simulator.node_names();
    items[60] = "no-such-node".to_owned();
    let is_control_plane = |name: &str| {
        let node = simulator.node(name).unwrap_or_default();
        node["metadata"]["labels"].get("node-role.kubernetes.io/control-plane").is_some()
    };
    let (last, first): (Vec<String>, Vec<String>) =
        items.iter().cloned().partition(|name| is_control_plane(name));
    assert_eq!(last.len(), 3);
    let order = [first, last].concat();
    let wave = |node: &str| {
        let place = order.iter().position(|name| name == node).unwrap();
        if place == 0 { 1 } else { (place - 1) / 23 + 2 }
    };
    let task = api
        .submit(&json!({
            "action": "label", "cluster": "sim", "items": items, "failure_budget": {"failed": 0},
            "parameters": {"labels": {"drill": "on"}},
            "strategy": {"canary": 1, "waves": [23], "order": ["control_plane_last"]},
        }))
        .await;
    let mut events = watcher.events_until(&task, |event| event["type"] == "paused").await;
    assert!(events.last().unwrap()["message"].as_str().unwrap().starts_with("the failure budget is used up"));
    let path = format!("tasks/{task}");
    until("it rests", async || api.get(&path).await.get("worker").is_none()).await;
    let paused = api.get(&path).await;
    let failed_in = wave("no-such-node");
    assert_eq!(paused["wave"], json!({"number": failed_in, "of": 10}), "{paused}");
    let begun = spans(&simulator.requests()).keys().map(|node| wave(node)).max();
    assert_eq!(begun, Some(failed_in), "no later wave was begun");
    let shown = command(&hub, &token, &["tasks", "show", &task]);
    assert!(shown.contains(&format!("wave {failed_in} of 10")) && shown.contains("canary of 1"), "{shown}");

    assert_eq!(api.call("POST", &format!("{path}/resume"), None).await.0, 200);
    let half = |event: &Value| event["wave"]["number"] == 7 && event["current"].as_u64() > Some(125);
    events.extend(watcher.events_until(&task, half).await);
    let holds = |worker: &&milepost_harness::Replica| worker.metric("milepost_tasks_held").unwrap() > 0.0;
    hub.workers.iter().find(holds).expect("a worker holds the task").kill().unwrap();
    events.extend(watcher.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let over = api.finished(&task).await;
    assert_eq!(
        (&over["status"], &over["failed"], &over["succeeded"]),
        (&json!("completed_with_errors"), &json!(1), &json!(199))
    );
    assert!(over["attempt"].as_u64() >= Some(3), "{over}");
    // The first event of an attempt has the counts of the record, and those may be behind what was told.
    let waves: Vec<_> =
        events.iter().map(|event| (event["attempt"].as_u64(), event["wave"]["number"].as_u64())).collect();
    assert!(waves.is_sorted(), "{waves:?}");
    assert!((1..=10).all(|wave| waves.iter().any(|(_, number)| *number == Some(wave))), "{waves:?}");

    let requests = simulator.requests();
    let most = most_at_once(&requests);
    assert!((2..=LANES).contains(&most), "{most} nodes at once");
    let spans = spans(&requests);
    for number in 2..=10 {
        let begins =
            spans.iter().filter(|(node, _)| wave(node) == number).map(|(_, (began, _))| *began).min();
        let before =
            spans.iter().filter(|(node, _)| wave(node) < number).filter_map(|(_, (_, end))| *end).max();
        assert!(
            begins > before,
            "wave {number} began at {begins:?}, and the one before it ended at {before:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_waits_for_a_person_and_a_window_for_its_time() {
    let (simulator, kubeconfig) = cluster(6).await;
    let hub = start(HubMode::Postgres, &kubeconfig, 2).await;
    let token = hub.token("ada", "operator").unwrap();
    let (api, mut watcher) =
        (Api::new(&hub.urls()[0], &token), Watcher::connect(&hub.urls()[0], &token, None).await);
    let names = simulator.node_names();
    let mut submit = vec!["submit", "cordon", "--cluster", "sim", "--canary", "1", "--gate=first", "--json"];
    submit.extend(names.iter().map(String::as_str));
    let submitted: Value =
        serde_json::from_str(command(&hub, &token, &submit).lines().next().unwrap()).unwrap();
    let task = submitted["task"]["task_id"].as_str().unwrap().to_owned();
    let path = format!("tasks/{task}");
    let paused = watcher.events_until(&task, |event| event["type"] == "paused").await;
    assert_eq!(paused.last().unwrap()["message"], "wave 1 of 2 is done: resume to go on");
    until("it rests", async || api.get(&path).await.get("worker").is_none()).await;
    assert_eq!(api.get(&path).await["current"], 1);
    assert_eq!(api.call("POST", &format!("{path}/resume"), None).await.0, 200);
    assert_eq!(api.finished(&task).await["status"], "completed");

    // A day of the week that is far from now in every zone.
    let day = (SystemClock.now().to_zoned(jiff::tz::TimeZone::UTC) + jiff::Span::new().days(3))
        .strftime("%a")
        .to_string();
    let batch = json!({"action": "uncordon", "cluster": "sim", "items": names,
        "strategy": {"windows": [format!("{day} 12:00-13:00 Europe/Berlin")]}});
    let task = api.submit(&batch).await;
    let path = format!("tasks/{task}");
    until("it rests", async || api.get(&path).await.get("waits_for").is_some()).await;
    let resting = api.get(&path).await;
    assert_eq!((&resting["status"], &resting["current"]), (&json!("queued"), &json!(0)), "{resting}");
    let why = resting["waits_for"].as_str().unwrap();
    assert!(why.starts_with("its maintenance window is closed and opens ") && why.contains(&day), "{why}");
    assert!(command(&hub, &token, &["tasks", "show", &task]).contains(why));
    assert_eq!(api.call("POST", &format!("{path}/cancel"), None).await.0, 200);
    assert_eq!(api.finished(&task).await["status"], "cancelled");
}

/// Two users cordon and uncordon the same nodes at once, on several workers: whoever works on a node works on it alone.
async fn no_two_tasks_on_one_node(mode: HubMode) {
    let (simulator, kubeconfig) = cluster(60).await;
    let hub = start(mode, &kubeconfig, 3).await;
    let mut tasks = Vec::new();
    for (user, action) in [("ada", "cordon"), ("bob", "uncordon"), ("cleo", "cordon"), ("dan", "uncordon")] {
        let api = Api::new(&hub.urls()[0], &hub.token(user, "operator").unwrap());
        let batch = json!({"action": action, "cluster": "sim", "items": simulator.node_names()});
        let task = api.submit(&batch).await;
        tasks.push((api, task));
    }
    for (api, task) in &tasks {
        let over = api.finished(task).await;
        assert_eq!((&over["status"], &over["current"]), (&json!("completed"), &json!(60)), "{over}");
    }
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for request in simulator.requests() {
        if let Some(node) = node_of(&request) {
            nodes.entry(node.to_owned()).or_default().push(request.user_agent);
        }
    }
    assert_eq!(nodes.len(), 60);
    for (node, mut agents) in nodes {
        agents.dedup();
        assert_eq!(agents.len(), 4, "tasks took turns on {node} within their work: {agents:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_tasks_work_on_one_node_at_once_in_postgres_mode() {
    no_two_tasks_on_one_node(HubMode::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_tasks_work_on_one_node_at_once_in_memory_mode() {
    no_two_tasks_on_one_node(HubMode::Memory).await;
}
