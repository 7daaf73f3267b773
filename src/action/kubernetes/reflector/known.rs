//! What is known of a cluster's nodes: the nodes themselves, how current they are, and the changes for whoever follows.
//!
//! One lock: a change is told in the same moment in which it is known, so that whoever takes the nodes and follows from
//! there misses nothing. Not here: where nodes come from ([`super::run`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::action::nodes::NodeMore;
use crate::action::{Freshness, NodeChange, NodeChanges, NodeDetail, NodeView, Nodes};

/// Changes kept for those who follow. Whoever is further behind begins anew.
const CHANGES_MAX: usize = 1_024;
/// A watch that is lost for less is no reason to doubt what is known: it comes back where it was.
const LOST_MAX: Duration = Duration::from_secs(5);
/// A watch says something, if only that its time is over, more often than this.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A node: what lists show of it, and the rest.
pub(super) type Entry = (Arc<NodeView>, Arc<NodeMore>);

/// How far the first list has come.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Nothing is known yet.
    Starting,
    /// The newest try to list came to nothing, for this reason.
    Failed(Arc<str>),
    /// The nodes are known; how current that is, is another question.
    Synced,
}

pub(super) struct Known {
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    changes: broadcast::Sender<NodeChange>,
}

struct Inner {
    nodes: BTreeMap<String, Entry>,
    heard: Instant,
    /// Since when the watch is lost, and why.
    lost: Option<(Instant, Arc<str>)>,
}

impl Inner {
    fn freshness(&self) -> Freshness {
        let silent = self.heard.elapsed();
        let lost = self.lost.as_ref().filter(|(since, _)| since.elapsed() >= LOST_MAX);
        Freshness {
            stale: lost.is_some() || silent >= SILENCE_MAX,
            silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            cause: lost.map(|(_, why)| why.to_string()),
        }
    }

    fn nodes(&self) -> Nodes {
        let nodes = self.nodes.values().map(|(node, _)| Arc::clone(node)).collect();
        Nodes { nodes, freshness: self.freshness() }
    }
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner { nodes: BTreeMap::new(), heard: Instant::now(), lost: None }),
            phase: watch::Sender::new(Phase::Starting),
            changes: broadcast::Sender::new(CHANGES_MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how the first list comes along.
    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The nodes, by name.
    pub(super) fn nodes(&self) -> Nodes {
        self.lock().nodes()
    }

    pub(super) fn node(&self, name: &str) -> Option<NodeDetail> {
        let inner = self.lock();
        let (node, more) = inner.nodes.get(name).cloned()?;
        Some(NodeDetail { node, more, freshness: inner.freshness() })
    }

    /// How current the nodes are; `None` while there are none.
    pub(super) fn freshness(&self) -> Option<Freshness> {
        let synced = matches!(*self.phase.borrow(), Phase::Synced);
        synced.then(|| self.lock().freshness())
    }

    /// The nodes, and every change from there on.
    pub(super) fn follow(&self) -> (Nodes, NodeChanges) {
        let inner = self.lock();
        (inner.nodes(), self.changes.subscribe().into())
    }

    /// Every change from here on.
    pub(super) fn changes(&self) -> NodeChanges {
        self.changes.subscribe().into()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().nodes.len()
    }

    /// Takes a list: what is not in it is gone.
    pub(super) fn replace(&self, listed: BTreeMap<String, Entry>) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.nodes, listed);
        for (name, (node, _)) in &before {
            if inner.nodes.get(name).is_none_or(|(now, _)| now.uid != node.uid) {
                self.tell(NodeChange::Deleted(Arc::clone(node)));
            }
        }
        for (name, (node, _)) in &inner.nodes {
            self.tell_of(before.get(name).map(|(before, _)| before), node);
        }
        (inner.heard, inner.lost) = (Instant::now(), None);
        drop(inner);
        self.phase.send_replace(Phase::Synced);
    }

    /// A node is there, new or changed.
    pub(super) fn apply(&self, (node, more): Entry) {
        let mut inner = self.lock();
        let before = inner.nodes.insert(node.name.clone(), (Arc::clone(&node), more));
        let before = before.map(|(before, _)| before);
        if let Some(before) = before.as_ref().filter(|before| before.uid != node.uid) {
            self.tell(NodeChange::Deleted(Arc::clone(before)));
        }
        self.tell_of(before.as_ref(), &node);
        inner.heard = Instant::now();
    }

    /// A node is gone, and whether that was news. Another one that has its name by now stays.
    pub(super) fn delete(&self, gone: &NodeView) -> bool {
        let mut inner = self.lock();
        inner.heard = Instant::now();
        if inner.nodes.get(&gone.name).is_none_or(|(node, _)| node.uid != gone.uid) {
            return false;
        }
        let removed = inner.nodes.remove(&gone.name);
        removed.into_iter().for_each(|(node, _)| self.tell(NodeChange::Deleted(node)));
        true
    }

    /// The cluster said something, if only that there is nothing to say.
    pub(super) fn heard(&self) {
        self.lock().heard = Instant::now();
    }

    /// The watch holds, and everything that it had to tell was heard.
    pub(super) fn live(&self) {
        let mut inner = self.lock();
        (inner.heard, inner.lost) = (Instant::now(), None);
    }

    /// Whether the watch is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }

    /// What changes is not seen any more, or not yet.
    pub(super) fn lost(&self, why: &str) {
        let mut inner = self.lock();
        let since = inner.lost.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        inner.lost = Some((since, why.into()));
        drop(inner);
        self.phase.send_if_modified(|phase| {
            let failed = !matches!(phase, Phase::Synced);
            if failed {
                *phase = Phase::Failed(why.into());
            }
            failed
        });
    }

    fn tell_of(&self, before: Option<&Arc<NodeView>>, node: &Arc<NodeView>) {
        match before {
            Some(before) if before.uid == node.uid => {
                let changed = node.changed_from(before);
                if !changed.is_empty() {
                    self.tell(NodeChange::Updated { node: Arc::clone(node), changed: changed.into() });
                }
            }
            _ => self.tell(NodeChange::Added(Arc::clone(node))),
        }
    }

    /// Nobody may listen, which is no fault.
    fn tell(&self, change: NodeChange) {
        let _ = self.changes.send(change);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::action::nodes::Followed;

    fn entry(name: &str, uid: &str, cordoned: bool) -> Entry {
        let node =
            NodeView { name: name.into(), uid: uid.into(), unschedulable: cordoned, ..NodeView::default() };
        (Arc::new(node), Arc::default())
    }

    fn list(entries: impl IntoIterator<Item = Entry>) -> BTreeMap<String, Entry> {
        entries.into_iter().map(|entry| (entry.0.name.clone(), entry)).collect()
    }

    /// What was told by now, in a word each.
    fn told(changes: &mut NodeChanges) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(followed) = changes.next().now_or_never() {
            words.push(match followed {
                Followed::Change(NodeChange::Added(node)) => format!("+{} {}", node.name, node.uid),
                Followed::Change(NodeChange::Updated { node, changed }) => {
                    format!("{} {changed:?}", node.name)
                }
                Followed::Change(NodeChange::Deleted(node)) => format!("-{} {}", node.name, node.uid),
                other => format!("{other:?}"),
            });
        }
        words
    }

    #[tokio::test]
    async fn a_list_and_single_changes_tell_the_same() {
        let known = Known::new();
        known.replace(list([entry("a", "1", false), entry("b", "2", false), entry("c", "3", false)]));
        let (nodes, mut changes) = known.follow();
        assert_eq!(nodes.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        known.replace(list([entry("a", "1", true), entry("b", "9", false), entry("d", "4", false)]));
        assert_eq!(told(&mut changes), ["-b 2", "-c 3", "a [\"unschedulable\"]", "+b 9", "+d 4"]);
        known.apply(entry("a", "1", true));
        known.apply(entry("a", "1", false));
        known.apply(entry("d", "5", false));
        known.apply(entry("e", "6", false));
        known.delete(&entry("d", "4", false).0);
        known.delete(&entry("e", "6", false).0);
        assert_eq!(told(&mut changes), ["a [\"unschedulable\"]", "-d 4", "+d 5", "+e 6", "-e 6"]);
        assert_eq!(known.nodes().nodes.len(), 3, "the d that is there now stays");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_watched_for_a_while_is_stale_and_says_why() {
        let known = Known::new();
        assert_eq!(known.freshness(), None);
        known.replace(BTreeMap::new());
        assert_eq!(known.freshness(), Some(Freshness::default()));
        known.lost("away");
        known.lost("still away");
        assert!(!known.freshness().unwrap().stale, "it may be back in a moment");
        tokio::time::advance(LOST_MAX).await;
        let expected = Freshness { stale: true, silent_ms: 5_000, cause: Some("still away".into()) };
        assert_eq!(known.freshness(), Some(expected));
        known.live();
        assert_eq!(known.freshness(), Some(Freshness::default()));
        tokio::time::advance(SILENCE_MAX).await;
        assert!(known.freshness().unwrap().stale, "a watch that says nothing at all");
        known.heard();
        assert!(!known.freshness().unwrap().stale);
    }

    #[tokio::test]
    async fn the_first_list_is_waited_for_and_its_failure_told() {
        let known = Known::new();
        let phase = known.phase();
        known.lost("no way");
        assert!(matches!(&*phase.borrow(), Phase::Failed(why) if &**why == "no way"));
        known.replace(BTreeMap::new());
        known.lost("away");
        assert!(matches!(*phase.borrow(), Phase::Synced), "what was known once stays known");
    }
}
