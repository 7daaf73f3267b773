//! Unmodified `kubectl drain` finds in the simulator what it would find in a cluster: its own rules apply, budgets hold it
//! up, and what it evicts comes back elsewhere.

use std::sync::Arc;
use std::time::Duration;

use milepost::clock::SystemClock;
use milepost::simulator::{Behaviour, Fault, PodChange, Rule, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use crate::support::until;

const ALL: &str = "--ignore-daemonsets --delete-emptydir-data --force --timeout=50s";

async fn cluster(pods_per_node: u32, budgets_percent: u8) -> Simulator {
    let ms = Duration::from_millis;
    let behaviour =
        Behaviour { ends_within: ms(100), ready_after: ms(100), budget_lag: ms(10), ..Behaviour::default() };
    let config = SimulatorConfig {
        nodes: 12,
        pods_per_node,
        budgets_percent,
        behaviour,
        ..SimulatorConfig::default()
    };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

fn owner(pod: &Value) -> &str {
    pod["metadata"]["ownerReferences"][0]["kind"].as_str().unwrap_or("nobody")
}

/// UIDs of the pods on a node that a drain has to move.
fn movable(simulator: &Simulator, node: &str) -> Vec<String> {
    let pods = simulator.pods_on(node);
    let movable = pods.iter().filter(|pod| !["DaemonSet", "Node"].contains(&owner(pod)));
    let mut uids: Vec<_> = movable.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect();
    uids.sort();
    uids
}

/// UIDs of the pods that were evicted.
fn evicted(simulator: &Simulator) -> Vec<String> {
    let events = simulator.pod_events().into_iter().filter(|event| event.change == PodChange::Evicted);
    let mut uids: Vec<_> = events.map(|event| event.uid).collect();
    uids.sort();
    uids
}

#[tokio::test]
async fn a_drained_node_keeps_its_daemons_and_the_rest_moves() {
    let simulator = cluster(12, 0).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let before = simulator.pods_on("").len();
    // It has a finished pod, one of nobody's, and replicas with and without an emptyDir.
    let wanted = movable(&simulator, "node-006");
    let printed = kubectl.run(&format!("drain node-006 {ALL}")).await.unwrap();
    assert!(printed.contains("node/node-006 drained"), "{printed}");
    assert_eq!(evicted(&simulator), wanted);
    let left = simulator.pods_on("node-006");
    assert_eq!(left.iter().map(owner).collect::<Vec<_>>(), ["DaemonSet"]);
    assert_eq!(simulator.node("node-006").unwrap()["spec"]["unschedulable"], true);
    let nobodys = simulator.pod_events().iter().filter(|event| event.pod.starts_with("shell-")).count();
    assert!(nobodys > 0, "the pod of nobody's was evicted");
    until("the replicas are back elsewhere", async || simulator.pods_on("").len() == before - 1).await;
}

#[tokio::test]
async fn without_the_flags_nothing_is_evicted() {
    let simulator = cluster(12, 0).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let refused = kubectl.run("drain node-006 --timeout=20s").await.unwrap_err().to_string();
    for part in ["--ignore-daemonsets", "--delete-emptydir-data", "--force"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(evicted(&simulator), Vec::<String>::new());
    let dry = kubectl.run(&format!("drain node-006 {ALL} --dry-run=server")).await.unwrap();
    assert!(dry.contains("server dry run"), "{dry}");
    assert_eq!(evicted(&simulator), Vec::<String>::new());
}

#[tokio::test]
async fn a_used_up_budget_holds_the_drain_up_until_it_is_free() {
    let simulator = cluster(0, 0).await;
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-006"}});
    let uid = simulator.add_pod(&pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let budget = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    simulator.add("poddisruptionbudgets", &budget).unwrap();
    let kubectl = Kubectl::new(&simulator).unwrap();
    let line = format!("drain node-006 {ALL}");
    let free_it = async {
        until("the eviction is refused", async || {
            let requests = simulator.requests();
            requests.iter().any(|request| request.path.ends_with("/eviction") && request.status == Some(429))
        })
        .await;
        assert!(simulator.patch_budget("shop", "web", &json!({"spec": {"minAvailable": 0}})));
    };
    let (drained, ()) = tokio::join!(kubectl.run(&line), free_it);
    assert!(drained.unwrap().contains("drained"));
    assert_eq!(evicted(&simulator), [uid]);
}

#[tokio::test]
async fn budgets_of_replicas_let_a_drain_through_bit_by_bit() {
    let simulator = cluster(10, 100).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let wanted = movable(&simulator, "node-007");
    kubectl.run(&format!("drain node-007 {ALL}")).await.unwrap();
    assert_eq!(evicted(&simulator), wanted, "each once");
}

#[tokio::test]
async fn several_budgets_and_missing_rights_are_sentences() {
    let simulator = cluster(0, 0).await;
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-006"}});
    simulator.add_pod(&pod).unwrap();
    for name in ["one", "two"] {
        let budget = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"maxUnavailable": 1, "selector": {}}});
        simulator.add("poddisruptionbudgets", &budget).unwrap();
    }
    let kubectl = Kubectl::new(&simulator).unwrap();
    let line = format!("drain node-006 {ALL}");
    let several = kubectl.run(&line).await.unwrap_err().to_string();
    assert!(several.contains("more than one PodDisruptionBudget"), "{several}");
    simulator.deny(vec![milepost::simulator::Denied::new("create", "pods/eviction")]);
    let forbidden = kubectl.run(&line).await.unwrap_err().to_string();
    assert!(forbidden.contains("cannot create resource \"pods/eviction\""), "{forbidden}");
    assert_eq!(evicted(&simulator), Vec::<String>::new());
}

#[tokio::test]
async fn pods_and_budgets_are_shown_to_people() {
    let simulator = cluster(6, 100).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let table = kubectl.run("get pods -A --field-selector spec.nodeName=node-005 -o wide").await.unwrap();
    assert_eq!(table.lines().count(), 7, "{table}");
    assert!(table.lines().next().unwrap().contains("NODE") && table.contains("1/1"), "{table}");
    let budgets = kubectl.run("get pdb -A").await.unwrap();
    assert!(budgets.contains("ALLOWED DISRUPTIONS"), "{budgets}");
}

/// An answer that breaks off, and another writer who is always faster.
#[tokio::test]
async fn broken_answers_and_conflicts_are_as_ordered() {
    let simulator = cluster(0, 0).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    simulator.set_rules(vec![Rule::on("list", Fault::BreakOff).path("/api/v1/nodes")]);
    let broken = kubectl.run("get nodes").await.unwrap_err().to_string();
    assert!(broken.contains("EOF") || broken.contains("couldn't get"), "{broken}");
    simulator.set_rules(vec![Rule::on("patch", Fault::Contend).path("/api/v1/nodes/node-001")]);
    let stale =
        simulator.node("node-001").unwrap()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let line = format!("label node node-001 a=b --resource-version={stale}");
    let conflict = kubectl.run(&line).await.unwrap_err().to_string();
    assert!(conflict.contains("has been modified"), "{conflict}");
}
