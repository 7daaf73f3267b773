//! The state of a cluster, and what may be done to it. Not here: HTTP ([`super::api`]), evictions
//! ([`super::eviction`]), and what happens by itself ([`super::controllers`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::collection::{Collection, Outcome, Versions};
use super::deletion::DeleteOptions;
use super::journal::{Journal, PodChange};
use super::object::{Object, key, time};
use super::patch::PatchKind;
use super::pod::Pod;
use super::resources::{Resource, Target};
use super::seed::Seed;
use super::selector::Selector;
use super::status::Refusal;
use super::{SimulatorConfig, budgets, nodes};
use crate::clock::Clock;

/// Everything there is.
pub(super) struct Cluster {
    pub(super) nodes: Arc<Collection<Value>>,
    pub(super) pods: Arc<Collection<Pod>>,
    pub(super) namespaces: Arc<Collection<Value>>,
    pub(super) daemon_sets: Arc<Collection<Value>>,
    pub(super) replica_sets: Arc<Collection<Value>>,
    pub(super) budgets: Arc<Collection<Value>>,
    pub(super) journal: Journal,
    pub(super) clock: Arc<dyn Clock>,
    /// Counts what was made since the start, for names and UIDs that nobody had before.
    made: AtomicU64,
}

impl Cluster {
    pub(super) fn new(config: &SimulatorConfig, clock: Arc<dyn Clock>, start: Instant) -> Self {
        let versions = Arc::new(Versions::default());
        let now = clock.now();
        let fleet: Vec<_> = nodes::fleet(config, now).collect();
        let seed = Seed::plant(config, &fleet, now);
        let plain = |kind, objects: Vec<Value>| {
            Arc::new(Collection::new(kind, Arc::clone(&versions), config.history_max, objects))
        };
        let this = Self {
            nodes: plain("nodes", fleet),
            pods: Arc::new(Collection::new("pods", Arc::clone(&versions), config.history_max, seed.pods)),
            namespaces: plain("namespaces", seed.namespaces),
            daemon_sets: plain("daemonsets.apps", seed.daemon_sets),
            replica_sets: plain("replicasets.apps", seed.replica_sets),
            budgets: plain("poddisruptionbudgets.policy", seed.budgets),
            journal: Journal::new(config.log_max, start),
            clock,
            made: AtomicU64::new(0),
        };
        for budget in this.budgets.all(&Selector::default()) {
            this.sync_budget(&budget.key());
        }
        this
    }

    /// Writes the status of a budget from the pods as they are now, unless it is held.
    pub(super) fn sync_budget(&self, key: &str) {
        let Ok(budget) = self.budgets.get(key) else { return };
        let mut pods = Vec::new();
        if let Some(cover) = budgets::Cover::of(&budget) {
            pods = self.pods.all(&Selector::default().within(budget.namespace()));
            pods.retain(|pod| cover.has(pod));
        }
        let now = self.clock.now();
        // It may be gone by now, which is no news to anybody.
        let _ = self.budgets.update(key, false, |old| {
            let mut new = old.clone();
            if !budgets::held(old) {
                new["status"] = budgets::status(old, &pods, |pod| self.scale(pod), now);
            }
            Ok(new)
        });
    }

    /// How many pods the controller of a pod wants, under its UID; nothing for a pod of its own.
    fn scale(&self, pod: &Pod) -> Result<Option<(String, i64)>, String> {
        let Some((kind, name, uid)) = pod.template.controller() else { return Ok(None) };
        if kind != "ReplicaSet" {
            return Err(format!("{kind} {name} does not implement the scale subresource"));
        }
        let found = self.replica_sets.get(&key(pod.namespace(), name));
        let replicas = found.ok().and_then(|found| found["spec"]["replicas"].as_i64());
        let replicas = replicas.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
        Ok(Some((uid.to_owned(), replicas)))
    }

    /// The objects of a resource that is kept as plain JSON.
    pub(super) fn plain(&self, resource: &Resource) -> Option<&Arc<Collection<Value>>> {
        match resource.plural {
            "nodes" => Some(&self.nodes),
            "namespaces" => Some(&self.namespaces),
            "daemonsets" => Some(&self.daemon_sets),
            "replicasets" => Some(&self.replica_sets),
            "poddisruptionbudgets" => Some(&self.budgets),
            _ => None,
        }
    }

    /// A number that was never given before.
    pub(super) fn serial(&self) -> u64 {
        self.made.fetch_add(1, Ordering::SeqCst)
    }

    /// A UID that was never given before.
    pub(super) fn uid(&self) -> Arc<str> {
        format!("00000000-0000-4000-9000-{:012x}", self.serial()).into()
    }

    /// Refuses to make something where nothing may be made.
    pub(super) fn may_create(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        if namespace.is_empty() {
            return Ok(());
        }
        let found = self.namespaces.get(namespace)?;
        let terminating = found["status"]["phase"] == "Terminating";
        if terminating { Err(Refusal::namespace_terminating(kind, name, namespace)) } else { Ok(()) }
    }

    /// Adds a pod as it was posted.
    pub(super) fn create_pod(&self, value: &Value, dry_run: bool) -> Result<Arc<Pod>, Refusal> {
        self.may_create("pods", value.namespace(), value.name())?;
        self.add_pod(Pod::read(value, self.uid(), self.clock.now())?, dry_run)
    }

    pub(super) fn add_pod(&self, pod: Pod, dry_run: bool) -> Result<Arc<Pod>, Refusal> {
        let pod = self.pods.create(pod, dry_run)?;
        if !dry_run {
            self.journal.note(PodChange::Created, &pod);
        }
        Ok(pod)
    }

    /// Tells a pod to end; `change` is what the journal calls it.
    pub(super) fn end_pod(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        change: PodChange,
    ) -> Result<Arc<Pod>, Refusal> {
        let now = self.clock.now();
        let mut new = false;
        let mut gone = false;
        let pod = self.pods.change(&key(namespace, name), options.dry_run, |pod| {
            let outcome = options.end(pod, now)?;
            new = pod.deletion.is_none();
            gone = matches!(outcome, Outcome::Remove(_));
            Ok(outcome)
        })?;
        if !options.dry_run {
            for (happened, change) in [(new, change), (gone, PodChange::Gone)] {
                if happened {
                    self.journal.note(change, &pod);
                }
            }
        }
        Ok(pod)
    }

    /// Changes a pod by a patch. One that only this finalizer held is gone with it.
    pub(super) fn patch_pod(
        &self,
        key: &str,
        kind: PatchKind,
        patch: &Value,
        dry_run: bool,
    ) -> Result<Arc<Pod>, Refusal> {
        let mut gone = false;
        let pod = self.pods.change(key, dry_run, |pod| {
            let new = pod.patched(&kind.apply(&pod.show(), patch)?)?;
            gone = new.over();
            Ok(if gone { Outcome::Remove(new) } else { Outcome::Keep(new) })
        })?;
        if gone && !dry_run {
            self.journal.note(PodChange::Gone, &pod);
        }
        Ok(pod)
    }

    /// Brings a posted object of a plain resource into the form that is stored.
    pub(super) fn create_plain(
        &self,
        resource: &Resource,
        value: &Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let collection = self.plain(resource).ok_or_else(Refusal::method_not_allowed)?;
        let mut new = value.clone();
        if new.name().is_empty() || resource.namespaced == new.namespace().is_empty() {
            return Err(Refusal::invalid(resource.kind, new.name(), "metadata: name or namespace is wrong"));
        }
        self.may_create(&resource.qualified(), new.namespace(), new.name())?;
        new["kind"] = resource.kind.into();
        new["apiVersion"] = resource.api_version().into();
        let metadata = &mut new["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = (*self.uid()).into();
        }
        metadata["creationTimestamp"] = time(self.clock.now()).into();
        metadata["generation"] = 1.into();
        collection.create(new, dry_run)
    }

    /// Changes an object of a plain resource by a patch.
    pub(super) fn patch_plain(
        &self,
        resource: &Resource,
        key: &str,
        (kind, patch): (PatchKind, &Value),
        dry_run: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let collection = self.plain(resource).ok_or_else(Refusal::method_not_allowed)?;
        collection.update(key, dry_run, |old| {
            let new = kind.apply(old, patch)?;
            match resource.plural {
                "nodes" => nodes::admit(old, new),
                _ => admit(resource.kind, old, new),
            }
        })
    }

    /// Takes an object of a plain resource away. A namespace only begins to end: nothing empties it here.
    pub(super) fn delete_plain(
        &self,
        resource: &Resource,
        key: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Value>, Refusal> {
        let collection = self.plain(resource).ok_or_else(Refusal::method_not_allowed)?;
        let now = self.clock.now();
        collection.change(key, options.dry_run, |old| {
            options.check(resource.kind, old, old["metadata"]["uid"].as_str().unwrap_or_default())?;
            if resource.plural != "namespaces" {
                return Ok(Outcome::Remove(old.clone()));
            }
            let mut ending = old.clone();
            ending["metadata"]["deletionTimestamp"] = time(now).into();
            ending["status"] = json!({"phase": "Terminating"});
            Ok(Outcome::Keep(ending))
        })
    }

    /// Changes an object as another writer would who cares for something else in it: it is as it was, under a new
    /// version.
    pub(super) fn touch(&self, target: &Target<'_>) {
        let key = key(target.namespace, target.name);
        match self.plain(target.resource) {
            Some(plain) => plain.touch(&key),
            None => self.pods.touch(&key),
        }
    }

    /// Makes sure that a namespace is there.
    pub(super) fn need_namespace(&self, name: &str) {
        if self.namespaces.get(name).is_err() {
            let _ = self.namespaces.create(namespace(name, &time(self.clock.now())), false);
        }
    }
}

/// A namespace in use.
pub(super) fn namespace(name: &str, created: &str) -> Value {
    json!({
        "kind": "Namespace", "apiVersion": "v1",
        "metadata": {"name": name, "uid": format!("namespace-{name}"), "creationTimestamp": created,
            "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    })
}

/// Brings a patched object into the form that is stored: what names it stays, a new spec is a new generation.
fn admit(kind: &str, old: &Value, mut new: Value) -> Result<Value, Refusal> {
    for field in ["name", "namespace", "uid"] {
        if new["metadata"].get(field) != old["metadata"].get(field) {
            return Err(Refusal::invalid(kind, old.name(), format!("metadata.{field}: field is immutable")));
        }
    }
    if new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
    Ok(new)
}
