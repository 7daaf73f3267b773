//! The objects of one resource, with a version for each change and a bounded memory of changes for watches.
//!
//! One counter gives the versions of all collections, as in the real API. Readers are never waited for: a watch that
//! falls behind the kept changes is told so. Not here: what an object may look like ([`super::nodes`]).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::selector::Selector;
use super::status::Refusal;

/// The version counter that collections share.
#[derive(Debug, Default)]
pub(super) struct Versions(AtomicU64);

impl Versions {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn current(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// One change, as watches need it: `before` is missing for an object that is new, `after` for one that is gone.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Arc<Value>>,
    pub(super) version: u64,
    /// Name of the last object of the page when more may follow.
    pub(super) last: Option<String>,
    /// How many matching objects follow the page.
    pub(super) remaining: usize,
}

#[derive(Debug)]
pub(super) struct Collection {
    /// The resource's plural name, for messages.
    kind: &'static str,
    inner: Mutex<Inner>,
    versions: Arc<Versions>,
    history_max: usize,
    head: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Arc<Value>>,
    history: VecDeque<Change>,
    /// Version of the newest change that is no longer kept.
    forgotten: u64,
}

impl Collection {
    /// Fills a collection. The objects it starts with are not in the memory of changes.
    pub(super) fn new(
        kind: &'static str,
        versions: Arc<Versions>,
        history_max: usize,
        objects: impl IntoIterator<Item = Value>,
    ) -> Self {
        let mut inner = Inner::default();
        for mut object in objects {
            stamp(&mut object, versions.next());
            inner.objects.insert(name_of(&object).to_owned(), Arc::new(object));
        }
        inner.forgotten = versions.current();
        let head = watch::Sender::new(inner.forgotten);
        Self { kind, inner: Mutex::new(inner), versions, history_max, head }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Value>, Refusal> {
        self.lock().objects.get(name).cloned().ok_or_else(|| Refusal::not_found(self.kind, name))
    }

    /// Objects in order of their names, from behind `after`, at most `limit` of those that match.
    pub(super) fn list(&self, selector: &Selector, after: Option<&str>, limit: usize) -> Page {
        let inner = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = inner
            .objects
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, o)| o)
            .filter(|o| selector.matches(o));
        let items: Vec<_> = matching.by_ref().take(limit).cloned().collect();
        let remaining = matching.count();
        let last = items.last().filter(|_| remaining > 0).map(|object| name_of(object).to_owned());
        Page { items, version: self.versions.current(), last, remaining }
    }

    /// Changes after a version, at most `max`.
    pub(super) fn after(&self, version: u64, max: usize) -> Result<Vec<Change>, Refusal> {
        let inner = self.lock();
        if version < inner.forgotten {
            return Err(Refusal::expired(version, inner.forgotten));
        }
        let from = inner.history.partition_point(|change| change.version <= version);
        Ok(inner.history.range(from..).take(max).cloned().collect())
    }

    /// Wakes when something changed.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    pub(super) fn version(&self) -> u64 {
        self.versions.current()
    }

    /// Replaces an object by what `edit` makes of it. An edit that changes nothing makes no version; with `dry_run`
    /// nothing is kept either way.
    pub(super) fn update(
        &self,
        name: &str,
        dry_run: bool,
        edit: impl FnOnce(&Value) -> Result<Value, Refusal>,
    ) -> Result<Arc<Value>, Refusal> {
        let mut inner = self.lock();
        let old = inner.objects.get(name).cloned().ok_or_else(|| Refusal::not_found(self.kind, name))?;
        let mut new = edit(&old)?;
        let asked = &new["metadata"]["resourceVersion"];
        if !asked.is_null() && asked != "" && *asked != old["metadata"]["resourceVersion"] {
            return Err(Refusal::conflict(self.kind, name));
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new == *old || dry_run {
            return Ok(Arc::new(new));
        }
        let version = self.versions.next();
        stamp(&mut new, version);
        let new = Arc::new(new);
        inner.objects.insert(name.to_owned(), Arc::clone(&new));
        self.remember(&mut inner, Change { version, before: Some(old), after: Some(Arc::clone(&new)) });
        Ok(new)
    }

    /// Takes an object away. Returns whether it was there.
    pub(super) fn delete(&self, name: &str) -> bool {
        let mut inner = self.lock();
        let Some(old) = inner.objects.remove(name) else { return false };
        let version = self.versions.next();
        self.remember(&mut inner, Change { version, before: Some(old), after: None });
        true
    }

    fn remember(&self, inner: &mut Inner, change: Change) {
        let version = change.version;
        inner.history.push_back(change);
        while inner.history.len() > self.history_max {
            inner.forgotten = inner.history.pop_front().map_or(inner.forgotten, |old| old.version);
        }
        self.head.send_replace(version);
    }
}

fn stamp(object: &mut Value, version: u64) {
    object["metadata"]["resourceVersion"] = version.to_string().into();
}

/// The name of an object; every stored object has one.
pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn collection(history_max: usize) -> Collection {
        let objects = ["a", "b", "c"].map(|name| json!({"metadata": {"name": name}}));
        Collection::new("nodes", Arc::default(), history_max, objects)
    }

    fn set(
        collection: &Collection,
        name: &str,
        value: u32,
        version: Option<&str>,
    ) -> Result<Arc<Value>, Refusal> {
        collection.update(name, false, |old| {
            let mut new = old.clone();
            new["value"] = value.into();
            if let Some(version) = version {
                new["metadata"]["resourceVersion"] = version.into();
            }
            Ok(new)
        })
    }

    #[test]
    fn a_stale_version_is_a_conflict_and_changes_nothing() {
        let nodes = collection(10);
        assert_eq!(set(&nodes, "a", 1, Some("1")).unwrap()["metadata"]["resourceVersion"], "4");
        assert_eq!(set(&nodes, "a", 2, Some("1")).unwrap_err().code, 409);
        assert_eq!(nodes.get("a").unwrap()["value"], 1);
        assert_eq!(set(&nodes, "z", 1, None).unwrap_err().code, 404);
    }

    #[test]
    fn no_change_makes_no_version() {
        let nodes = collection(10);
        set(&nodes, "a", 1, None).unwrap();
        set(&nodes, "a", 1, None).unwrap();
        assert_eq!(nodes.version(), 4);
        nodes.update("a", true, |_| Ok(json!({"metadata": {"name": "a"}, "value": 9}))).unwrap();
        assert_eq!(nodes.get("a").unwrap()["value"], 1);
    }

    #[test]
    fn forgotten_changes_are_an_error_not_a_gap() {
        let nodes = collection(2);
        for value in 0..4 {
            set(&nodes, "a", value, None).unwrap();
        }
        assert_eq!(nodes.after(4, 10).unwrap_err().code, 410);
        let kept: Vec<_> = nodes.after(5, 10).unwrap().iter().map(|change| change.version).collect();
        assert_eq!(kept, [6, 7]);
    }

    #[test]
    fn pages_cover_everything_once() {
        let nodes = collection(2);
        let first = nodes.list(&Selector::default(), None, 2);
        assert_eq!((first.items.len(), first.last.as_deref(), first.remaining), (2, Some("b"), 1));
        let second = nodes.list(&Selector::default(), first.last.as_deref(), 2);
        assert_eq!((second.items.len(), second.last, second.remaining), (1, None, 0));
    }
}
