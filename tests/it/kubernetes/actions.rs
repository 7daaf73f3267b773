//! What our actions leave on a node, and what they never touch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use milepost::action::kubernetes::agent::Sender;
use milepost::action::{
    Action, ActionError, Actions, ClusterError, Clusters, Context, Done, KubeClusters, Registry, Target,
};
use milepost::clock::{Clock, SystemClock};
use milepost::config::{ActionsConfig, ClusterConfig};
use milepost::simulator::{Fault, LoggedRequest, Rule, Simulator};
use milepost::store::Task;
use milepost::task::safety::Rules;
use milepost::task::spec::{Draft, TaskSpec};
use milepost::task::{ItemName, TaskId, UserId};
use serde_json::{Value, json};

use super::{ALREADY, CHANGED, Hub, cluster, labels, simulator, taints, task};

#[tokio::test]
async fn a_cordon_leaves_its_reason_and_an_uncordon_takes_it_away() {
    let simulator = simulator(3).await;
    let hub = Hub::new(&simulator);
    let before = simulator.node("node-003").unwrap();
    assert_eq!(hub.run("cordon", Value::Null, "node-003").await, CHANGED);
    assert_eq!(hub.run("cordon", Value::Null, "node-003").await, ALREADY);
    let cordoned = simulator.node("node-003").unwrap();
    let annotations = &cordoned["metadata"]["annotations"];
    assert_eq!(annotations["milepost.dev/cordon-reason"], "disk");
    assert_eq!(annotations["milepost.dev/cordon-actor"], "ada");
    assert_eq!(annotations["milepost.dev/cordon-previous"], "schedulable");
    let node = hub.seen("node-003", |node| node.unschedulable).await;
    assert_eq!(node.cordon_reason.as_deref(), Some("disk"));
    assert_eq!(hub.run("uncordon", Value::Null, "node-003").await, CHANGED);
    assert_eq!(hub.run("uncordon", Value::Null, "node-003").await, ALREADY);
    assert_eq!(without_version(simulator.node("node-003").unwrap()), without_version(before));
}

fn without_version(mut node: Value) -> Value {
    node["metadata"]["resourceVersion"] = Value::Null;
    node
}

#[tokio::test]
async fn a_cordon_costs_two_requests_and_names_its_sender() {
    let simulator = simulator(30).await;
    let hub = Hub::new(&simulator);
    hub.run("cordon", Value::Null, "node-001").await.unwrap();
    let (of_all, requests): (Vec<_>, Vec<_>) =
        super::acts(&simulator).into_iter().partition(|request| request.path == "/api/v1/nodes");
    assert_eq!(requests.iter().map(|request| request.verb).collect::<Vec<_>>(), ["get", "patch"]);
    assert_eq!(of_all.iter().filter(|request| request.verb == "list").count(), 1, "{of_all:?}");
    let sender = |request: &LoggedRequest| Sender::read(&request.user_agent);
    let senders: Vec<Sender> = requests.iter().filter_map(sender).collect();
    assert_eq!(senders.len(), 2, "{requests:?}");
    assert_eq!((senders[0].worker.as_str(), &senders[0]), ("-", &senders[1]));
    assert!(requests[1].query.contains("fieldManager=milepost"));
    hub.run("cordon", Value::Null, "node-002").await.unwrap();
    let count = |verb| super::acts(&simulator).iter().filter(|request| request.verb == verb).count();
    assert_eq!((count("list"), count("get"), count("patch")), (1, 2, 2), "what is known is shared");
}

/// Many nodes are cordoned by what one list and one watch show of them; what is not as it was seen is read.
#[tokio::test]
async fn a_cordon_of_many_nodes_costs_one_request_for_each() {
    let simulator = simulator(30).await;
    let names = simulator.node_names();
    let theirs = json!({"metadata": {"annotations": {"other.example/reason": "theirs"}}, "spec": {"unschedulable": true}});
    simulator.merge_patch(&names[7], &theirs).unwrap();
    let contended = Rule::on("patch", Fault::Contend).path(format!("/api/v1/nodes/{}", names[9])).times(1);
    simulator.set_rules(vec![contended]);
    let hub = Hub::with(&simulator, |actions| actions.foreign_reasons = vec!["other.example".into()]);
    let draft =
        Draft { items: names.clone(), action: "cordon".into(), cluster: "sim".into(), ..Draft::default() };
    let spec = TaskSpec::new(draft).unwrap();
    let batch = Task::accepted(TaskId::generate(), UserId::new("ada").unwrap(), &spec, SystemClock.now());
    let action = hub.registry.prepare(&batch).await.unwrap();
    for (place, name) in names.iter().enumerate() {
        let node = ItemName::new(name).unwrap();
        let done = action.run(Target { index: 0, name: &node }, &Context::alone()).await;
        let skipped = Ok(Done::Skipped("it was cordoned before by somebody else: theirs".into()));
        assert_eq!(done, if place == 7 { skipped } else { CHANGED }, "{name}");
    }
    let requests = simulator.requests();
    let of = |verb: &str| requests.iter().filter(|request| request.verb == verb).count();
    assert_eq!(
        (of("list"), of("watch"), of("get"), of("patch")),
        (1, 1, 2, 30),
        "one was met by another writer"
    );
    let annotations = &simulator.node(&names[0]).unwrap()["metadata"]["annotations"];
    assert_eq!(
        (&annotations["milepost.dev/cordon-actor"], &annotations["milepost.dev/cordon-previous"]),
        (&json!("ada"), &json!("schedulable"))
    );
}

#[tokio::test]
async fn a_foreign_cordon_keeps_its_annotations() {
    let simulator = simulator(1).await;
    let theirs = json!({"metadata": {"annotations": {"other.example/reason": "theirs"}}, "spec": {"unschedulable": true}});
    simulator.merge_patch("node-001", &theirs).unwrap();
    let before = simulator.node("node-001");
    let hub = Hub::with(&simulator, |actions| actions.foreign_reasons = vec!["other.example".into()]);
    for (action, sentence) in [
        ("cordon", "it was cordoned before by somebody else: theirs"),
        ("uncordon", "it stays cordoned: set foreign to undo the cordon of somebody else: theirs"),
    ] {
        assert_eq!(hub.run(action, Value::Null, "node-001").await, Ok(Done::Skipped(sentence.into())));
        assert_eq!(simulator.node("node-001"), before);
    }
    let node = hub.seen("node-001", |node| node.unschedulable).await;
    assert_eq!((node.cordon_reason.as_deref(), node.cordon_task.as_deref()), (Some("theirs"), None));
    assert_eq!(hub.run("uncordon", json!({"foreign": true}), "node-001").await, CHANGED);
    let node = simulator.node("node-001").unwrap();
    assert_eq!(node["metadata"]["annotations"].get("other.example/reason"), None, "{node}");
}

/// A cordon batch over three nodes, one of which somebody else had cordoned, is rolled back.
#[tokio::test]
async fn a_roll_back_undoes_own_cordons_only() {
    let simulator = simulator(4).await;
    let hub = Hub::new(&simulator);
    simulator.merge_patch("node-002", &json!({"spec": {"unschedulable": true}})).unwrap();
    let batch = task("sim", "cordon", Value::Null);
    let action = hub.registry.prepare(&batch).await.unwrap();
    for node in ["node-001", "node-002", "node-003"] {
        let name = ItemName::new(node).unwrap();
        action.run(Target { index: 0, name: &name }, &Context::alone()).await.unwrap();
    }
    assert_eq!(hub.run("cordon", Value::Null, "node-004").await, CHANGED);
    // Another tool frees one of them and takes it again: our annotations are left over, the cordon is not ours.
    let kubectl = json!([{"manager": "kubectl-cordon", "operation": "Update", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:unschedulable": {}}}}]);
    simulator.merge_patch("node-003", &json!({"metadata": {"managedFields": kubectl}})).unwrap();
    let rollback = json!({"of_task": batch.id});
    let mut skipped = Vec::new();
    for node in ["node-001", "node-002", "node-003", "node-004"] {
        if let Done::Skipped(why) = hub.run("uncordon", rollback.clone(), node).await.unwrap() {
            skipped.push((node, why));
        }
    }
    let cordoned = |node: &&str| simulator.node(node).unwrap()["spec"]["unschedulable"] == true;
    let left: Vec<_> =
        ["node-001", "node-002", "node-003", "node-004"].into_iter().filter(cordoned).collect();
    assert_eq!(left, ["node-002", "node-003", "node-004"]);
    assert_eq!(skipped.iter().map(|(node, _)| *node).collect::<Vec<_>>(), left);
    assert!(skipped[1].1.contains("kubectl-cordon") && skipped[2].1.contains("ada (task"), "{skipped:?}");
}

#[tokio::test]
async fn keys_of_kubernetes_are_refused_before_any_request() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    let asked = [
        ("label", labels("kubernetes.io/hostname", "x", true)),
        ("unlabel", json!({"keys": ["kubernetes.io/os"]})),
        ("taint", taints("node.kubernetes.io/unschedulable", "", "NoSchedule")),
        ("untaint", json!({"taints": [{"key": "node.kubernetes.io/not-ready"}]})),
    ];
    for (action, parameters) in asked {
        let refused = hub.prepare(action, parameters).await.err().unwrap();
        assert!(
            matches!(&refused, ActionError::Permanent { message } if message.contains("belongs to Kubernetes"))
        );
    }
    assert!(simulator.requests().is_empty());
}

#[tokio::test]
async fn nodes_are_listed_page_by_page_and_clusters_by_name() {
    let simulator = simulator(1_203).await;
    let hub = Hub::with(&simulator, |actions| actions.wait = true);
    let nodes = hub.registry.nodes(&cluster("sim")).await.unwrap().nodes;
    assert_eq!((nodes.len(), nodes[1_202].name.as_str()), (1_203, "node-1203"));
    assert_eq!((nodes[0].roles.as_slice(), nodes[0].ready), (["control-plane".to_owned()].as_slice(), true));
    assert_eq!(nodes[0].taints, ["node-role.kubernetes.io/control-plane:NoSchedule"]);
    assert_eq!(simulator.requests().iter().filter(|request| request.verb == "list").count(), 3);
    assert_eq!(hub.registry.names(), [cluster("local"), cluster("sim")]);
    assert!(hub.registry.nodes(&cluster("local")).await.unwrap().nodes.is_empty());
    assert!(matches!(hub.registry.nodes(&cluster("other")).await, Err(ClusterError::Unknown(_))));
}

#[tokio::test]
async fn wait_needs_no_cluster_and_must_be_allowed() {
    let simulator = simulator(1).await;
    let (on, off) = (Hub::with(&simulator, |actions| actions.wait = true), Hub::new(&simulator));
    let wait = |cluster: &str| task(cluster, "wait", json!({"duration_ms": 1}));
    let name = ItemName::new("anything").unwrap();
    for cluster in ["local", "sim"] {
        let action = on.registry.prepare(&wait(cluster)).await.ok().unwrap();
        assert_eq!(action.run(Target { index: 0, name: &name }, &Context::alone()).await, CHANGED);
        assert!(matches!(off.registry.prepare(&wait(cluster)).await, Err(ActionError::Permanent { .. })));
    }
    assert!(on.registry.prepare(&wait("other")).await.is_err());
    assert!(on.registry.prepare(&task("local", "cordon", Value::Null)).await.is_err());
}

#[tokio::test]
async fn a_context_chooses_the_cluster_and_a_wrong_way_is_a_sentence() {
    let simulators = [simulator(1).await, simulator(1).await];
    let home = tempfile::TempDir::new().unwrap();
    let path = home.path().join("kubeconfig");
    std::fs::write(&path, both(&simulators)).unwrap();
    let config = |name: &str, context: Option<&str>, in_cluster: bool| ClusterConfig {
        name: name.into(),
        kubeconfig: (!in_cluster).then(|| path.clone()),
        context: context.map(str::to_owned),
        in_cluster,
        ..ClusterConfig::default()
    };
    let configs = [
        config("current", None, false),
        config("other", Some("second"), false),
        config("missing", Some("third"), false),
        config("inside", None, true),
    ];
    let safety = Rules { last_node: false, ..Rules::default() };
    let clusters =
        KubeClusters::new(&configs, &ActionsConfig { safety, ..ActionsConfig::default() }).unwrap();
    let registry = Registry::new(clusters, false, Arc::new(SystemClock));
    let name = ItemName::new("node-001").unwrap();
    for (cluster, asked) in [("other", [0, 4]), ("current", [4, 4])] {
        let action = registry.prepare(&task(cluster, "cordon", Value::Null)).await.ok().unwrap();
        assert_eq!(action.run(Target { index: 0, name: &name }, &Context::alone()).await, CHANGED);
        assert_eq!(simulators.each_ref().map(|simulator| super::acts(simulator).len()), asked);
    }
    for cluster in ["missing", "inside"] {
        let refused = registry.prepare(&task(cluster, "cordon", Value::Null)).await.err().unwrap();
        let sentence = format!("cluster {cluster} cannot be used: ");
        assert!(
            matches!(&refused, ActionError::Permanent { message } if message.starts_with(&sentence)),
            "{refused}"
        );
    }
}

/// A kubeconfig with the contexts `first`, which is the current one, and `second`.
fn both(simulators: &[Simulator; 2]) -> String {
    let mut yaml = "apiVersion: v1\nkind: Config\ncurrent-context: first\n".to_owned();
    let [first, second] = simulators.each_ref().map(|simulator| simulator.addr);
    yaml += &format!(
        "clusters:\n- {{name: a, cluster: {{server: 'http://{first}'}}}}\n- {{name: b, cluster: {{server: 'http://{second}'}}}}\n"
    );
    yaml += "users:\n- {name: u, user: {}}\ncontexts:\n";
    yaml +=
        "- {name: first, context: {cluster: a, user: u}}\n- {name: second, context: {cluster: b, user: u}}\n";
    yaml
}

/// Writes labels `other-0`, `other-1`, ... and as many taints until told to stop, as fast as it can be done fairly.
/// Returns how many.
async fn other_writer(simulator: &Simulator, stop: &AtomicBool) -> u32 {
    let mut written = 0;
    while !stop.load(Ordering::SeqCst) && written < 500 {
        let node = simulator.node("node-001").unwrap();
        let mut all = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        all.push(json!({"key": format!("other-{written}"), "effect": "PreferNoSchedule"}));
        let version = &node["metadata"]["resourceVersion"];
        let patch = json!({
            "metadata": {"resourceVersion": version, "labels": {format!("other-{written}"): "x"}},
            "spec": {"taints": all},
        });
        written += u32::from(simulator.merge_patch("node-001", &patch).is_some());
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    written
}

/// Tries until the action says it is done: the worker's part.
async fn insist(action: &dyn Action, name: &ItemName) {
    while let Err(error) = action.run(Target { index: 0, name }, &Context::alone()).await {
        assert!(matches!(error, ActionError::Transient { .. }), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_lost_between_two_writers() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    let name = ItemName::new("node-001").unwrap();
    let stop = AtomicBool::new(false);
    let ours = async {
        for i in 0..20 {
            let key = format!("ours-{i}");
            insist(&*hub.prepare("taint", taints(&key, "", "NoSchedule")).await.unwrap(), &name).await;
            insist(&*hub.prepare("label", labels(&key, "y", false)).await.unwrap(), &name).await;
        }
        for i in 0..10 {
            let unwanted = json!({"taints": [{"key": format!("ours-{i}")}]});
            insist(&*hub.prepare("untaint", unwanted).await.unwrap(), &name).await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let ((), written) = tokio::join!(ours, other_writer(&simulator, &stop));
    let node = simulator.node("node-001").unwrap();
    let (labels, taints) = (&node["metadata"]["labels"], node["spec"]["taints"].as_array().unwrap());
    let tainted = |key: &str| taints.iter().any(|taint| taint["key"] == key);
    for i in 0..written {
        let key = format!("other-{i}");
        assert!(labels[&key] == "x" && tainted(&key), "{key} of {written} is lost");
    }
    for i in 0..20 {
        let key = format!("ours-{i}");
        assert!(labels[&key] == "y" && tainted(&key) == (i >= 10), "{key} is wrong");
    }
    let conflicts = simulator.requests().iter().filter(|request| request.status == Some(409)).count();
    assert!(written > 0 && conflicts > 0, "the writers never met: {written} written, {conflicts} conflicts");
}
