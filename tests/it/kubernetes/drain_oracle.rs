//! The same drain once by `kubectl` and once by our action, on two equal clusters: who is evicted, who is left, whether it
//! is refused, and what becomes of the node are the same. Where we differ on purpose is not here; docs/operations.md
//! lists it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use milepost::clock::{Clock, ManualClock, SystemClock};
use milepost::simulator::{Behaviour, Denied, PodChange, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use super::Hub;
use super::kubectl::Kubectl;
use super::oracle::essence;

/// Scenarios that run at once: each is a process of `kubectl` and two clusters.
const AT_ONCE: usize = 4;
const NODE: &str = "node-006";

/// One drain, told twice, and what is to come of it.
struct Scenario {
    name: &'static str,
    node: &'static str,
    pods: Vec<Value>,
    others: Vec<(&'static str, Value)>,
    /// What happens before, once the objects are there.
    before: fn(&Simulator),
    /// For `kubectl`, and for us.
    asked: (&'static str, Value),
    drained: bool,
    /// On purpose we do not even cordon the node, unlike `kubectl`.
    untouched: bool,
    /// Names of the pods that are made to go.
    evicted: &'static [&'static str],
    /// How they are.
    by: PodChange,
}

fn scenario(name: &'static str, pods: Vec<Value>) -> Scenario {
    Scenario {
        name,
        node: NODE,
        pods,
        others: Vec::new(),
        before: |_| {},
        asked: ("", json!({})),
        drained: true,
        untouched: false,
        evicted: &[],
        by: PodChange::Evicted,
    }
}

impl Scenario {
    fn with(mut self, plural: &'static str, object: Value) -> Self {
        self.others.push((plural, object));
        self
    }

    fn before(self, before: fn(&Simulator)) -> Self {
        Self { before, ..self }
    }

    fn asked(self, line: &'static str, parameters: Value) -> Self {
        Self { asked: (line, parameters), ..self }
    }

    fn evicts(self, evicted: &'static [&'static str]) -> Self {
        Self { evicted, ..self }
    }

    fn deletes(self, deleted: &'static [&'static str]) -> Self {
        Self { evicted: deleted, by: PodChange::Deleted, ..self }
    }

    fn refused(self) -> Self {
        Self { drained: false, ..self }
    }

    fn untouched(self) -> Self {
        Self { untouched: true, ..self.refused() }
    }
}

/// A pod of a controller of this kind; of nobody when it is empty.
fn pod(name: &str, kind: &str) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
    });
    if !kind.is_empty() {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "owner", "uid": "o", "controller": true}]);
    }
    pod
}

fn replica(name: &str) -> Value {
    pod(name, "ReplicaSet")
}

fn with_data(mut pod: Value) -> Value {
    pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    pod
}

fn in_phase(mut pod: Value, phase: &str) -> Value {
    pod["status"] = json!({"phase": phase});
    pod
}

fn mirror(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    pod
}

fn held(mut pod: Value) -> Value {
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    pod
}

fn daemon_set() -> Value {
    json!({"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": {"name": "owner", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "daemon"}}, "template": {}}})
}

fn budget(name: &str, app: &str, min: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"minAvailable": min, "selector": {"matchLabels": {"app": app}}}})
}

fn ignore() -> Value {
    json!({"ignore_daemonsets": true})
}

fn everything() -> Value {
    json!({"ignore_daemonsets": true, "delete_emptydir_data": true, "force": true})
}

const EVERYTHING: &str = "--ignore-daemonsets --delete-emptydir-data --force";

/// Which pods go.
fn sorting() -> Vec<Scenario> {
    vec![
        scenario("an empty node", vec![]),
        scenario("pods of controllers", vec![replica("a"), pod("b", "StatefulSet"), pod("c", "Job")])
            .evicts(&["a", "b", "c"]),
        scenario("a controller of unknown kind", vec![pod("a", "Whatever")]).evicts(&["a"]),
        scenario("a finished pod of nobody", vec![in_phase(pod("a", ""), "Succeeded")]).evicts(&["a"]),
        scenario("a failed pod with data", vec![in_phase(with_data(replica("a")), "Failed")]).evicts(&["a"]),
        scenario("a finished pod of a DaemonSet", vec![in_phase(pod("a", "DaemonSet"), "Succeeded")])
            .with("daemonsets", daemon_set())
            .evicts(&["a"]),
        scenario("a pod of nobody, forced", vec![pod("a", "")])
            .asked("--force", json!({"force": true}))
            .evicts(&["a"]),
        scenario("a pod with data that may go", vec![with_data(replica("a"))])
            .asked("--delete-emptydir-data", json!({"delete_emptydir_data": true}))
            .evicts(&["a"]),
        scenario("pods of a DaemonSet are left", vec![pod("d", "DaemonSet"), replica("a")])
            .with("daemonsets", daemon_set())
            .asked("--ignore-daemonsets", ignore())
            .evicts(&["a"]),
        scenario("data of a DaemonSet's pod does not matter", vec![with_data(pod("d", "DaemonSet"))])
            .with("daemonsets", daemon_set())
            .asked("--ignore-daemonsets", ignore()),
        scenario("an orphan of a DaemonSet, forced", vec![pod("d", "DaemonSet")])
            .asked(EVERYTHING, everything())
            .evicts(&["d"]),
        scenario("a mirror is left", vec![mirror(pod("m", "Node")), replica("a")]).evicts(&["a"]),
        scenario("a mirror of nobody with data is left", vec![mirror(with_data(pod("m", "")))]),
        scenario("a finished mirror is left", vec![mirror(in_phase(pod("m", ""), "Succeeded"))]),
        scenario("only what is selected", vec![replica("a"), replica("b")])
            .asked("--pod-selector=app=a", json!({"pod_selector": "app=a"}))
            .evicts(&["a"]),
        scenario("what is not selected refuses nothing", vec![replica("a"), pod("b", "")])
            .asked("--pod-selector=app!=b", json!({"pod_selector": "app!=b"}))
            .evicts(&["a"]),
        scenario(
            "everything at once",
            vec![pod("d", "DaemonSet"), with_data(replica("a")), pod("b", ""), mirror(pod("m", ""))],
        )
        .with("daemonsets", daemon_set())
        .asked(EVERYTHING, everything())
        .evicts(&["a", "b"]),
    ]
}

/// What refuses a node before anything is evicted.
fn refusing() -> Vec<Scenario> {
    vec![
        scenario("a pod of nobody", vec![pod("a", ""), replica("b")]).refused(),
        scenario("a pod with data", vec![with_data(replica("a")), replica("b")]).refused(),
        scenario("a pod of a DaemonSet", vec![pod("d", "DaemonSet"), replica("b")])
            .with("daemonsets", daemon_set())
            .refused(),
        scenario("an orphan of a DaemonSet", vec![pod("d", "DaemonSet"), replica("b")])
            .asked("--ignore-daemonsets", ignore())
            .refused(),
        scenario("force is not for data", vec![with_data(pod("a", ""))])
            .asked("--force", json!({"force": true}))
            .refused(),
        scenario("the option for data is not for pods of nobody", vec![with_data(pod("a", ""))])
            .asked("--delete-emptydir-data", json!({"delete_emptydir_data": true}))
            .refused(),
        scenario("force is not for DaemonSets", vec![pod("d", "DaemonSet")])
            .with("daemonsets", daemon_set())
            .asked("--force", json!({"force": true}))
            .refused(),
        scenario("a mirror of a DaemonSet", vec![mirror(pod("d", "DaemonSet"))])
            .with("daemonsets", daemon_set())
            .refused(),
        scenario("a selected pod that is refused", vec![pod("a", ""), replica("b")])
            .asked("--pod-selector=app=a", json!({"pod_selector": "app=a"}))
            .refused(),
        scenario("a DaemonSet that may not be read", vec![pod("d", "DaemonSet"), replica("b")])
            .with("daemonsets", daemon_set())
            .before(|simulator| simulator.deny(vec![Denied::new("get", "daemonsets")]))
            .asked(EVERYTHING, everything())
            .refused(),
        scenario("pods that may not be listed", vec![replica("a")])
            .before(|simulator| simulator.deny(vec![Denied::new("list", "pods")]))
            .untouched(),
        scenario("evictions that are not allowed", vec![replica("a")])
            .before(|simulator| simulator.deny(vec![Denied::new("create", "pods/eviction")]))
            .untouched(),
        Scenario { node: "node-404", ..scenario("no such node", vec![]).refused() },
    ]
}

/// What happens to those that are to go.
fn going() -> Vec<Scenario> {
    vec![
        scenario("a budget with room", vec![replica("a")])
            .with("poddisruptionbudgets", budget("one", "a", 0))
            .evicts(&["a"]),
        scenario("a budget without room", vec![replica("a"), replica("b")])
            .with("poddisruptionbudgets", budget("one", "a", 1))
            .asked("--timeout=6s", json!({"timeout_seconds": 3}))
            .evicts(&["b"])
            .refused(),
        scenario("a pod of two budgets", vec![replica("a"), replica("b")])
            .with("poddisruptionbudgets", budget("one", "a", 0))
            .with("poddisruptionbudgets", budget("two", "a", 0))
            .evicts(&["b"])
            .refused(),
        scenario("a finished pod asks no budget", vec![in_phase(replica("a"), "Succeeded")])
            .with("poddisruptionbudgets", budget("one", "a", 1))
            .evicts(&["a"]),
        scenario("a pending pod asks no budget", vec![in_phase(replica("a"), "Pending")])
            .with("poddisruptionbudgets", budget("one", "a", 1))
            .evicts(&["a"]),
        scenario("no grace at all", vec![replica("a")])
            .asked("--grace-period=0 --force", json!({"grace_period_seconds": 0, "force": true}))
            .evicts(&["a"]),
        scenario("a grace of a second", vec![replica("a")])
            .asked("--grace-period=1", json!({"grace_period_seconds": 1}))
            .evicts(&["a"]),
        scenario("a node that is cordoned already", vec![replica("a")])
            .before(|simulator| drop(simulator.merge_patch(NODE, &json!({"spec": {"unschedulable": true}}))))
            .evicts(&["a"]),
        scenario("a finalizer holds a pod", vec![held(replica("a")), replica("b")])
            .asked("--timeout=4s", json!({"timeout_seconds": 3}))
            .evicts(&["a", "b"])
            .refused(),
        scenario(
            "a pod that has been terminating for long is not waited for",
            vec![held(replica("a")), held(replica("b"))],
        )
        .before(|simulator| assert!(simulator.kill_pod("shop", "a")))
        .asked("--skip-wait-for-delete-timeout=10", json!({"skip_wait_for_delete_timeout_seconds": 10}))
        .evicts(&["b"]),
        scenario("one that has not is", vec![held(replica("a"))])
            .before(|simulator| assert!(simulator.kill_pod("shop", "a")))
            .asked(
                "--timeout=4s --skip-wait-for-delete-timeout=3600",
                json!({"timeout_seconds": 3, "skip_wait_for_delete_timeout_seconds": 3_600}),
            )
            .refused(),
    ]
}

/// Drains that ask no budget: pods are deleted.
fn bypassing() -> Vec<Scenario> {
    let bypass = |more: Value| {
        let mut parameters = json!({"bypass_pdb": true});
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parameters
    };
    vec![
        scenario("a budget that would not allow it is not asked", vec![replica("a")])
            .with("poddisruptionbudgets", budget("one", "a", 1))
            .asked("--disable-eviction", bypass(json!({})))
            .deletes(&["a"]),
        scenario("deleted with a grace of a second", vec![replica("a"), replica("b")])
            .asked("--disable-eviction --grace-period=1", bypass(json!({"grace_period_seconds": 1})))
            .deletes(&["a", "b"]),
        scenario("deleted with no grace", vec![replica("a")])
            .asked(
                "--disable-eviction --grace-period=0 --force",
                bypass(json!({"grace_period_seconds": 0, "force": true})),
            )
            .deletes(&["a"]),
        scenario("what refuses a node refuses it all the same", vec![pod("a", ""), replica("b")])
            .asked("--disable-eviction", bypass(json!({})))
            .refused(),
        scenario("a finalizer holds what was deleted", vec![held(replica("a")), replica("b")])
            .asked("--disable-eviction --timeout=4s", bypass(json!({"timeout_seconds": 3})))
            .deletes(&["a", "b"])
            .refused(),
    ]
}

/// A cluster as the scenario wants it, whose clock is a minute behind: what was deleted there was deleted a minute ago.
async fn cluster(scenario: &Scenario, clock: &Arc<ManualClock>) -> Simulator {
    let ms = Duration::from_millis;
    // A pod that is pending stays so: nothing but the drain changes anything.
    let never = Duration::from_secs(3_600);
    let behaviour =
        Behaviour { ends_within: ms(100), ready_after: never, budget_lag: ms(10), ..Behaviour::default() };
    let config = SimulatorConfig { nodes: 8, behaviour, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::clone(clock) as Arc<dyn Clock>).await.unwrap();
    for (plural, object) in &scenario.others {
        simulator.add(plural, object).unwrap();
    }
    for pod in &scenario.pods {
        simulator.add_pod(pod).unwrap();
    }
    // A budget counts pods that came after it a moment later.
    for (_, object) in scenario.others.iter().filter(|(plural, _)| *plural == "poddisruptionbudgets") {
        let name = object["metadata"]["name"].as_str().unwrap();
        crate::support::until("the budget has counted its pod", async || {
            simulator.budget("shop", name).is_some_and(|budget| budget["status"]["expectedPods"] == 1)
        })
        .await;
    }
    (scenario.before)(&simulator);
    simulator
}

/// Who was there at first, and was evicted or deleted by the drain: each by name, and once for each time.
fn evicted(simulator: &Simulator, first: &BTreeSet<(String, String)>, by: PodChange) -> Vec<String> {
    let events = simulator.pod_events().into_iter().filter(|event| event.change == by);
    let mut names: Vec<String> = events
        .map(|event| {
            assert!(
                first.contains(&(event.pod.clone(), event.uid.clone())),
                "a successor was evicted: {event:?}"
            );
            event.pod
        })
        .collect();
    names.sort();
    names
}

/// The pods of the node, each with whether it is terminating.
fn left(simulator: &Simulator) -> Vec<(String, bool)> {
    let pods = simulator.pods_on(NODE);
    let mut left: Vec<_> = pods
        .iter()
        .map(|pod| {
            let metadata = &pod["metadata"];
            (metadata["name"].as_str().unwrap().to_owned(), metadata["deletionTimestamp"].is_string())
        })
        .collect();
    left.sort();
    left
}

fn identities(simulator: &Simulator) -> BTreeSet<(String, String)> {
    let text = |pod: &Value, field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
    simulator.pods_on(NODE).iter().map(|pod| (text(pod, "name"), text(pod, "uid"))).collect()
}

async fn compare(scenario: Scenario) {
    let name = scenario.name;
    let clock = ManualClock::default();
    let behind = SystemClock.now().as_second() - 60;
    clock.advance(Duration::from_secs(behind.try_into().unwrap()));
    let clock = Arc::new(clock);
    let (theirs, ours) = (cluster(&scenario, &clock).await, cluster(&scenario, &clock).await);
    let before = essence(&ours);
    let (their_pods, our_pods) = (identities(&theirs), identities(&ours));
    let (line, parameters) = scenario.asked;
    let line = format!("drain {} {line}", scenario.node);
    let (kubectl, hub) = (Kubectl::new(&theirs).unwrap(), Hub::new(&ours));
    let (expected, result) = tokio::join!(kubectl.run(&line), hub.run("drain", parameters, scenario.node));
    assert_eq!(expected.is_ok(), scenario.drained, "{name}: kubectl: {expected:?}");
    assert_eq!(result.is_ok(), scenario.drained, "{name}: {result:?}");
    let by = scenario.by;
    assert_eq!(evicted(&theirs, &their_pods, by), scenario.evicted, "{name}: kubectl: {expected:?}");
    assert_eq!(evicted(&ours, &our_pods, by), scenario.evicted, "{name}: {result:?}");
    if by == PodChange::Deleted {
        assert!(evicted(&ours, &our_pods, PodChange::Evicted).is_empty(), "{name}: nothing asks a budget");
    }
    assert_eq!(left(&ours), left(&theirs), "{name}: what is left");
    let expected = if scenario.untouched { before } else { essence(&theirs) };
    assert_eq!(essence(&ours), expected, "{name}: the nodes");
}

#[tokio::test]
async fn our_drain_does_what_kubectls_does() {
    let all = [sorting(), refusing(), going(), bypassing()];
    let all: Vec<_> = all.into_iter().flatten().collect();
    assert!(all.len() >= 40, "{} scenarios", all.len());
    stream::iter(all).for_each_concurrent(AT_ONCE, compare).await;
}
