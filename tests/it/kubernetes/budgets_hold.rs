//! However many evict at once, no app of the simulator ever has fewer pods than its budget demands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use milepost::clock::SystemClock;
use milepost::simulator::{Behaviour, PodChange, PodEvent, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::support::until;

const NODES: [&str; 3] = ["node-004", "node-005", "node-006"];

async fn cluster() -> Simulator {
    let ms = Duration::from_millis;
    let behaviour =
        Behaviour { ends_within: ms(30), ready_after: ms(30), budget_lag: ms(5), ..Behaviour::default() };
    let config = SimulatorConfig {
        nodes: 10,
        pods_per_node: 8,
        budgets_percent: 100,
        behaviour,
        ..SimulatorConfig::default()
    };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

/// Namespace and name of the replicas on a node.
fn replicas(simulator: &Simulator, node: &str) -> Vec<(String, String)> {
    let pods = simulator.pods_on(node).into_iter();
    let replicas = pods.filter(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    replicas.map(|pod| (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))).collect()
}

/// Evicts a pod, asking again as long as its budget refuses. Returns how often it did.
async fn evict(server: &str, namespace: String, name: String) -> u32 {
    let url = format!("{server}/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    let body = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name}});
    let client = reqwest::Client::new();
    let mut refused = 0;
    until("the eviction is let through", async || {
        match client.post(&url).json(&body).send().await.unwrap().status().as_u16() {
            201 => true,
            429 => {
                refused += 1;
                false
            }
            other => panic!("{other}"),
        }
    })
    .await;
    refused
}

/// The app that a pod of a ReplicaSet belongs to: its name without the last part.
fn app(event: &PodEvent) -> String {
    event.pod.rsplit_once('-').unwrap().0.to_owned()
}

#[tokio::test]
async fn no_budget_is_overdrawn_by_many_at_once() {
    let simulator = cluster().await;
    for node in NODES {
        simulator.merge_patch(node, &json!({"spec": {"unschedulable": true}})).unwrap();
    }
    let server = format!("http://{}", simulator.addr);
    let pods: Vec<_> = NODES.iter().flat_map(|node| replicas(&simulator, node)).collect();
    let asking = pods.iter().cloned().map(|(namespace, name)| evict(&server, namespace, name));
    let refused: u32 = join_all(asking).await.into_iter().sum();
    assert!(refused > 0, "the budgets had nothing to refuse, so this test saw nothing");
    until("the nodes are empty", async || NODES.iter().all(|node| replicas(&simulator, node).is_empty()))
        .await;

    // An app lacks a pod from its eviction until another one is ready.
    let mut lacking: BTreeMap<String, i64> = BTreeMap::new();
    let (mut most, mut evicted) = (0, 0);
    for event in simulator.pod_events() {
        let lacks = lacking.entry(app(&event)).or_default();
        match event.change {
            PodChange::Evicted => {
                *lacks += 1;
                evicted += 1;
            }
            PodChange::Ready => *lacks -= 1,
            _ => {}
        }
        // Apps with even numbers have `maxUnavailable: 1`, the others keep 75 % of up to eight.
        let number: u32 = app(&event).rsplit_once('-').unwrap().1.parse().unwrap();
        let allowed = if number.is_multiple_of(2) { 1 } else { 2 };
        assert!(*lacks <= allowed, "{event:?} is one too many");
        most = most.max(*lacks);
    }
    assert_eq!((evicted, most), (pods.len(), 2), "each once, and as many at once as is allowed");
}
