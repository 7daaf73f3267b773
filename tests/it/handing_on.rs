//! Tasks pass from one worker process to another: killed, told to stop, or stopped for so long that it has lost them. Real
//! processes with default settings, and a simulated cluster in this process that counts what is done to each node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use milepost::clock::{Clock, SystemClock};
use milepost::simulator::{Fault, Rule, Simulator, SimulatorConfig};
use milepost_harness::{Hub, HubMode, HubSpec, Replica};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Api, PATIENCE, Watcher, assert_orderly, ended, is_terminal, names, until, wait_batch};

/// Items of a task in work at once.
const LANES: usize = 10;
const NODES: u32 = 400;

/// A cluster whose reads take a while, and that remembers every one of them.
async fn cluster() -> (Simulator, tempfile::NamedTempFile) {
    let config = SimulatorConfig { nodes: NODES, log_max: 100_000, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let (from, to) = (Duration::from_millis(10), Duration::from_millis(40));
    simulator.set_rules(vec![Rule::on("get", Fault::Latency { from, to })]);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kubeconfig.path(), simulator.kubeconfig_yaml()).unwrap();
    (simulator, kubeconfig)
}

/// How often each node was worked on since the `skip`th request: labelling begins with one read of its node.
fn executions(simulator: &Simulator, skip: usize) -> BTreeMap<String, u32> {
    let mut runs = BTreeMap::new();
    for request in simulator.requests().into_iter().skip(skip).filter(|request| request.verb == "get") {
        if let Some(node) = request.path.strip_prefix("/api/v1/nodes/") {
            *runs.entry(node.to_owned()).or_default() += 1;
        }
    }
    runs
}

fn repeated(runs: &BTreeMap<String, u32>) -> usize {
    assert_eq!(runs.len(), NODES as usize, "every node was worked on");
    assert!(runs.values().all(|runs| *runs <= 2), "{runs:?}");
    runs.values().filter(|runs| **runs == 2).count()
}

async fn start(spec: HubSpec) -> Hub {
    tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap()
}

fn holder(hub: &Hub) -> &Replica {
    let holds = |worker: &&Replica| {
        worker.process().is_alive() && worker.metric("milepost_tasks_held").unwrap() > 0.0
    };
    hub.workers.iter().find(holds).expect("a worker holds the task")
}

/// Writes of a worker that were refused, of all kinds.
fn refused(worker: &Replica) -> f64 {
    let text = worker.metrics().unwrap();
    let lines = text.lines().filter(|line| line.starts_with("milepost_fenced_writes_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Seconds from a moment until an event was made.
fn after(moment: Timestamp, event: &Value) -> f64 {
    let made: Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
    made.duration_since(moment).as_secs_f64()
}

fn is_started(attempt: u64) -> impl Fn(&Value) -> bool {
    move |event| event["attempt"] == attempt && event["type"] == "started"
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_f02_a_worker_that_ends_costs_each_lane_one_item_at_most_in_redis_mode() {
    ends(HubMode::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_f02_a_worker_that_ends_costs_each_lane_one_item_at_most_in_postgres_mode() {
    ends(HubMode::Postgres).await;
}

async fn ends(mode: HubMode) {
    let (simulator, kubeconfig) = cluster().await;
    let clusters = json!([{"name": "sim", "kubeconfig": kubeconfig.path()}]).to_string();
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode)
        .set("MILEPOST_CLUSTERS", &clusters)
        .set("MILEPOST_WORKER__LANES_PER_TASK", &LANES.to_string())
        .set("MILEPOST_ACTIONS__CALLS_PER_SECOND", "100000");
    (spec.gateways, spec.workers) = (1, 3);
    let hub = start(spec).await;
    let token = hub.token("ann", "operator").unwrap();
    let api = Api::new(&hub.gateways[0].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    killed(&hub, &api, &mut socket, &simulator, mode).await;
    told_to_stop(&hub, &api, &mut socket, &simulator, mode).await;
}

/// F01: SIGKILL in the middle. The next one begins when the lease is over, and repeats no more than was in flight.
#[expect(clippy::print_stdout, reason = "the figure is what people run this test for")]
async fn killed(hub: &Hub, api: &Api, socket: &mut Watcher, simulator: &Simulator, mode: HubMode) {
    let batch = json!({"action": "label", "cluster": "sim", "items": simulator.node_names(),
        "parameters": {"labels": {"handed": "on"}}});
    let task = api.submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["current"].as_u64() >= Some(150)).await;
    let victim = holder(hub);
    let moment = SystemClock.now();
    victim.kill().unwrap();
    events.extend(socket.events_until(&task, is_started(2)).await);
    let takeover = after(moment, events.last().unwrap());
    events.extend(socket.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let twice = repeated(&executions(simulator, 0));
    let inherited: f64 = hub
        .workers
        .iter()
        .filter(|worker| worker.process().is_alive())
        .map(|worker| worker.metric("milepost_results_inherited_total").unwrap())
        .sum();
    println!(
        "{}: SIGKILL to the next start {takeover:.2} s; {twice} of {NODES} items ran twice in {LANES} lanes; \
         {inherited} results were found on the bus",
        mode.name()
    );
    assert!(twice <= LANES, "{twice} items ran twice in {LANES} lanes");
    // 6 s are promised; the rest is for a machine that is busy.
    assert!((1.0..12.0).contains(&takeover), "taken over after {takeover} s");
    let rows = hub.sql(&format!("SELECT count(*), count(DISTINCT idx) FROM items WHERE task_id = '{task}'"));
    assert_eq!(rows.unwrap(), format!("{NODES}|{NODES}"));
}

/// F02: SIGTERM in the middle. The next one begins at once, nothing runs twice, and it costs no try.
#[expect(clippy::print_stdout, reason = "the figure is what people run this test for")]
async fn told_to_stop(hub: &Hub, api: &Api, socket: &mut Watcher, simulator: &Simulator, mode: HubMode) {
    let before = simulator.requests().len();
    let batch = json!({"action": "unlabel", "cluster": "sim", "items": simulator.node_names(),
        "parameters": {"keys": ["handed"]}});
    let task = api.submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["current"].as_u64() >= Some(100)).await;
    let victim = holder(hub);
    let moment = SystemClock.now();
    victim.process().signal(Signal::SIGTERM).unwrap();
    events.extend(socket.events_until(&task, is_started(2)).await);
    let next = after(moment, events.last().unwrap());
    events.extend(socket.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let twice = repeated(&executions(simulator, before));
    println!("{}: SIGTERM to the next start {next:.2} s; {twice} items ran twice", mode.name());
    assert_eq!(twice, 0);
    // 1 s is promised; the rest is for a machine that is busy.
    assert!(next < 5.0, "the next one began after {next} s");
    let record = hub.sql(&format!("SELECT status, attempt, tries FROM tasks WHERE id = '{task}'")).unwrap();
    assert_eq!(record, "completed|2|1", "it cost no try");
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_worker_that_wakes_up_believing_in_its_lease_is_refused_everywhere_in_redis_mode() {
    zombie(HubMode::Redis, Some("60s")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_worker_that_wakes_up_believing_in_its_lease_is_refused_everywhere_in_postgres_mode() {
    zombie(HubMode::Postgres, Some("60s")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_worker_that_wakes_up_after_its_lease_stops_by_its_own_clock() {
    zombie(HubMode::Redis, None).await;
}

/// With a `lease` of its own the sleeper believes that it still holds the task, for its lease is ended by hand; without,
/// it sleeps past the default lease and knows when it wakes up.
async fn zombie(mode: HubMode, lease: Option<&str>) {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode);
    if let Some(lease) = lease {
        spec = spec.set("MILEPOST_WORKER__LEASE", lease);
    }
    (spec.gateways, spec.workers) = (1, 2);
    let hub = start(spec).await;
    let token = hub.token("zoe", "operator").unwrap();
    let api = Api::new(&hub.gateways[0].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let mut batch = wait_batch(&names("z", 150), 200, 0);
    batch["concurrency"] = json!(5);
    let task = api.submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["current"].as_u64() >= Some(10)).await;
    let sleeper = holder(&hub);
    sleeper.process().signal(Signal::SIGSTOP).unwrap();
    if lease.is_some() {
        hub.sql(&format!("UPDATE tasks SET lease_until = now() WHERE id = '{task}'")).unwrap();
    }
    events.extend(socket.events_until(&task, is_started(2)).await);
    events.extend(
        socket
            .events_until(&task, |event| event["attempt"] == 2 && event["current"].as_u64() >= Some(20))
            .await,
    );
    let recorded = rows(&hub, &task);
    sleeper.process().signal(Signal::SIGCONT).unwrap();
    until("the sleeper lets go", async || sleeper.metric("milepost_tasks_held").unwrap() == 0.0).await;
    if lease.is_some() {
        assert!(refused(sleeper) > 0.0, "the sleeper was refused: {}", sleeper.metrics().unwrap());
    }
    events.extend(socket.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    assert_eq!(
        ended(&events).len(),
        150 + repeats(&events),
        "each item ends once in each attempt that ran it"
    );
    let end = rows(&hub, &task);
    assert_eq!(end.len(), 150);
    assert!(recorded.iter().all(|row| end.contains(row)), "what was recorded stays as it was");
    let record =
        hub.sql(&format!("SELECT status, attempt, succeeded FROM tasks WHERE id = '{task}'")).unwrap();
    assert_eq!(record, "completed|2|150");
    let after = tokio::time::timeout(Duration::from_millis(500), socket.next()).await;
    assert!(after.is_err(), "nothing follows the end: {after:?}");
    tokio::task::block_in_place(|| sleeper.stop(PATIENCE)).unwrap();
}

/// Index and time of every recorded result.
fn rows(hub: &Hub, task: &str) -> Vec<String> {
    let rows =
        hub.sql(&format!("SELECT idx, finished_at, tries FROM items WHERE task_id = '{task}' ORDER BY idx"));
    rows.unwrap().lines().map(str::to_owned).collect()
}

/// Ends of items that were told before, by an older attempt.
fn repeats(events: &[Value]) -> usize {
    let mut names = ended(events);
    let all = names.len();
    names.sort();
    names.dedup();
    all - names.len()
}

/// Redis is killed while tasks end. Each end is in the record, and told once Redis is back.
#[tokio::test(flavor = "multi_thread")]
async fn ends_committed_without_a_redis_are_told_once_it_is_back() {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis);
    (spec.gateways, spec.workers) = (1, 2);
    let mut hub = start(spec).await;
    let token = hub.token("oda", "operator").unwrap();
    let api = Api::new(&hub.gateways[0].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let mut tasks = Vec::new();
    for n in 0..5 {
        tasks.push(api.submit(&wait_batch(&names(&format!("o{n}"), 20), 1_500, 0)).await);
    }
    let running = "SELECT count(*) FROM tasks WHERE status = 'running'";
    until("all of them run", async || hub.sql(running).unwrap() == "5").await;
    hub.redis.as_ref().unwrap().process().kill().unwrap();
    let over = "SELECT count(*) FROM tasks WHERE status = 'completed'";
    until("all of them end in the record", async || hub.sql(over).unwrap() == "5").await;
    let untold = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
    assert_eq!(hub.sql(untold).unwrap(), "5", "nobody could be told: the fault bit");
    tokio::task::block_in_place(|| hub.redis.as_mut().unwrap().run()).unwrap();
    let (mut ends, mut shown) = (Vec::new(), Vec::new());
    let all = |ends: &Vec<Value>, shown: &Vec<Value>| {
        let told = |task: &String| ends.iter().chain(shown).any(|end| end["task_id"] == **task);
        tasks.iter().all(told)
    };
    while !all(&ends, &shown) {
        let frame = socket.next().await;
        match frame["type"].as_str().unwrap() {
            "snapshot" => {
                shown.extend(
                    frame["tasks"].as_array().unwrap().iter().filter(|task| is_terminal(task)).cloned(),
                );
            }
            "hello" => {}
            _ if is_terminal(&frame) => ends.push(frame),
            _ => {}
        }
    }
    until("the outbox is empty", async || hub.sql(untold).unwrap() == "0").await;
    while let Ok(frame) = tokio::time::timeout(Duration::from_secs(1), socket.next()).await {
        if frame["type"] != "snapshot" && is_terminal(&frame) {
            ends.push(frame);
        }
    }
    let mut orders: Vec<_> =
        ends.iter().map(|end| (end["task_id"].to_string(), crate::support::order(end))).collect();
    let told = orders.len();
    orders.sort();
    orders.dedup();
    assert_eq!(orders.len(), told, "an end was told twice: {ends:?}");
    assert!(ends.iter().all(|end| end["status"] == "completed" && end["current"] == 20));
}
