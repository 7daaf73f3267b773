//! The same scenario once by `kubectl` and once by our actions, on two equal clusters: the nodes end up the same, but for
//! the annotations that we document.

use milepost::action::Done;
use milepost::simulator::{Simulator, SimulatorConfig};
use milepost::task::spec::ActionSpec;
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::{ALREADY, CHANGED, Hub, labels, simulator, taints};

/// One step, told twice: the line for `kubectl`, and our action with its parameters and node.
type Step = (&'static str, &'static str, Value, &'static str);

fn cordons() -> Vec<Step> {
    vec![
        ("cordon node-001", "cordon", Value::Null, "node-001"),
        ("cordon node-002", "cordon", Value::Null, "node-002"),
        ("cordon node-002", "cordon", Value::Null, "node-002"),
        ("uncordon node-002", "uncordon", Value::Null, "node-002"),
        ("uncordon node-002", "uncordon", Value::Null, "node-002"),
        ("uncordon node-003", "uncordon", Value::Null, "node-003"),
        ("cordon node-002", "cordon", Value::Null, "node-002"),
        ("cordon node-404", "cordon", Value::Null, "node-404"),
        ("uncordon node-404", "uncordon", Value::Null, "node-404"),
    ]
}

fn label_steps() -> Vec<Step> {
    let two = |a: &str, b: &str, overwrite| json!({"labels": {"a": a, "b": b}, "overwrite": overwrite});
    let key = |key: &str| json!({"labels": {key: "x"}});
    vec![
        ("label node node-001 tier=gold", "label", labels("tier", "gold", false), "node-001"),
        ("label node node-001 tier=gold", "label", labels("tier", "gold", false), "node-001"),
        ("label node node-001 tier=silver", "label", labels("tier", "silver", false), "node-001"),
        ("label node node-001 tier=bronze --overwrite", "label", labels("tier", "bronze", true), "node-001"),
        ("label node node-002 empty=", "label", labels("empty", "", false), "node-002"),
        ("label node node-003 a=1 b=2", "label", two("1", "2", false), "node-003"),
        // One label that would change keeps the other from being set.
        ("label node node-003 a=1 b=3", "label", two("1", "3", false), "node-003"),
        ("label node node-003 a=2 b=3 --overwrite", "label", two("2", "3", true), "node-003"),
        ("label node node-003 example.com/tier=x", "label", key("example.com/tier"), "node-003"),
        (
            "label node node-003 node-role.kubernetes.io/edge=x",
            "label",
            key("node-role.kubernetes.io/edge"),
            "node-003",
        ),
        ("label node node-003 a- absent-", "unlabel", json!({"keys": ["a", "absent"]}), "node-003"),
        ("label node node-003 absent-", "unlabel", json!({"keys": ["absent"]}), "node-003"),
        (
            "label node node-003 example.com/tier-",
            "unlabel",
            json!({"keys": ["example.com/tier"]}),
            "node-003",
        ),
        ("label node node-003 bad=-x", "label", labels("bad", "-x", false), "node-003"),
        ("label node node-003 bad=x_", "label", labels("bad", "x_", false), "node-003"),
        ("label node node-003 bad=x!y", "label", labels("bad", "x!y", false), "node-003"),
        (LONG_LABEL, "label", labels("bad", LONG, false), "node-003"),
        ("label node node-003 -bad=x", "label", key("-bad"), "node-003"),
        ("label node node-003 UPPER.com/x=x", "label", key("UPPER.com/x"), "node-003"),
        ("label node node-003 example.com/=x", "label", key("example.com/"), "node-003"),
        ("label node node-404 a=1", "label", labels("a", "1", false), "node-404"),
        ("label node node-404 a-", "unlabel", json!({"keys": ["a"]}), "node-404"),
    ]
}

/// A value of 64 characters, one too many.
const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const LONG_LABEL: &str =
    "label node node-003 bad=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

fn taint_steps() -> Vec<Step> {
    let overwrite = |key: &str, value: &str, effect: &str| json!({"taints": [{"key": key, "value": value, "effect": effect}], "overwrite": true});
    let without = |key: &str| json!({"taints": [{"key": key}]});
    let without_one = |key: &str, effect: &str| json!({"taints": [{"key": key, "effect": effect}]});
    let pair = json!({"taints": [
        {"key": "p", "value": "1", "effect": "NoSchedule"}, {"key": "q", "effect": "NoExecute"}]});
    vec![
        ("taint node node-001 role=db:NoSchedule", "taint", taints("role", "db", "NoSchedule"), "node-001"),
        ("taint node node-001 role=db:NoExecute", "taint", taints("role", "db", "NoExecute"), "node-001"),
        ("taint node node-001 role=web:NoExecute", "taint", taints("role", "web", "NoExecute"), "node-001"),
        (
            "taint node node-001 role=web:NoExecute --overwrite",
            "taint",
            overwrite("role", "web", "NoExecute"),
            "node-001",
        ),
        (
            "taint node node-001 role=web:NoExecute --overwrite",
            "taint",
            overwrite("role", "web", "NoExecute"),
            "node-001",
        ),
        ("taint node node-001 role:NoSchedule-", "untaint", without_one("role", "NoSchedule"), "node-001"),
        ("taint node node-002 x:NoSchedule", "taint", taints("x", "", "NoSchedule"), "node-002"),
        ("taint node node-002 x:PreferNoSchedule", "taint", taints("x", "", "PreferNoSchedule"), "node-002"),
        ("taint node node-002 x-", "untaint", without("x"), "node-002"),
        ("taint node node-002 p=1:NoSchedule q:NoExecute", "taint", pair.clone(), "node-002"),
        (
            "taint node node-002 p=2:NoSchedule r:NoExecute",
            "taint",
            json!({"taints": [
            {"key": "p", "value": "2", "effect": "NoSchedule"}, {"key": "r", "effect": "NoExecute"}]}),
            "node-002",
        ),
        (
            "taint node node-002 p- q:NoExecute-",
            "untaint",
            json!({"taints": [
            {"key": "p"}, {"key": "q", "effect": "NoExecute"}]}),
            "node-002",
        ),
        (
            "taint node node-002 example.com/gpu=a:NoSchedule",
            "taint",
            taints("example.com/gpu", "a", "NoSchedule"),
            "node-002",
        ),
        ("taint node node-002 bad=x:Sometimes", "taint", taints("bad", "x", "Sometimes"), "node-002"),
        ("taint node node-002 bad=x!:NoSchedule", "taint", taints("bad", "x!", "NoSchedule"), "node-002"),
        ("taint node node-002 -bad=x:NoSchedule", "taint", taints("-bad", "x", "NoSchedule"), "node-002"),
        (
            "taint node node-002 a=1:NoSchedule a=2:NoSchedule",
            "taint",
            json!({"taints": [{"key": "a", "value": "1", "effect": "NoSchedule"},
                {"key": "a", "value": "2", "effect": "NoSchedule"}]}),
            "node-002",
        ),
        ("taint node node-404 x:NoSchedule", "taint", taints("x", "", "NoSchedule"), "node-404"),
        ("taint node node-404 x-", "untaint", without("x"), "node-404"),
    ]
}

fn annotation_steps() -> Vec<Step> {
    let note =
        |value: &str, overwrite: bool| json!({"annotations": {"ops/note": value}, "overwrite": overwrite});
    vec![
        ("annotate node node-004 ops/note=a", "annotate", note("a", false), "node-004"),
        ("annotate node node-004 ops/note=b", "annotate", note("b", false), "node-004"),
        ("annotate node node-004 ops/note=b --overwrite", "annotate", note("b", true), "node-004"),
        ("annotate node node-004 a/b/c=x", "annotate", json!({"annotations": {"a/b/c": "x"}}), "node-004"),
        (
            "annotate node node-004 ops/note- absent-",
            "unannotate",
            json!({"keys": ["ops/note", "absent"]}),
            "node-004",
        ),
        ("annotate node node-404 a=b", "annotate", json!({"annotations": {"a": "b"}}), "node-404"),
    ]
}

/// Every node without its version, our annotations and the times of taints; taints sorted, since their order means nothing.
pub(super) fn essence(simulator: &Simulator) -> Vec<Value> {
    let clean = |name: String| {
        let mut node = simulator.node(&name).unwrap();
        let metadata = node["metadata"].as_object_mut().unwrap();
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
        if let Some(annotations) = metadata["annotations"].as_object_mut() {
            annotations.retain(|key, _| !key.starts_with("milepost.dev/"));
        }
        if let Some(taints) = node["spec"]["taints"].as_array_mut() {
            for taint in taints.iter_mut().filter_map(Value::as_object_mut) {
                taint.remove("timeAdded");
            }
            taints.sort_by_key(ToString::to_string);
        }
        node
    };
    simulator.node_names().into_iter().map(clean).collect()
}

/// Two equal clusters, each with its way of being changed.
struct Both {
    theirs: Simulator,
    kubectl: Kubectl,
    ours: Simulator,
    hub: Hub,
}

impl Both {
    async fn new() -> Self {
        let clock = std::sync::Arc::new(milepost::clock::ManualClock::default());
        let start = || async {
            let config = SimulatorConfig { nodes: 4, ..SimulatorConfig::default() };
            Simulator::bind(config, 0, clock.clone()).await.unwrap()
        };
        let (theirs, ours) = (start().await, start().await);
        let (kubectl, hub) = (Kubectl::new(&theirs).unwrap(), Hub::new(&ours));
        assert_eq!(essence(&theirs), essence(&ours), "the clusters do not begin equal");
        Self { theirs, kubectl, ours, hub }
    }

    /// Runs a step on both sides: what `kubectl` complained about, if it did, and what our action came to.
    async fn run(&self, (line, action, parameters, node): Step) -> (Option<String>, Result<Done, String>) {
        let theirs = self.kubectl.run(line).await.err().map(|error| error.to_string());
        let ours = match ActionSpec::parse(action, &parameters) {
            Err(refused) => Err(refused.to_string()),
            Ok(_) => self.hub.run(action, parameters, node).await.map_err(|error| error.to_string()),
        };
        (theirs, ours)
    }
}

#[tokio::test]
async fn our_actions_leave_what_kubectl_leaves() {
    let both = Both::new().await;
    let steps = [cordons(), label_steps(), taint_steps(), annotation_steps()].concat();
    assert!(steps.len() >= 50, "{} steps", steps.len());
    let mut refusals = 0;
    for step in steps {
        let line = step.0;
        let (theirs, ours) = both.run(step).await;
        assert_eq!(ours.is_ok(), theirs.is_none(), "{line}: {ours:?}, kubectl: {theirs:?}");
        assert_eq!(essence(&both.ours), essence(&both.theirs), "after {line}");
        refusals += usize::from(ours.is_err());
    }
    assert!(refusals >= 15, "{refusals} refusals");
}

/// Where we differ from `kubectl` on purpose: whether it complains, and what ours comes to. docs/operations.md says why.
#[tokio::test]
async fn where_we_differ_from_kubectl_it_is_on_purpose() {
    let both = Both::new().await;
    let foreign = json!({"spec": {"unschedulable": true, "taints": [{"key": "a", "effect": "NoSchedule"}]}});
    for simulator in [&both.theirs, &both.ours] {
        simulator.merge_patch("node-004", &foreign).unwrap();
    }
    let taint = taints("a", "", "NoSchedule");
    let absent = json!({"taints": [{"key": "absent"}]});
    let absent_effect = json!({"taints": [{"key": "a", "effect": "NoExecute"}]});
    let system = labels("kubernetes.io/os", "plan9", true);
    let control_plane = json!({"taints": [{"key": "node-role.kubernetes.io/control-plane"}]});
    let cases: [(Step, bool, &str); 7] = [
        (("taint node node-004 absent-", "untaint", absent, "node-004"), true, "Ok(Succeeded(Already))"),
        (
            ("taint node node-004 a:NoExecute-", "untaint", absent_effect, "node-004"),
            true,
            "Ok(Succeeded(Already))",
        ),
        (("taint node node-004 a:NoSchedule", "taint", taint, "node-004"), true, "Ok(Succeeded(Already))"),
        (
            ("cordon node-004", "cordon", Value::Null, "node-004"),
            false,
            "Ok(Skipped(\"it was cordoned before by",
        ),
        (
            ("uncordon node-004", "uncordon", Value::Null, "node-004"),
            false,
            "Ok(Skipped(\"it stays cordoned: set foreign",
        ),
        (
            ("label node node-003 kubernetes.io/os=plan9 --overwrite", "label", system, "node-003"),
            false,
            "Err(\"parameters.labels.kubernetes.io/os is the label kubernetes.io/os, which belongs to",
        ),
        (
            (
                "taint node node-001 node-role.kubernetes.io/control-plane-",
                "untaint",
                control_plane,
                "node-001",
            ),
            false,
            "Err(\"parameters.taints[0].key is the taint node-role.kubernetes.io/control-plane, which belongs to",
        ),
    ];
    for (step, complains, outcome) in cases {
        let line = step.0;
        let (theirs, ours) = both.run(step).await;
        assert_eq!(theirs.is_some(), complains, "{line}: kubectl: {theirs:?}");
        assert!(format!("{ours:?}").starts_with(outcome), "{line}: {ours:?}");
    }
}

/// What `kubectl` cannot do: the taints of a node are added to those of another, without those that controllers keep.
#[tokio::test]
async fn taints_are_copied_without_those_of_controllers() {
    let simulator = simulator(4).await;
    let hub = Hub::new(&simulator);
    let from = json!({"spec": {"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
        {"key": "gpu", "value": "a", "effect": "NoSchedule"},
        {"key": "gpu", "value": "a", "effect": "NoExecute", "timeAdded": "2020-01-01T00:00:00Z"},
    ]}});
    simulator.merge_patch("node-001", &from).unwrap();
    let own = json!({"spec": {"taints": [{"key": "own", "effect": "NoSchedule"}]}});
    simulator.merge_patch("node-003", &own).unwrap();
    let copy = |from: &str| json!({"from": from});
    assert_eq!(hub.run("copy_taints", copy("node-001"), "node-003").await, CHANGED);
    assert_eq!(hub.run("copy_taints", copy("node-001"), "node-003").await, ALREADY);
    assert_eq!(hub.run("copy_taints", copy("node-001"), "node-001").await, ALREADY);
    let taints = simulator.node("node-003").unwrap()["spec"]["taints"].clone();
    let names = |taint: &Value| format!("{}:{}", taint["key"], taint["effect"]).replace('"', "");
    let found: Vec<_> = taints.as_array().unwrap().iter().map(names).collect();
    assert_eq!(found, ["own:NoSchedule", "gpu:NoSchedule", "gpu:NoExecute"]);
    assert!(
        taints[1].get("timeAdded").is_none() && taints[2]["timeAdded"] != "2020-01-01T00:00:00Z",
        "{taints}"
    );
    simulator
        .merge_patch(
            "node-004",
            &json!({"spec": {"taints": [{"key": "gpu", "value": "b", "effect": "NoSchedule"}]}}),
        )
        .unwrap();
    for (from, to, sentence) in [
        ("node-002", "node-003", "node node-002 has no taints that can be copied"),
        ("node-404", "node-003", "node node-404 does not exist"),
        ("node-001", "node-404", "node node-404 does not exist"),
        ("node-001", "node-004", "taint gpu:NoSchedule is \"b\" and would become \"a\""),
        ("nodes/x", "node-003", "\"nodes/x\" is no name of a node"),
    ] {
        let refused = hub.run("copy_taints", copy(from), to).await.unwrap_err();
        assert!(refused.to_string().starts_with(sentence), "{refused}");
    }
    assert_eq!(
        hub.run("copy_taints", json!({"from": "node-001", "overwrite": true}), "node-004").await,
        CHANGED
    );
}

#[tokio::test]
async fn a_name_that_is_part_of_a_path_reaches_nothing_else() {
    let simulator = simulator(1).await;
    for name in ["node-001/status", "node-001?force=true", "../pods", "node-001%2Fstatus"] {
        let refused = Hub::new(&simulator).run("cordon", Value::Null, name).await.unwrap_err();
        assert!(refused.to_string().contains("is no name of a node"), "{refused}");
    }
    assert!(super::acts(&simulator).is_empty());
}
