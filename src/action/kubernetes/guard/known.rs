//! What the rules of safety go by in one process: the nodes of a cluster as its watch shows them, and what was begun that the
//! watch has not shown yet.
//!
//! A node that is acted on counts as out of service from the moment it is begun. It goes on counting after its end: until
//! its cordon was seen where it is known to be there, and for a moment where nobody knows what became of it. Pure; times are
//! passed in. Not here: where nodes come from ([`super::super::reflector`]).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::task::safety::{Judge, Node, Nodes, Rules};

/// The watch shows within this time what became of a node that may have been changed and may have not.
pub(super) const SETTLES: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Known {
    nodes: Nodes,
    /// Which task cordoned a node, where it was seen.
    holders: HashMap<String, String>,
    /// Nodes that are acted on, each as often as it is.
    working: HashMap<String, u32>,
    /// Nodes that were acted on, and that the watch has not told of since.
    ended: HashMap<String, (Instant, End)>,
}

/// What is known of the end of what was begun on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It is as it was.
    AsBefore,
    /// This task cordoned it, which will be seen, however long that takes.
    Cordoned(String),
    /// It was tainted. No taint is anybody's, so what was tainted before looks the same.
    Tainted,
    /// Nobody knows.
    Unclear,
}

impl End {
    fn counts(&self, since: Instant, now: Instant) -> bool {
        match self {
            Self::AsBefore => false,
            Self::Cordoned(_) => true,
            Self::Tainted | Self::Unclear => now < since + SETTLES,
        }
    }

    /// Whether a node as it was seen shows it.
    fn is_seen(&self, node: &Node, holder: Option<&String>) -> bool {
        match self {
            Self::AsBefore => true,
            Self::Cordoned(task) => holder == Some(task),
            Self::Tainted => node.tainted,
            Self::Unclear => false,
        }
    }
}

impl Known {
    /// The nodes as they were seen.
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Asks the rules, with what is out of service by now.
    pub(super) fn judge<T>(&self, rules: &Rules, now: Instant, ask: impl FnOnce(&Judge<'_>) -> T) -> T {
        ask(&Judge { rules, nodes: &self.nodes, begun: &|name| self.is_begun(name, now) })
    }

    fn is_begun(&self, name: &str, now: Instant) -> bool {
        let counts = |(since, end): &(Instant, End)| end.counts(*since, now);
        self.working.contains_key(name) || self.ended.get(name).is_some_and(counts)
    }

    /// A node is acted on.
    pub(super) fn start(&mut self, name: &str, now: Instant) {
        self.ended.retain(|_, (since, end)| end.counts(*since, now));
        *self.working.entry(name.to_owned()).or_default() += 1;
    }

    /// And is not any more.
    pub(super) fn end(&mut self, name: &str, end: End, now: Instant) {
        if let Some(times) = self.working.get_mut(name) {
            *times -= 1;
            if *times == 0 {
                self.working.remove(name);
            }
        }
        let seen = |node| end.is_seen(node, self.holders.get(name));
        if end != End::AsBefore && !self.nodes.get(name).is_some_and(seen) {
            self.ended.insert(name.to_owned(), (now, end));
        }
    }

    /// Whether a node is seen to be cordoned by a task.
    pub(super) fn is_held(&self, name: &str, task: &str) -> bool {
        self.holders.get(name).is_some_and(|holder| holder == task)
    }

    /// All nodes, each with the task that cordoned it, by a list that was begun at this time.
    pub(super) fn replace(&mut self, all: impl Iterator<Item = (Node, Option<String>)>, began: Instant) {
        self.ended.retain(|_, (since, _)| *since >= began);
        (self.nodes, self.holders) = Default::default();
        all.for_each(|(node, holder)| self.apply(node, holder));
    }

    /// A node as it is now, and the task that cordoned it.
    pub(super) fn apply(&mut self, node: Node, holder: Option<String>) {
        let name = node.name.clone();
        if self.ended.get(&name).is_some_and(|(_, end)| end.is_seen(&node, holder.as_ref())) {
            self.ended.remove(&name);
        }
        match holder {
            Some(task) => self.holders.insert(name.clone(), task),
            None => self.holders.remove(&name),
        };
        self.nodes.insert(name, node);
    }

    /// A node is gone.
    pub(super) fn delete(&mut self, name: &str) {
        self.ended.remove(name);
        self.holders.remove(name);
        self.nodes.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::task::{ActionSpec, Capabilities};

    /// Nodes that are cordoned, each with the task that did it.
    type Out = BTreeMap<usize, String>;

    /// Five nodes of the control plane and four workers.
    fn node(n: usize, holder: Option<&String>) -> (Node, Option<String>) {
        let control_plane = n < 5;
        let node = Node { name: name(n), ready: true, cordoned: holder.is_some(), ..Node::default() };
        (Node { control_plane, tainted: control_plane, ..node }, holder.cloned())
    }

    fn name(n: usize) -> String {
        format!("n{n}")
    }

    fn nodes(out: &Out) -> impl Iterator<Item = (Node, Option<String>)> {
        (0..9).map(|n| node(n, out.get(&n)))
    }

    fn begin(known: &mut Known, n: usize, now: Instant) -> bool {
        let may = Capabilities::all();
        let ask = |judge: &Judge<'_>| judge.ask(&ActionSpec::Cordon, may, &name(n)).is_ok();
        let allowed = known.judge(&Rules::default(), now, ask);
        if allowed {
            known.start(&name(n), now);
        }
        allowed
    }

    #[test]
    fn a_cordon_counts_until_it_is_seen_and_what_is_unclear_for_a_moment() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.replace(nodes(&Out::new()), now);
        let (later, much_later) = (now + SETTLES, now + SETTLES * 100);
        let ours = "t1".to_owned();
        for (n, end) in [(0, End::Cordoned(ours.clone())), (1, End::Unclear), (2, End::AsBefore)] {
            known.start(&name(n), now);
            assert!(known.is_begun(&name(n), much_later), "it is in work");
            known.end(&name(n), end, now);
        }
        let begun =
            |known: &Known, now| (0..3).filter(|n| known.is_begun(&name(*n), now)).collect::<Vec<_>>();
        assert_eq!(begun(&known, now), [0, 1]);
        assert_eq!(begun(&known, later), [0]);
        let mut show = |holder: Option<&String>| {
            let (node, holder) = node(0, holder);
            known.apply(node, holder);
            known.is_begun(&name(0), much_later)
        };
        assert!(show(None) && show(Some(&"t0".to_owned())), "what was seen was before its cordon");
        assert!(!show(Some(&ours)) && !show(None), "somebody brought it back");
        known.start(&name(3), now);
        known.end(&name(3), End::Cordoned(ours), now);
        known.replace(nodes(&Out::new()), later);
        assert!(!known.is_begun(&name(3), later), "the list was begun after its cordon");
    }

    #[derive(Debug, Clone)]
    enum Happens {
        /// An item is to begin on this node.
        Starts(usize),
        /// What was begun on it cordons it.
        Acts(usize),
        Ends(usize),
        /// The watch shows the next change.
        Shows,
        /// The watch is lost, and a list is begun in its place.
        ListBegins,
        ListEnds,
        /// Somebody brings it back, when nothing is in work on it.
        Back(usize),
    }

    fn anything() -> impl Strategy<Value = Happens> {
        prop_oneof![
            6 => (0_usize..9).prop_map(Happens::Starts),
            4 => (0_usize..9).prop_map(Happens::Acts),
            3 => (0_usize..9).prop_map(Happens::Ends),
            4 => Just(Happens::Shows),
            1 => Just(Happens::ListBegins),
            1 => Just(Happens::ListEnds),
            1 => (0_usize..9).prop_map(Happens::Back),
        ]
    }

    /// What is true, what is known of it, and the changes on their way.
    struct World {
        known: Known,
        out: Out,
        /// Nodes in work, and whether they were cordoned by it.
        working: BTreeMap<usize, bool>,
        log: Vec<(usize, Option<String>)>,
        /// As much of the log is known.
        shown: usize,
        list: Option<(Instant, Out, usize)>,
        tasks: u32,
    }

    impl World {
        fn step(&mut self, step: &Happens, now: Instant) {
            match *step {
                Happens::Starts(n) if !self.working.contains_key(&n) && begin(&mut self.known, n, now) => {
                    self.working.insert(n, false);
                }
                Happens::Acts(n) if self.working.get(&n) == Some(&false) && !self.out.contains_key(&n) => {
                    self.tasks += 1;
                    self.working.insert(n, true);
                    self.set(n, Some(format!("t{}", self.tasks)));
                }
                Happens::Ends(n) => {
                    let Some(acted) = self.working.remove(&n) else { return };
                    let task = self.out.get(&n).filter(|_| acted).cloned();
                    self.known.end(&name(n), task.map_or(End::AsBefore, End::Cordoned), now);
                }
                Happens::Shows if self.list.is_none() && self.shown < self.log.len() => {
                    let (n, holder) = &self.log[self.shown];
                    let (node, holder) = node(*n, holder.as_ref());
                    self.known.apply(node, holder);
                    self.shown += 1;
                }
                Happens::ListBegins => self.list = Some((now, self.out.clone(), self.log.len())),
                Happens::ListEnds => {
                    let Some((began, out, shown)) = self.list.take() else { return };
                    self.known.replace(nodes(&out), began);
                    self.shown = shown;
                }
                Happens::Back(n) if !self.working.contains_key(&n) => self.set(n, None),
                _ => {}
            }
        }

        fn set(&mut self, n: usize, holder: Option<String>) {
            self.log.push((n, holder.clone()));
            match holder {
                Some(task) => self.out.insert(n, task),
                None => self.out.remove(&n),
            };
        }
    }

    proptest! {
        /// However late the watch is, no more is taken than may be.
        #[test]
        fn no_order_of_events_takes_the_quorum_or_the_last_worker(steps in prop::collection::vec(anything(), 0..200)) {
            let (start, mut known) = (Instant::now(), Known::default());
            known.replace(nodes(&Out::new()), start);
            let (out, working, log) = Default::default();
            let mut world = World { known, out, working, log, shown: 0, list: None, tasks: 0 };
            for (step, number) in steps.iter().zip(1_u32..) {
                world.step(step, start + SETTLES * number);
                let gone: BTreeSet<usize> = world.out.keys().chain(world.working.keys()).copied().collect();
                prop_assert!(gone.iter().filter(|n| **n < 5).count() <= 2, "{gone:?}");
                prop_assert!(gone.iter().filter(|n| **n >= 5).count() < 4, "{gone:?}");
            }
        }
    }
}
