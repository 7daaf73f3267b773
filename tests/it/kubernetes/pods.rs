//! Pods and evictions in the simulator, as the Rust client library finds them: lists, watches, deletes, and every answer
//! to an eviction.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use milepost::clock::SystemClock;
use milepost::simulator::{Behaviour, Denied, PodChange, Simulator, SimulatorConfig};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// A small cluster with no pods of its own, in which nothing happens by itself while a test looks.
async fn empty() -> Simulator {
    let never = Duration::from_secs(3_600);
    let behaviour = Behaviour { ends_within: never, ready_after: never, ..Behaviour::default() };
    with(SimulatorConfig { nodes: 4, behaviour, ..SimulatorConfig::default() }).await
}

async fn with(config: SimulatorConfig) -> Simulator {
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

/// A client that tries nothing twice by itself.
async fn client(simulator: &Simulator) -> kube::Client {
    let kubeconfig = Kubeconfig::from_yaml(&simulator.kubeconfig_yaml()).unwrap();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

fn web(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}}, "spec": {"nodeName": node}})
}

fn budget(name: &str, spec: &Value) -> Value {
    let mut budget = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    budget["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    budget
}

/// Asks for an eviction; the answer is the refusal, if there is one.
async fn evict(simulator: &Simulator, name: &str, options: &Value) -> Result<(), Box<kube::core::Status>> {
    let pods: Api<Pod> = Api::namespaced(client(simulator).await, "shop");
    let body = json!({"kind": "Eviction", "apiVersion": "policy/v1",
        "metadata": {"name": name, "namespace": "shop"}, "deleteOptions": options});
    let body: Eviction = serde_json::from_value(body).unwrap();
    let answer: Result<kube::core::Status, _> =
        pods.create_subresource("eviction", name, &PostParams::default(), &body).await;
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status),
        Err(error) => panic!("{error}"),
    }
}

/// Code, reason and first cause of a refusal.
fn gist(refused: Result<(), Box<kube::core::Status>>) -> (u16, String, String) {
    let status = refused.unwrap_err();
    let causes = status.details.map(|details| details.causes).unwrap_or_default();
    let cause =
        causes.first().map(|cause| format!("{}: {}", cause.reason, cause.message)).unwrap_or_default();
    (status.code, status.reason, cause)
}

fn deletion(simulator: &Simulator, name: &str) -> Option<Value> {
    simulator.pod("shop", name).map(|pod| pod["metadata"]["deletionTimestamp"].clone())
}

#[tokio::test]
async fn a_node_knows_its_pods_in_pages_and_by_selector() {
    let simulator =
        with(SimulatorConfig { nodes: 20, pods_per_node: 10, ..SimulatorConfig::default() }).await;
    let pods: Api<Pod> = Api::all(client(&simulator).await);
    let on = ListParams::default().fields("spec.nodeName=node-010");
    let all = pods.list(&on).await.unwrap();
    assert_eq!(all.items.len(), 10);
    let first = pods.list(&on.clone().limit(4)).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = pods.list(&on.clone().limit(40).continue_token(&token)).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len(), rest.metadata.continue_), (4, 6, None));
    let agents = pods.list(&on.labels("app=node-agent")).await.unwrap();
    assert_eq!(agents.items.len(), 1);
    let system: Api<Pod> = Api::namespaced(client(&simulator).await, "kube-system");
    let system = system.list(&ListParams::default()).await.unwrap();
    assert_eq!(system.items.len(), 20 + 6, "an agent everywhere, mirrors on the control plane");
    let whole = pods.list(&ListParams::default()).await.unwrap();
    assert_eq!(whole.items.len(), simulator.pods_on("").len());
}

#[tokio::test]
async fn a_watch_of_one_node_sees_its_pods_come_and_end() {
    let simulator = empty().await;
    simulator.add_pod(&web("a", "node-001")).unwrap();
    let pods: Api<Pod> = Api::all(client(&simulator).await);
    let list = pods.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let watching = WatchParams::default().fields("spec.nodeName=node-001");
    let mut events = pods.watch(&watching, &version).await.unwrap().boxed();
    simulator.add_pod(&web("elsewhere", "node-002")).unwrap();
    simulator.add_pod(&web("b", "node-001")).unwrap();
    evict(&simulator, "a", &Value::Null).await.unwrap();
    simulator.kill_pod("shop", "a");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let event = tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
        seen.push(match event {
            WatchEvent::Added(pod) => format!("added {}", pod.metadata.name.unwrap()),
            WatchEvent::Modified(pod) => format!("modified {}", pod.metadata.name.unwrap()),
            WatchEvent::Deleted(pod) => format!("deleted {}", pod.metadata.name.unwrap()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["added b", "modified a", "deleted a"]);
    simulator.forget_changes();
    let mut late = pods.watch(&watching, &version).await.unwrap().boxed();
    let told = tokio::time::timeout(LIMIT, late.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&told, WatchEvent::Error(status) if status.code == 410), "{told:?}");
}

#[tokio::test]
async fn deletes_keep_grace_and_preconditions() {
    let simulator = empty().await;
    let uid = simulator.add_pod(&web("a", "node-001")).unwrap()["metadata"]["uid"].clone();
    let pods: Api<Pod> = Api::namespaced(client(&simulator).await, "shop");
    let other = DeleteParams::default()
        .preconditions(kube::api::Preconditions { uid: Some("other".into()), resource_version: None });
    let kube::Error::Api(refused) = pods.delete("a", &other).await.unwrap_err() else {
        panic!("not refused")
    };
    assert!(refused.code == 409 && refused.message.contains("UID in the precondition"), "{refused:?}");
    pods.delete("a", &DeleteParams::default().dry_run()).await.unwrap();
    assert_eq!(deletion(&simulator, "a"), Some(Value::Null));
    pods.delete("a", &DeleteParams::default().grace_period(7)).await.unwrap();
    let ending = simulator.pod("shop", "a").unwrap();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 7);
    assert_eq!(ending["metadata"]["uid"], uid);
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(deletion(&simulator, "a"), None);
}

#[tokio::test]
async fn what_does_not_serve_goes_without_asking_a_budget() {
    let simulator = empty().await;
    simulator.add("poddisruptionbudgets", &budget("none", &json!({"maxUnavailable": 0}))).unwrap();
    for (name, status) in [("done", "Succeeded"), ("dead", "Failed"), ("new", "Pending")] {
        let mut pod = web(name, "node-001");
        pod["status"]["phase"] = status.into();
        simulator.add_pod(&pod).unwrap();
        evict(&simulator, name, &Value::Null).await.unwrap();
    }
    assert_eq!((deletion(&simulator, "done"), deletion(&simulator, "dead")), (None, None));
    let mut ending = web("ending", "node-001");
    ending["metadata"]["finalizers"] = json!(["hold/it"]);
    simulator.add_pod(&ending).unwrap();
    assert_eq!(evict(&simulator, "ending", &Value::Null).await.unwrap_err().code, 429);
    let pods: Api<Pod> = Api::namespaced(client(&simulator).await, "shop");
    pods.delete("ending", &DeleteParams::default()).await.unwrap();
    evict(&simulator, "ending", &Value::Null).await.expect("it ends already");
}

#[tokio::test]
async fn a_budget_is_spent_and_then_refuses_with_its_sentence() {
    let simulator = empty().await;
    for name in ["a", "b", "c"] {
        simulator.add_pod(&web(name, "node-001")).unwrap();
    }
    simulator.add("poddisruptionbudgets", &budget("two", &json!({"minAvailable": 2}))).unwrap();
    evict(&simulator, "a", &json!({"dryRun": ["All"]})).await.unwrap();
    assert_eq!(deletion(&simulator, "a"), Some(Value::Null), "a rehearsal spends nothing");
    evict(&simulator, "a", &Value::Null).await.unwrap();
    let refused = gist(evict(&simulator, "b", &Value::Null).await);
    let sentence = "DisruptionBudget: The disruption budget two needs 2 healthy pods and has ";
    assert!(
        refused.0 == 429 && refused.1 == "TooManyRequests" && refused.2.starts_with(sentence),
        "{refused:?}"
    );
    assert_eq!(evict(&simulator, "b", &json!({"dryRun": ["All"]})).await.unwrap_err().code, 429);
    let evicted = simulator.pod_events().into_iter().filter(|event| event.change == PodChange::Evicted);
    assert_eq!(evicted.map(|event| event.pod).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn budgets_refuse_in_all_the_ways_they_have() {
    let simulator = empty().await;
    simulator.add_pod(&web("a", "node-001")).unwrap();
    simulator.add("poddisruptionbudgets", &budget("one", &json!({"maxUnavailable": 1}))).unwrap();
    assert!(simulator.hold_budget("shop", "one", &json!({"disruptionsAllowed": -1})));
    assert_eq!(gist(evict(&simulator, "a", &Value::Null).await).0, 403);
    assert!(simulator.hold_budget("shop", "one", &json!({"disruptionsAllowed": 1})));
    assert!(simulator.patch_budget("shop", "one", &json!({"spec": {"maxUnavailable": 2}})));
    let behind = evict(&simulator, "a", &Value::Null).await.unwrap_err();
    assert_eq!((behind.code, behind.details.unwrap().retry_after_seconds), (429, 10));
    simulator.add("poddisruptionbudgets", &budget("another", &json!({"maxUnavailable": 1}))).unwrap();
    let several = evict(&simulator, "a", &Value::Null).await.unwrap_err();
    assert_eq!(several.code, 500);
    assert!(several.message.starts_with("This pod has more than one PodDisruptionBudget"), "{several:?}");
    let budgets: Api<PodDisruptionBudget> = Api::all(client(&simulator).await);
    assert_eq!(budgets.list(&ListParams::default()).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn unready_pods_go_when_the_policy_or_the_rest_allows() {
    let simulator = empty().await;
    let mut sick = web("sick", "node-001");
    sick["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
    simulator.add_pod(&sick).unwrap();
    simulator.add_pod(&web("well", "node-001")).unwrap();
    simulator.add("poddisruptionbudgets", &budget("two", &json!({"minAvailable": 2}))).unwrap();
    assert_eq!(evict(&simulator, "sick", &Value::Null).await.unwrap_err().code, 429, "too few are healthy");
    assert!(simulator.patch_budget(
        "shop",
        "two",
        &json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})
    ));
    assert_eq!(evict(&simulator, "well", &Value::Null).await.unwrap_err().code, 429);
    evict(&simulator, "sick", &Value::Null).await.unwrap();
}

#[tokio::test]
async fn the_wrong_pod_the_wrong_name_and_a_dying_namespace_are_told_apart() {
    let simulator = empty().await;
    simulator.add_pod(&web("a", "node-001")).unwrap();
    let other = json!({"preconditions": {"uid": "other"}});
    assert_eq!(gist(evict(&simulator, "a", &other).await).0, 409);
    assert_eq!(gist(evict(&simulator, "b", &Value::Null).await).0, 404);
    assert!(simulator.terminate_namespace("shop"));
    let refused = gist(evict(&simulator, "a", &Value::Null).await);
    assert_eq!(
        refused,
        (403, "Forbidden".into(), "NamespaceTerminating: namespace shop is being terminated".into())
    );
    assert_eq!(deletion(&simulator, "a"), Some(Value::Null));
}

#[tokio::test]
async fn missing_rights_are_refused_and_told_before() {
    let simulator = empty().await;
    simulator.add_pod(&web("a", "node-001")).unwrap();
    simulator.deny(vec![Denied::new("create", "pods/eviction")]);
    let refused = evict(&simulator, "a", &Value::Null).await.unwrap_err();
    assert_eq!(refused.code, 403);
    let sentence = "cannot create resource \"pods/eviction\" in API group \"\" in the namespace \"shop\"";
    assert!(refused.message.contains(sentence), "{}", refused.message);
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client(&simulator).await);
    let ask = |verb: &str| {
        let review = json!({"metadata": {}, "spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "subresource": "eviction"}}});
        serde_json::from_value::<SelfSubjectAccessReview>(review).unwrap()
    };
    for (verb, allowed) in [("create", false), ("get", true)] {
        let answer = reviews.create(&PostParams::default(), &ask(verb)).await.unwrap();
        assert_eq!(answer.status.unwrap().allowed, allowed, "{verb}");
    }
}
