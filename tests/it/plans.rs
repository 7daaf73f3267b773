//! Plans through the API: made, demanded at a submit, refused when the cluster is another one by then.

use std::sync::Arc;

use async_trait::async_trait;
use milepost::action::{
    ClusterError, Clusters, Freshness, KubeClusters, NodeChanges, NodeDetail, NodePods, NodeViews, Nodes,
    Planner, Registry,
};
use milepost::clock::SystemClock;
use milepost::config::{ActionsConfig, ClusterConfig};
use milepost::gateway::auth::Role;
use milepost::simulator::{Simulator, SimulatorConfig};
use milepost::task::plan::Survey;
use milepost::task::{ActionSpec, ClusterName, Fault, TaskSpec, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::gateway_rig::{Answer, Rig};

/// A gateway whose cluster `prod` is a simulator.
struct World {
    rig: Rig,
    simulator: Option<Simulator>,
    _home: TempDir,
}

impl World {
    async fn start() -> Self {
        let config = SimulatorConfig { nodes: 8, pods_per_node: 4, ..SimulatorConfig::default() };
        let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
        let home = TempDir::new().unwrap();
        let kubeconfig = home.path().join("kubeconfig");
        std::fs::write(&kubeconfig, simulator.kubeconfig_yaml()).unwrap();
        let config =
            ClusterConfig { name: "prod".into(), kubeconfig: Some(kubeconfig), ..ClusterConfig::default() };
        let clusters = KubeClusters::new(&[config], &ActionsConfig::default()).unwrap();
        let registry = Arc::new(Registry::new(clusters, true, Arc::new(SystemClock)));
        let rig = Rig::with(|parts| parts.clusters = registry).await;
        Self { rig, simulator: Some(simulator), _home: home }
    }

    fn simulator(&self) -> &Simulator {
        self.simulator.as_ref().unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        post(&self.rig, path, body).await
    }

    async fn plan(&self, body: &Value) -> Value {
        let answer = self.post("/api/v1/plans", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    async fn tasks(&self) -> usize {
        let list = self.rig.request(reqwest::Method::GET, "/api/v1/tasks", "ada");
        Answer::of(list).await.body["tasks"].as_array().unwrap().len()
    }
}

async fn post(rig: &Rig, path: &str, body: &Value) -> Answer {
    Answer::of(rig.request(reqwest::Method::POST, path, "ada").json(body)).await
}

fn label(nodes: &[&str]) -> Value {
    json!({"action": "label", "cluster": "prod", "items": nodes, "parameters": {"labels": {"tier": "gold"}}})
}

fn demanding(body: &Value, hash: &Value) -> Value {
    let mut body = body.clone();
    body["plan_hash"] = hash.clone();
    body
}

#[tokio::test]
async fn a_plan_says_what_a_submit_would_do_and_does_nothing() {
    let world = World::start().await;
    let plan = world.plan(&label(&["node-001", "node-404"])).await;
    assert_eq!(plan["summary"]["change"], 1);
    assert_eq!(plan["nodes"][0]["changes"], json!([{"field": "label", "key": "tier", "after": "gold"}]));
    assert_eq!(plan["nodes"][1]["outcome"], "missing");
    assert_eq!(plan["estimate"]["basis"], "guess");
    assert!(plan["estimate"]["says"].as_str().unwrap().starts_with("a guess of"));
    let drain = json!({"action": "drain", "cluster": "prod", "items": ["node-005"],
        "parameters": {"ignore_daemonsets": true, "delete_emptydir_data": true, "force": true}});
    let plan = world.plan(&drain).await;
    assert!(plan["summary"]["evictions"].as_u64() > Some(0), "{plan}");
    assert_eq!(world.tasks().await, 0);
}

#[tokio::test]
async fn a_submit_with_the_hash_of_its_plan_is_taken_by_every_route() {
    let world = World::start().await;
    let hash = world.plan(&label(&["node-001"])).await["hash"].clone();
    let answer = world.post("/api/v1/tasks", &demanding(&label(&["node-001"]), &hash)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let batch = json!({"cluster_name": "prod", "node_names": ["node-001"], "labels": {"tier": "gold"}, "plan_hash": hash});
    assert_eq!(world.post("/api/v1/nodes/batch/label", &batch).await.status, 202);
}

#[tokio::test]
async fn a_submit_whose_plan_is_another_one_is_refused_with_what_differs() {
    let world = World::start().await;
    let body = label(&["node-001", "node-002", "node-003"]);
    let plan = world.plan(&body).await;
    world.simulator().replace_node("node-002").unwrap();
    let taken = json!({"metadata": {"labels": {"tier": "silver"}}});
    world.simulator().merge_patch("node-003", &taken).unwrap();
    let answer = world.post("/api/v1/tasks", &demanding(&body, &plan["hash"])).await;
    assert_eq!((answer.status, answer.text("type")), (409, "urn:milepost:problem:plan-changed"));
    assert_eq!(answer.text("detail"), "the plan is not what it was: something else would be done to 2 nodes");
    let differences = &answer.body["plan"]["differences"]["nodes"];
    assert_eq!(differences[0]["name"], "node-002");
    assert_eq!(differences[0]["now"], "another node of this name: add label tier=gold");
    let planned = &differences[1]["planned"];
    assert_eq!((differences[1]["name"].as_str(), planned), (Some("node-003"), &json!("add label tier=gold")));
    assert!(differences[1]["now"].as_str().unwrap().contains("set overwrite"), "{differences}");
    assert_eq!(world.tasks().await, 0);
    // The plan of now is accepted.
    let anew = world.plan(&body).await["hash"].clone();
    assert_eq!(answer.body["plan"]["hash"], anew);
    assert_eq!(world.post("/api/v1/tasks", &demanding(&body, &anew)).await.status, 202);
}

#[tokio::test]
async fn a_plan_that_this_gateway_does_not_know_is_refused_without_differences() {
    let world = World::start().await;
    let foreign = json!("0".repeat(64));
    let answer = world.post("/api/v1/tasks", &demanding(&label(&["node-001"]), &foreign)).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.body["plan"]["differences"], Value::Null);
    assert!(answer.text("detail").contains("does not know"), "{answer:?}");
    let no_hash = world.post("/api/v1/tasks", &demanding(&label(&["node-001"]), &json!("x"))).await;
    assert_eq!((no_hash.status, no_hash.fields()), (422, vec!["plan_hash"]));
    let other = world.plan(&label(&["node-001"])).await;
    let answer = world.post("/api/v1/tasks", &demanding(&label(&["node-002"]), &other["hash"])).await;
    assert!(answer.text("detail").contains("another request"), "{answer:?}");
}

#[tokio::test]
async fn a_repeat_finds_its_task_although_the_plan_is_done_by_then() {
    let world = World::start().await;
    let body = label(&["node-001"]);
    let hash = world.plan(&body).await["hash"].clone();
    let submit = || {
        let request = world.rig.request(reqwest::Method::POST, "/api/v1/tasks", "ada");
        Answer::of(request.header("idempotency-key", "k1").json(&demanding(&body, &hash)))
    };
    let first = submit().await;
    assert_eq!(first.status, 202);
    let done = json!({"metadata": {"labels": {"tier": "gold"}}});
    world.simulator().merge_patch("node-001", &done).unwrap();
    let second = submit().await;
    assert_eq!((second.status, second.text("task_id")), (200, first.text("task_id")));
}

#[tokio::test]
async fn a_cluster_that_is_away_has_no_plan_and_still_takes_tasks() {
    let mut world = World::start().await;
    let body = label(&["node-001"]);
    let hash = world.plan(&body).await["hash"].clone();
    world.simulator = None;
    let answer = world.post("/api/v1/plans", &body).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(world.post("/api/v1/tasks", &demanding(&body, &hash)).await.status, 503);
    assert_eq!(world.post("/api/v1/tasks", &body).await.status, 202, "what demands no plan asks no cluster");
}

#[tokio::test]
async fn keys_of_others_are_refused_at_submit_with_their_field() {
    let world = World::start().await;
    let mut body = label(&["node-001"]);
    body["parameters"] = json!({"labels": {"kubernetes.io/hostname": "x", "tier": "gold"}});
    for path in ["/api/v1/tasks", "/api/v1/plans"] {
        let answer = world.post(path, &body).await;
        assert_eq!((answer.status, answer.fields()), (422, vec!["parameters.labels.kubernetes.io/hostname"]));
    }
    let batch = json!({"cluster_name": "prod", "node_names": ["node-001"],
        "taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]});
    for path in ["/api/v1/nodes/batch/taint", "/api/v1/nodes/batch/untaint"] {
        assert_eq!(world.post(path, &batch).await.fields(), ["taints[0].key"]);
    }
    assert_eq!(world.tasks().await, 0);
}

#[tokio::test]
async fn plans_are_for_those_who_may_submit_and_bounded() {
    let world = World::start().await;
    let viewer = world.rig.http.post(world.rig.url("/api/v1/plans"));
    let viewer = viewer.bearer_auth(world.rig.token("bob", Role::Viewer)).json(&label(&["node-001"]));
    assert_eq!(Answer::of(viewer).await.status, 403);
    let names: Vec<String> = (0..=5_000).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let answer = world.post("/api/v1/plans", &label(&names)).await;
    assert_eq!((answer.status, answer.fields()), (422, vec!["items"]));
    let unknown = json!({"action": "cordon", "cluster": "other", "items": ["a"]});
    assert_eq!(world.post("/api/v1/plans", &unknown).await.fields(), ["cluster"]);
}

/// A cluster whose answers wait until they are let go.
struct Slow(Arc<Semaphore>, Arc<Semaphore>);

#[async_trait]
impl Clusters for Slow {
    fn names(&self) -> Vec<ClusterName> {
        vec![ClusterName::new("prod").unwrap()]
    }

    async fn nodes(&self, _: &ClusterName) -> Result<Nodes, ClusterError> {
        Ok(Nodes::default())
    }

    async fn nodes_now(&self, _: &ClusterName) -> Result<Nodes, ClusterError> {
        Ok(Nodes::default())
    }
}

#[async_trait]
impl NodeViews for Slow {
    fn freshness(&self, _: &ClusterName) -> Option<Freshness> {
        None
    }

    async fn node(&self, _: &ClusterName, _: &str) -> Result<Option<NodeDetail>, ClusterError> {
        Ok(None)
    }

    async fn pods_on(&self, _: &ClusterName, _: &str) -> Result<NodePods, ClusterError> {
        Ok(NodePods::default())
    }

    async fn follow(&self, _: &ClusterName) -> Result<(Nodes, NodeChanges), ClusterError> {
        Ok((Nodes::default(), NodeChanges::never()))
    }
}

#[async_trait]
impl Planner for Slow {
    fn faults(&self, _: &ActionSpec) -> Vec<Fault> {
        Vec::new()
    }

    async fn survey(&self, _: &TaskSpec, _: &UserId) -> Result<Survey, ClusterError> {
        self.0.add_permits(1);
        self.1.acquire().await.unwrap().forget();
        Ok(Survey::default())
    }
}

#[tokio::test]
async fn a_gateway_that_makes_enough_plans_turns_others_away_at_once() {
    const AT_ONCE: u32 = 4;
    let (entered, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let clusters = Arc::new(Slow(Arc::clone(&entered), Arc::clone(&go)));
    let rig = Arc::new(Rig::with(|parts| parts.clusters = clusters).await);
    let one = |rig: Arc<Rig>| async move { post(&rig, "/api/v1/plans", &label(&["node-001"])).await };
    let under_way: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(one(Arc::clone(&rig)))).collect();
    entered.acquire_many(AT_ONCE).await.unwrap().forget();
    let turned_away = one(Arc::clone(&rig)).await;
    assert_eq!(turned_away.status, 503, "{turned_away:?}");
    assert!(turned_away.header("retry-after").is_some());
    go.add_permits(100);
    for plan in under_way {
        assert_eq!(plan.await.unwrap().status, 200);
    }
    assert_eq!(one(rig).await.status, 200);
}
