//! Which server has which slots, at one moment. Pure.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::keys::Shard;
use super::node::Node;
use super::routing::{SLOTS, slot};

/// The servers that take writes, and what each of them has. Without Cluster there is one that has all.
#[derive(Debug, Default)]
pub struct Layout {
    nodes: Vec<Arc<Node>>,
    /// Slots from and to, and the index of their server; in order.
    ranges: Vec<(u16, u16, usize)>,
    /// The server of each shard.
    owners: Vec<Option<usize>>,
}

impl Layout {
    pub(super) fn new(servers: Vec<(Arc<Node>, Vec<RangeInclusive<u16>>)>) -> Self {
        let mut layout = Self::default();
        for (index, (node, slots)) in servers.into_iter().enumerate() {
            layout.nodes.push(node);
            layout.ranges.extend(slots.into_iter().map(|slots| (*slots.start(), *slots.end(), index)));
        }
        layout.ranges.sort_unstable();
        layout.owners = Shard::all().map(|shard| layout.index(slot(shard.to_string().as_bytes()))).collect();
        layout
    }

    fn index(&self, slot: u16) -> Option<usize> {
        let next = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, index) = self.ranges[..next].last()?;
        (slot <= *last).then_some(*index)
    }

    /// The server of a slot, if one is known to have it.
    pub(super) fn node(&self, slot: u16) -> Option<&Arc<Node>> {
        self.nodes.get(self.index(slot)?)
    }

    /// How many slots no server is known to have.
    #[must_use]
    pub fn slots_of_nobody(&self) -> u16 {
        SLOTS - self.ranges.iter().map(|(first, last, _)| last - first + 1).sum::<u16>()
    }

    /// All of them.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The server of a shard's users, if one is known to have it.
    #[must_use]
    pub fn owner(&self, shard: Shard) -> Option<&Arc<Node>> {
        self.nodes.get((*self.owners.get(shard.index())?)?)
    }

    /// Some shard that a server has.
    #[must_use]
    pub fn any_shard(&self, node: &Node) -> Option<Shard> {
        Shard::all().find(|shard| self.owner(*shard).is_some_and(|owner| owner.address() == node.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::{Address, Topology};
    use super::*;
    use crate::config::RedisConfig;

    fn node(port: u16) -> Arc<Node> {
        let config = RedisConfig { url: Some("redis://localhost".into()), ..RedisConfig::default() };
        let address = Address { host: "localhost".into(), port };
        Arc::new(Node::new(address, &Topology::from_config(&config).unwrap(), &config).unwrap())
    }

    #[tokio::test]
    async fn every_slot_is_found_where_it_is_and_one_that_nobody_has_is_nowhere() {
        let layout = Layout::new(vec![
            (node(1), vec![0..=99, 200..=299]),
            (node(2), vec![100..=199, 8_192..=SLOTS - 1]),
        ]);
        let port = |slot| layout.node(slot).map(|node| node.address().port);
        for (slot, expected) in
            [(0, Some(1)), (99, Some(1)), (100, Some(2)), (250, Some(1)), (300, None), (16_383, Some(2))]
        {
            assert_eq!(port(slot), expected, "{slot}");
        }
        assert_eq!(layout.slots_of_nobody(), 8_192 - 300);
        let shards = Shard::all().filter(|shard| layout.owner(*shard).is_some()).count();
        assert!((100..200).contains(&shards), "{shards} of 256 shards are in the half that somebody has");
        let some = layout.any_shard(&layout.nodes()[1]).unwrap();
        assert_eq!(layout.owner(some).unwrap().address().port, 2);
    }

    #[tokio::test]
    async fn one_server_has_everything() {
        let layout = Layout::new(vec![(node(1), vec![0..=SLOTS - 1])]);
        assert!(Shard::all().all(|shard| layout.owner(shard).is_some()));
    }
}
