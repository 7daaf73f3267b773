//! The Rust client library finds in the simulator what it would find in a cluster: typed lists, patches, and a watch that
//! recovers when its version is forgotten.

use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use milepost::simulator::{Simulator, SimulatorConfig};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

async fn nodes(simulator: &Simulator) -> Api<Node> {
    let kubeconfig = Kubeconfig::from_yaml(&simulator.kubeconfig_yaml()).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Api::all(kube::Client::try_from(config).unwrap())
}

fn code(error: &kube::Error) -> u16 {
    let kube::Error::Api(status) = error else { panic!("{error}") };
    status.code
}

#[tokio::test]
async fn every_kind_of_patch_is_understood() {
    let simulator = super::simulator(2).await;
    let nodes = nodes(&simulator).await;
    let usual = PatchParams::default();
    let merge = json!({"metadata": {"labels": {"a": "1"}}});
    nodes.patch("node-001", &usual, &Patch::Merge(&merge)).await.unwrap();
    let strategic = json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}});
    nodes.patch("node-001", &usual, &Patch::Strategic(&strategic)).await.unwrap();
    nodes.cordon("node-001").await.unwrap();
    let rehearsal = PatchParams { dry_run: true, ..PatchParams::default() };
    let rehearsed = nodes.patch("node-001", &rehearsal, &Patch::Merge(json!({"spec": null}))).await.unwrap();
    assert_eq!(rehearsed.spec.unwrap_or_default().taints, None);
    let node = nodes.get("node-001").await.unwrap();
    let spec = node.spec.unwrap();
    assert_eq!((spec.unschedulable, spec.taints.map(|taints| taints.len())), (Some(true), Some(1)));
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "2"}}});
    assert_eq!(code(&nodes.patch("node-001", &usual, &Patch::Merge(&stale)).await.unwrap_err()), 409);
    let apply = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-001"}});
    let applied = nodes.patch("node-001", &PatchParams::apply("test"), &Patch::Apply(&apply)).await;
    assert_eq!(code(&applied.unwrap_err()), 415);
}

#[tokio::test]
async fn what_is_not_served_is_refused_as_kubernetes_does() {
    let simulator = super::simulator(1).await;
    let nodes = nodes(&simulator).await;
    let node = nodes.get("node-001").await.unwrap();
    assert_eq!(code(&nodes.replace("node-001", &Default::default(), &node).await.unwrap_err()), 405);
    let all = nodes.delete_collection(&Default::default(), &ListParams::default()).await;
    assert_eq!(code(&all.unwrap_err()), 405);
    assert_eq!(code(&nodes.get("node-999").await.unwrap_err()), 404);
    let unknown = ListParams::default().fields("spec.nothing=1");
    assert_eq!(code(&nodes.list(&unknown).await.unwrap_err()), 400);
}

#[tokio::test]
async fn a_watch_continues_from_a_list_and_is_told_when_it_cannot() {
    let config = SimulatorConfig { nodes: 3, history_max: 5, ..SimulatorConfig::default() };
    let simulator =
        Simulator::bind(config, 0, std::sync::Arc::new(milepost::clock::SystemClock)).await.unwrap();
    let nodes = nodes(&simulator).await;
    let version = nodes.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    simulator.merge_patch("node-002", &json!({"spec": {"unschedulable": true}})).unwrap();
    let mut events = nodes.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let first = tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Modified(node) = first else { panic!("{first:?}") };
    assert_eq!(node.metadata.name.as_deref(), Some("node-002"));
    for i in 0..10 {
        simulator.merge_patch("node-003", &json!({"metadata": {"labels": {"i": i.to_string()}}})).unwrap();
    }
    let mut late = nodes.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let told = tokio::time::timeout(LIMIT, late.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Error(status) = told else { panic!("{told:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn a_watcher_sees_every_node_and_then_changes() {
    let simulator = super::simulator(3).await;
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = watcher::watcher(nodes(&simulator).await, config).boxed();
        let mut initial = 0;
        loop {
            match tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap() {
                watcher::Event::Init => {}
                watcher::Event::InitApply(_) => initial += 1,
                watcher::Event::InitDone => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(initial, 3);
        let label = json!({"metadata": {"labels": {"version": simulator.requests().len().to_string()}}});
        simulator.merge_patch("node-001", &label).unwrap();
        let event = tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(event, watcher::Event::Apply(_)), "{event:?}");
    }
    assert!(simulator.delete_node("node-001"));
}
