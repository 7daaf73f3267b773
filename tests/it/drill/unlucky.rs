//! Drains with bad luck: budgets that are used up, watches that are lost, nodes that are replaced, pods that will not go.

use std::time::Duration;

use milepost::simulator::{Fault, PodChange, Rule};
use milepost_harness::HubMode;
use serde_json::{Value, json};

use super::seen::{answered, assert_changed_once, assert_drained, assert_evicted_once, pods};
use super::{Site, Stage, drain, pod, quick};
use crate::support::{Watcher, until};

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn drains_outlast_budgets_and_lost_watches_and_name_what_does_not_go() {
    let tight = Site::start("tight", quick(12, 0)).await;
    let mut slow = quick(12, 5);
    slow.behaviour.ends_within = Duration::from_millis(600);
    let forgetful = Site::start("forgetful", slow).await;
    let odd = Site::start("odd", quick(12, 0)).await;
    let stage = Stage::start(HubMode::Redis, 2, &[&tight, &forgetful, &odd], &[]).await;
    tokio::join!(
        a_budget_frees(&stage, &tight),
        watches_are_lost(&stage, &forgetful),
        a_node_is_replaced(&stage, &odd),
        a_pod_will_not_go(&stage, &odd),
    );
    assert_evicted_once(&odd.simulator);
}

/// The first obstacle that watchers are told of.
async fn obstacle(watcher: &mut Watcher) -> Value {
    loop {
        let event = watcher.next().await;
        let steps = event["items"].as_array().into_iter().flatten().map(|item| &item["step"]);
        if let Some(obstacle) = steps.filter_map(|step| step["obstacles"].get(0)).next() {
            return obstacle.clone();
        }
    }
}

/// A budget that allows nothing keeps every node, and is not got around; then it allows everything.
async fn a_budget_frees(stage: &Stage, site: &Site) {
    let (simulator, nodes) = (&site.simulator, &site.simulator.node_names()[4..10]);
    for node in nodes {
        simulator.add_pod(&pod(node, &format!("web-{node}"))).unwrap();
    }
    let budget = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": nodes.len(), "selector": {"matchLabels": {"app": "web"}}}});
    simulator.add("poddisruptionbudgets", &budget).unwrap();
    let user = stage.user("bob");
    let mut watcher = user.watch().await;
    let task = user.api.submit(&site.batch("drain", nodes, &Value::Null)).await;
    let obstacle = obstacle(&mut watcher).await;
    assert_eq!(obstacle["by"], "budget web", "{obstacle}");
    assert!(obstacle["why"].as_str().unwrap().contains("needs 6 healthy pods and has 6"), "{obstacle}");
    let refused = || answered(simulator, "create", 429);
    until("each is refused twice", async || refused() >= 2 * nodes.len()).await;
    assert!(pods(simulator, PodChange::Evicted).is_empty());
    assert!(simulator.patch_budget("shop", "web", &json!({"spec": {"minAvailable": 0}})));
    user.ended_unharmed(&task, WITHIN).await;
    assert_drained(simulator, nodes);
    assert_eq!(assert_evicted_once(simulator), nodes.len());
    assert_changed_once(simulator, &task, nodes);
}

/// Watches are refused as too old, cut, and what they would go on from is forgotten.
async fn watches_are_lost(stage: &Stage, site: &Site) {
    let (simulator, nodes) = (&site.simulator, &site.simulator.node_names()[4..10]);
    let cut = Fault::Cut { after: Duration::from_millis(50) };
    let rules = [Rule::on("watch", Fault::Status(410)).times(6), Rule::on("watch", cut).times(6)];
    simulator.set_rules(rules.to_vec());
    let user = stage.user("ada");
    let task = user.api.submit(&site.batch("drain", nodes, &drain())).await;
    until("pods are watched", async || answered(simulator, "watch", 410) > 0).await;
    simulator.forget_changes();
    user.ended_unharmed(&task, WITHIN).await;
    let lists = simulator.requests().iter().filter(|r| r.verb == "list" && r.path == "/api/v1/pods").count();
    assert!(
        answered(simulator, "watch", 410) >= 6 && lists > nodes.len(),
        "void: {lists} lists of the pods of {} nodes",
        nodes.len()
    );
    assert_drained(simulator, nodes);
    assert!(assert_evicted_once(simulator) >= nodes.len());
    assert_changed_once(simulator, &task, nodes);
}

/// Another machine takes the name of a node while its pods leave: it is not touched.
async fn a_node_is_replaced(stage: &Stage, site: &Site) {
    let (simulator, node) = (&site.simulator, site.simulator.node_names()[4].clone());
    let mut held = pod(&node, "held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    simulator.add_pod(&held).unwrap();
    let nodes = [node.clone(), site.simulator.node_names()[5].clone()];
    let user = stage.user("cleo");
    let task = user.api.submit(&site.batch("drain", &nodes, &drain())).await;
    let evicted = || pods(simulator, PodChange::Evicted).iter().any(|event| event.pod == "held");
    until("its pod is on its way", async || evicted()).await;
    let uid = simulator.node(&node).unwrap()["metadata"]["uid"].clone();
    let another = simulator.replace_node(&node).unwrap();
    assert_ne!(another["metadata"]["uid"], uid);
    simulator.patch_pod("shop", "held", &json!({"metadata": {"finalizers": null}}));
    let record = user.ended(&task, WITHIN).await;
    assert_eq!((&record["succeeded"], &record["skipped"]), (&json!(1), &json!(1)), "{record}");
    let items = user.items(&task).await;
    let why = items[0].to_string();
    assert!(why.contains("the node was replaced or removed while it was drained"), "{why}");
    assert_ne!(simulator.node(&node).unwrap()["spec"]["unschedulable"], true, "the new one is cordoned");
    assert_changed_once(simulator, &task, &nodes);
}

/// A pod that its finalizer holds costs its node, names itself, and is asked once.
async fn a_pod_will_not_go(stage: &Stage, site: &Site) {
    let (simulator, nodes) = (&site.simulator, &site.simulator.node_names()[6..9]);
    for node in nodes {
        simulator.add_pod(&pod(node, &format!("leaves-{node}"))).unwrap();
    }
    let mut stuck = pod(&nodes[0], "stuck");
    stuck["metadata"]["finalizers"] = json!(["example.com/never"]);
    simulator.add_pod(&stuck).unwrap();
    let parameters = json!({"timeout_seconds": 4});
    let user = stage.user("dan");
    let task = user.api.submit(&site.batch("drain", nodes, &parameters)).await;
    let record = user.ended(&task, WITHIN).await;
    assert_eq!((&record["failed"], &record["succeeded"]), (&json!(1), &json!(2)), "{record}");
    let failed = user.items(&task).await.into_iter().find(|item| item["state"] == "failed").unwrap();
    let why = failed["error"].as_str().unwrap();
    let said = "1 of 2 pods left: shop/stuck: is terminating and held by its finalizers example.com/never";
    assert!(failed["name"] == nodes[0] && why == format!("not drained within 4 s: {said}"), "{failed}");
    let asked = simulator.requests().iter().filter(|r| r.path.ends_with("/stuck/eviction")).count();
    assert_eq!(asked, 1, "it was on its way");
}
