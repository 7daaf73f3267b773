//! A Redis Cluster: three primaries, a replica of each.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::wait_for;
use crate::{Redis, ports};

/// Slots of a Cluster.
const SLOTS: u16 = 16_384;
/// Primaries; the replica of one is as many further on.
const PRIMARIES: usize = 3;
/// Longest wait for nodes to agree.
const PATIENCE: Duration = Duration::from_secs(60);

/// Six nodes. They keep nothing on disk but who the others are.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts the nodes, which take one for lost after `node_timeout`, and waits until every slot is served.
    ///
    /// # Errors
    /// When a node does not come up, or they do not agree.
    pub fn start(node_timeout: Duration) -> Result<Self> {
        let node = |_| {
            let (timeout, bus) = (node_timeout.as_millis().to_string(), ports::free()?.to_string());
            Redis::with_args(&[
                "--save",
                "",
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                &timeout,
                "--cluster-port",
                &bus,
                "--cluster-replica-validity-factor",
                "0",
                "--cluster-allow-replica-migration",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ])
            .map(|node| (node, bus))
        };
        let started: Vec<(Redis, String)> = (0..PRIMARIES * 2).map(node).collect::<Result<_>>()?;
        let (nodes, buses): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        let cluster = Self { nodes };
        cluster.meet(&buses)?;
        cluster.replicate()?;
        wait_for(PATIENCE, "the nodes to agree", || Ok(cluster.is_whole()))?;
        Ok(cluster)
    }

    fn meet(&self, buses: &[String]) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
        }
        let share = SLOTS / 3;
        for (primary, first) in [0, share, share * 2].into_iter().enumerate() {
            let last = if primary == PRIMARIES - 1 { SLOTS - 1 } else { first + share - 1 };
            let (first, last) = (first.to_string(), last.to_string());
            self.nodes[primary].command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
        }
        for (node, bus) in self.nodes.iter().zip(buses).skip(1) {
            self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus])?;
        }
        wait_for(PATIENCE, "the nodes to meet", || {
            let met = |node: &Redis| {
                let info = node.command(&["CLUSTER", "INFO"]).unwrap_or_default();
                info.contains(&format!("cluster_known_nodes:{}\r", self.nodes.len()))
                    && info.contains("cluster_slots_assigned:16384\r")
            };
            Ok(self.nodes.iter().all(met))
        })
    }

    fn replicate(&self) -> Result<()> {
        for (index, replica) in self.nodes.iter().enumerate().skip(PRIMARIES) {
            let id = self.id(index - PRIMARIES)?;
            replica.command(&["CLUSTER", "REPLICATE", &id])?;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        let says = |node: &Redis, section: &[&str], word: &str| {
            node.command(section).is_ok_and(|info| info.contains(word))
        };
        let fine = |node: &Redis| says(node, &["CLUSTER", "INFO"], "cluster_state:ok\r");
        let linked = |node: &Redis| says(node, &["INFO", "replication"], "master_link_status:up");
        let followed = |node: &Redis| says(node, &["INFO", "replication"], "connected_slaves:1\r");
        self.nodes.iter().all(fine)
            && self.nodes[PRIMARIES..].iter().all(linked)
            && self.nodes[..PRIMARIES].iter().all(followed)
    }

    /// The address clients use.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// Every node: the first primaries, and then the replica of each in the same order.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// What the others call a node.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn id(&self, index: usize) -> Result<String> {
        let reply = self.nodes[index].command(&["CLUSTER", "MYID"])?;
        reply.lines().nth(1).map(str::to_owned).context("no id")
    }

    /// The slot of a key.
    ///
    /// # Errors
    /// When no node answers.
    pub fn slot(&self, key: &str) -> Result<u16> {
        let reply = self.any(&["CLUSTER", "KEYSLOT", key])?;
        Ok(reply.trim().trim_start_matches(':').parse()?)
    }

    /// The index of the node that serves a slot, as most of the living say.
    ///
    /// # Errors
    /// When they do not agree.
    pub fn owner(&self, slot: u16) -> Result<usize> {
        let serves = |index: &usize| {
            let (node, id) = (&self.nodes[*index], self.id(*index).ok()?);
            let lines = node.command(&["CLUSTER", "NODES"]).ok()?;
            let own = lines.lines().find(|line| line.starts_with(&id))?.to_owned();
            own.contains("master").then(|| own.split(' ').skip(8).any(|range| has(range, slot)))
        };
        let owners: Vec<usize> = (0..self.nodes.len()).filter(|index| serves(index) == Some(true)).collect();
        match owners[..] {
            [owner] => Ok(owner),
            _ => bail!("slot {slot} is served by {owners:?}"),
        }
    }

    /// Runs a command on the node that has a key.
    ///
    /// # Errors
    /// When it has none or it refuses.
    pub fn command(&self, key: &str, words: &[&str]) -> Result<String> {
        self.nodes[self.owner(self.slot(key)?)?].command(words)
    }

    fn any(&self, words: &[&str]) -> Result<String> {
        let mut answers = self.nodes.iter().map(|node| node.command(words));
        answers.find_map(Result::ok).context("no node answers")
    }

    /// Begins to move a slot: from now on keys of it that are not at its owner are asked for at `target`.
    ///
    /// # Errors
    /// When a node refuses.
    pub fn begin_move(&self, slot: u16, target: usize) -> Result<()> {
        let (source, slot) = (self.owner(slot)?, slot.to_string());
        let (from, to) = (self.id(source)?, self.id(target)?);
        self.nodes[target].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from])?;
        self.nodes[source].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to])?;
        Ok(())
    }

    /// Moves the keys of a slot one by one and then the slot itself.
    ///
    /// # Errors
    /// When a node refuses.
    pub fn finish_move(&self, slot: u16, target: usize) -> Result<()> {
        let (source, number) = (self.owner(slot)?, slot.to_string());
        let port = self.nodes[target].port().to_string();
        loop {
            let keys = self.nodes[source].command(&["CLUSTER", "GETKEYSINSLOT", &number, "1"])?;
            let Some(key) = keys.lines().nth(2) else { break };
            self.nodes[source].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"])?;
        }
        let to = self.id(target)?;
        for index in [target, source] {
            self.nodes[index].command(&["CLUSTER", "SETSLOT", &number, "NODE", &to])?;
        }
        wait_for(PATIENCE, "the slot to have moved", || {
            Ok(self.owner(slot).is_ok_and(|owner| owner == target))
        })
    }

    /// Waits until another node than `old` serves a slot, and gives its index.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn wait_failover(&self, slot: u16, old: usize) -> Result<usize> {
        let mut new = old;
        wait_for(PATIENCE, "a failover", || {
            new = self.owner(slot).unwrap_or(old);
            Ok(new != old)
        })?;
        Ok(new)
    }
}

/// Whether a range of `CLUSTER NODES`, such as `5461-10922`, has a slot. Those on their way are in brackets.
fn has(range: &str, slot: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= slot && slot <= last)
}
