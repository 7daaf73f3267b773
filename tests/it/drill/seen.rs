//! What a cluster saw: read from its log of requests and its journal of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milepost::simulator::{LoggedRequest, PodChange, PodEvent, Simulator};

/// The node that a request is about.
pub fn node_of(request: &LoggedRequest) -> Option<&str> {
    request.path.strip_prefix("/api/v1/nodes/")
}

pub fn is_eviction(request: &LoggedRequest) -> bool {
    request.verb == "create" && request.path.ends_with("/eviction")
}

/// How many evictions were asked for.
pub fn evictions(simulator: &Simulator) -> usize {
    simulator.requests().iter().filter(|request| is_eviction(request)).count()
}

/// How many requests with this verb were answered with this status. Questions about rights are put as a create, and count
/// for none.
pub fn answered(simulator: &Simulator, verb: &str, status: u16) -> usize {
    let counts = |request: &&LoggedRequest| {
        let asks = request.path.ends_with("/selfsubjectaccessreviews");
        request.verb == verb && request.status == Some(status) && !asks
    };
    simulator.requests().iter().filter(counts).count()
}

/// How often each node was changed by a task, by the name under which the task asks.
pub fn changes(simulator: &Simulator, task: &str) -> BTreeMap<String, u32> {
    let mut changes = BTreeMap::new();
    for request in simulator.requests() {
        let ours = request.verb == "patch" && request.user_agent.contains(task);
        if let (Some(node), Some(200)) = (node_of(&request).filter(|_| ours), request.status) {
            *changes.entry(node.to_owned()).or_default() += 1;
        }
    }
    changes
}

/// Asserts that a task changed each of these nodes exactly once, and no other.
pub fn assert_changed_once(simulator: &Simulator, task: &str, nodes: &[String]) {
    let changes = changes(simulator, task);
    let wrong: Vec<_> = changes.iter().filter(|(_, times)| **times != 1).collect();
    assert!(wrong.is_empty(), "{}: changed more than once: {wrong:?}", simulator.addr);
    let (changed, wanted): (BTreeSet<_>, BTreeSet<_>) = (changes.keys().collect(), nodes.iter().collect());
    let differ: Vec<_> = changed.symmetric_difference(&wanted).collect();
    assert!(differ.is_empty(), "these are not as they were to be: {differ:?}");
}

/// What happened to pods, of one sort.
pub fn pods(simulator: &Simulator, change: PodChange) -> Vec<PodEvent> {
    simulator.pod_events().into_iter().filter(|event| event.change == change).collect()
}

/// Asserts that no pod was evicted twice, by its UID, and that none was deleted. Returns how many were evicted.
pub fn assert_evicted_once(simulator: &Simulator) -> usize {
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    let evicted = pods(simulator, PodChange::Evicted);
    evicted.iter().for_each(|event| *times.entry(event.uid.clone()).or_default() += 1);
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "evicted more than once: {twice:?}");
    let deleted = pods(simulator, PodChange::Deleted);
    assert!(deleted.is_empty(), "a drain deletes nothing: {deleted:?}");
    let mut granted: BTreeMap<String, u32> = BTreeMap::new();
    for request in simulator.requests().into_iter().filter(is_eviction) {
        if request.status == Some(201) {
            *granted.entry(request.path).or_default() += 1;
        }
    }
    let twice: Vec<_> = granted.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "asked again after it was granted: {twice:?}");
    times.len()
}

/// Pods that a drain leaves no node.
pub fn assert_drained(simulator: &Simulator, nodes: &[String]) {
    for node in nodes {
        let kind = |pod: &serde_json::Value| pod["metadata"]["ownerReferences"][0]["kind"].clone();
        let left: Vec<_> = simulator
            .pods_on(node)
            .iter()
            .filter(|pod| pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null())
            .map(kind)
            .filter(|kind| kind != "DaemonSet")
            .collect();
        assert!(left.is_empty(), "{node} has pods left: {left:?}");
        assert_eq!(simulator.node(node).unwrap()["spec"]["unschedulable"], true, "{node} is not cordoned");
    }
}

/// The most of these spans that overlap anywhere.
pub fn most_at_once<'a>(spans: impl Iterator<Item = &'a (Duration, Duration)>) -> usize {
    let spans: Vec<_> = spans.collect();
    let at = |moment: Duration| spans.iter().filter(|(from, to)| *from <= moment && moment < *to).count();
    spans.iter().map(|(from, _)| at(*from)).max().unwrap_or(0)
}

/// From the first to the last request of a task about each node, by node: it was in work at least so long.
pub fn in_work(simulator: &Simulator, task: &str) -> BTreeMap<String, (Duration, Duration)> {
    let mut spans: BTreeMap<String, (Duration, Duration)> = BTreeMap::new();
    for request in simulator.requests().iter().filter(|request| request.user_agent.contains(task)) {
        let Some(node) = node_of(request) else { continue };
        spans.entry(node.to_owned()).or_insert((request.at, request.at)).1 = request.at;
    }
    spans
}
