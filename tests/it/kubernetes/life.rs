//! What happens in the simulator by itself: pods end, are replaced and become ready, budgets are counted, nodes go.

use std::sync::Arc;
use std::time::Duration;

use milepost::clock::SystemClock;
use milepost::simulator::{Behaviour, Meddler, PodChange, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::support::until;

const MS: Duration = Duration::from_millis(1);

/// A cluster of three nodes in which things happen at once.
async fn quick() -> Simulator {
    let behaviour = Behaviour {
        ends_within: 20 * MS,
        ready_after: 20 * MS,
        budget_lag: 5 * MS,
        taint_after: Some(5 * MS),
    };
    let config = SimulatorConfig { nodes: 3, control_planes: 0, behaviour, ..SimulatorConfig::default() };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

/// Adds an app of so many replicas, all on one node.
fn app(simulator: &Simulator, replicas: usize, node: &str) {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true});
    let set = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "web"}, "spec": {"replicas": replicas}});
    simulator.add("replicasets", &set).unwrap();
    for i in 0..replicas {
        let pod = json!({
            "metadata": {"name": format!("web-{i}"), "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": [owner]},
            "spec": {"nodeName": node},
        });
        simulator.add_pod(&pod).unwrap();
    }
}

fn cordon(simulator: &Simulator, node: &str, unschedulable: bool) {
    simulator.merge_patch(node, &json!({"spec": {"unschedulable": unschedulable}})).unwrap();
}

fn ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn healthy(simulator: &Simulator) -> Value {
    simulator.budget("shop", "web").unwrap()["status"]["currentHealthy"].clone()
}

#[tokio::test]
async fn an_ended_pod_is_replaced_elsewhere_and_the_budget_follows() {
    let simulator = quick().await;
    app(&simulator, 4, "node-001");
    let budget = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    simulator.add("poddisruptionbudgets", &budget).unwrap();
    cordon(&simulator, "node-001", true);
    for i in 0..4 {
        assert!(simulator.kill_pod("shop", &format!("web-{i}")));
    }
    until("all are ready again", async || {
        let pods = simulator.pods_on("");
        pods.len() == 4 && pods.iter().all(ready)
    })
    .await;
    assert_eq!(simulator.pods_on("node-001"), Vec::<Value>::new(), "a cordoned node gets nothing");
    until("the budget knows", async || healthy(&simulator) == 4).await;
    let of = |change| simulator.pod_events().iter().filter(|event| event.change == change).count();
    assert_eq!((of(PodChange::Created), of(PodChange::Deleted), of(PodChange::Ready)), (8, 4, 4));
}

#[tokio::test]
async fn pods_without_a_place_wait_for_one() {
    let simulator = quick().await;
    app(&simulator, 2, "node-001");
    for node in simulator.node_names() {
        cordon(&simulator, &node, true);
    }
    assert!(simulator.kill_pod("shop", "web-0"));
    let waiting = |simulator: &Simulator| {
        simulator.pods_on("").iter().filter(|pod| pod["spec"]["nodeName"].is_null()).count()
    };
    until("a pod waits", async || waiting(&simulator) == 1).await;
    cordon(&simulator, "node-003", false);
    until("it is ready", async || simulator.pods_on("node-003").iter().any(ready)).await;
    assert_eq!(waiting(&simulator), 0);
}

#[tokio::test]
async fn a_finalizer_holds_a_pod_that_has_ended() {
    let simulator = quick().await;
    let pod = json!({"metadata": {"name": "held", "namespace": "shop", "finalizers": ["hold/it"]},
        "spec": {"nodeName": "node-001"}});
    simulator.add_pod(&pod).unwrap();
    assert!(simulator.kill_pod("shop", "held"));
    assert_eq!(simulator.pod("shop", "held").unwrap()["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(simulator.patch_pod("shop", "held", &json!({"metadata": {"finalizers": null}})).is_some());
    assert_eq!(simulator.pod("shop", "held"), None);
}

#[tokio::test]
async fn a_node_that_goes_takes_its_pods_and_another_of_its_name_starts_empty() {
    let simulator = quick().await;
    app(&simulator, 3, "node-001");
    let set = json!({"metadata": {"name": "agent", "namespace": "shop", "uid": "agent"}, "spec": {}});
    simulator.add("daemonsets", &set).unwrap();
    let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "agent", "controller": true});
    let agent = json!({"metadata": {"name": "agent-1", "namespace": "shop", "ownerReferences": [owner]},
        "spec": {"nodeName": "node-001"}});
    let first = simulator.add_pod(&agent).unwrap();
    let uid = simulator.node("node-001").unwrap()["metadata"]["uid"].clone();
    cordon(&simulator, "node-001", true);
    let replaced = simulator.replace_node("node-001").unwrap();
    assert_ne!(replaced["metadata"]["uid"], uid);
    assert!(replaced["spec"]["unschedulable"].is_null());
    until("the agent is back and the app is whole", async || {
        let pods = simulator.pods_on("");
        let agents = pods.iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet");
        let fresh = agents.filter(|pod| pod["metadata"]["uid"] != first["metadata"]["uid"]).count();
        fresh == 1 && pods.len() == 4 && pods.iter().all(ready)
    })
    .await;
}

#[tokio::test]
async fn a_cordon_is_followed_by_its_taint_if_asked_for() {
    let simulator = quick().await;
    let tainted = |simulator: &Simulator| simulator.node("node-002").unwrap()["spec"]["taints"].to_string();
    cordon(&simulator, "node-002", true);
    until("the taint is there", async || tainted(&simulator).contains("node.kubernetes.io/unschedulable"))
        .await;
    cordon(&simulator, "node-002", false);
    until("the taint is gone", async || tainted(&simulator) == "null").await;
}

#[tokio::test]
async fn a_mirror_pod_comes_back_by_itself() {
    let config =
        SimulatorConfig { nodes: 2, control_planes: 1, pods_per_node: 5, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let before = simulator.pod("kube-system", "etcd-node-001").unwrap();
    assert!(simulator.kill_pod("kube-system", "etcd-node-001"));
    until("it is shown again", async || {
        simulator
            .pod("kube-system", "etcd-node-001")
            .is_some_and(|now| now["metadata"]["uid"] != before["metadata"]["uid"])
    })
    .await;
}

#[tokio::test]
async fn another_writer_meets_those_who_are_late_and_leaves_its_mark() {
    let simulator = quick().await;
    let meddler = simulator.meddle(MS);
    let stale = simulator.node("node-002").unwrap();
    until("every node was written to", async || meddler.writes() >= 3).await;
    assert!(simulator.merge_patch("node-002", &json!({"metadata": {"resourceVersion": stale["metadata"]["resourceVersion"]}, "spec": {"unschedulable": true}})).is_none());
    drop(meddler);
    let node = simulator.node("node-002").unwrap();
    let (label, taint) = Meddler::marks(&node);
    assert!(label.is_some() && label == taint, "{label:?} {taint:?}");
}
