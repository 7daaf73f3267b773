//! What is known of a cluster's nodes: one list and one watch whoever asks, whatever becomes of them, and never older than
//! it says.

use std::sync::Arc;
use std::time::Duration;

use milepost::action::nodes::Followed;
use milepost::action::{
    ClusterError, Clusters, KubeClusters, NodeChange, NodeChanges, NodeViews, Nodes, Registry,
};
use milepost::clock::SystemClock;
use milepost::config::{ActionsConfig, ClusterConfig};
use milepost::simulator::{Fault, Rule, Simulator, SimulatorConfig};
use milepost::telemetry::Metrics;
use serde_json::{Value, json};

use super::{CHANGED, Hub, cluster, simulator};
use crate::support::{PATIENCE, until};

const NODES: &str = "/api/v1/nodes";

fn asked(simulator: &Simulator, verb: &str) -> usize {
    let ours = |request: &&milepost::simulator::LoggedRequest| request.verb == verb && request.path == NODES;
    simulator.requests().iter().filter(ours).count()
}

async fn nodes(hub: &Hub) -> Nodes {
    hub.registry.nodes(&cluster("sim")).await.unwrap()
}

async fn follow(hub: &Hub) -> (Nodes, NodeChanges) {
    hub.registry.follow(&cluster("sim")).await.unwrap()
}

/// The next change in words.
async fn next(changes: &mut NodeChanges) -> String {
    let followed = tokio::time::timeout(PATIENCE, changes.next()).await.expect("a change in time");
    match followed {
        Followed::Change(NodeChange::Added(node)) => format!("+{}", node.name),
        Followed::Change(NodeChange::Updated { node, changed }) => {
            format!("{} {}", node.name, changed.join(" "))
        }
        Followed::Change(NodeChange::Deleted(node)) => format!("-{}", node.name),
        other => format!("{other:?}"),
    }
}

fn cordon() -> Value {
    json!({"spec": {"unschedulable": true}})
}

#[tokio::test]
async fn a_hundred_readers_cost_one_list_and_one_watch() {
    let simulator = simulator(1_203).await;
    let hub = Hub::new(&simulator);
    let reads = (0..100).map(|_| nodes(&hub));
    for nodes in futures_util::future::join_all(reads).await {
        assert_eq!((nodes.nodes.len(), nodes.freshness.stale), (1_203, false));
    }
    until("the watch is open", async || asked(&simulator, "watch") == 1).await;
    for _ in 0..100 {
        nodes(&hub).await;
        hub.registry.node(&cluster("sim"), "node-0007").await.unwrap().unwrap();
    }
    assert_eq!((asked(&simulator, "list"), asked(&simulator, "watch")), (3, 1), "three pages");
}

#[tokio::test]
async fn what_other_writers_change_comes_in() {
    let simulator = simulator(3).await;
    let hub = Hub::new(&simulator);
    let (before, mut changes) = follow(&hub).await;
    assert_eq!(before.nodes.len(), 3);
    simulator.merge_patch("node-002", &cordon()).unwrap();
    assert!(next(&mut changes).await.starts_with("node-002 unschedulable"));
    simulator.merge_patch("node-001", &json!({"metadata": {"labels": {"a": "b"}}})).unwrap();
    assert_eq!(next(&mut changes).await, "node-001 labels");
    let replaced = simulator.replace_node("node-003").unwrap();
    let told = [next(&mut changes).await, next(&mut changes).await];
    assert_eq!(told, ["-node-003", "+node-003"]);
    let node = hub.registry.node(&cluster("sim"), "node-003").await.unwrap().unwrap();
    assert_eq!(node.node.uid, replaced["metadata"]["uid"]);
    simulator.delete_node("node-001");
    assert_eq!(next(&mut changes).await, "-node-001");
    assert_eq!(nodes(&hub).await.nodes.len(), 2);
    assert_eq!(asked(&simulator, "list"), 1);
}

/// Each of these ends a watch. Only what the server has forgotten is listed anew.
#[tokio::test]
async fn a_watch_that_ends_goes_on_and_misses_nothing() {
    let simulator = simulator(3).await;
    let hub = Hub::new(&simulator);
    let cut = Rule::on("watch", Fault::Cut { after: Duration::from_millis(50) }).times(3);
    simulator.set_rules(vec![cut.path(NODES)]);
    let (_, mut changes) = follow(&hub).await;
    for n in 0..20 {
        simulator.merge_patch("node-001", &json!({"metadata": {"labels": {"n": n.to_string()}}})).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let labelled = |nodes: &Nodes| nodes.nodes[0].labels.get("n").map(String::as_str) == Some("19");
    until("the last change is known", async || labelled(&nodes(&hub).await)).await;
    assert_eq!(next(&mut changes).await, "node-001 labels");
    assert!(asked(&simulator, "watch") > 1, "it was cut");
    assert!(asked(&simulator, "list") <= 2, "{} lists", asked(&simulator, "list"));
}

#[tokio::test]
async fn a_version_that_is_forgotten_is_listed_anew_however_the_server_says_it() {
    for fault in [None, Some(Fault::Status(410)), Some(Fault::Status(504))] {
        let config = SimulatorConfig { nodes: 3, history_max: 5, ..SimulatorConfig::default() };
        let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
        let hub = Hub::new(&simulator);
        let broken = Rule::on("watch", Fault::Cut { after: Duration::from_millis(1) }).times(1);
        let refused = fault.clone().map(|fault| Rule::on("watch", fault).times(2));
        simulator.set_rules([broken].into_iter().chain(refused).map(|rule| rule.path(NODES)).collect());
        let (_, mut changes) = follow(&hub).await;
        // More than are remembered, while there is no watch.
        for n in 0..10 {
            simulator
                .merge_patch("node-002", &json!({"metadata": {"labels": {"n": n.to_string()}}}))
                .unwrap();
        }
        simulator.delete_node("node-003");
        simulator.forget_changes();
        until("the newest state is known", async || {
            let nodes = nodes(&hub).await.nodes;
            nodes.len() == 2 && nodes[1].labels.get("n").is_some_and(|n| n == "9")
        })
        .await;
        assert!(["-node-003", "node-002 labels"].contains(&next(&mut changes).await.as_str()), "{fault:?}");
        assert!(asked(&simulator, "list") >= 2, "{fault:?}");
        simulator.merge_patch("node-001", &cordon()).unwrap();
        until("it is watched again", async || nodes(&hub).await.nodes[0].unschedulable).await;
        assert!(!nodes(&hub).await.freshness.stale, "{fault:?}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_away_leaves_old_nodes_that_say_so_and_none_to_decide_by() {
    let simulator = simulator(3).await;
    let hub = Hub::new(&simulator);
    nodes(&hub).await;
    simulator.set_rules(vec![
        Rule::on("watch", Fault::Cut { after: Duration::ZERO }).times(1),
        Rule::on("watch", Fault::Reset),
        Rule::on("list", Fault::Reset),
    ]);
    // The watch that is open was opened before the rules: it ends when its time is over, or with this.
    simulator.forget_changes();
    simulator.merge_patch("node-001", &cordon()).unwrap();
    until("the nodes are known to be old", async || nodes(&hub).await.freshness.stale).await;
    let old = nodes(&hub).await;
    assert_eq!(old.nodes.len(), 3);
    assert!(old.freshness.silent() >= Duration::from_secs(5) && old.freshness.cause.is_some(), "{old:?}");
    let now = hub.registry.nodes_now(&cluster("sim")).await;
    assert!(matches!(now, Err(ClusterError::Unavailable { .. })), "{now:?}");
    simulator.merge_patch("node-002", &cordon()).unwrap();
    simulator.set_rules(Vec::new());
    until("it is back", async || !nodes(&hub).await.freshness.stale).await;
    let back = nodes(&hub).await;
    assert!(
        back.nodes[0].unschedulable && back.nodes[1].unschedulable,
        "nothing that happened meanwhile is missed"
    );
}

#[tokio::test]
async fn before_the_first_list_there_is_nothing_and_the_reason_is_told() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    simulator.set_rules(vec![Rule::on("list", Fault::Status(403))]);
    let Err(ClusterError::Unavailable { source, .. }) = hub.registry.nodes(&cluster("sim")).await else {
        panic!("nothing was listed");
    };
    assert_eq!(source.to_string(), "forbidden: needs list on nodes");
    assert_eq!(hub.registry.freshness(&cluster("sim")), None);
    simulator.set_rules(Vec::new());
    until("it is listed after all", async || hub.registry.nodes(&cluster("sim")).await.is_ok()).await;
}

/// The watch tells late what others did; whoever decides must not depend on that.
#[tokio::test]
async fn what_was_cordoned_before_a_look_is_in_it_however_late_the_watch_is() {
    let simulator = simulator(20).await;
    let hub = Hub::new(&simulator);
    let slow = Fault::Latency { from: Duration::from_secs(60), to: Duration::from_secs(60) };
    simulator.set_rules(vec![Rule::on("watch", slow).path(NODES)]);
    assert_eq!(nodes(&hub).await.nodes.len(), 20);
    for node in ["node-004", "node-011"] {
        assert_eq!(hub.run("cordon", Value::Null, node).await, CHANGED);
    }
    simulator.merge_patch("node-012", &cordon()).unwrap();
    let cordoned = |nodes: &Nodes| nodes.nodes.iter().filter(|node| node.unschedulable).count();
    assert_eq!(cordoned(&nodes(&hub).await), 0, "the watch has told nothing yet");
    let now = hub.registry.nodes_now(&cluster("sim")).await.unwrap();
    assert_eq!((cordoned(&now), now.nodes.len()), (3, 20));
    assert_eq!(hub.run("uncordon", Value::Null, "node-004").await, CHANGED);
    assert_eq!(cordoned(&hub.registry.nodes_now(&cluster("sim")).await.unwrap()), 2);
    let lists: Vec<_> = simulator.requests().into_iter().filter(|request| request.verb == "list").collect();
    let narrow = lists.iter().filter(|request| request.query.contains("spec.unschedulable%3Dtrue")).count();
    assert_eq!((lists.len(), narrow), (3, 2), "the whole cluster was listed once: {lists:?}");
}

#[tokio::test]
async fn a_cluster_that_is_configured_no_more_is_watched_and_counted_no_more() {
    let simulators = [simulator(2).await, simulator(3).await];
    let home = tempfile::TempDir::new().unwrap();
    let configs: Vec<ClusterConfig> = (simulators.iter().zip(["stays", "goes"]))
        .map(|(simulator, name)| {
            let path = home.path().join(name);
            std::fs::write(&path, simulator.kubeconfig_yaml()).unwrap();
            ClusterConfig { name: name.into(), kubeconfig: Some(path), ..ClusterConfig::default() }
        })
        .collect();
    let metrics = Metrics::new();
    let clusters = KubeClusters::measured(&configs, &ActionsConfig::default(), metrics.clone()).unwrap();
    let registry = Registry::new(clusters, false, Arc::new(SystemClock));
    for name in ["stays", "goes"] {
        registry.nodes(&cluster(name)).await.unwrap();
    }
    until("both are watched", async || simulators.iter().all(|simulator| asked(simulator, "watch") == 1))
        .await;
    let has = |line: &str| metrics.text().lines().any(|text| text.starts_with(line));
    assert!(
        has("milepost_node_watch_synced{cluster=\"goes\"} 1")
            && has("milepost_cluster_up{cluster=\"goes\"} 1")
    );
    assert!(has("milepost_node_watch_silent_seconds{cluster=\"goes\"} "));
    let (_, mut changes) = registry.follow(&cluster("goes")).await.unwrap();
    registry.reload(&configs[..1]).unwrap();
    assert_eq!(next(&mut changes).await, "Over");
    assert!(!metrics.text().contains("\"goes\""), "{}", metrics.text());
    assert!(has("milepost_node_watch_synced{cluster=\"stays\"} 1"));
    simulators[0].merge_patch("node-001", &cordon()).unwrap();
    until("the other is watched on", async || {
        registry.nodes(&cluster("stays")).await.unwrap().nodes[0].unschedulable
    })
    .await;
    assert_eq!((asked(&simulators[0], "list"), asked(&simulators[1], "watch")), (1, 1));
}

#[tokio::test]
async fn a_node_is_told_with_its_particulars_and_its_pods() {
    let config = SimulatorConfig { nodes: 6, pods_per_node: 10, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let hub = Hub::new(&simulator);
    assert_eq!(hub.run("cordon", Value::Null, "node-005").await, CHANGED);
    hub.seen("node-005", |node| node.unschedulable).await;
    let found = hub.registry.node(&cluster("sim"), "node-005").await.unwrap().unwrap();
    assert!(!found.more.conditions.is_empty() && !found.more.capacity.is_empty());
    assert_eq!(found.more.conditions[0].name, "Ready");
    assert_eq!(found.more.annotations["milepost.dev/cordon-reason"], "disk");
    let pods = hub.registry.pods_on(&cluster("sim"), "node-005").await.unwrap();
    assert_eq!(
        (pods.count as usize, pods.pods.len(), pods.more),
        (pods.pods.len(), simulator.pods_on("node-005").len(), false)
    );
    assert!(
        pods.pods
            .iter()
            .any(|pod| pod.owner.as_deref().is_some_and(|owner| owner.starts_with("ReplicaSet ")))
    );
    assert!(pods.pods.iter().any(|pod| pod.phase == "Running"));
    assert!(hub.registry.node(&cluster("sim"), "node-099").await.unwrap().is_none());
    let other = hub.registry.pods_on(&cluster("sim"), "a,metadata.name=b").await.unwrap();
    assert_eq!(other.count, 0);
}
