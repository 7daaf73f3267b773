//! Bounds and orders: no more nodes in work than allowed, and after a pause or a cancel no eviction.

use std::time::Duration;

use milepost::simulator::{PodChange, Simulator};
use milepost_harness::HubMode;
use serde_json::json;
use tokio::time::Instant;

use super::seen::{
    answered, assert_changed_once, assert_drained, assert_evicted_once, evictions, in_work, most_at_once,
    node_of, pods,
};
use super::{Site, Stage, drain, quick, slow};
use crate::support::{is_terminal, until};

const WITHIN: Duration = Duration::from_secs(60);
/// How long a request may be on its way on a busy machine. Several more evictions of each node would follow in this time if nobody
/// stopped them.
const ARRIVES: Duration = Duration::from_millis(300);
/// Nodes that the drain may have in work at once.
const LANES: usize = 4;
/// Nodes of the other cluster that may be out of service at once.
const OUT: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn no_more_nodes_than_allowed_are_in_work_and_no_eviction_follows_an_order_to_stop() {
    let stopped = Site::start("stopped", quick(30, 40)).await;
    let roomy = Site::start("roomy", quick(20, 4)).await;
    let stage = Stage::start(HubMode::Redis, 2, &[&stopped, &roomy], &[]).await;
    tokio::join!(orders(&stage, &stopped), room(&stage, &roomy));
}

/// What is left to evict on nodes that were begun.
fn left_on_begun(simulator: &Simulator, task: &str) -> usize {
    let begun = in_work(simulator, task);
    let left = |node: &String| {
        let pods = simulator.pods_on(node);
        pods.iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet").count()
    };
    begun.keys().map(left).sum()
}

/// A drain is paused in the middle, goes on, and is cancelled in the middle.
async fn orders(stage: &Stage, site: &Site) {
    let (simulator, nodes) = (&site.simulator, &site.simulator.node_names()[4..24]);
    simulator.set_rules(vec![slow("create", 300)]);
    let user = stage.user("ada");
    let mut watcher = user.watch().await;
    let mut batch = site.batch("drain", nodes, &drain());
    batch["concurrency"] = json!(LANES);
    let task = user.api.submit(&batch).await;
    let path = format!("tasks/{task}");
    let evicted = || pods(simulator, PodChange::Evicted).len();
    for (order, event) in [("pause", "paused"), ("cancel", "cancelling")] {
        let before = evicted();
        until("pods are being evicted", async || evicted() >= before + 10).await;
        user.order(&task, order).await;
        watcher.events_until(&task, |told| told["type"] == event).await;
        // What is on its way when the order comes still arrives.
        tokio::time::sleep(ARRIVES).await;
        let (sent, left) = (evictions(simulator), left_on_begun(simulator, &task));
        assert!(left > 0, "void: whatever was begun was through");
        until("nobody works on it", async || user.api.get(&path).await.get("worker").is_none()).await;
        // What was sent before is answered by now; longer than any wait between two evictions so far.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(evictions(simulator), sent, "evictions were asked for after the {order} took effect");
        if order == "pause" {
            user.order(&task, "resume").await;
        }
    }
    let record = user.ended(&task, WITHIN).await;
    assert_eq!(record["status"], "cancelled", "{record}");
    let spans = in_work(simulator, &task);
    let most = most_at_once(spans.values());
    // A node that was paused is in work on both sides of the pause, and counts once.
    assert!(most <= LANES, "{most} nodes at once: {spans:#?}");
    assert!(most == LANES && spans.len() < nodes.len(), "void: {most} at once, {} begun", spans.len());
    assert_changed_once(simulator, &task, &spans.into_keys().collect::<Vec<_>>());
    assert_evicted_once(simulator);
}

/// Somebody who takes drained nodes back into service, one by one, under a name of their own.
async fn take_back(simulator: &Simulator, drained: &[String]) {
    let http = reqwest::Client::builder().user_agent("machine-room").build().unwrap();
    for node in drained {
        let url = format!("http://{}/api/v1/nodes/{node}", simulator.addr);
        let patch = json!({"spec": {"unschedulable": null}}).to_string();
        let request = http.patch(url).header("content-type", "application/merge-patch+json").body(patch);
        assert!(request.send().await.unwrap().status().is_success());
    }
}

/// When each node was out of service: from the patch that cordoned it to the one that took it back.
fn out_of_service(simulator: &Simulator) -> Vec<(Duration, Duration)> {
    let (mut open, mut spans) = (std::collections::BTreeMap::new(), Vec::new());
    for request in simulator.requests().iter().filter(|request| request.verb == "patch") {
        let Some(node) = node_of(request) else { continue };
        match request.user_agent.as_str() {
            "machine-room" => spans.extend(open.remove(node).map(|from| (from, request.at))),
            _ => drop(open.insert(node.to_owned(), request.at)),
        }
    }
    spans.extend(open.into_values().map(|from| (from, Duration::MAX)));
    spans
}

/// A drain that may take a few nodes of the cluster out of service, whoever is the reason, waits for them to come back.
async fn room(stage: &Stage, site: &Site) {
    let (simulator, nodes) = (&site.simulator, &site.simulator.node_names()[4..13]);
    let user = stage.user("bob");
    let (api, mut watcher) = (&user.api, user.watch().await);
    let mut batch = site.batch("drain", nodes, &drain());
    batch["strategy"] = json!({"max_unavailable": OUT});
    let task = api.submit(&batch).await;
    let path = format!("tasks/{task}");
    let mut back: Vec<String> = Vec::new();
    let began = Instant::now();
    while back.len() < nodes.len() {
        assert!(began.elapsed() < WITHIN, "{back:?}");
        let page = api.get(&format!("{path}/items?state=succeeded&limit=1000")).await;
        let done = page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap());
        let new: Vec<String> =
            done.filter(|node| !back.iter().any(|b| b == node)).map(String::from).collect();
        // Nothing is taken back before the drain has stood still for want of room, or is through.
        if new.len() == OUT || back.len() + new.len() == nodes.len() {
            assert_drained(simulator, &new);
            take_back(simulator, &new).await;
            back.extend(new);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    user.ended_unharmed(&task, WITHIN).await;
    let events = watcher.events_until(&task, is_terminal).await;
    let why = format!("at most {OUT} may be");
    let waited =
        events.iter().any(|event| event["waits_for"].as_str().is_some_and(|told| told.contains(&why)));
    let most = most_at_once(out_of_service(simulator).iter());
    assert!(most <= OUT, "{most} nodes were out of service at once");
    assert!(most == OUT && waited, "void: {most} at once, and it waited for room: {waited}");
    assert!(answered(simulator, "patch", 200) >= 2 * nodes.len());
    assert_evicted_once(simulator);
}
