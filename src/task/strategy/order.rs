//! Which items go first.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

/// One thing that decides which items go first. Several hold together, in any combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderRule {
    /// One of each zone, then the next of each zone: no zone is far ahead of the others.
    Zones,
    /// Nodes of the control plane after all others.
    ControlPlaneLast,
    /// The node that the worker itself runs on after all others, of the control plane or not.
    OwnNodeLast,
}

impl OrderRule {
    /// Every rule.
    pub const ALL: [Self; 3] = [Self::Zones, Self::ControlPlaneLast, Self::OwnNodeLast];

    /// The word used on the wire and in storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zones => "zones",
            Self::ControlPlaneLast => "control_plane_last",
            Self::OwnNodeLast => "own_node_last",
        }
    }
}

/// What decides the place of one item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The zone it is in, if that is known. Items of no known zone are a zone of their own.
    pub zone: Option<String>,
    /// Whether it is a node of the control plane.
    pub control_plane: bool,
    /// Whether it is the node that the worker runs on.
    pub own: bool,
}

/// The items of a task, by their indexes, in the order in which they are to start. Where the rules do not tell two items
/// apart they stay as they were given, so the same facts always give the same order.
#[must_use]
pub fn in_order(rules: &[OrderRule], facts: &[Facts]) -> Vec<u32> {
    let mut tiers: [Vec<(u32, &Facts)>; 3] = Default::default();
    for (index, fact) in (0..).zip(facts) {
        let own = fact.own && rules.contains(&OrderRule::OwnNodeLast);
        let control_plane = fact.control_plane && rules.contains(&OrderRule::ControlPlaneLast);
        let tier = if own { 2 } else { usize::from(control_plane) };
        tiers[tier].push((index, fact));
    }
    let zones = rules.contains(&OrderRule::Zones);
    let order = |tier: &Vec<(u32, &Facts)>| if zones { round_robin(tier) } else { indexes(tier) };
    tiers.iter().flat_map(order).collect()
}

fn indexes(items: &[(u32, &Facts)]) -> Vec<u32> {
    items.iter().map(|(index, _)| *index).collect()
}

/// One of each zone after the other, zones in the order in which they are first met.
fn round_robin(items: &[(u32, &Facts)]) -> Vec<u32> {
    let mut zones: Vec<VecDeque<u32>> = Vec::new();
    let mut places: HashMap<Option<&str>, usize> = HashMap::new();
    for (index, facts) in items {
        let place = *places.entry(facts.zone.as_deref()).or_insert_with(|| {
            zones.push(VecDeque::new());
            zones.len() - 1
        });
        zones[place].push_back(*index);
    }
    let mut order = Vec::with_capacity(items.len());
    while !zones.is_empty() {
        order.extend(zones.iter_mut().filter_map(VecDeque::pop_front));
        zones.retain(|zone| !zone.is_empty());
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(zone: &str, control_plane: bool, own: bool) -> Facts {
        let zone = (!zone.is_empty()).then(|| zone.to_owned());
        Facts { zone, control_plane, own }
    }

    #[test]
    fn zones_take_turns_and_what_is_last_is_last() {
        let facts = [
            node("a", true, false),
            node("a", false, false),
            node("a", false, true),
            node("a", false, false),
            node("b", false, false),
            node("", false, false),
            node("b", true, false),
        ];
        assert_eq!(in_order(&[], &facts), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(in_order(&[OrderRule::Zones], &facts), [0, 4, 5, 1, 6, 2, 3]);
        assert_eq!(in_order(&OrderRule::ALL, &facts), [1, 4, 5, 3, 0, 6, 2]);
        assert_eq!(in_order(&[OrderRule::OwnNodeLast], &facts), [0, 1, 3, 4, 5, 6, 2]);
    }

    fn any_facts() -> impl Strategy<Value = Vec<Facts>> {
        let one = ("[abc]{0,1}", any::<bool>(), any::<bool>()).prop_map(|(zone, c, own)| node(&zone, c, own));
        prop::collection::vec(one, 0..60)
    }

    fn any_rules() -> impl Strategy<Value = Vec<OrderRule>> {
        proptest::sample::subsequence(OrderRule::ALL.to_vec(), 0..=3)
    }

    proptest! {
        #[test]
        fn every_item_has_one_place_and_the_answer_is_always_the_same(rules in any_rules(), facts in any_facts()) {
            let order = in_order(&rules, &facts);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..u32::try_from(facts.len()).unwrap()).collect::<Vec<_>>());
            prop_assert_eq!(in_order(&rules, &facts), order);
        }

        #[test]
        fn what_goes_last_follows_everything_else(facts in any_facts()) {
            let order = in_order(&OrderRule::ALL, &facts);
            let tier = |index: &u32| {
                let facts = &facts[*index as usize];
                if facts.own { 2 } else { u8::from(facts.control_plane) }
            };
            prop_assert!(order.is_sorted_by_key(tier));
        }

        #[test]
        fn no_zone_is_more_than_one_ahead_while_others_have_items_left(facts in any_facts()) {
            let order = in_order(&[OrderRule::Zones], &facts);
            let zone = |index: &u32| facts[*index as usize].zone.clone();
            for n in 0..=order.len() {
                let count = |zone_: &Option<String>, of: &[u32]| of.iter().filter(|i| zone(i) == *zone_).count();
                let left: Vec<_> = order[n..].iter().map(zone).collect();
                let least = left.iter().map(|zone| count(zone, &order[..n])).min();
                if let Some(least) = least {
                    for index in &order[..n] {
                        prop_assert!(count(&zone(index), &order[..n]) <= least + 1);
                    }
                }
            }
        }
    }
}
