//! The same scenario once by `kubectl` and once by our actions, on two equal clusters: the nodes end up the same, but for
//! the annotations that we document.

use milepost::simulator::Simulator;
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::{Hub, labels, simulator, taints};

/// One step, told twice: the line for `kubectl`, and our action with its parameters and node.
fn steps() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        ("cordon node-001", "cordon", Value::Null, "node-001"),
        ("cordon node-002", "cordon", Value::Null, "node-002"),
        ("cordon node-002", "cordon", Value::Null, "node-002"),
        ("uncordon node-002", "uncordon", Value::Null, "node-002"),
        ("uncordon node-003", "uncordon", Value::Null, "node-003"),
        ("label node node-001 tier=gold", "label", labels("tier", "gold", false), "node-001"),
        ("label node node-001 tier=silver", "label", labels("tier", "silver", false), "node-001"),
        ("label node node-001 tier=bronze --overwrite", "label", labels("tier", "bronze", true), "node-001"),
        ("label node node-002 empty=", "label", labels("empty", "", false), "node-002"),
        ("label node node-003 a=1", "label", labels("a", "1", false), "node-003"),
        ("label node node-003 a- absent-", "unlabel", json!({"keys": ["a", "absent"]}), "node-003"),
        ("taint node node-001 role=db:NoSchedule", "taint", taints("role", "db", "NoSchedule"), "node-001"),
        ("taint node node-001 role=db:NoExecute", "taint", taints("role", "db", "NoExecute"), "node-001"),
        ("taint node node-001 role=web:NoExecute", "taint", taints("role", "web", "NoExecute"), "node-001"),
        (
            "taint node node-001 role=web:NoExecute --overwrite",
            "taint",
            json!({"taints": [{"key": "role", "value": "web", "effect": "NoExecute"}], "overwrite": true}),
            "node-001",
        ),
        (
            "taint node node-001 role:NoSchedule-",
            "untaint",
            json!({"taints": [{"key": "role", "effect": "NoSchedule"}]}),
            "node-001",
        ),
        ("taint node node-002 x:NoSchedule", "taint", taints("x", "", "NoSchedule"), "node-002"),
        ("taint node node-002 x:PreferNoSchedule", "taint", taints("x", "", "PreferNoSchedule"), "node-002"),
        ("taint node node-002 x-", "untaint", json!({"taints": [{"key": "x"}]}), "node-002"),
        ("cordon node-404", "cordon", Value::Null, "node-404"),
    ]
}

/// Every node without its version and without our annotations; taints sorted, since their order means nothing.
fn essence(simulator: &Simulator) -> Vec<Value> {
    let clean = |name: String| {
        let mut node = simulator.node(&name).unwrap();
        let metadata = node["metadata"].as_object_mut().unwrap();
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
        if let Some(annotations) = metadata["annotations"].as_object_mut() {
            annotations.retain(|key, _| !key.starts_with("milepost.dev/"));
        }
        if let Some(taints) = node["spec"]["taints"].as_array_mut() {
            taints.sort_by_key(ToString::to_string);
        }
        node
    };
    simulator.node_names().into_iter().map(clean).collect()
}

#[tokio::test]
async fn our_actions_leave_what_kubectl_leaves() {
    let clock = std::sync::Arc::new(milepost::clock::ManualClock::default());
    let start = || async {
        let config = milepost::simulator::SimulatorConfig { nodes: 4, ..Default::default() };
        Simulator::bind(config, 0, clock.clone()).await.unwrap()
    };
    let (theirs, ours) = (start().await, start().await);
    let (kubectl, hub) = (Kubectl::new(&theirs).unwrap(), Hub::new(&ours));
    assert_eq!(essence(&theirs), essence(&ours), "the clusters do not begin equal");
    for (line, action, parameters, node) in steps() {
        let (expected, result) = (kubectl.run(line).await, hub.run(action, parameters, node).await);
        assert_eq!(result.is_ok(), expected.is_ok(), "{line}: {result:?}, kubectl: {expected:?}");
        assert_eq!(essence(&ours), essence(&theirs), "after {line}");
    }
}

/// Where we differ from `kubectl` on purpose: removing a taint that is not there is done already, so that a batch can be
/// run again.
#[tokio::test]
async fn removing_an_absent_taint_is_no_error_for_us() {
    let simulator = simulator(1).await;
    let absent = json!({"taints": [{"key": "absent"}]});
    assert!(Kubectl::new(&simulator).unwrap().run("taint node node-001 absent-").await.is_err());
    assert_eq!(Hub::new(&simulator).run("untaint", absent, "node-001").await, super::ALREADY);
}
