//! Waves, gates, pauses, windows, room, and nodes that another task acts on.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::lease::lock;
use super::{CHANGED, Rig, TestActions, once_each, until};
use crate::action::{ActionError, NodeView};
use crate::config::WorkerConfig;
use crate::lifecycle::Lifecycle;
use crate::store::{ClaimRules, ClaimStore, Control, Fence};
use crate::task::{Draft, EventKind, FailureBudget, ItemName, ReplicaId, Status, TaskId};

/// Notes in which order items begin and end.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(u32, bool)>>>);

impl Log {
    fn actions(&self, time: Duration) -> TestActions {
        let log = self.clone();
        TestActions::new(move |index| {
            let log = log.clone();
            Box::pin(async move {
                lock(&log.0).push((index, true));
                tokio::time::sleep(time).await;
                lock(&log.0).push((index, false));
                CHANGED
            })
        })
    }

    fn begun(&self) -> Vec<u32> {
        lock(&self.0).iter().filter(|(_, begins)| *begins).map(|(index, _)| *index).collect()
    }

    /// Whether every item of a wave had ended before any of the next began.
    fn keeps(&self, wave_of: impl Fn(u32) -> u32) -> bool {
        let log = lock(&self.0);
        let mut left: BTreeMap<u32, i64> = BTreeMap::new();
        for (index, begins) in log.iter() {
            let wave = wave_of(*index);
            if *begins && left.iter().any(|(other, open)| *other != wave && *open > 0) {
                return false;
            }
            *left.entry(wave).or_default() += if *begins { 1 } else { -1 };
        }
        log.iter().filter(|(_, begins)| *begins).is_sorted_by_key(|(index, _)| wave_of(*index))
    }
}

fn draft(items: u32, strategy: Value) -> Draft {
    let items = (0..items).map(|index| format!("node-{index}")).collect();
    let strategy = Some(serde_json::from_value(strategy).unwrap());
    Draft { action: "cordon".into(), cluster: "prod".into(), items, strategy, ..Draft::default() }
}

fn node(name: &str, zone: &str, role: &str, unschedulable: bool) -> NodeView {
    let labels = BTreeMap::from([("topology.kubernetes.io/zone", zone)]);
    let node = json!({"name": name, "ready": true, "unschedulable": unschedulable, "roles": [role], "labels": labels,
        "taints": []});
    serde_json::from_value(node).unwrap()
}

fn messages(rig: &Rig, task: TaskId, kind: EventKind) -> Vec<String> {
    rig.events(task)
        .into_iter()
        .filter(|event| event.kind == kind)
        .filter_map(|event| event.message)
        .collect()
}

async fn end(life: Lifecycle) {
    life.shut_down(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_wave_begins_when_every_item_of_the_one_before_has_ended() {
    let (rig, log) = (Rig::new(), Log::default());
    let actions = log.actions(Duration::from_millis(20));
    let _life = rig.worker("one", &actions, WorkerConfig::default());
    let task = rig.submit_draft("ada", draft(40, json!({"canary": 1, "waves": [13]}))).await;
    assert_eq!(rig.over(task).await.state.status, Status::Completed);
    assert!(log.keeps(|index| index.div_ceil(13)), "{:?}", log.begun());
    assert_eq!(actions.runs(task), once_each(40));
    let told = messages(&rig, task, EventKind::Wave);
    let expected = ["1 item", "13 items", "13 items", "13 items"];
    let expected: Vec<_> =
        expected.iter().zip(1..).map(|(n, wave)| format!("wave {wave} of 4 begins: {n}")).collect();
    assert_eq!(told, expected);
    let marks: Vec<_> =
        rig.events(task).iter().filter_map(|event| event.wave).map(|wave| wave.number).collect();
    assert!(marks.is_sorted() && marks.contains(&1) && marks.contains(&4), "{marks:?}");
    assert_eq!(rig.task(task).await.state.attempt.0, 1, "no gate, no pause, no other attempt");
}

#[tokio::test(start_paused = true)]
async fn a_gate_pauses_until_somebody_resumes() {
    let (rig, log) = (Rig::new(), Log::default());
    let actions = log.actions(Duration::ZERO);
    let _life = rig.worker("one", &actions, WorkerConfig::default());
    let task = rig.submit_draft("ada", draft(5, json!({"canary": 1, "waves": [2], "gate": "each"}))).await;
    for done in [1, 3] {
        rig.has_status(task, Status::Paused).await;
        until("it is let go", || async { rig.task(task).await.worker.is_none() }).await;
        let paused = rig.task(task).await;
        assert_eq!(paused.counts.succeeded, done);
        let wave = if done == 1 { 1 } else { 2 };
        let why = format!("wave {wave} of 3 is done: resume to go on");
        assert_eq!(paused.message.as_deref(), Some(why.as_str()));
        assert_eq!(messages(&rig, task, EventKind::Paused).last(), Some(&why));
        rig.control(task, Control::Resume).await;
    }
    assert_eq!(rig.over(task).await.state.status, Status::Completed);
    assert_eq!(log.begun(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_is_kept_here_and_a_long_one_in_the_record() {
    for (soak, here) in [(5_000, true), (60_000, false)] {
        let (rig, log) = (Rig::new(), Log::default());
        let actions = log.actions(Duration::ZERO);
        let _life = rig.worker("one", &actions, WorkerConfig::default());
        let task = rig.submit_draft("ada", draft(2, json!({"waves": [1], "soak_ms": soak}))).await;
        until("the first wave is done", || async { log.begun().len() == 1 }).await;
        let began = tokio::time::Instant::now();
        if !here {
            rig.has_status(task, Status::Queued).await;
            let resting = rig.task(task).await;
            assert!(resting.worker.is_none() && resting.rests_until.is_some());
            assert_eq!(resting.waits_for(), resting.message);
            let other = rig.submit_as("bob", 1).await;
            assert_eq!(rig.over(other).await.state.status, Status::Completed, "nothing of it is in the way");
        }
        assert_eq!(rig.over(task).await.state.status, Status::Completed);
        let waited = began.elapsed();
        let soak = Duration::from_millis(soak);
        assert!(waited >= soak && waited < soak + Duration::from_secs(10), "{waited:?}");
        let waits: Vec<_> = rig.events(task).into_iter().filter(|event| event.waits_for.is_some()).collect();
        assert!(!waits.is_empty() && rig.events(task).last().unwrap().waits_for.is_none());
        assert_eq!(rig.task(task).await.state.attempt.0, if here { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_in_a_wave_or_in_a_pause_is_followed_by_one_that_goes_on_there() {
    let (rig, log) = (Rig::new(), Log::default());
    let config = WorkerConfig { lanes_per_task: 2, ..WorkerConfig::default() };
    let task = rig.submit_draft("ada", draft(9, json!({"canary": 1, "waves": [4], "soak_ms": 8_000}))).await;
    let slow = log.actions(Duration::from_secs(2));
    let first = rig.worker("one", &slow, config.clone());
    until("the second wave is half done", || async { log.begun().len() >= 3 }).await;
    first.hard().cancel();
    first.stop();
    let second = rig.worker("two", &slow, config.clone());
    until("it rests before the third", || async { rig.task(task).await.opened == 3 }).await;
    second.hard().cancel();
    second.stop();
    let _third = rig.worker("three", &slow, config);
    assert_eq!(rig.over(task).await.state.status, Status::Completed);
    let wave_of = |index: u32| index.div_ceil(4);
    assert!(log.begun().is_sorted_by_key(|index| wave_of(*index)), "{:?}", log.begun());
    assert!(rig.task(task).await.state.attempt.0 >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_used_up_budget_stops_a_wave_and_a_resume_goes_on_in_it() {
    let rig = Rig::new();
    let actions = TestActions::new(|index| {
        Box::pin(async move { if index == 2 { Err(ActionError::permanent("no")) } else { CHANGED } })
    });
    let config = WorkerConfig { lanes_per_task: 1, ..WorkerConfig::default() };
    let _life = rig.worker("one", &actions, config);
    let budget = FailureBudget { failed: Some(0), ..FailureBudget::default() };
    let strategy = json!({"canary": 1, "waves": [4]});
    let task = rig.submit_draft("ada", Draft { failure_budget: Some(budget), ..draft(9, strategy) }).await;
    rig.has_status(task, Status::Paused).await;
    until("it is let go", || async { rig.task(task).await.worker.is_none() }).await;
    let paused = rig.task(task).await;
    assert_eq!((paused.counts.current(), paused.counts.failed), (3, 1));
    assert_eq!(paused.view().wave.map(|wave| wave.to_string()).as_deref(), Some("wave 2 of 3"));
    rig.control(task, Control::Resume).await;
    assert_eq!(rig.over(task).await.state.status, Status::CompletedWithErrors);
    assert_eq!(actions.runs(task), once_each(9));
}

#[tokio::test(start_paused = true)]
async fn the_last_item_of_a_wave_uses_a_budget_up_too() {
    let rig = Rig::new();
    let actions = TestActions::new(|_| Box::pin(async { Err(ActionError::permanent("no")) }));
    let _life = rig.worker("one", &actions, WorkerConfig::default());
    let budget = FailureBudget { failed: Some(0), ..FailureBudget::default() };
    let draft = draft(3, json!({"canary": 1}));
    let task = rig.submit_draft("ada", Draft { failure_budget: Some(budget), ..draft }).await;
    rig.has_status(task, Status::Paused).await;
    until("it is let go", || async { rig.task(task).await.worker.is_none() }).await;
    assert_eq!(actions.runs(task), [1], "the canary died, and nothing else was begun");
}

#[tokio::test(start_paused = true)]
async fn the_order_is_made_once_and_kept_whatever_becomes_of_the_nodes() {
    let (rig, log) = (Rig::new(), Log::default());
    let names = [("a", "control-plane"), ("a", ""), ("a", ""), ("b", "")];
    let nodes = |swap: bool| {
        let node = |(n, (zone, role)): (usize, &(&str, &str))| {
            node(&format!("node-{n}"), if swap { "c" } else { zone }, role, false)
        };
        Some(names.iter().enumerate().map(node).collect::<Vec<_>>())
    };
    *lock(&rig.nodes.nodes) = nodes(false);
    let actions = log.actions(Duration::ZERO);
    let config = WorkerConfig { node: Some("node-1".into()), ..WorkerConfig::default() };
    let _life = rig.worker("one", &actions, config);
    let order = ["zones", "control_plane_last", "own_node_last"];
    let strategy = json!({"waves": [1], "order": order, "gate": "first"});
    let task = rig.submit_draft("ada", draft(4, strategy)).await;
    rig.has_status(task, Status::Paused).await;
    *lock(&rig.nodes.nodes) = nodes(true);
    rig.control(task, Control::Resume).await;
    rig.over(task).await;
    assert_eq!(log.begun(), [2, 3, 0, 1]);
    assert_eq!(rig.nodes.looks.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_nodes_cannot_be_read_is_paused_and_not_run_in_another_order() {
    let (rig, log) = (Rig::new(), Log::default());
    let _life = rig.worker("one", &log.actions(Duration::ZERO), WorkerConfig::default());
    let task = rig.submit_draft("ada", draft(4, json!({"order": ["zones"]}))).await;
    rig.has_status(task, Status::Paused).await;
    assert!(rig.task(task).await.message.unwrap().starts_with("the nodes of prod cannot be read"));
    assert!(log.begun().is_empty());
    rig.control(task, Control::Cancel).await;
    rig.has_status(task, Status::Cancelled).await;
    assert!(log.begun().is_empty());
}

/// The test's clock begins on Thursday, 1970-01-01 at 00:00 UTC.
#[tokio::test(start_paused = true)]
async fn items_start_in_the_window_only() {
    let (rig, log) = (Rig::new(), Log::default());
    let config = WorkerConfig { lanes_per_task: 1, ..WorkerConfig::default() };
    let _life = rig.worker("one", &log.actions(Duration::from_secs(50)), config);
    let began = tokio::time::Instant::now();
    let strategy = json!({"windows": ["Thu 00:05-00:07 UTC", "Thu 00:12-02:00 UTC"]});
    let task = rig.submit_draft("ada", draft(4, strategy)).await;
    until("it rests", || async { rig.task(task).await.rests_until.is_some() }).await;
    let why = "its maintenance window is closed and opens Thu 1970-01-01 00:05 UTC";
    assert_eq!(rig.task(task).await.message.as_deref(), Some(why));
    let minutes = |n: u64| Duration::from_secs(n * 60);
    until("it begins", || async { !log.begun().is_empty() }).await;
    assert!(began.elapsed() >= minutes(5) && began.elapsed() < minutes(6), "{:?}", began.elapsed());
    until("the window is closed", || async { rig.task(task).await.waits_for().is_some() }).await;
    assert_eq!(log.begun(), [0, 1, 2], "what was begun in time ended");
    assert!(rig.task(task).await.message.unwrap().ends_with("opens Thu 1970-01-01 00:12 UTC"));
    assert_eq!(rig.over(task).await.state.status, Status::Completed);
    assert!(began.elapsed() >= minutes(12), "{:?}", began.elapsed());
    assert_eq!(log.begun(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn no_more_nodes_are_out_of_service_than_allowed_whoever_is_the_reason() {
    let rig = Rig::new();
    let out: Arc<Mutex<Vec<String>>> = Arc::new(Mutex::new(vec!["other-0".into(), "node-9".into()]));
    let show = move |rig: &Rig, out: &[String]| {
        let ours = (0..10).map(|n| format!("node-{n}"));
        let all = ours.chain((0..10).map(|n| format!("other-{n}")));
        *lock(&rig.nodes.nodes) = Some(all.map(|name| node(&name, "a", "", out.contains(&name))).collect());
    };
    show(&rig, &lock(&out));
    let cordoned = Arc::clone(&out);
    let actions = TestActions::new(move |index| {
        let cordoned = Arc::clone(&cordoned);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let name = format!("node-{index}");
            let mut cordoned = lock(&cordoned);
            if !cordoned.contains(&name) {
                cordoned.push(name);
            }
            assert!(cordoned.len() <= 4, "{cordoned:?}");
            CHANGED
        })
    });
    let config = WorkerConfig { room_wait: Duration::from_secs(60), ..WorkerConfig::default() };
    let _life = rig.worker("one", &actions, config);
    let task = rig.submit_draft("ada", draft(10, json!({"max_unavailable": "20%"}))).await;
    until("there is no room", || async {
        rig.events(task).last().is_some_and(|event| event.waits_for.is_some() && event.counts.succeeded == 3)
    })
    .await;
    let why = rig.events(task).last().unwrap().waits_for.clone().unwrap();
    assert_eq!(why, "4 of 20 nodes are cordoned, not ready or in work, and at most 4 may be");
    lock(&out).clear();
    show(&rig, &[]);
    until("there is room again", || async { rig.events(task).last().unwrap().counts.succeeded > 3 }).await;
    show(&rig, &lock(&out));
    rig.has_status(task, Status::Paused).await;
    let paused = rig.task(task).await;
    assert!(paused.message.as_deref().unwrap().ends_with("for 60s by now: resume to go on"), "{paused:?}");
    assert!(paused.counts.succeeded < 10);
}

/// Submits a task on so many nodes.
async fn nodes(rig: &Rig, owner: &str, items: u32) -> TaskId {
    rig.submit_draft(owner, draft(items, json!({}))).await
}

fn rules() -> ClaimRules {
    ClaimRules { lease: Duration::from_secs(3600), per_cluster_max: 100 }
}

/// Claims a task for a worker of the test's own, and takes nodes for it.
async fn hold_nodes(rig: &Rig, owner: &str, names: &[&str]) -> Fence {
    let task = nodes(rig, owner, 10).await;
    let claim = rig.store.store.claim(&ReplicaId::new("other").unwrap(), &rules()).await.unwrap().unwrap();
    assert_eq!(claim.task.id, task);
    let fence = Fence { task, attempt: claim.task.state.attempt };
    let wanted: Vec<_> = names.iter().zip(0..).map(|(name, n)| (n, ItemName::new(*name).unwrap())).collect();
    assert!(rig.store.store.take_nodes(fence, &wanted).await.unwrap().is_empty());
    fence
}

#[tokio::test(start_paused = true)]
async fn a_node_that_another_task_holds_is_waited_for_and_the_others_go_on() {
    let (rig, log) = (Rig::new(), Log::default());
    let holder = hold_nodes(&rig, "bob", &["node-0", "node-1"]).await;
    let _life = rig.worker("one", &log.actions(Duration::ZERO), WorkerConfig::default());
    let task = nodes(&rig, "ada", 4).await;
    until("it waits", || async { rig.events(task).last().is_some_and(|event| event.waits_for.is_some()) })
        .await;
    assert_eq!(log.begun(), [2, 3]);
    let waits_for = rig.events(task).last().unwrap().waits_for.clone().unwrap();
    let expected = "node-0 is held by another user's task, node-1 is held by another user's task";
    assert_eq!(waits_for, expected, "nothing of another user is told");
    rig.store.store.hand_over(holder).await.unwrap();
    rig.control(holder.task, Control::Cancel).await;
    assert_eq!(rig.over(task).await.state.status, Status::Completed);
    assert_eq!(log.begun().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_held_for_too_long_fails_its_item_and_names_who_holds_it() {
    for (owner, named) in [("ada", true), ("bob", false)] {
        let (rig, log) = (Rig::new(), Log::default());
        let holder = hold_nodes(&rig, owner, &["node-1"]).await;
        let config = WorkerConfig { node_wait: Duration::from_secs(20), ..WorkerConfig::default() };
        let _life = rig.worker("one", &log.actions(Duration::ZERO), config);
        let began = tokio::time::Instant::now();
        let task = nodes(&rig, "ada", 3).await;
        assert_eq!(rig.over(task).await.counts.failed, 1);
        assert!(began.elapsed() >= Duration::from_secs(20) && began.elapsed() < Duration::from_secs(30));
        let failed = rig.items(task).await.remove(1).result.unwrap();
        let who =
            if named { format!("your task {} (cordon)", holder.task) } else { "another user's task".into() };
        let why = format!("node-1 is held by {who}, for longer than 20s");
        assert_eq!((failed.outcome.message(), failed.tries), (Some(why.as_str()), 0));
        assert_eq!(log.begun(), [0, 2]);
    }
}

/// Two tasks on the same nodes: no node is ever worked on by both at once.
#[tokio::test(start_paused = true)]
async fn two_tasks_never_act_on_one_node_at_once() {
    let rig = Rig::new();
    let busy: Arc<Mutex<Vec<u32>>> = Arc::default();
    let actions = TestActions::new(move |index| {
        let busy = Arc::clone(&busy);
        Box::pin(async move {
            assert!(!lock(&busy).contains(&index), "node-{index} is being worked on");
            lock(&busy).push(index);
            tokio::time::sleep(Duration::from_millis(u64::from(index % 7) * 10)).await;
            lock(&busy).retain(|other| *other != index);
            CHANGED
        })
    });
    let config = WorkerConfig { node_wait: Duration::from_secs(600), ..WorkerConfig::default() };
    let _lives = ["one", "two"].map(|name| rig.worker(name, &actions, config.clone()));
    let tasks = [nodes(&rig, "ada", 300).await, nodes(&rig, "bob", 300).await];
    for task in tasks {
        assert_eq!(rig.over(task).await.state.status, Status::Completed);
        assert_eq!(actions.runs(task), once_each(300));
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_are_taken_many_at_once_and_no_statement_is_for_one_item() {
    let rig = Rig::new();
    let life = rig.worker("one", &TestActions::taking(Duration::from_millis(1)), WorkerConfig::default());
    let task = nodes(&rig, "ada", 10_000).await;
    assert_eq!(rig.over(task).await.state.status, Status::Completed);
    let takes = rig.store.takes.load(Ordering::SeqCst);
    assert!(takes <= 40, "{takes} calls for 10,000 nodes");
    end(life).await;
}
