//! What runs in a new cluster: the same pods for the same settings, of the sorts that a drain must tell apart. Pure.
//!
//! Each node has a pod of one DaemonSet. The control plane has mirror pods besides; on workers every tenth node has a
//! pod of nobody's and every seventh a finished one. The rest are replicas of apps, each spread over nodes, every fifth
//! app with an `emptyDir`, and as many with a budget as the settings say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::SimulatorConfig;
use super::cluster::namespace;
use super::nodes::roles;
use super::object::{Object, time};
use super::pod::{MIRROR, Phase, Pod, Template};

/// Pods of an app.
const REPLICAS: usize = 8;
/// Apps of a namespace, roughly.
const APPS_PER_NAMESPACE: usize = 25;
const SYSTEM: &str = "kube-system";

/// The objects that a cluster begins with, besides its nodes.
pub(super) struct Seed {
    pub(super) namespaces: Vec<Value>,
    pub(super) daemon_sets: Vec<Value>,
    pub(super) replica_sets: Vec<Value>,
    pub(super) budgets: Vec<Value>,
    pub(super) pods: Vec<Pod>,
}

impl Seed {
    pub(super) fn plant(config: &SimulatorConfig, fleet: &[Value], now: Timestamp) -> Self {
        let since = now.checked_sub(SignedDuration::from_hours(24 * 7)).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut planter = Planter { since, pods: Vec::new(), daemon_sets: Vec::new() };
        let free = planter.singles(config.pods_per_node as usize, fleet);
        let mut seed = planter.apps(&free, usize::from(config.budgets_percent));
        let mut names: BTreeSet<&str> = ["default", SYSTEM].into();
        names.extend(seed.pods.iter().map(Object::namespace));
        seed.namespaces = names.into_iter().map(|name| namespace(name, &time(since))).collect();
        seed
    }
}

struct Planter {
    since: Timestamp,
    pods: Vec<Pod>,
    daemon_sets: Vec<Value>,
}

impl Planter {
    /// Plants what a node has one of, and returns the nodes with their room for replicas.
    fn singles(&mut self, per_node: usize, fleet: &[Value]) -> Vec<(Arc<str>, usize)> {
        if per_node == 0 {
            return Vec::new();
        }
        let agent = self.agent(fleet.len());
        let mut free = Vec::new();
        for (i, node) in fleet.iter().enumerate() {
            let name: Arc<str> = node.name().into();
            self.pod(&agent, &format!("node-agent-{}", suffix(i)), &name, Phase::Running);
            let mut room = per_node - 1;
            if roles(node).contains("control-plane") {
                for part in ["kube-apiserver", "etcd"].into_iter().take(room) {
                    let mirror = mirror(part, node);
                    self.pod(&mirror, &format!("{part}-{name}"), &name, Phase::Running);
                }
                continue;
            }
            if i % 10 == 5 && room > 2 {
                self.pod(&unmanaged(), &format!("shell-{}", suffix(i)), &name, Phase::Running);
                room -= 1;
            }
            if i % 7 == 3 && room > 2 {
                self.pod(&job(i), &format!("report-{i}-{}", suffix(i)), &name, Phase::Succeeded);
                room -= 1;
            }
            free.push((name, room));
        }
        free
    }

    /// Plants replicas into the free room, so that those of an app are on different nodes where possible.
    fn apps(mut self, free: &[(Arc<str>, usize)], budgets_percent: usize) -> Seed {
        let rounds = free.iter().map(|(_, room)| *room).max().unwrap_or(0);
        let slots: Vec<_> = (0..rounds)
            .flat_map(|round| free.iter().filter(move |(_, room)| *room > round).map(|(node, _)| node))
            .collect();
        let namespaces = (slots.len() / REPLICAS / APPS_PER_NAMESPACE).max(4);
        let (mut replica_sets, mut budgets) = (Vec::new(), Vec::new());
        for (i, nodes) in slots.chunks(REPLICAS).enumerate() {
            let app =
                App { name: format!("app-{i:04}"), namespace: format!("team-{:02}", i % namespaces), i };
            let template = app.template();
            for (replica, node) in nodes.iter().enumerate() {
                let name = format!("{}-{}", app.name, suffix(i * REPLICAS + replica));
                self.pod(&template, &name, node, Phase::Running);
            }
            replica_sets.push(app.replica_set(nodes.len(), self.since));
            // 37 and 100 have no divisor in common, so budgets are spread evenly and exactly.
            if (i * 37) % 100 < budgets_percent {
                budgets.push(app.budget(self.since));
            }
        }
        Seed { namespaces: Vec::new(), daemon_sets: self.daemon_sets, replica_sets, budgets, pods: self.pods }
    }

    /// The DaemonSet, and the template of its pods.
    fn agent(&mut self, nodes: usize) -> Arc<Template> {
        let labels = json!({"app": "node-agent"});
        self.daemon_sets.push(json!({
            "kind": "DaemonSet", "apiVersion": "apps/v1",
            "metadata": {"name": "node-agent", "namespace": SYSTEM, "uid": "daemonset-node-agent", "generation": 1,
                "creationTimestamp": time(self.since), "labels": labels},
            "spec": {"selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec("node-agent", false)}},
            "status": {"currentNumberScheduled": nodes, "desiredNumberScheduled": nodes, "numberReady": nodes,
                "numberMisscheduled": 0},
        }));
        let owner = owner("apps/v1", "DaemonSet", "node-agent", "daemonset-node-agent");
        template(SYSTEM, "node-agent", Some(owner), false)
    }

    fn pod(&mut self, template: &Arc<Template>, name: &str, node: &Arc<str>, phase: Phase) {
        self.pods.push(Pod {
            name: name.into(),
            uid: format!("00000000-0000-4000-8001-{:012x}", self.pods.len()).into(),
            version: 0,
            template: Arc::clone(template),
            node: Some(Arc::clone(node)),
            phase,
            ready: phase == Phase::Running,
            created: self.since,
            since: self.since,
            deletion: None,
        });
    }
}

/// A replicated app.
struct App {
    name: String,
    namespace: String,
    i: usize,
}

impl App {
    fn uid(&self) -> String {
        format!("replicaset-{}", self.name)
    }

    fn template(&self) -> Arc<Template> {
        let owner = owner("apps/v1", "ReplicaSet", &self.name, &self.uid());
        template(&self.namespace, &self.name, Some(owner), self.i % 5 == 4)
    }

    fn replica_set(&self, replicas: usize, since: Timestamp) -> Value {
        let labels = json!({"app": self.name});
        json!({
            "kind": "ReplicaSet", "apiVersion": "apps/v1",
            "metadata": {"name": self.name, "namespace": self.namespace, "uid": self.uid(), "generation": 1,
                "creationTimestamp": time(since), "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec(&self.name, self.i % 5 == 4)}},
            "status": {"replicas": replicas, "readyReplicas": replicas, "observedGeneration": 1},
        })
    }

    fn budget(&self, since: Timestamp) -> Value {
        let mut spec = json!({"selector": {"matchLabels": {"app": self.name}}});
        if self.i.is_multiple_of(2) {
            spec["maxUnavailable"] = 1.into();
        } else {
            spec["minAvailable"] = "75%".into();
        }
        json!({
            "kind": "PodDisruptionBudget", "apiVersion": "policy/v1",
            "metadata": {"name": self.name, "namespace": self.namespace, "uid": format!("budget-{}", self.name),
                "generation": 1, "creationTimestamp": time(since)},
            "spec": spec,
        })
    }
}

fn template(namespace: &str, app: &str, owner: Option<Value>, scratch: bool) -> Arc<Template> {
    Arc::new(Template {
        namespace: namespace.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        annotations: BTreeMap::new(),
        owners: owner.into_iter().collect(),
        finalizers: Vec::new(),
        spec: spec(app, scratch),
    })
}

fn spec(app: &str, scratch: bool) -> Value {
    let mut spec = json!({
        "containers": [{
            "name": "main", "image": format!("registry.example/{app}:1"),
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        }],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "serviceAccountName": app,
        "volumes": [{"name": "config", "configMap": {"name": app}}],
    });
    if scratch && let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(json!({"name": "scratch", "emptyDir": {}}));
    }
    spec
}

fn owner(version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true})
}

fn mirror(part: &str, node: &Value) -> Arc<Template> {
    let uid = node["metadata"]["uid"].as_str().unwrap_or_default();
    let owner = owner("v1", "Node", node.name(), uid);
    let mut template = Template::clone(&template(SYSTEM, part, Some(owner), false));
    template.annotations.insert(MIRROR.to_owned(), format!("{part}-{uid}"));
    Arc::new(template)
}

fn unmanaged() -> Arc<Template> {
    template("default", "shell", None, false)
}

fn job(i: usize) -> Arc<Template> {
    let name = format!("report-{i}");
    let owner = owner("batch/v1", "Job", &name, &format!("job-{name}"));
    template("batch", "report", Some(owner), false)
}

/// Five characters that differ for different numbers below fourteen million, in no visible order.
pub(super) fn suffix(number: usize) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    const ALL: usize = 27usize.pow(5);
    // A factor without a common divisor with their number only shuffles the numbers.
    let mut rest = number.wrapping_mul(7_368_787) % ALL;
    let letter = |_| {
        let letter = LETTERS[rest % LETTERS.len()];
        rest /= LETTERS.len();
        char::from(letter)
    };
    (0..5).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(nodes: u32, pods_per_node: u32) -> Seed {
        let config =
            SimulatorConfig { nodes, pods_per_node, budgets_percent: 50, ..SimulatorConfig::default() };
        let fleet: Vec<_> = super::super::nodes::fleet(&config, Timestamp::UNIX_EPOCH).collect();
        Seed::plant(&config, &fleet, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_same_settings_make_the_same_cluster() {
        let (one, two) = (seed(30, 12), seed(30, 12));
        assert!(one.pods == two.pods && one.budgets == two.budgets && one.replica_sets == two.replica_sets);
        let keys: BTreeSet<_> = one.pods.iter().map(Object::key).collect();
        assert_eq!(keys.len(), one.pods.len(), "no name is there twice");
        // 3 of the control plane have three pods each, 27 workers have all twelve.
        assert_eq!(one.pods.len(), 3 * 3 + 27 * 12);
    }

    #[test]
    fn every_sort_of_pod_is_there() {
        let seed = seed(30, 12);
        let kinds: BTreeSet<_> = seed
            .pods
            .iter()
            .map(|pod| pod.template.controller().map_or("nobody", |(kind, ..)| kind))
            .collect();
        assert_eq!(kinds, ["DaemonSet", "Job", "Node", "ReplicaSet", "nobody"].into());
        assert!(seed.pods.iter().any(Pod::mirror) && seed.pods.iter().any(Pod::finished));
        assert!(seed.pods.iter().any(|pod| pod.template.spec.to_string().contains("emptyDir")));
        let share = seed.budgets.len() * 100 / seed.replica_sets.len();
        assert!((30..70).contains(&share), "{share} % have a budget");
    }

    #[test]
    fn replicas_of_an_app_are_on_different_nodes() {
        let seed = seed(30, 12);
        let of_first: Vec<_> = seed.pods.iter().filter(|pod| pod.label("app") == Some("app-0000")).collect();
        let nodes: BTreeSet<_> = of_first.iter().map(|pod| &pod.node).collect();
        assert_eq!((of_first.len(), nodes.len()), (REPLICAS, REPLICAS));
    }

    #[test]
    fn suffixes_do_not_repeat() {
        let all: BTreeSet<_> = (0..100_000).map(suffix).collect();
        assert_eq!(all.len(), 100_000);
    }
}
