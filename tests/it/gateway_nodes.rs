//! Nodes over HTTP: lists with filters, one node, and the stream of changes, from real gateways over the simulator.

use std::sync::Arc;
use std::time::Duration;

use milepost::action::{KubeClusters, Registry};
use milepost::clock::SystemClock;
use milepost::config::{ActionsConfig, ClusterConfig};
use milepost::gateway::auth::Role;
use milepost::simulator::{Fault, Rule, Simulator, SimulatorConfig};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway_rig::{Answer, Rig, Sse};
use crate::support::{PATIENCE, until};

const NODES: &str = "/api/v1/clusters/sim/nodes";
const LIVE: &str = "/api/v1/live/nodes/sim";

async fn simulator(nodes: u32) -> Simulator {
    let config = SimulatorConfig { nodes, pods_per_node: 4, ..SimulatorConfig::default() };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

/// A gateway whose cluster `sim` is the simulator; as another replica would be beside others.
async fn gateway(simulator: &Simulator) -> (Rig, TempDir) {
    gateway_with(simulator, |_| {}).await
}

async fn gateway_with(
    simulator: &Simulator,
    set: impl FnOnce(&mut milepost::gateway::Parts),
) -> (Rig, TempDir) {
    let home = TempDir::new().unwrap();
    let kubeconfig = home.path().join("kubeconfig");
    std::fs::write(&kubeconfig, simulator.kubeconfig_yaml()).unwrap();
    let cluster =
        ClusterConfig { name: "sim".into(), kubeconfig: Some(kubeconfig), ..ClusterConfig::default() };
    let clusters = KubeClusters::new(&[cluster], &ActionsConfig::default()).unwrap();
    let registry = Arc::new(Registry::new(clusters, true, Arc::new(SystemClock)));
    let rig = Rig::with(|parts| {
        parts.clusters = registry;
        set(parts);
    })
    .await;
    (rig, home)
}

fn cordon(reason: &str) -> Value {
    json!({"spec": {"unschedulable": true},
        "metadata": {"annotations": {"milepost.dev/cordon-task": "t", "milepost.dev/cordon-reason": reason}}})
}

fn names(list: &Value) -> Vec<&str> {
    list["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect()
}

/// The next event, which must be of this kind.
async fn event(stream: &mut Sse, kind: &str) -> Value {
    let (id, event, data) = stream.next().await.expect("the stream is open");
    assert_eq!((id, event.as_str(), &data["type"]), (None, kind, &json!(kind)), "{data}");
    data
}

async fn follow(rig: &Rig, query: &str) -> Sse {
    Sse::open(rig.request(Method::GET, &format!("{LIVE}{query}"), "ada")).await
}

/// Names of the nodes of a snapshot, of all its parts.
async fn snapshot(stream: &mut Sse) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let part = event(stream, "snapshot").await;
        all.extend(names(&part).into_iter().map(str::to_owned));
        if part["more"] != true {
            assert_eq!(event(stream, "freshness").await["stale"], false);
            return all;
        }
    }
}

#[tokio::test]
async fn filters_pages_and_counts_of_a_list() {
    let simulator = simulator(40).await;
    let (rig, _home) = gateway(&simulator).await;
    simulator.merge_patch("node-010", &cordon("Bad disk, OPS-7")).unwrap();
    simulator.merge_patch("node-011", &json!({"metadata": {"labels": {"tier": "gold"}}})).unwrap();
    let taints = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    simulator.merge_patch("node-012", &taints).unwrap();
    for (query, expected) in [
        ("status=cordoned", vec!["node-010"]),
        ("status=cordoned,ready&reason=ops-7", vec!["node-010"]),
        ("selector=tier%3Dgold", vec!["node-011"]),
        ("selector=tier%20in%20(gold,silver)", vec!["node-011"]),
        ("taint=gpu:NoSchedule", vec!["node-012"]),
        ("role=control-plane", vec!["node-001", "node-002", "node-003"]),
        ("name=-04", vec!["node-040"]),
        ("status=not-ready", vec![]),
    ] {
        let list = rig.get(&format!("{NODES}?{query}"), "ada").await;
        assert_eq!((list.status, names(&list.body)), (200, expected.clone()), "{query}");
        assert_eq!(
            (&list.body["matching"], &list.body["summary"]["total"]),
            (&json!(expected.len()), &json!(40))
        );
        assert_eq!((list.header("age"), &list.body["freshness"]["stale"]), (Some("0"), &json!(false)));
    }
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = rig.get(&format!("{NODES}?limit=7&status=schedulable&after={after}"), "ada").await.body;
        all.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        after = next.to_owned();
    }
    assert_eq!((all.len(), all.is_sorted()), (39, true));
    let summary = rig.get(&format!("{NODES}?limit=1"), "ada").await.body["summary"].clone();
    assert_eq!(
        (&summary["ready"], &summary["cordoned"], &summary["schedulable"]),
        (&json!(40), &json!(1), &json!(39))
    );
    assert_eq!((&summary["roles"]["control-plane"], &summary["zones"]["zone-a"]), (&json!(3), &json!(14)));
    rig.stop().await;
}

#[tokio::test]
async fn a_filter_that_is_wrong_is_named_with_what_would_be_right() {
    let simulator = simulator(1).await;
    let (rig, _home) = gateway(&simulator).await;
    for (query, status, field) in [
        ("status=up", 422, "status"),
        ("selector=a%20b", 422, "selector"),
        ("taint=x:Never", 422, "taint"),
        ("limit=0", 422, "limit"),
        ("limit=1001", 422, "limit"),
        ("limit=x", 400, "limit"),
        ("labels=a", 400, "labels"),
    ] {
        for path in [NODES, LIVE].into_iter().filter(|path| *path == NODES || !query.starts_with("limit")) {
            let refused = rig.get(&format!("{path}?{query}"), "ada").await;
            assert_eq!(
                (refused.status, refused.fields()),
                (status, vec![field]),
                "{path} {query}: {refused:?}"
            );
        }
    }
    let refused = rig.get(&format!("{NODES}?status=up"), "ada").await;
    let why = "status must be ready, not-ready, cordoned or schedulable, and \"up\" is none of them";
    assert_eq!(refused.text("detail"), why);
    assert_eq!(rig.get("/api/v1/clusters/other/nodes", "ada").await.status, 404);
    assert_eq!(rig.get(&format!("{NODES}/node-777"), "ada").await.status, 404);
    rig.stop().await;
}

#[tokio::test]
async fn a_node_comes_with_its_pods_and_without_them_when_they_cannot_be_read() {
    let simulator = simulator(5).await;
    let (rig, _home) = gateway(&simulator).await;
    let node = rig.get(&format!("{NODES}/node-004"), "ada").await.body;
    assert_eq!(
        (&node["name"], &node["ready"], &node["conditions"][0]["name"]),
        (&json!("node-004"), &json!(true), &json!("Ready"))
    );
    let pods = simulator.pods_on("node-004").len();
    assert_eq!(
        (node["pods"]["count"].as_u64(), node["pods"]["pods"].as_array().unwrap().len()),
        (Some(pods as u64), pods)
    );
    simulator.set_rules(vec![Rule::on("list", Fault::Status(403)).path("/api/v1/pods")]);
    let node = rig.get(&format!("{NODES}/node-004"), "ada").await;
    assert_eq!(
        (node.status, &node.body["pods"], &node.body["name"]),
        (200, &Value::Null, &json!("node-004"))
    );
    rig.stop().await;
}

/// Two replicas serve the same, whoever changes nodes, and neither asks more of the cluster however many look.
#[tokio::test]
async fn two_gateways_serve_the_same_and_see_what_others_change() {
    let simulator = simulator(30).await;
    let (one, _home) = gateway(&simulator).await;
    let (two, _other_home) = gateway(&simulator).await;
    let mut streams = [follow(&one, "").await, follow(&two, "").await];
    for stream in &mut streams {
        assert_eq!(snapshot(stream).await, simulator.node_names());
    }
    simulator.merge_patch("node-020", &cordon("disk")).unwrap();
    for stream in &mut streams {
        let told = event(stream, "updated").await;
        assert_eq!(
            (&told["node"]["name"], &told["node"]["cordon_reason"]),
            (&json!("node-020"), &json!("disk"))
        );
        assert_eq!(told["changed"], json!(["unschedulable", "cordon"]));
    }
    let before = simulator.node("node-005").unwrap()["metadata"]["uid"].clone();
    let after = simulator.replace_node("node-005").unwrap()["metadata"]["uid"].clone();
    for stream in &mut streams {
        let gone = event(stream, "deleted").await;
        assert_eq!((&gone["name"], &gone["uid"], &gone["gone"]), (&json!("node-005"), &before, &json!(true)));
        assert_eq!(event(stream, "added").await["node"]["uid"], after);
    }
    let reads = (0..50).flat_map(|_| [&one, &two]).map(|rig| rig.get(NODES, "ada"));
    let reads = futures_util::future::join_all(reads).await;
    assert!(reads.windows(2).all(|pair| pair[0].body["nodes"] == pair[1].body["nodes"]));
    let lists = simulator.requests().into_iter().filter(|request| request.verb == "list").count();
    assert_eq!(lists, 2, "one of each gateway");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_stream_tells_what_begins_and_ceases_to_fit() {
    let simulator = simulator(5).await;
    let (rig, _home) = gateway(&simulator).await;
    simulator.merge_patch("node-002", &cordon("fan")).unwrap();
    let mut stream = follow(&rig, "?status=cordoned").await;
    assert_eq!(snapshot(&mut stream).await, ["node-002"]);
    simulator.merge_patch("node-003", &json!({"metadata": {"labels": {"a": "b"}}})).unwrap();
    simulator.merge_patch("node-004", &cordon("disk")).unwrap();
    assert_eq!(event(&mut stream, "added").await["node"]["name"], "node-004");
    simulator.merge_patch("node-002", &json!({"spec": {"unschedulable": null}})).unwrap();
    let left = event(&mut stream, "deleted").await;
    assert_eq!((&left["name"], &left["gone"]), (&json!("node-002"), &json!(false)));
    simulator.delete_node("node-004");
    assert_eq!(event(&mut stream, "deleted").await["gone"], true);
    rig.stop().await;
}

#[tokio::test]
async fn who_may_follow_and_how_a_stream_ends() {
    let simulator = simulator(2).await;
    let (rig, _home) = gateway_with(&simulator, |parts| parts.limits.sockets_per_user = 2).await;
    let own = format!("http://{}", rig.gateway.address());
    let post = rig.request(Method::POST, "/api/v1/live/tickets", "ada").header("origin", &own);
    let ticket = Answer::of(post).await.text("ticket").to_owned();
    let with_ticket = || rig.http.get(rig.url(&format!("{LIVE}?ticket={ticket}"))).header("origin", &own);
    let mut first = Sse::open(with_ticket()).await;
    snapshot(&mut first).await;
    assert_eq!(Answer::of(with_ticket()).await.status, 401, "a ticket is good once");
    assert_eq!(Answer::of(rig.http.get(rig.url(LIVE))).await.status, 401);
    let foreign = rig.request(Method::GET, LIVE, "ada").header("origin", "https://evil.example.com");
    assert_eq!(Answer::of(foreign).await.status, 403);
    let viewer = rig.http.get(rig.url(LIVE)).bearer_auth(rig.token("vic", Role::Viewer));
    snapshot(&mut Sse::open(viewer).await).await;
    let mut second = follow(&rig, "").await;
    snapshot(&mut second).await;
    assert_eq!(rig.get(LIVE, "ada").await.status, 429, "two are open");
    drop(first);
    until("the place is free again", async || {
        simulator.merge_patch("node-001", &json!({"metadata": {"labels": {"x": "y"}}})).unwrap();
        let response = rig.request(Method::GET, LIVE, "ada").send().await.unwrap();
        response.status() == 200
    })
    .await;
    let stopping = tokio::spawn(rig.stop());
    loop {
        let (_, kind, data) = second.next().await.expect("a goodbye");
        if kind == "close" {
            assert_eq!((&data["code"], &data["reconnect"]), (&json!(1012), &json!(true)), "{data}");
            break;
        }
    }
    assert!(second.next().await.is_none());
    stopping.await.unwrap();
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_to_begin_anew_and_ends_up_right() {
    let simulator = simulator(3).await;
    let (rig, _home) = gateway(&simulator).await;
    let mut stream = follow(&rig, "").await;
    snapshot(&mut stream).await;
    let mut node = simulator.node("node-001").unwrap();
    for n in 0..4_000_u32 {
        let labels: serde_json::Map<String, Value> =
            (0..120).map(|key| (format!("key-{key}"), json!(format!("{n:0>60}")))).collect();
        node = simulator.merge_patch("node-001", &json!({"metadata": {"labels": labels}})).unwrap();
        if n % 50 == 0 {
            // So that the gateway is not behind the cluster itself.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut reset = false;
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        assert!(tokio::time::Instant::now() < end, "the newest state does not come (reset: {reset})");
        let (_, kind, data) = stream.next().await.expect("the stream goes on");
        reset |= kind == "reset";
        let newest = |told: &Value| told["labels"] == node["metadata"]["labels"];
        if newest(&data["node"]) || data["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(newest)) {
            break;
        }
    }
    assert!(reset, "all of it fitted into the buffers");
    assert!(rig.metrics.slow_sockets.get() > 0);
    rig.stop().await;
}

#[tokio::test]
async fn an_outage_of_the_cluster_is_told_and_so_is_its_end() {
    let simulator = simulator(2).await;
    let (rig, _home) = gateway(&simulator).await;
    let mut stream = follow(&rig, "").await;
    snapshot(&mut stream).await;
    simulator.set_rules(vec![Rule::on("watch", Fault::Reset), Rule::on("list", Fault::Reset)]);
    simulator.forget_changes();
    simulator.merge_patch("node-001", &cordon("x")).unwrap();
    loop {
        // The watch that was open may still have told the change.
        let (_, kind, data) = stream.next().await.unwrap();
        if kind == "freshness" {
            assert_eq!(data["stale"], true, "{data}");
            assert!(data["cause"].is_string() && data["silent_ms"].as_u64() >= Some(5_000), "{data}");
            break;
        }
    }
    let list = rig.get(NODES, "ada").await;
    assert_eq!((list.status, &list.body["freshness"]["stale"]), (200, &json!(true)));
    assert!(list.header("age").unwrap().parse::<u64>().unwrap() >= 5, "{list:?}");
    simulator.set_rules(Vec::new());
    loop {
        let (_, kind, data) = stream.next().await.unwrap();
        if kind == "freshness" {
            assert_eq!(data["stale"], false, "{data}");
            break;
        }
    }
    rig.stop().await;
}
