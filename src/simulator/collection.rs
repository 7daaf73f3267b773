//! The objects of one resource, with a version for each change and a bounded memory of changes for watches.
//!
//! One counter gives the versions of all collections, as in the real API. Readers are never waited for: a watch that
//! falls behind the kept changes is told so. Not here: what an object may look like ([`super::nodes`], [`super::pod`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::object::{Group, Object};
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
pub(super) struct Change<T> {
    pub(super) version: u64,
    pub(super) before: Option<Arc<T>>,
    pub(super) after: Option<Arc<T>>,
}

/// What becomes of an object that was to be changed.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It looks like this from now on.
    Keep(T),
    /// It is gone; this is how it looked in the end.
    Remove(T),
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<Arc<T>>,
    pub(super) version: u64,
    /// Key of the last object of the page when more may follow.
    pub(super) last: Option<String>,
    /// How many matching objects follow the page.
    pub(super) remaining: usize,
}

#[derive(Debug)]
pub(super) struct Collection<T> {
    /// The resource's plural name, for messages.
    kind: &'static str,
    inner: Mutex<Inner<T>>,
    versions: Arc<Versions>,
    history_max: usize,
    head: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner<T> {
    objects: BTreeMap<Arc<str>, Arc<T>>,
    groups: HashMap<Group, BTreeSet<Arc<str>>>,
    history: VecDeque<Change<T>>,
    /// Version of the newest change that is no longer kept.
    forgotten: u64,
}

impl<T: Object> Collection<T> {
    /// Fills a collection. The objects it starts with are not in the memory of changes.
    pub(super) fn new(
        kind: &'static str,
        versions: Arc<Versions>,
        history_max: usize,
        objects: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut inner = Inner::new();
        for mut object in objects {
            object.stamp(versions.next());
            inner.put(Arc::new(object));
        }
        inner.forgotten = versions.current();
        let head = watch::Sender::new(inner.forgotten);
        Self { kind, inner: Mutex::new(inner), versions, history_max, head }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &str) -> Result<Arc<T>, Refusal> {
        self.lock().objects.get(key).cloned().ok_or_else(|| self.not_found(key))
    }

    fn not_found(&self, key: &str) -> Refusal {
        Refusal::not_found(self.kind, name_in(key))
    }

    /// Objects in order of their keys, from behind `after`, at most `limit` of those that match.
    pub(super) fn list(&self, selector: &Selector, after: Option<&str>, limit: usize) -> Page<T> {
        let inner = self.lock();
        let mut matching = inner.candidates(selector, after).filter(|object| selector.matches(&***object));
        let items: Vec<_> = matching.by_ref().take(limit).cloned().collect();
        let remaining = matching.count();
        let last = items.last().filter(|_| remaining > 0).map(|object| object.key());
        Page { items, version: self.versions.current(), last, remaining }
    }

    /// Every object that matches.
    pub(super) fn all(&self, selector: &Selector) -> Vec<Arc<T>> {
        self.list(selector, None, usize::MAX).items
    }

    /// The objects of a group, in order of their keys.
    pub(super) fn group(&self, group: &Group) -> Vec<Arc<T>> {
        let inner = self.lock();
        let keys = inner.groups.get(group).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key)).cloned().collect()
    }

    /// How many objects a group has.
    pub(super) fn group_len(&self, group: &Group) -> usize {
        self.lock().groups.get(group).map_or(0, BTreeSet::len)
    }

    /// Changes after a version, at most `max`.
    pub(super) fn after(&self, version: u64, max: usize) -> Result<Vec<Change<T>>, Refusal> {
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

    /// Adds an object. With `dry_run` it is only checked that it could be.
    pub(super) fn create(&self, mut object: T, dry_run: bool) -> Result<Arc<T>, Refusal> {
        let mut inner = self.lock();
        if inner.objects.contains_key(object.key().as_str()) {
            return Err(Refusal::already_exists(self.kind, object.name()));
        }
        if dry_run {
            return Ok(Arc::new(object));
        }
        let version = self.versions.next();
        object.stamp(version);
        let object = Arc::new(object);
        inner.put(Arc::clone(&object));
        self.remember(&mut inner, Change { version, before: None, after: Some(Arc::clone(&object)) });
        Ok(object)
    }

    /// Replaces an object by what `edit` makes of it. An edit that changes nothing makes no version; with `dry_run`
    /// nothing is kept either way.
    pub(super) fn update(
        &self,
        key: &str,
        dry_run: bool,
        edit: impl FnOnce(&T) -> Result<T, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        self.change(key, dry_run, |old| edit(old).map(Outcome::Keep))
    }

    /// As [`Self::update`], for edits that may end the object.
    pub(super) fn change(
        &self,
        key: &str,
        dry_run: bool,
        edit: impl FnOnce(&T) -> Result<Outcome<T>, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        let mut inner = self.lock();
        let old = inner.objects.get(key).cloned().ok_or_else(|| self.not_found(key))?;
        let outcome = edit(&old)?;
        let (mut new, ends) = match outcome {
            Outcome::Keep(new) => (new, false),
            Outcome::Remove(last) => (last, true),
        };
        if new.version() != 0 && new.version() != old.version() {
            return Err(Refusal::conflict(self.kind, name_in(key)));
        }
        new.stamp(old.version());
        if dry_run || (new == *old && !ends) {
            return Ok(Arc::new(new));
        }
        Ok(self.replace(&mut inner, old, new, ends))
    }

    /// Puts a new version in the place of an object, or takes it away if it ends with it.
    fn replace(&self, inner: &mut Inner<T>, old: Arc<T>, mut new: T, ends: bool) -> Arc<T> {
        let version = self.versions.next();
        new.stamp(version);
        let new = Arc::new(new);
        inner.take(&old);
        let after = (!ends).then(|| Arc::clone(&new));
        if let Some(after) = &after {
            inner.put(Arc::clone(after));
        }
        self.remember(inner, Change { version, before: Some(old), after });
        new
    }

    /// Gives an object a new version without another change, as a writer would whose field is not kept here.
    pub(super) fn touch(&self, key: &str) {
        let mut inner = self.lock();
        let Some(old) = inner.objects.get(key).cloned() else { return };
        let same = T::clone(&old);
        self.replace(&mut inner, old, same, false);
    }

    /// Takes an object away. Returns whether it was there.
    pub(super) fn delete(&self, key: &str) -> bool {
        self.change(key, false, |old| Ok(Outcome::Remove(old.clone()))).is_ok()
    }

    /// Forgets every change.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        inner.history.clear();
        // A version of its own, so that even a watcher of the newest object is behind.
        inner.forgotten = self.versions.next();
        self.head.send_replace(inner.forgotten);
    }

    fn remember(&self, inner: &mut Inner<T>, change: Change<T>) {
        let version = change.version;
        inner.history.push_back(change);
        while inner.history.len() > self.history_max {
            inner.forgotten = inner.history.pop_front().map_or(inner.forgotten, |old| old.version);
        }
        self.head.send_replace(version);
    }
}

impl<T: Object> Inner<T> {
    fn new() -> Self {
        Self { objects: BTreeMap::new(), groups: HashMap::new(), history: VecDeque::new(), forgotten: 0 }
    }

    fn put(&mut self, object: Arc<T>) {
        let key: Arc<str> = object.key().into();
        for group in object.groups().into_iter().flatten() {
            self.groups.entry(group).or_default().insert(Arc::clone(&key));
        }
        self.objects.insert(key, object);
    }

    fn take(&mut self, object: &T) {
        let key = object.key();
        self.objects.remove(key.as_str());
        for group in object.groups().into_iter().flatten() {
            let Some(keys) = self.groups.get_mut(&group) else { continue };
            keys.remove(key.as_str());
            if keys.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    /// The objects among which those that match are: of a group or a namespace, if the selector names one.
    fn candidates<'a>(
        &'a self,
        selector: &Selector,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<T>> + 'a> {
        if let Some(group) = selector.group() {
            let Some(keys) = self.groups.get(&group) else { return Box::new(std::iter::empty()) };
            let behind = keys.range::<str, _>((bound(after), Bound::Unbounded));
            return Box::new(behind.filter_map(|key| self.objects.get(key)));
        }
        let first = selector.namespace().map(|namespace| format!("{namespace}/"));
        // '0' is the character behind '/'.
        let end = selector.namespace().map(|namespace| format!("{namespace}0"));
        let from = after.max(first.as_deref());
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        if end.as_deref().is_some_and(|end| from >= Some(end)) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.objects.range::<str, _>((bound(from), to)).map(|(_, object)| object))
    }
}

fn bound(after: Option<&str>) -> Bound<&str> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

fn name_in(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn collection(history_max: usize) -> Collection<Value> {
        let objects = ["a", "b", "c"].map(|name| json!({"metadata": {"name": name}}));
        Collection::new("nodes", Arc::default(), history_max, objects)
    }

    fn set(
        collection: &Collection<Value>,
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
        assert_eq!(set(&nodes, "a", 2, Some("one")).unwrap_err().code, 409);
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
        nodes.create(json!({"metadata": {"name": "d"}}), true).unwrap();
        assert_eq!(nodes.get("a").unwrap()["value"], 1);
        assert_eq!(nodes.version(), 4);
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

    #[test]
    fn a_namespace_has_its_own_objects_and_names() {
        let things = Collection::new("things", Arc::default(), 9, Vec::<Value>::new());
        for namespace in ["a", "a-b", "b"] {
            things.create(json!({"metadata": {"name": "x", "namespace": namespace}}), false).unwrap();
        }
        let taken = things.create(json!({"metadata": {"name": "x", "namespace": "a"}}), false);
        assert_eq!(taken.unwrap_err().code, 409);
        let of = |namespace: &str, after: Option<&str>| {
            let page = things.list(&Selector::default().within(namespace), after, 9);
            page.items.iter().map(|object| object.key()).collect::<Vec<_>>()
        };
        assert_eq!((of("a", None), of("b", None)), (vec!["a/x".to_owned()], vec!["b/x".to_owned()]));
        assert_eq!((of("a", Some("a/x")), of("b", Some("a/x")).len()), (vec![], 1));
        assert_eq!(of("a", Some("b/x")), Vec::<String>::new(), "a token of another place finds nothing");
        assert!(things.delete("a/x"));
        assert_eq!(things.all(&Selector::default()).len(), 2);
    }
}
