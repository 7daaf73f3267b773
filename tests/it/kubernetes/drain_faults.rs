//! Drains through what goes wrong: budgets that free late, busy and absent clusters, watches that are lost, nodes that are
//! replaced, workers that die between an eviction and its record, and users who change their minds.

use std::sync::Arc;
use std::time::Duration;

use milepost::action::{ActionError, Actions, Context, Done, Target};
use milepost::clock::SystemClock;
use milepost::simulator::{
    Behaviour, Denied, Fault, LoggedRequest, PodChange, Rule, Simulator, SimulatorConfig,
};
use milepost::task::{Effect, ItemName, Step};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::kubectl::Kubectl;
use super::{CHANGED, Hub, task};
use crate::support::until;

const NODE: &str = "node-006";

async fn cluster(pods: &[Value]) -> Simulator {
    let ms = Duration::from_millis;
    let behaviour =
        Behaviour { ends_within: ms(100), ready_after: ms(100), budget_lag: ms(10), ..Behaviour::default() };
    let config = SimulatorConfig { nodes: 8, behaviour, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    pods.iter().for_each(|pod| drop(simulator.add_pod(pod).unwrap()));
    simulator
}

fn web(name: &str) -> Value {
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "o", "controller": true}]);
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": owner},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}})
}

fn keep_one() -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}})
}

fn times_evicted(simulator: &Simulator) -> Vec<String> {
    let events = simulator.pod_events().into_iter().filter(|event| event.change == PodChange::Evicted);
    let mut names: Vec<_> = events.map(|event| event.pod).collect();
    names.sort();
    names
}

fn evictions(simulator: &Simulator) -> usize {
    simulator.requests().iter().filter(|request| request.path.ends_with("/eviction")).count()
}

fn is_refused(simulator: &Simulator) -> bool {
    let requests = simulator.requests();
    requests.iter().any(|request| request.path.ends_with("/eviction") && request.status == Some(429))
}

/// A drain in a task of its own that can be told to stop, and that tells its steps.
struct Running {
    stopping: CancellationToken,
    steps: tokio::sync::mpsc::Receiver<Step>,
    ended: tokio::task::JoinHandle<Result<Done, ActionError>>,
}

async fn start(hub: &Hub, parameters: Value) -> Running {
    let action = hub.prepare("drain", parameters).await.unwrap();
    let stopping = CancellationToken::new();
    let (tell, steps) = tokio::sync::mpsc::channel(1_000);
    let context = Context::new(stopping.clone(), None, Arc::new(move |step| drop(tell.try_send(step))));
    let name = ItemName::new(NODE).unwrap();
    let ended = tokio::spawn(async move { action.run(Target { index: 0, name: &name }, &context).await });
    Running { stopping, steps, ended }
}

#[tokio::test]
async fn a_budget_that_frees_is_waited_for_and_watchers_see_which_it_is() {
    let simulator = cluster(&[web("a")]).await;
    simulator.add("poddisruptionbudgets", &keep_one()).unwrap();
    let hub = Hub::new(&simulator);
    let mut running = start(&hub, json!({})).await;
    let blocked = async {
        while let Some(step) = running.steps.recv().await {
            if let Some(obstacle) = step.obstacles.first() {
                return obstacle.clone();
            }
        }
        panic!("the drain ended unblocked")
    };
    let obstacle = tokio::time::timeout(Duration::from_secs(30), blocked).await.unwrap();
    assert_eq!((obstacle.by.as_str(), obstacle.pod.as_str(), obstacle.pods), ("budget web", "shop/a", 1));
    assert!(obstacle.why.contains("needs 1 healthy pods and has 1 currently"), "{}", obstacle.why);
    assert!(simulator.patch_budget("shop", "web", &json!({"spec": {"minAvailable": 0}})));
    assert_eq!(running.ended.await.unwrap(), CHANGED);
    assert_eq!(times_evicted(&simulator), ["a"]);
}

#[tokio::test]
async fn a_budget_that_does_not_free_is_named_with_what_it_needs_and_has() {
    let simulator = cluster(&[web("a")]).await;
    simulator.add("poddisruptionbudgets", &keep_one()).unwrap();
    let result = Hub::new(&simulator).run("drain", json!({"timeout_seconds": 2}), NODE).await;
    let error = result.unwrap_err().to_string();
    assert!(
        error.starts_with("not drained within 2 s: 1 of 1 pods left: shop/a: kept by budget web for"),
        "{error}"
    );
    assert!(error.contains("needs 1 healthy pods and has 1 currently"), "{error}");
}

#[tokio::test]
async fn a_pod_that_a_finalizer_holds_is_named_with_it() {
    let mut pod = web("a");
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let simulator = cluster(&[pod]).await;
    let result = Hub::new(&simulator).run("drain", json!({"timeout_seconds": 2}), NODE).await;
    let error = result.unwrap_err().to_string();
    let said = "1 of 1 pods left: shop/a: is terminating and held by its finalizers example.com/hold";
    assert!(error.ends_with(said), "{error}");
    assert_eq!(times_evicted(&simulator), ["a"], "asked once, then waited for");
}

#[tokio::test]
async fn after_the_order_to_stop_nothing_is_sent_any_more() {
    let simulator = cluster(&[web("a"), web("b"), web("c")]).await;
    let keep_all = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}});
    simulator.add("poddisruptionbudgets", &keep_all).unwrap();
    let running = start(&Hub::new(&simulator), json!({})).await;
    until("an eviction is refused", async || is_refused(&simulator)).await;
    running.stopping.cancel();
    let Err(ActionError::Stopped { message }) = running.ended.await.unwrap() else { panic!("not stopped") };
    assert!(message.starts_with("stopped with the node cordoned and 3 of 3 pods left"), "{message}");
    let sent = evictions(&simulator);
    assert!(simulator.patch_budget("shop", "web", &json!({"spec": {"minAvailable": 0}})));
    // Longer than the longest wait between two evictions of one pod so far.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((evictions(&simulator), times_evicted(&simulator)), (sent, Vec::new()));
}

#[tokio::test]
async fn a_drain_that_is_dropped_sends_nothing_more_and_the_next_run_does_the_rest_once() {
    let simulator = cluster(&[web("a"), web("b")]).await;
    simulator.add("poddisruptionbudgets", &keep_one()).unwrap();
    let hub = Hub::new(&simulator);
    let running = start(&hub, json!({})).await;
    until("one is evicted and the other refused", async || {
        times_evicted(&simulator).len() == 1 && is_refused(&simulator)
    })
    .await;
    running.ended.abort();
    assert!(running.ended.await.unwrap_err().is_cancelled());
    assert!(simulator.patch_budget("shop", "web", &json!({"spec": {"minAvailable": 0}})));
    assert_eq!(hub.run("drain", json!({}), NODE).await, CHANGED);
    assert_eq!(times_evicted(&simulator), ["a", "b"], "each once");
    let again = hub.run("drain", json!({}), NODE).await;
    assert_eq!(again, Ok(Done::Succeeded(Effect::Already)));
}

#[tokio::test]
async fn what_terminates_already_is_waited_for_and_not_evicted_again() {
    let mut pod = web("a");
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let simulator = cluster(&[pod]).await;
    simulator.kill_pod("shop", "a");
    let running = start(&Hub::new(&simulator), json!({})).await;
    until("its pods are watched", async || {
        simulator.requests().iter().any(|request| request.verb == "watch" && request.path == "/api/v1/pods")
    })
    .await;
    assert!(!running.ended.is_finished());
    simulator.patch_pod("shop", "a", &json!({"metadata": {"finalizers": null}})).unwrap();
    assert_eq!(running.ended.await.unwrap(), CHANGED);
    assert_eq!(evictions(&simulator), 0);
}

#[tokio::test]
async fn a_cluster_that_is_busy_broken_or_away_for_a_while_is_outlasted() {
    let faults = [
        Fault::Throttle { retry_after_secs: 1 },
        Fault::Status(503),
        Fault::Status(500),
        Fault::Reset,
        Fault::ResetAfter,
        Fault::BreakOff,
    ];
    for fault in faults {
        let simulator = cluster(&[web("a"), web("b")]).await;
        let mut rule = Rule::on("create", fault.clone()).path("/api/v1/namespaces/shop/pods/*/eviction");
        rule.times = Some(3);
        simulator.set_rules(vec![rule]);
        let result = Hub::new(&simulator).run("drain", json!({"timeout_seconds": 60}), NODE).await;
        assert_eq!(result, CHANGED, "{fault:?}");
        assert_eq!(times_evicted(&simulator), ["a", "b"], "{fault:?}: each once");
    }
}

#[tokio::test]
async fn a_watch_that_is_lost_forgotten_or_refused_costs_time_alone() {
    let cut = Fault::Cut { after: Duration::from_millis(20) };
    for fault in [cut, Fault::Status(410), Fault::Status(500), Fault::Reset] {
        let simulator = cluster(&[web("a")]).await;
        simulator.set_rules(vec![Rule::on("watch", fault.clone())]);
        let result = Hub::new(&simulator).run("drain", json!({"timeout_seconds": 60}), NODE).await;
        assert_eq!(result, CHANGED, "{fault:?}");
    }
}

#[tokio::test]
async fn another_node_under_the_name_is_left_alone() {
    let mut pod = web("a");
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let simulator = cluster(&[pod]).await;
    let running = start(&Hub::new(&simulator), json!({})).await;
    until("it is evicted", async || times_evicted(&simulator).len() == 1).await;
    simulator.replace_node(NODE).unwrap();
    simulator.patch_pod("shop", "a", &json!({"metadata": {"finalizers": null}}));
    let result = running.ended.await.unwrap();
    let why = "the node was replaced or removed while it was drained";
    assert_eq!(result, Ok(Done::Skipped(why.into())));
    assert_ne!(simulator.node(NODE).unwrap()["spec"]["unschedulable"], true, "the new one is not cordoned");
}

#[tokio::test]
async fn other_writers_of_the_node_do_not_keep_it_from_being_cordoned() {
    let simulator = cluster(&[web("a")]).await;
    let mut rule = Rule::on("patch", Fault::Contend).path(format!("/api/v1/nodes/{NODE}"));
    rule.times = Some(3);
    simulator.set_rules(vec![rule]);
    assert_eq!(Hub::new(&simulator).run("drain", json!({}), NODE).await, CHANGED);
    let mut annotations = simulator.node(NODE).unwrap()["metadata"]["annotations"].take();
    let told = annotations.as_object_mut().unwrap();
    assert_eq!(told["milepost.dev/cordon-reason"], "disk");
    assert_eq!(simulator.node(NODE).unwrap()["spec"]["unschedulable"], true);
}

#[tokio::test]
async fn a_pod_that_goes_critical_last() {
    let mut critical = web("critical");
    critical["spec"]["priorityClassName"] = "system-cluster-critical".into();
    let simulator = cluster(&[critical, web("a"), web("b")]).await;
    assert_eq!(Hub::new(&simulator).run("drain", json!({}), NODE).await, CHANGED);
    let events = simulator.pod_events();
    let at = |pod: &str, change| events.iter().find(|e| e.pod == pod && e.change == change).unwrap().at;
    let last = at("a", PodChange::Gone).max(at("b", PodChange::Gone));
    assert!(at("critical", PodChange::Evicted) >= last, "{events:?}");
}

/// Where we differ from `kubectl` on purpose: it complains, and goes on.
#[tokio::test]
async fn a_node_that_cannot_be_cordoned_is_not_drained() {
    let simulator = cluster(&[web("a")]).await;
    simulator.deny(vec![Denied::new("patch", "nodes")]);
    let refused = Hub::new(&simulator).run("drain", json!({}), NODE).await.unwrap_err().to_string();
    assert_eq!(refused, "forbidden: needs patch on nodes in cluster sim");
    assert_eq!(evictions(&simulator), 0);
    Kubectl::new(&simulator).unwrap().run(&format!("drain {NODE}")).await.unwrap();
    assert_eq!(times_evicted(&simulator), ["a"]);
}

#[tokio::test]
async fn a_task_says_who_drains() {
    let simulator = cluster(&[web("a")]).await;
    let hub = Hub::new(&simulator);
    let wanted = task("sim", "drain", json!({}));
    let action = hub.registry.prepare(&wanted).await.unwrap();
    let name = ItemName::new(NODE).unwrap();
    action.run(Target { index: 0, name: &name }, &Context::alone()).await.unwrap();
    let id = wanted.id.to_string();
    let requests = simulator.requests();
    let of_all = |request: &&LoggedRequest| request.path == "/api/v1/nodes";
    let (of_all, own): (Vec<_>, Vec<_>) = requests.iter().partition(of_all);
    assert!(own.iter().all(|request| request.user_agent.contains(&id)), "{own:?}");
    let lists = of_all.iter().filter(|request| request.verb == "list").count();
    assert_eq!(lists, 1, "what is known of all nodes is nobody's own: {of_all:?}");
}
