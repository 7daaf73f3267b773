//! What happens by itself: pods end and start, are replaced and placed, budgets are counted, cordons get their taint.
//!
//! One task plays all kubelets and controllers. Like those it follows the changes of the cluster, so that it does not
//! matter who made them, and begins anew from what is there when it fell too far behind. What takes time is noted in an
//! [`Agenda`]. Not here: tolerations, capacity, and any controller above a ReplicaSet.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::acts;
use super::agenda::Agenda;
use super::budgets;
use super::cluster::Cluster;
use super::collection::{Change, Collection};
use super::object::{Group, Object, key};
use super::placing::{Places, ready};
use super::pod::{Phase, Pod, Template};
use super::selector::Selector;

/// Changes that are looked at in one go.
const BATCH: usize = 200;
/// Most pods that a ReplicaSet is given.
const REPLICAS_MAX: usize = 10_000;

/// How fast a cluster does what it does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// A pod that is told to end is gone after its grace, and after this at the latest.
    pub ends_within: Duration,
    /// A new pod is ready this long after it was placed.
    pub ready_after: Duration,
    /// How long a budget takes to notice what happened to its pods.
    pub budget_lag: Duration,
    /// When a cordoned node gets the taint that a real cluster gives it, and an uncordoned one loses it; never if
    /// left out.
    pub taint_after: Option<Duration>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            ends_within: Duration::from_secs(1),
            ready_after: Duration::from_secs(1),
            budget_lag: Duration::from_millis(50),
            taint_after: None,
        }
    }
}

#[derive(Debug)]
enum Job {
    /// The time of a pod is over.
    Finish { key: String, uid: Arc<str> },
    /// A pod's containers have started.
    Start { key: String, uid: Arc<str> },
    /// A budget notices its pods.
    Count { budget: String },
    /// A node gets or loses the taint of a cordon.
    Taint { node: String },
}

/// How far a collection was followed.
struct Follower<T> {
    collection: Arc<Collection<T>>,
    head: watch::Receiver<u64>,
    position: u64,
}

impl<T: Object> Follower<T> {
    fn new(collection: &Arc<Collection<T>>) -> Self {
        Self { head: collection.follow(), position: collection.version(), collection: Arc::clone(collection) }
    }

    /// The next changes; `None` when some were missed.
    fn changes(&mut self) -> Option<Vec<Change<T>>> {
        self.head.borrow_and_update();
        let changes = self.collection.after(self.position, BATCH).ok()?;
        self.position = changes.last().map_or(self.position, |change| change.version);
        Some(changes)
    }
}

/// The task that plays kubelets and controllers.
pub(super) struct Controllers {
    cluster: Arc<Cluster>,
    behaviour: Behaviour,
    nodes: Follower<Value>,
    pods: Follower<Pod>,
    budgets: Follower<Value>,
    agenda: Agenda<Job>,
    /// Where new pods may be placed.
    places: Places,
    /// Pods that no node had a place for.
    waiting: BTreeSet<String>,
    /// What new pods of a controller look like, by its UID: as the last that was seen.
    templates: HashMap<Arc<str>, Arc<Template>>,
    /// Budgets that are about to be counted.
    counting: HashSet<String>,
}

impl Controllers {
    pub(super) fn new(cluster: Arc<Cluster>, behaviour: Behaviour) -> Self {
        let mut this = Self {
            nodes: Follower::new(&cluster.nodes),
            pods: Follower::new(&cluster.pods),
            budgets: Follower::new(&cluster.budgets),
            agenda: Agenda::new(),
            places: Places::default(),
            waiting: BTreeSet::new(),
            templates: HashMap::new(),
            counting: HashSet::new(),
            cluster,
            behaviour,
        };
        this.begin();
        this
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            if self.step() {
                // Others have a turn between batches.
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.agenda.next();
            let wait = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.nodes.head.changed() => {}
                _ = self.pods.head.changed() => {}
                _ = self.budgets.head.changed() => {}
                () = wait => {}
            }
        }
    }

    /// Looks at what changed and does what is due. Returns whether there was anything.
    fn step(&mut self) -> bool {
        let (nodes, pods, budgets) = (self.nodes.changes(), self.pods.changes(), self.budgets.changes());
        let (Some(nodes), Some(pods), Some(budgets)) = (nodes, pods, budgets) else {
            self.begin();
            return true;
        };
        let mut busy = !(nodes.is_empty() && pods.is_empty() && budgets.is_empty());
        nodes.iter().for_each(|change| self.node_changed(change.before.as_deref(), change.after.as_deref()));
        pods.iter().for_each(|change| self.pod_changed(change.before.as_deref(), change.after.as_deref()));
        budgets
            .iter()
            .filter_map(|change| change.after.as_ref())
            .for_each(|budget| self.budget_changed(budget));
        let now = Instant::now();
        for _ in 0..BATCH {
            let Some(job) = self.agenda.due(now) else { break };
            self.act(job);
            busy = true;
        }
        busy
    }

    /// Begins with everything as it is, as if it were all new.
    fn begin(&mut self) {
        self.agenda.clear();
        self.waiting.clear();
        self.counting.clear();
        self.nodes = Follower::new(&self.cluster.nodes);
        self.pods = Follower::new(&self.cluster.pods);
        self.budgets = Follower::new(&self.cluster.budgets);
        let everything = Selector::default();
        self.places = Places::default();
        for node in self.cluster.nodes.all(&everything) {
            self.node_changed(None, Some(&node));
        }
        let mut owners = HashMap::new();
        for pod in self.cluster.pods.all(&everything) {
            self.attend(None, &pod);
            if let Some((.., uid)) = pod.template.controller() {
                owners.entry(Arc::<str>::from(uid)).or_insert(pod);
            }
        }
        for pod in owners.values() {
            self.replace(pod);
        }
        for budget in self.cluster.budgets.all(&everything) {
            self.count_soon(budget.key());
        }
    }

    fn act(&mut self, job: Job) {
        match job {
            Job::Finish { key, uid } => self.cluster.finish_pod(&key, &uid),
            Job::Start { key, uid } => self.cluster.start_pod(&key, &uid),
            Job::Count { budget } => {
                self.counting.remove(&budget);
                self.cluster.sync_budget(&budget);
            }
            Job::Taint { node } => self.cluster.follow_cordon(&node),
        }
    }

    fn later(&mut self, after: Duration, job: Job) {
        self.agenda.note(Instant::now() + after, job);
    }

    fn node_changed(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let uid = |node: Option<&Value>| node.map(|node| node["metadata"]["uid"].clone());
        let Some(name) = after.or(before).map(Object::name) else { return };
        self.places.set(name, after.is_some_and(ready));
        if before.is_some() && uid(before) != uid(after) {
            self.collect(name);
        }
        let Some(node) = after else { return };
        if before.is_none() {
            self.cover(name);
        }
        if let Some(after) = self.behaviour.taint_after
            && acts::tainted(node) != (node["spec"]["unschedulable"] == true)
        {
            self.later(after, Job::Taint { node: name.to_owned() });
        }
        if self.places.has(name) {
            for key in std::mem::take(&mut self.waiting) {
                self.place(key);
            }
        }
    }

    /// Takes away what ran on a node that is gone.
    fn collect(&self, node: &str) {
        for pod in self.cluster.pods.group(&Group::Node(node.into())) {
            self.cluster.finish_pod(&pod.key(), &pod.uid);
        }
    }

    fn pod_changed(&mut self, before: Option<&Pod>, after: Option<&Pod>) {
        let Some(pod) = after.or(before) else { return };
        if after.is_some() {
            self.attend(before, pod);
        }
        // Whom a pod counts for may have changed with its labels.
        let other = before.filter(|before| before.template.labels != pod.template.labels);
        let counts = |pod: Option<&Pod>| pod.map(|pod| (pod.active(), pod.ready, Arc::clone(&pod.template)));
        if counts(before) != counts(after) {
            [Some(pod), other].into_iter().flatten().for_each(|pod| self.count_budgets_of(pod));
        }
        if before.is_some_and(Pod::active) && !after.is_some_and(Pod::active) || after.is_none() {
            self.replace(pod);
        }
    }

    /// Does for a pod what its kubelet and the scheduler do.
    fn attend(&mut self, before: Option<&Pod>, pod: &Pod) {
        if let Some((.., uid)) = pod.template.controller() {
            self.templates.insert(uid.into(), Arc::clone(&pod.template));
        }
        match pod.deletion {
            Some(deletion) if deletion.grace_secs > 0 && before.and_then(|b| b.deletion) != pod.deletion => {
                let grace = Duration::from_secs(deletion.grace_secs.unsigned_abs());
                let job = Job::Finish { key: pod.key(), uid: Arc::clone(&pod.uid) };
                self.later(grace.min(self.behaviour.ends_within), job);
            }
            Some(_) => {}
            None if pod.phase != Phase::Pending => {}
            None if pod.node.is_none() => self.place(pod.key()),
            None if before.is_none_or(|before| before.node.is_none()) => {
                let job = Job::Start { key: pod.key(), uid: Arc::clone(&pod.uid) };
                self.later(self.behaviour.ready_after, job);
            }
            None => {}
        }
    }

    /// Binds a pod to a node, or has it wait for one.
    fn place(&mut self, key: String) {
        let cluster = &self.cluster;
        let load = |node: &str| cluster.pods.group_len(&Group::Node(node.into()));
        match self.places.choose(cluster.serial(), load) {
            Some(node) => cluster.bind_pod(&key, &node),
            None => drop(self.waiting.insert(key)),
        }
    }

    /// Has the controller of a pod make what it lacks.
    fn replace(&mut self, pod: &Pod) {
        let Some((kind, name, uid)) = pod.template.controller() else { return };
        match kind {
            "ReplicaSet" => self.replicate(pod.namespace(), name, uid),
            "DaemonSet" => self.cover_after(pod),
            "Node" if pod.mirror() => self.cluster.mirror_again(pod),
            _ => {}
        }
    }

    /// Makes the pods that a ReplicaSet lacks. One that is about to end counts as gone, as in a real cluster.
    fn replicate(&mut self, namespace: &str, name: &str, uid: &str) {
        let Ok(set) = self.cluster.replica_sets.get(&key(namespace, name)) else { return };
        let Some(template) = self.templates.get(uid).filter(|_| set["metadata"]["uid"] == uid) else {
            return;
        };
        let wanted = set["spec"]["replicas"].as_u64().and_then(|wanted| usize::try_from(wanted).ok());
        let pods = self.cluster.pods.group(&Group::Owner(uid.into()));
        let active = pods.iter().filter(|pod| pod.active()).count();
        for _ in active..wanted.unwrap_or(0).min(REPLICAS_MAX) {
            self.cluster.spawn_pod(name, template, None);
        }
    }

    /// Puts another pod of a DaemonSet where one is gone.
    fn cover_after(&self, pod: &Pod) {
        let Some((_, name, uid)) = pod.template.controller() else { return };
        let (Some(node), Some(template)) = (&pod.node, self.templates.get(uid)) else { return };
        let set = self.cluster.daemon_sets.get(&key(pod.namespace(), name));
        if set.is_ok_and(|set| set["metadata"]["uid"] == uid) && self.cluster.nodes.get(node).is_ok() {
            self.cover_with(node, name, uid, template);
        }
    }

    /// Puts a pod of every DaemonSet on a new node.
    fn cover(&self, node: &str) {
        for set in self.cluster.daemon_sets.all(&Selector::default()) {
            let uid = set["metadata"]["uid"].as_str().unwrap_or_default();
            if let Some(template) = self.templates.get(uid) {
                self.cover_with(node, set.name(), uid, template);
            }
        }
    }

    /// Makes a pod of a DaemonSet on a node unless one is there, even if that is about to end.
    fn cover_with(&self, node: &str, name: &str, uid: &str, template: &Arc<Template>) {
        let there = self.cluster.pods.group(&Group::Node(node.into()));
        let covered =
            there.iter().any(|pod| pod.template.controller().is_some_and(|(.., owner)| owner == uid));
        if !covered {
            self.cluster.spawn_pod(name, template, Some(node.into()));
        }
    }

    fn budget_changed(&mut self, budget: &Value) {
        if budget["metadata"]["generation"] != budget["status"]["observedGeneration"] {
            self.count_soon(budget.key());
        }
    }

    fn count_budgets_of(&mut self, pod: &Pod) {
        for budget in self.cluster.budgets.all(&Selector::default().within(pod.namespace())) {
            if budgets::covers(&budget, pod) {
                self.count_soon(budget.key());
            }
        }
    }

    fn count_soon(&mut self, budget: String) {
        if self.counting.insert(budget.clone()) {
            self.later(self.behaviour.budget_lag, Job::Count { budget });
        }
    }
}
