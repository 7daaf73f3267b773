//! How many nodes there are of each kind. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NodeView;

/// Most roles and zones that are counted one by one; nodes of further ones count in the totals alone.
const KINDS_MAX: usize = 100;

/// How many nodes there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// All of them.
    pub total: u32,
    /// Those that are ready.
    pub ready: u32,
    /// Those that are not.
    pub not_ready: u32,
    /// Those that are cordoned.
    pub cordoned: u32,
    /// Those that are not.
    pub schedulable: u32,
    /// By role; a node with several counts in each, one without in none.
    pub roles: BTreeMap<String, u32>,
    /// By zone, where labels say it.
    pub zones: BTreeMap<String, u32>,
}

impl Summary {
    /// Counts nodes.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a NodeView>) -> Self {
        let mut summary = Self::default();
        nodes.into_iter().for_each(|node| summary.add(node));
        summary
    }

    fn add(&mut self, node: &NodeView) {
        self.total += 1;
        *if node.ready { &mut self.ready } else { &mut self.not_ready } += 1;
        *if node.unschedulable { &mut self.cordoned } else { &mut self.schedulable } += 1;
        node.roles.iter().for_each(|role| count(&mut self.roles, role));
        node.zone().into_iter().for_each(|zone| count(&mut self.zones, zone));
    }
}

fn count(kinds: &mut BTreeMap<String, u32>, kind: &str) {
    if let Some(n) = kinds.get_mut(kind) {
        *n += 1;
    } else if kinds.len() < KINDS_MAX {
        kinds.insert(kind.to_owned(), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_counts_once_in_each_pair_and_kinds_are_bounded() {
        let node = |n: usize| NodeView {
            ready: n.is_multiple_of(2),
            unschedulable: n.is_multiple_of(5),
            roles: if n == 0 { vec!["a".into(), "b".into()] } else { vec![format!("role-{n}")] },
            labels: [("topology.kubernetes.io/zone".to_owned(), format!("zone-{}", n % 3))].into(),
            ..NodeView::default()
        };
        let nodes: Vec<_> = (0..300).map(node).collect();
        let summary = Summary::of(&nodes);
        assert_eq!((summary.total, summary.ready, summary.not_ready), (300, 150, 150));
        assert_eq!((summary.cordoned, summary.schedulable), (60, 240));
        assert_eq!((summary.roles["a"], summary.roles["b"], summary.roles.len()), (1, 1, KINDS_MAX));
        assert_eq!(summary.zones.values().copied().collect::<Vec<_>>(), [100; 3]);
    }
}
