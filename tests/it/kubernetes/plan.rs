//! Plans on the simulator: what they say, that they only read, and that a run does what its plan said.

use std::sync::Arc;
use std::time::Duration;

use milepost::action::{ActionError, Context, Done, Planner, Target};
use milepost::clock::{Clock, SystemClock};
use milepost::simulator::{Behaviour, Denied, PodChange, Simulator, SimulatorConfig};
use milepost::store::Task;
use milepost::task::plan::{Fate, NodePlan, Outcome, PodClass};
use milepost::task::spec::{Draft, TaskSpec};
use milepost::task::{Capabilities, ItemName, Plan, TaskId, UserId};
use serde_json::{Value, json};

use super::Hub;

const NODE: &str = "node-006";

pub(super) async fn quick(nodes: u32) -> Simulator {
    let soon = Duration::from_millis(5);
    let behaviour = Behaviour { ends_within: soon, ready_after: soon, ..Behaviour::default() };
    let config = SimulatorConfig { nodes, behaviour, ..SimulatorConfig::default() };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

pub(super) fn spec(action: &str, parameters: Value, nodes: &[&str]) -> TaskSpec {
    spec_with(action, parameters, nodes, json!({}))
}

pub(super) fn spec_with(action: &str, parameters: Value, nodes: &[&str], strategy: Value) -> TaskSpec {
    let draft = Draft {
        action: action.into(),
        cluster: "sim".into(),
        items: nodes.iter().map(ToString::to_string).collect(),
        parameters,
        reason: Some("disk".into()),
        strategy: Some(serde_json::from_value(strategy).unwrap()),
        ..Draft::default()
    };
    TaskSpec { may: Capabilities::all(), ..TaskSpec::new(draft).unwrap() }
}

fn ada() -> UserId {
    UserId::new("ada").unwrap()
}

impl Hub {
    pub(super) async fn plan(&self, spec: &TaskSpec) -> Plan {
        let survey = self.registry.survey(spec, &ada()).await.unwrap();
        Plan::new(spec, survey, 20, &[], SystemClock.now())
    }

    async fn drain_plan(&self, parameters: Value) -> Plan {
        self.plan(&spec("drain", parameters, &[NODE])).await
    }

    /// Runs a task as a worker does, item by item.
    pub(super) async fn run_spec(&self, spec: &TaskSpec) -> Vec<Result<Done, ActionError>> {
        use milepost::action::Actions;
        let task = Task::accepted(TaskId::generate(), ada(), spec, SystemClock.now());
        let action = match self.registry.prepare(&task).await {
            Ok(action) => action,
            Err(error) => return spec.items.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut done = Vec::new();
        for (index, name) in (0..).zip(&spec.items) {
            done.push(action.run(Target { index, name }, &Context::alone()).await);
        }
        done
    }
}

/// A pod of a controller of this kind; of nobody when it is empty.
pub(super) fn pod(name: &str, node: &str, kind: &str) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    });
    if !kind.is_empty() {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "owner", "uid": "o", "controller": true}]);
    }
    pod
}

pub(super) fn with_data(mut pod: Value) -> Value {
    pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    pod
}

pub(super) fn mirror(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    pod
}

pub(super) fn finished(mut pod: Value) -> Value {
    pod["status"] = json!({"phase": "Succeeded"});
    pod
}

pub(super) fn daemon_set() -> Value {
    json!({"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": {"name": "owner", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "daemon"}}, "template": {}}})
}

fn budget(name: &str, app: &str, min: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"minAvailable": min, "selector": {"matchLabels": {"app": app}}}})
}

fn everything() -> Value {
    json!({"ignore_daemonsets": true, "delete_emptydir_data": true, "force": true})
}

fn groups(node: &NodePlan) -> Vec<(Fate, PodClass, Vec<&str>)> {
    let group = |group: &milepost::task::plan::PodGroup| (group.fate, group.class, group.count);
    assert!(node.pods.iter().all(|one| group(one).2 as usize == one.names.len()));
    node.pods
        .iter()
        .map(|one| (one.fate, one.class, one.names.iter().map(String::as_str).collect()))
        .collect()
}

#[tokio::test]
async fn pods_are_told_by_what_becomes_of_them() {
    let simulator = quick(8).await;
    let hub = Hub::new(&simulator);
    simulator.add("daemonsets", &daemon_set()).unwrap();
    for pod in [
        pod("web", NODE, "ReplicaSet"),
        with_data(pod("data", NODE, "ReplicaSet")),
        pod("bare", NODE, ""),
        finished(pod("done", NODE, "")),
        pod("daemon", NODE, "DaemonSet"),
        mirror(pod("static", NODE, "Node")),
        pod("elsewhere", "node-007", "ReplicaSet"),
    ] {
        simulator.add_pod(&pod).unwrap();
    }
    let refused = hub.drain_plan(json!({})).await;
    let expected = [
        (Fate::Refuse, PodClass::EmptyDir, vec!["shop/data"]),
        (Fate::Refuse, PodClass::Unmanaged, vec!["shop/bare"]),
        (Fate::Refuse, PodClass::DaemonSet, vec!["shop/daemon"]),
        (Fate::Evict, PodClass::Ordinary, vec!["shop/web"]),
        (Fate::Evict, PodClass::Finished, vec!["shop/done"]),
        (Fate::Leave, PodClass::Mirror, vec!["shop/static"]),
    ];
    assert_eq!(groups(&refused.nodes[0]), expected);
    assert_eq!((refused.nodes[0].outcome, refused.summary.evictions), (Outcome::Fail, 0));
    let failed = hub.run("drain", json!({}), NODE).await.unwrap_err();
    assert_eq!(refused.nodes[0].says, failed.to_string(), "the run says the same");
    let forced = hub.drain_plan(everything()).await;
    let expected = [
        (Fate::Evict, PodClass::Ordinary, vec!["shop/web"]),
        (Fate::Evict, PodClass::Finished, vec!["shop/done"]),
        (Fate::Evict, PodClass::EmptyDir, vec!["shop/data"]),
        (Fate::Evict, PodClass::Unmanaged, vec!["shop/bare"]),
        (Fate::Leave, PodClass::DaemonSet, vec!["shop/daemon"]),
        (Fate::Leave, PodClass::Mirror, vec!["shop/static"]),
    ];
    assert_eq!(groups(&forced.nodes[0]), expected);
    assert_eq!((forced.nodes[0].outcome, forced.summary.evictions), (Outcome::Change, 4));
    assert_eq!(forced.nodes[0].says, "evict 4 pods", "the refused drain has cordoned it");
    let selected = hub.drain_plan(json!({"pod_selector": "app=web"})).await;
    assert_eq!(groups(&selected.nodes[0]), [(Fate::Evict, PodClass::Ordinary, vec!["shop/web"])]);
}

#[tokio::test]
async fn budgets_that_let_no_pod_go_are_named_and_those_with_room_are_not() {
    let simulator = quick(8).await;
    let hub = Hub::new(&simulator);
    for name in ["free", "tight", "twice"] {
        simulator.add_pod(&pod(name, NODE, "ReplicaSet")).unwrap();
    }
    simulator.add("poddisruptionbudgets", &budget("free", "free", 0)).unwrap();
    simulator.add("poddisruptionbudgets", &budget("tight", "tight", 1)).unwrap();
    let plan = hub.drain_plan(json!({})).await;
    let holds: Vec<_> =
        plan.nodes[0].budgets.iter().map(|hold| (hold.budget.as_str(), hold.blocks)).collect();
    assert_eq!(holds, [("shop/tight", true)]);
    assert_eq!(plan.nodes[0].budgets[0].why, "never lets a pod go: it needs 1 healthy pods of 1");
    assert_eq!((plan.nodes[0].outcome, plan.summary.held_by_budgets), (Outcome::Change, 1));
    simulator.add("poddisruptionbudgets", &budget("one", "twice", 0)).unwrap();
    simulator.add("poddisruptionbudgets", &budget("two", "twice", 0)).unwrap();
    let plan = hub.drain_plan(json!({})).await;
    assert_eq!(plan.nodes[0].outcome, Outcome::Fail, "the cluster never evicts a pod under two budgets");
    assert!(plan.nodes[0].says.contains("shop/twice"), "{}", plan.nodes[0].says);
    simulator.deny(vec![Denied::new("list", "poddisruptionbudgets")]);
    let blind = hub.drain_plan(json!({})).await;
    assert!(blind.nodes[0].budgets.is_empty() && blind.missing.is_empty(), "no drain needs that right");
    assert!(blind.warnings[0].contains("list on poddisruptionbudgets"), "{:?}", blind.warnings);
}

#[tokio::test]
async fn missing_rights_are_named_once_and_nothing_is_begun() {
    let simulator = quick(4).await;
    let hub = Hub::new(&simulator);
    simulator.deny(vec![Denied::new("patch", "nodes"), Denied::new("watch", "pods")]);
    let asked = spec("drain", json!({}), &["node-001", "node-002"]);
    let plan = hub.plan(&asked).await;
    let missing: Vec<_> = plan.missing.iter().map(ToString::to_string).collect();
    assert_eq!(missing, ["patch on nodes", "watch on pods"]);
    let why = "forbidden: needs patch on nodes, watch on pods in cluster sim";
    assert_eq!(plan.refused.as_deref(), Some(why));
    let before = simulator.requests().len();
    for ended in hub.run_spec(&asked).await {
        assert_eq!(ended, Err(ActionError::permanent(why)));
    }
    let after = simulator.requests();
    assert!(
        after[before..].iter().all(|request| request.path.ends_with("/selfsubjectaccessreviews")),
        "no item was begun: {after:?}"
    );
    // Not even looking at nodes is allowed.
    simulator.deny(vec![Denied::new("*", "nodes")]);
    let blind = Hub::new(&simulator).plan(&asked).await;
    assert_eq!(blind.summary.unknown, 2);
}

#[tokio::test]
async fn where_evicting_is_allowed_in_some_namespaces_a_node_with_others_is_left_alone() {
    let simulator = quick(8).await;
    let hub = Hub::new(&simulator);
    let mut allowed = pod("a", "node-007", "ReplicaSet");
    allowed["metadata"]["namespace"] = "free".into();
    simulator.add_pod(&allowed).unwrap();
    simulator.add_pod(&pod("b", NODE, "ReplicaSet")).unwrap();
    let evict = || Denied::new("create", "pods/eviction");
    simulator.deny(vec![evict().namespace(""), evict().namespace("shop")]);
    let asked = spec("drain", json!({}), &[NODE, "node-007"]);
    let plan = hub.plan(&asked).await;
    let outcomes: Vec<_> = plan.nodes.iter().map(|node| node.outcome).collect();
    assert_eq!(outcomes, [Outcome::Fail, Outcome::Change]);
    assert_eq!(plan.missing[0].to_string(), "create on pods/eviction in namespace shop");
    assert!(plan.nodes[0].changes.is_empty(), "it would not even be cordoned");
    let ended = hub.run_spec(&asked).await;
    assert_eq!(ended[0], Err(ActionError::permanent(plan.nodes[0].says.clone())));
    assert_eq!(ended[1], super::CHANGED);
    assert_ne!(simulator.node(NODE).unwrap()["spec"]["unschedulable"], true);
}

#[tokio::test]
async fn a_plan_only_reads() {
    let config = SimulatorConfig { nodes: 60, pods_per_node: 5, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let hub = Hub::new(&simulator);
    let nodes = simulator.node_names();
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    let actions = [
        ("cordon", Value::Null),
        ("uncordon", json!({"foreign": true})),
        ("label", json!({"labels": {"a": "b"}})),
        ("taint", json!({"taints": [{"key": "a", "effect": "NoSchedule"}]})),
        ("annotate", json!({"annotations": {"a": "b"}})),
        ("drain", everything()),
    ];
    for (action, parameters) in actions {
        for nodes in [&nodes[..3], &nodes] {
            hub.plan(&spec(action, parameters.clone(), nodes)).await;
        }
    }
    for request in simulator.requests() {
        let asks = request.path.ends_with("/selfsubjectaccessreviews");
        assert!(matches!(request.verb, "get" | "list" | "watch") || asks, "{request:?}");
    }
    assert!(simulator.pod_events().iter().all(|event| event.change != PodChange::Evicted));
}

#[tokio::test]
async fn a_replaced_node_changes_the_hash_and_heartbeats_do_not() {
    let simulator = quick(4).await;
    let hub = Hub::new(&simulator);
    let asked = spec("label", json!({"labels": {"tier": "gold"}}), &["node-001", "node-002"]);
    let first = hub.plan(&asked).await;
    let beat = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-23T00:00:00Z"}]},
        "metadata": {"labels": {"other": "x"}, "annotations": {"other": "x"}}});
    simulator.merge_patch("node-001", &beat).unwrap();
    assert_eq!(hub.plan(&asked).await.hash, first.hash, "what stays does not count");
    simulator.replace_node("node-001").unwrap();
    let second = hub.plan(&asked).await;
    assert_ne!(second.hash, first.hash);
    let differences = milepost::task::plan::Known::from(&first).differences(&second);
    assert_eq!(differences.nodes.len(), 1);
    assert_eq!(differences.nodes[0].now, "another node of this name: add label tier=gold");
    simulator.merge_patch("node-002", &json!({"metadata": {"labels": {"tier": "gold"}}})).unwrap();
    let third = hub.plan(&asked).await;
    assert_eq!((third.summary.change, third.summary.already), (1, 1));
    assert_ne!(third.hash, second.hash);
}

#[tokio::test]
async fn a_pod_of_the_same_workload_does_not_change_the_hash_and_one_more_does() {
    let simulator = quick(8).await;
    let hub = Hub::new(&simulator);
    simulator.add_pod(&pod("web-1", NODE, "ReplicaSet")).unwrap();
    let first = hub.drain_plan(json!({})).await.hash;
    assert!(simulator.kill_pod("shop", "web-1"));
    simulator.add_pod(&pod("web-2", NODE, "ReplicaSet")).unwrap();
    assert_eq!(hub.drain_plan(json!({})).await.hash, first);
    simulator.add_pod(&pod("web-3", NODE, "ReplicaSet")).unwrap();
    assert_ne!(hub.drain_plan(json!({})).await.hash, first);
}

#[tokio::test]
async fn want_of_room_is_told_before_anything_is_started() {
    let simulator = quick(4).await;
    let hub = Hub::new(&simulator);
    let asked = spec_with("cordon", Value::Null, &["node-002"], json!({"max_unavailable": 1}));
    assert!(hub.plan(&asked).await.warnings.is_empty());
    simulator.merge_patch("node-001", &json!({"spec": {"unschedulable": true}})).unwrap();
    let why =
        "nothing would be started now: 1 of 4 nodes are cordoned, not ready or in work, and at most 1 may be";
    assert_eq!(hub.plan(&asked).await.warnings, [why]);
}

#[tokio::test]
async fn what_is_copied_is_known_before_and_a_source_without_taints_fails_all() {
    let simulator = quick(4).await;
    let hub = Hub::new(&simulator);
    let asked = spec("copy_taints", json!({"from": "node-004"}), &["node-001", "node-404"]);
    let plan = hub.plan(&asked).await;
    let says: Vec<_> = plan.nodes.iter().map(|node| node.says.as_str()).collect();
    assert_eq!(says, ["node node-004 has no taints that can be copied"; 2]);
    let taint = json!({"spec": {"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]}});
    simulator.merge_patch("node-004", &taint).unwrap();
    let plan = hub.plan(&asked).await;
    assert_eq!(plan.nodes[0].says, "add taint gpu:NoSchedule=a");
    assert_eq!((plan.summary.change, plan.summary.missing), (1, 1));
}

#[tokio::test]
async fn a_thousand_nodes_with_thirty_pods_each_take_few_requests() {
    let config =
        SimulatorConfig { nodes: 1_000, pods_per_node: 30, log_max: 100_000, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let hub = Hub::new(&simulator);
    let nodes = simulator.node_names();
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    let began = tokio::time::Instant::now();
    let plan = hub.plan(&spec("drain", everything(), &nodes)).await;
    let took = began.elapsed();
    assert_eq!((plan.summary.nodes, plan.nodes.len()), (1_000, 1_000));
    assert!(plan.summary.evictions > 20_000, "{:?}", plan.summary);
    let requests = simulator.requests().len();
    assert!(requests < 150, "{requests} requests");
    assert!(took < Duration::from_secs(60), "took {took:?}");
    println!("a plan of 1,000 nodes: {requests} requests, {took:?}");
}

#[tokio::test]
async fn names_that_no_node_can_have_fail_and_are_not_asked_for() {
    let simulator = quick(4).await;
    let hub = Hub::new(&simulator);
    let spec = spec("cordon", Value::Null, &["Node_1"]);
    assert!(ItemName::new("Node_1").is_ok());
    let plan = hub.plan(&spec).await;
    assert_eq!(plan.nodes[0].outcome, Outcome::Fail);
    assert_eq!(Err(ActionError::permanent(plan.nodes[0].says.clone())), hub.run_spec(&spec).await[0]);
    assert!(simulator.requests().iter().all(|request| !request.path.contains("Node_1")));
}
