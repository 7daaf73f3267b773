//! Random nodes and pods, random actions: a run does to each of them what its plan said, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use milepost::action::{ActionError, Done};
use milepost::simulator::{PodChange, Simulator};
use milepost::task::plan::{Fate, Field, NodePlan, Outcome};
use milepost::task::safety::Rules;
use milepost::task::{Capabilities, Capability, TaskSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{daemon_set, finished, mirror, pod, quick, spec, with_data};
use super::{ALREADY, CHANGED, Hub};

/// What is different between two states of a node, as a plan would say it.
fn diff(before: &Value, after: &Value) -> BTreeMap<(Field, String), (Option<String>, Option<String>)> {
    let values = |node: &Value| {
        let mut values = BTreeMap::new();
        if node["spec"]["unschedulable"] == true {
            values.insert((Field::Unschedulable, String::new()), "true".to_owned());
        }
        for (field, map) in [(Field::Label, "labels"), (Field::Annotation, "annotations")] {
            for (key, value) in node["metadata"][map].as_object().into_iter().flatten() {
                values.insert((field, key.clone()), value.as_str().unwrap().to_owned());
            }
        }
        for taint in node["spec"]["taints"].as_array().into_iter().flatten() {
            let text = |name: &str| taint[name].as_str().unwrap_or_default().to_owned();
            values.insert((Field::Taint, format!("{}:{}", text("key"), text("effect"))), text("value"));
        }
        values
    };
    let (before, after) = (values(before), values(after));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    let pair = |key: (Field, String)| (key.clone(), (before.get(&key).cloned(), after.get(&key).cloned()));
    keys.into_iter().map(pair).filter(|(_, (before, after))| before != after).collect()
}

/// Holds what was planned for a node against what a run has made of it.
fn compare(plan: &NodePlan, before: &Value, after: &Value, ended: &Result<Done, ActionError>) {
    let mut really = diff(before, after);
    for change in &plan.changes {
        let (was, is) = really.remove(&(change.field, change.key.clone())).unwrap_or_default();
        assert_eq!(was, change.before, "{change} of {}", plan.name);
        match change.at_run {
            true => assert!(is.is_some() && is != was, "{change}"),
            false => assert_eq!(is, change.after, "{change}"),
        }
    }
    assert!(really.is_empty(), "{} has changes that were not planned: {really:?}; {plan:?}", plan.name);
    match plan.outcome {
        Outcome::Change => assert_eq!(ended, &CHANGED),
        Outcome::Already => assert_eq!(ended, &ALREADY),
        Outcome::Skip => assert_eq!(ended, &Ok(Done::Skipped(plan.says.clone()))),
        Outcome::Fail | Outcome::Missing => {
            assert_eq!(ended, &Err(ActionError::permanent(plan.says.clone())));
        }
        Outcome::Unknown => panic!("{plan:?}"),
    }
}

/// A node as others may have left it.
fn any_node() -> impl Strategy<Value = Value> {
    let ours = json!({"milepost.dev/cordon-task": "018f0000-0000-7000-8000-000000000001",
        "milepost.dev/cordon-actor": "ada", "milepost.dev/cordon-reason": "disk"});
    let other = json!({"milepost.dev/cordon-task": "018f0000-0000-7000-8000-000000000002",
        "milepost.dev/cordon-actor": "bob"});
    let notes = prop_oneof![Just(json!({})), Just(ours), Just(other), Just(json!({"note": "a"}))];
    let tier = prop::option::of("[ab]");
    let taint = prop::option::of(("[ab]", prop_oneof![Just("NoSchedule"), Just("NoExecute")]));
    (any::<bool>(), notes, tier, taint).prop_map(|(cordoned, notes, tier, taint)| {
        let labels = tier.map_or(json!({}), |tier| json!({"tier": tier}));
        let taints: Vec<_> = taint
            .iter()
            .map(|(value, effect)| json!({"key": "k", "value": value, "effect": effect}))
            .collect();
        let unschedulable = if cordoned { json!(true) } else { Value::Null };
        json!({"metadata": {"annotations": notes, "labels": labels},
            "spec": {"unschedulable": unschedulable, "taints": taints}})
    })
}

fn any_action() -> impl Strategy<Value = (&'static str, Value)> {
    let taint = |value: &str, effect: &str| json!({"key": "k", "value": value, "effect": effect});
    let effect = || prop_oneof![Just("NoSchedule"), Just("NoExecute")];
    prop_oneof![
        Just(("cordon", Value::Null)),
        any::<bool>().prop_map(|foreign| ("uncordon", json!({"foreign": foreign}))),
        Just(("uncordon", json!({"of_task": "018f0000-0000-7000-8000-000000000001"}))),
        ("[ab]", any::<bool>()).prop_map(|(tier, overwrite)| (
            "label",
            json!({"labels": {"tier": tier}, "overwrite": overwrite})
        )),
        Just(("unlabel", json!({"keys": ["tier", "absent"]}))),
        ("[ab]", effect(), any::<bool>()).prop_map(move |(value, effect, overwrite)| {
            ("taint", json!({"taints": [taint(&value, effect)], "overwrite": overwrite}))
        }),
        prop::option::of(effect())
            .prop_map(|effect| ("untaint", json!({"taints": [{"key": "k", "effect": effect}]}))),
        any::<bool>()
            .prop_map(|overwrite| { ("copy_taints", json!({"from": "node-004", "overwrite": overwrite})) }),
        ("[ab]", any::<bool>()).prop_map(|(note, overwrite)| {
            ("annotate", json!({"annotations": {"note": note}, "overwrite": overwrite}))
        }),
        Just(("unannotate", json!({"keys": ["note"]}))),
    ]
}

/// Rules of every strictness, and somebody who may more or less.
fn any_rules() -> impl Strategy<Value = (Rules, Capabilities)> {
    let may = prop_oneof![Just(Capabilities::default()), Just(Capabilities::all())];
    let pool = prop::option::of(Just("tier".to_owned()));
    let protected = prop_oneof![2 => Just("milepost.dev/protected"), 1 => Just("tier=a")];
    (any::<bool>(), any::<bool>(), pool, protected, may).prop_map(
        |(quorum, last_node, pool_label, protected, may)| {
            let protected = vec![protected.to_owned()];
            (Rules { protected, control_plane_quorum: quorum, last_node, pool_label }, may)
        },
    )
}

fn any_pod() -> impl Strategy<Value = (&'static str, bool, bool, bool)> {
    let kind = prop_oneof![3 => Just("ReplicaSet"), 1 => Just(""), 1 => Just("DaemonSet")];
    let rare = || prop::bool::weighted(0.15);
    (kind, rare(), rare(), rare())
}

fn make(i: usize, node: &str, (kind, data, done, is_mirror): (&str, bool, bool, bool)) -> Value {
    let mut made = pod(&format!("p{i}"), node, kind);
    if data {
        made = with_data(made);
    }
    if done {
        made = finished(made);
    }
    if is_mirror { mirror(made) } else { made }
}

/// Nodes of a case; one of them does not exist.
const NODES: [&str; 4] = ["node-001", "node-002", "node-003", "node-404"];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn states(simulator: &Simulator) -> Vec<Value> {
    NODES.iter().map(|name| simulator.node(name).unwrap_or_default()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_does_what_its_plan_said(
        nodes in prop::collection::vec(any_node(), 4), (action, parameters) in any_action(), (rules, may) in any_rules(),
    ) {
        runtime().block_on(async {
            let simulator = quick(4).await;
            let hub = Hub::with(&simulator, |actions| actions.safety = rules);
            for (name, node) in simulator.node_names().iter().zip(&nodes) {
                simulator.merge_patch(name, node).unwrap();
            }
            let spec = TaskSpec { may, ..spec(action, parameters, &NODES) };
            let (before, plan) = (states(&simulator).await, hub.plan(&spec).await);
            let ended = hub.run_spec(&spec).await;
            let after = states(&simulator).await;
            for (i, node) in plan.nodes.iter().enumerate() {
                compare(node, &before[i], &after[i], &ended[i]);
            }
        });
    }

    #[test]
    fn a_drain_does_what_its_plan_said(
        nodes in prop::collection::vec(any_node(), 3),
        pods in prop::collection::vec((0_usize..3, any_pod()), 0..10),
        (daemons, data, force, has_set) in any::<(bool, bool, bool, bool)>(),
        (rules, may) in any_rules(),
    ) {
        runtime().block_on(async {
            let simulator = quick(4).await;
            let hub = Hub::with(&simulator, |actions| actions.safety = rules);
            for (name, node) in NODES.iter().zip(&nodes) {
                simulator.merge_patch(name, node).unwrap();
            }
            if has_set {
                simulator.add("daemonsets", &daemon_set()).unwrap();
            }
            for (i, (node, kind)) in pods.into_iter().enumerate() {
                simulator.add_pod(&make(i, NODES[node], kind)).unwrap();
            }
            let asked = json!({"ignore_daemonsets": daemons, "delete_emptydir_data": data, "force": force});
            let may = if force { may.or([Capability::Force].into_iter().collect()) } else { may };
            let spec = TaskSpec { may, ..spec("drain", asked, &NODES) };
            let (before, plan) = (states(&simulator).await, hub.plan(&spec).await);
            let ended = hub.run_spec(&spec).await;
            let after = states(&simulator).await;
            for (i, node) in plan.nodes.iter().enumerate() {
                compare(node, &before[i], &after[i], &ended[i]);
            }
            let goes = plan.nodes.iter().filter(|node| node.outcome == Outcome::Change).flat_map(|node| &node.pods);
            let goes: BTreeSet<String> =
                goes.filter(|group| group.fate == Fate::Evict).flat_map(|group| group.names.clone()).collect();
            let events = simulator.pod_events();
            let evicted = events.iter().filter(|event| event.change == PodChange::Evicted);
            let evicted: BTreeSet<String> = evicted.map(|event| format!("{}/{}", event.namespace, event.pod)).collect();
            assert_eq!(evicted, goes);
        });
    }
}
