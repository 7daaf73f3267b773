//! The simulator from inside the process: what a test or a demo looks at and changes without HTTP, as somebody would who
//! has the whole cluster in hand.

use serde_json::{Value, json};

use super::Simulator;
use super::budgets::HELD;
use super::deletion::DeleteOptions;
use super::journal::PodEvent;
use super::object::{Object, key};
use super::patch::PatchKind;
use super::resources::resource;
use super::selector::Selector;

impl Simulator {
    /// Names of the nodes, sorted.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        let nodes = self.api.cluster.nodes.all(&Selector::default());
        nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    /// A node as the API would show it.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Value> {
        self.api.cluster.nodes.get(name).ok().map(|node| Value::clone(&node))
    }

    /// Changes a node by a JSON merge patch, as another writer of the cluster would. Returns the new node; `None` when
    /// it does not exist or the API would refuse the change.
    pub fn merge_patch(&self, name: &str, patch: &Value) -> Option<Value> {
        let patched =
            self.api.cluster.patch_plain(resource("nodes")?, name, (PatchKind::Merge, patch), false);
        patched.ok().map(|node| Value::clone(&node))
    }

    /// Takes a node away, and with it what runs on it. Returns whether it was there.
    pub fn delete_node(&self, name: &str) -> bool {
        self.api.cluster.nodes.delete(name)
    }

    /// Puts another machine in the place of a node: the same name, labels and readiness, another UID; neither cordoned
    /// nor annotated. Returns the new node; `None` when there was none of that name.
    pub fn replace_node(&self, name: &str) -> Option<Value> {
        let cluster = &self.api.cluster;
        let mut node = self.node(name)?;
        cluster.nodes.delete(name);
        node["metadata"]["uid"] = (*cluster.uid()).into();
        node["metadata"]["annotations"] = json!({});
        node["metadata"]["resourceVersion"] = Value::Null;
        node["spec"] = json!({"providerID": node["spec"]["providerID"]});
        cluster.nodes.create(node, false).ok().map(|node| Value::clone(&node))
    }

    /// Adds a pod, given as for the API, and its namespace if that is not there. Unlike there its status counts: a pod
    /// with a `spec.nodeName` and no status runs and is ready.
    ///
    /// # Errors
    /// With the refusal's sentence, when the API would not take it.
    pub fn add_pod(&self, pod: &Value) -> Result<Value, String> {
        self.api.cluster.need_namespace(pod.namespace());
        let added = self.api.cluster.create_pod(pod, false);
        added.map(|pod| pod.show().into_owned()).map_err(|refusal| refusal.message)
    }

    /// Adds an object of another resource (`poddisruptionbudgets`, `daemonsets`, `replicasets`), and its namespace if
    /// that is not there. A budget has its status when this returns.
    ///
    /// # Errors
    /// With the refusal's sentence, when the API would not take it.
    pub fn add(&self, plural: &str, object: &Value) -> Result<Value, String> {
        let cluster = &self.api.cluster;
        let resource = resource(plural).ok_or_else(|| format!("there is no resource {plural:?}"))?;
        cluster.need_namespace(object.namespace());
        let made = cluster.create_plain(resource, object, false).map_err(|refusal| refusal.message)?;
        if plural == "poddisruptionbudgets" {
            cluster.sync_budget(&made.key());
        }
        let made = cluster.plain(resource).and_then(|plain| plain.get(&made.key()).ok()).unwrap_or(made);
        Ok(Value::clone(&made))
    }

    /// A pod as the API would show it.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        self.api.cluster.pods.get(&key(namespace, name)).ok().map(|pod| pod.show().into_owned())
    }

    /// The pods on a node as the API would show them; with an empty name those of the whole cluster.
    #[must_use]
    pub fn pods_on(&self, node: &str) -> Vec<Value> {
        let cluster = &self.api.cluster;
        let pods = match node {
            "" => cluster.pods.all(&Selector::default()),
            node => cluster.pods.group(&super::object::Group::Node(node.into())),
        };
        pods.iter().map(|pod| pod.show().into_owned()).collect()
    }

    /// Changes a pod by a JSON merge patch, as when a finalizer is taken off. Returns the new pod; `None` when it does
    /// not exist or the API would refuse the change.
    pub fn patch_pod(&self, namespace: &str, name: &str, patch: &Value) -> Option<Value> {
        let patched = self.api.cluster.patch_pod(&key(namespace, name), PatchKind::Merge, patch, false);
        patched.ok().map(|pod| pod.show().into_owned())
    }

    /// Takes a pod away at once, as a forced delete does, unless a finalizer holds it. Returns whether it was there.
    pub fn kill_pod(&self, namespace: &str, name: &str) -> bool {
        let now = json!({"gracePeriodSeconds": 0});
        let options = DeleteOptions::read(&now, false);
        options
            .and_then(|options| {
                self.api.cluster.end_pod(namespace, name, &options, super::PodChange::Deleted)
            })
            .is_ok()
    }

    /// A PodDisruptionBudget as the API would show it.
    #[must_use]
    pub fn budget(&self, namespace: &str, name: &str) -> Option<Value> {
        self.api.cluster.budgets.get(&key(namespace, name)).ok().map(|budget| Value::clone(&budget))
    }

    /// Writes fields of a budget's status by hand and has the controller leave it alone from now on, for instance
    /// `{"disruptionsAllowed": 0}`. Returns whether the budget is there.
    pub fn hold_budget(&self, namespace: &str, name: &str, status: &Value) -> bool {
        let patch = json!({"metadata": {"annotations": {HELD: "true"}}, "status": status});
        self.patch_budget(namespace, name, &patch)
    }

    /// Gives a held budget back to the controller. Returns whether the budget is there.
    pub fn release_budget(&self, namespace: &str, name: &str) -> bool {
        let released =
            self.patch_budget(namespace, name, &json!({"metadata": {"annotations": {HELD: null}}}));
        self.api.cluster.sync_budget(&key(namespace, name));
        released
    }

    /// Changes a budget by a JSON merge patch; a changed spec is a new generation. Returns whether the budget is there
    /// and the API would take it.
    pub fn patch_budget(&self, namespace: &str, name: &str, patch: &Value) -> bool {
        let cluster = &self.api.cluster;
        let change = |resource| {
            cluster.patch_plain(resource, &key(namespace, name), (PatchKind::Merge, patch), false).ok()
        };
        resource("poddisruptionbudgets").and_then(change).is_some()
    }

    /// Has a namespace begin to end: nothing can be made in it any more. It keeps its pods.
    pub fn terminate_namespace(&self, name: &str) -> bool {
        let options = DeleteOptions::default();
        let end = |resource| self.api.cluster.delete_plain(resource, name, &options).ok();
        resource("namespaces").and_then(end).is_some()
    }

    /// Forgets the changes that watches would continue from: the next that resumes gets a 410.
    pub fn forget_changes(&self) {
        let cluster = &self.api.cluster;
        cluster.nodes.forget();
        cluster.pods.forget();
        cluster.budgets.forget();
    }

    /// What happened to pods, oldest first, as many as [`super::SimulatorConfig::log_max`].
    #[must_use]
    pub fn pod_events(&self) -> Vec<PodEvent> {
        self.api.cluster.journal.entries()
    }
}
