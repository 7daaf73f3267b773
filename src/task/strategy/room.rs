//! How many nodes of a cluster may be out of service at once.

use std::collections::HashSet;

use super::Amount;

/// A node as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Whether it is cordoned or not ready, whoever is the reason.
    pub unavailable: bool,
}

/// What is known of the nodes of a cluster, and what was begun since it was seen.
///
/// A node counts while it was seen out of service, and from the moment its item starts until it is seen in service again:
/// an item that was begun may take its node out of service at any moment. So the limit holds by what is known here, and
/// whoever else takes nodes out of service is seen at the next look.
#[derive(Debug, Clone, Default)]
pub struct Room {
    seen: bool,
    most: u32,
    nodes: u32,
    unavailable: HashSet<String>,
    /// Items in work.
    working: HashSet<String>,
    /// Items that ended since the newest look began, which may not have seen what they did.
    ended: HashSet<String>,
    /// Items that ended before it began: it has seen what they did, once it is there.
    settling: HashSet<String>,
}

impl Room {
    /// A look begins: what ends from here on may not be in it.
    pub fn look(&mut self) {
        self.settling.extend(self.ended.drain());
    }

    /// What the look that began last has seen.
    pub fn saw(&mut self, limit: Amount, nodes: &[NodeState]) {
        self.seen = true;
        self.settling.clear();
        self.nodes = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        self.most = limit.down(self.nodes);
        self.unavailable =
            nodes.iter().filter(|node| node.unavailable).map(|node| node.name.clone()).collect();
    }

    /// Starts an item if there is room for it: its node is out of service already, or one more may be.
    pub fn start(&mut self, name: &str) -> bool {
        let fits = self.fits(name);
        if fits {
            self.working.insert(name.to_owned());
        }
        fits
    }

    /// Whether there is room for an item.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        self.seen && (self.is_out(name) || self.out() < self.most as usize)
    }

    /// An item ended.
    pub fn end(&mut self, name: &str) {
        if self.working.remove(name) {
            self.ended.insert(name.to_owned());
        }
    }

    /// What is waited for, in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        if !self.seen {
            return "the nodes of the cluster were not seen yet".to_owned();
        }
        let (out, most, nodes) = (self.out(), self.most, self.nodes);
        format!("{out} of {nodes} nodes are cordoned, not ready or in work, and at most {most} may be")
    }

    fn is_out(&self, name: &str) -> bool {
        [&self.unavailable, &self.working, &self.ended, &self.settling].iter().any(|out| out.contains(name))
    }

    fn out(&self) -> usize {
        let all = [&self.unavailable, &self.working, &self.ended, &self.settling];
        all.into_iter().flatten().collect::<HashSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(unavailable: &[usize]) -> Vec<NodeState> {
        (0..10).map(|n| NodeState { name: format!("n{n}"), unavailable: unavailable.contains(&n) }).collect()
    }

    #[test]
    fn others_count_too_and_a_node_that_is_out_costs_no_room() {
        let mut room = Room::default();
        assert!(!room.start("n0"), "nothing was seen yet");
        room.look();
        room.saw(Amount::Percent(30), &seen(&[8, 9]));
        assert!(room.start("n0"));
        assert!(!room.start("n1"));
        assert!(room.start("n9"), "it is out of service already");
        let why = "3 of 10 nodes are cordoned, not ready or in work, and at most 3 may be";
        assert_eq!(room.sentence(), why);
        room.end("n0");
        assert!(!room.start("n1"), "until n0 is seen in service");
        room.look();
        room.saw(Amount::Percent(30), &seen(&[8, 9]));
        assert!(room.start("n1"));
    }

    #[test]
    fn what_ends_during_a_look_counts_until_the_next_one() {
        let mut room = Room::default();
        room.saw(Amount::Count(1), &seen(&[]));
        assert!(room.start("n0"));
        room.look();
        room.end("n0");
        room.saw(Amount::Count(1), &seen(&[]));
        assert!(!room.start("n1"), "the look may have been too early to see n0 cordoned");
        room.look();
        room.saw(Amount::Count(1), &seen(&[]));
        assert!(room.start("n1"));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Start(usize),
        /// The item takes its node out of service.
        Cordon(usize),
        End(usize),
        LookBegins,
        LookEnds,
        Back(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_usize..10).prop_map(Step::Start),
            2 => (0_usize..10).prop_map(Step::Cordon),
            2 => (0_usize..10).prop_map(Step::End),
            1 => Just(Step::LookBegins),
            1 => Just(Step::LookEnds),
            1 => (0_usize..10).prop_map(Step::Back),
        ]
    }

    proptest! {
        /// What a look sees is the state at any moment between its begin and its end; the worst is its begin.
        #[test]
        fn never_more_nodes_are_out_than_allowed(most in 1_u32..5, steps in prop::collection::vec(any_step(), 0..200)) {
            let mut room = Room::default();
            let (mut out, mut working) = (HashSet::new(), HashSet::new());
            let mut looked: Option<HashSet<usize>> = None;
            for step in steps {
                match step {
                    Step::Start(n) if !working.contains(&n) && room.start(&format!("n{n}")) => {
                        working.insert(n);
                    }
                    Step::Cordon(n) if working.contains(&n) => drop(out.insert(n)),
                    Step::End(n) if working.remove(&n) => room.end(&format!("n{n}")),
                    Step::LookBegins => {
                        room.look();
                        looked = Some(out.clone());
                    }
                    Step::LookEnds => {
                        if let Some(looked) = looked.take() {
                            let looked: Vec<usize> = looked.into_iter().collect();
                            room.saw(Amount::Count(most), &seen(&looked));
                        }
                    }
                    // Only what no item works on comes back, as when somebody uncordons it.
                    Step::Back(n) if !working.contains(&n) => drop(out.remove(&n)),
                    _ => {}
                }
                let all: HashSet<_> = out.union(&working).collect();
                prop_assert!(all.len() <= most as usize, "{all:?} are out, and {most} may");
            }
        }
    }
}
