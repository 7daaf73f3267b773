//! What no batch may take from a cluster: its protected nodes, the quorum of its control plane, its last node in service.
//!
//! Asked for every node right before it is acted on, and by plans. Pure: nodes as they were seen, and the names of those
//! that may be out of service although they were seen in it. Not here: who looks at the nodes and when
//! ([`crate::action::kubernetes`]), and what a user may do ([`super::access`]).
//!
//! * A **protected** node has a label that says so. Taking it out of service, or its label away, takes the capability
//!   `control-plane`.
//! * A node of the **control plane** is drained, or tainted so that pods leave it, only with that capability.
//! * The control plane never has more nodes out of service than it can lose: `(n - 1) / 2`.
//! * The **last node** in service stays: of the workers, or of all nodes for one of the control plane, and of a pool where
//!   a label names pools. A node counts as in service when it is ready and not cordoned. One that keeps pods off by taints
//!   does not stand in for one that does not.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::spec::{Taint, TaintEffect};
use super::{ActionSpec, Capabilities, Capability};

/// The taint that a controller adds to every cordoned node: it says nothing that the cordon does not.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Which rules hold on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Labels of protected nodes: `key`, or `key=value` for this value alone.
    pub protected: Vec<String>,
    /// Never take so many nodes of the control plane out of service that it loses its quorum.
    pub control_plane_quorum: bool,
    /// Never take the last node out of service.
    pub last_node: bool,
    /// A label whose values name pools; then the last node of a pool stays as well.
    pub pool_label: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            protected: vec!["milepost.dev/protected".to_owned()],
            control_plane_quorum: true,
            last_node: true,
            pool_label: None,
        }
    }
}

/// A node as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether its `Ready` condition is true.
    pub ready: bool,
    /// Whether it is cordoned.
    pub cordoned: bool,
    /// Whether it is of the control plane.
    pub control_plane: bool,
    /// Whether it keeps pods off by a taint; see [`keeps_pods_off`].
    pub tainted: bool,
    /// Its labels; those that no rule names may be left out ([`Rules::names`]).
    pub labels: BTreeMap<String, String>,
}

/// The nodes of a cluster, by name.
pub type Nodes = BTreeMap<String, Node>;

impl Node {
    /// Whether it is ready and not cordoned.
    #[must_use]
    pub fn in_service(&self) -> bool {
        self.ready && !self.cordoned
    }

    /// Whether it could take the pods of another one, as far as taints say.
    fn stands_in_for(&self, other: &Self) -> bool {
        !self.tainted || other.tainted
    }
}

/// Whether a taint keeps pods off that do not tolerate it, and is more than the mark of a cordon.
#[must_use]
pub fn keeps_pods_off(key: &str, effect: &str) -> bool {
    key != UNSCHEDULABLE && effect != TaintEffect::PreferNoSchedule.as_str()
}

/// What an action takes away from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toll {
    /// Nothing: it may come into service, or stays as it is.
    Nothing,
    /// That pods are placed there.
    Placing,
    /// The pods that are there.
    Pods,
}

/// What an action takes away. Taints that are copied are not known before they are read, so they count as the worst.
#[must_use]
pub fn toll(action: &ActionSpec) -> Toll {
    match action {
        ActionSpec::Drain(_) | ActionSpec::CopyTaints(_) => Toll::Pods,
        ActionSpec::Cordon => Toll::Placing,
        ActionSpec::Taint(wanted) => wanted.taints.iter().map(toll_of).max().unwrap_or(Toll::Nothing),
        ActionSpec::Uncordon(_)
        | ActionSpec::Label(_)
        | ActionSpec::Unlabel(_)
        | ActionSpec::Untaint(_)
        | ActionSpec::Annotate(_)
        | ActionSpec::Unannotate(_)
        | ActionSpec::Wait(_) => Toll::Nothing,
    }
}

fn toll_of(taint: &Taint) -> Toll {
    match taint.effect {
        TaintEffect::NoExecute => Toll::Pods,
        TaintEffect::NoSchedule => Toll::Placing,
        TaintEffect::PreferNoSchedule => Toll::Nothing,
    }
}

/// Whether a rule may be asked about an action at all. A release that knows no rules must not run it.
#[must_use]
pub fn is_guarded(action: &ActionSpec) -> bool {
    toll(action) > Toll::Nothing || matches!(action, ActionSpec::Label(_) | ActionSpec::Unlabel(_))
}

impl Rules {
    /// Whether any rule has to be asked about an action.
    #[must_use]
    pub fn concern(&self, action: &ActionSpec) -> bool {
        toll(action) > Toll::Nothing || self.protected.iter().any(|term| touches(action, term))
    }

    /// Whether a rule looks at this label.
    #[must_use]
    pub fn names(&self, label: &str) -> bool {
        self.pool_label.as_deref() == Some(label) || self.protected.iter().any(|term| key(term) == label)
    }

    /// Whether any rule asks how many other nodes are in service.
    #[must_use]
    pub fn count_nodes(&self) -> bool {
        self.control_plane_quorum || self.last_node || self.pool_label.is_some()
    }
}

/// A rule that can refuse a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// It is protected by a label.
    Protected,
    /// It is of the control plane.
    ControlPlane,
    /// The control plane would lose its quorum.
    Quorum,
    /// It is the last one in service.
    LastNode,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 4] = [Self::Protected, Self::ControlPlane, Self::Quorum, Self::LastNode];

    /// Whether it depends on how many other nodes are in service.
    #[must_use]
    pub fn counts_nodes(self) -> bool {
        matches!(self, Self::Quorum | Self::LastNode)
    }

    /// The word used in metrics and sentences.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protected => "protected",
            Self::ControlPlane => "control_plane",
            Self::Quorum => "quorum",
            Self::LastNode => "last_node",
        }
    }
}

/// Why a node is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused: {}: {message}", .rule.as_str())]
pub struct Refusal {
    /// The rule that says so.
    pub rule: Rule,
    /// A sentence that names the node, the rule and what would allow it.
    pub message: String,
}

/// The nodes of a cluster and its rules, to be asked about one node after the other.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// The rules.
    pub rules: &'a Rules,
    /// All nodes of the cluster, by name.
    pub nodes: &'a Nodes,
    /// Tells of a node that was seen in service whether it may be out of it by now.
    pub begun: &'a dyn Fn(&str) -> bool,
}

impl fmt::Debug for Judge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("rules", self.rules).finish_non_exhaustive()
    }
}

impl Judge<'_> {
    /// Whether an action may be taken on a node by somebody who holds `may`. A node that is not there is nobody's.
    ///
    /// # Errors
    /// The first rule that says no.
    pub fn ask(&self, action: &ActionSpec, may: Capabilities, name: &str) -> Result<(), Refusal> {
        let Some(node) = self.nodes.get(name) else { return Ok(()) };
        let toll = toll(action);
        self.protected(node, action, may)?;
        if toll == Toll::Nothing {
            return Ok(());
        }
        control_plane(node, action, may)?;
        // What is out of service already loses nothing; but a cordoned node has its pods to lose.
        let loses = if toll == Toll::Pods { node.ready } else { node.in_service() };
        if loses {
            self.quorum(node)?;
            self.last(node)?;
        }
        Ok(())
    }

    /// Whether a node that was taken out of service a moment ago may stay so, as things are now.
    ///
    /// # Errors
    /// The rule that says no.
    pub fn ask_again(&self, name: &str) -> Result<(), Refusal> {
        let Some(node) = self.nodes.get(name) else { return Ok(()) };
        self.quorum(node).and_then(|()| self.last(node))
    }

    /// Whether so few other nodes could take the place of a node that an old look at them will not do.
    #[must_use]
    pub fn is_close(&self, name: &str, few: usize) -> bool {
        if !self.rules.count_nodes() {
            return false;
        }
        let Some(node) = self.nodes.get(name) else { return true };
        let pool = self.pool(node);
        let few_of = |group: &dyn Fn(&Node) -> bool| self.others(node, group).take(few).count() < few;
        node.control_plane || few_of(&group(node)) || pool.is_some_and(|pool| few_of(&self.of_pool(pool)))
    }

    fn protected(&self, node: &Node, action: &ActionSpec, may: Capabilities) -> Result<(), Refusal> {
        let Some(term) = self.rules.protected.iter().find(|term| has(node, term)) else { return Ok(()) };
        let touched = toll(action) > Toll::Nothing || touches(action, term);
        if !touched || may.has(Capability::ControlPlane) {
            return Ok(());
        }
        let (name, verb) = (&node.name, action.name());
        Err(Refusal {
            rule: Rule::Protected,
            message: format!(
                "{name} is protected by its label {term}: {verb} takes the capability control-plane on this cluster"
            ),
        })
    }

    fn quorum(&self, node: &Node) -> Result<(), Refusal> {
        if !self.rules.control_plane_quorum || !node.control_plane {
            return Ok(());
        }
        let all = self.nodes.values().filter(|node| node.control_plane).count();
        let counts = |other: &&Node| other.control_plane && other.name != node.name && self.serves(other);
        let in_service = self.nodes.values().filter(counts).count();
        let (out, most) = (all - 1 - in_service, (all - 1) / 2);
        if out < most {
            return Ok(());
        }
        let name = &node.name;
        Err(Refusal {
            rule: Rule::Quorum,
            message: format!(
                "{name} is of a control plane of {all}, of which {out} are out of service or in work and at most {most} \
                 may be: wait for the others, or set safety.control_plane_quorum to false for this cluster"
            ),
        })
    }

    fn last(&self, node: &Node) -> Result<(), Refusal> {
        let group = group(node);
        let whole = if node.control_plane { "cluster" } else { "workers" };
        if self.rules.last_node && self.others(node, &group).next().is_none() {
            return Err(last_of(node, whole, "set safety.last_node to false for this cluster"));
        }
        let Some(pool) = self.pool(node) else { return Ok(()) };
        if self.others(node, &self.of_pool(pool)).next().is_none() {
            let whole = format!("pool {}={}", pool.0, pool.1);
            return Err(last_of(node, &whole, "take safety.pool_label away from this cluster"));
        }
        Ok(())
    }

    /// Other nodes of a group that could stand in for a node.
    fn others<'a>(
        &'a self,
        node: &'a Node,
        group: &'a dyn Fn(&Node) -> bool,
    ) -> impl Iterator<Item = &'a Node> {
        self.nodes
            .values()
            .filter(move |other| other.name != node.name && group(other) && other.stands_in_for(node))
            .filter(|other| self.serves(other))
    }

    /// Whether a node is in service, and nothing was begun that takes it out.
    fn serves(&self, node: &Node) -> bool {
        node.in_service() && !(self.begun)(&node.name)
    }

    /// The pool of a node, by label and value.
    fn pool<'a>(&'a self, node: &'a Node) -> Option<(&'a str, &'a str)> {
        let label = self.rules.pool_label.as_deref()?;
        Some((label, node.labels.get(label)?))
    }

    fn of_pool<'a>(&self, (label, value): (&'a str, &'a str)) -> impl Fn(&Node) -> bool + 'a {
        move |node| node.labels.get(label).is_some_and(|have| have == value)
    }
}

fn control_plane(node: &Node, action: &ActionSpec, may: Capabilities) -> Result<(), Refusal> {
    if !node.control_plane || toll(action) < Toll::Pods || may.has(Capability::ControlPlane) {
        return Ok(());
    }
    let (name, verb) = (&node.name, action.name());
    Err(Refusal {
        rule: Rule::ControlPlane,
        message: format!(
            "{name} is of the control plane: {verb} takes the capability control-plane on this cluster"
        ),
    })
}

/// The nodes among which a node must not be the last: workers for a worker, all for one of the control plane.
fn group(node: &Node) -> impl Fn(&Node) -> bool + use<> {
    let all = node.control_plane;
    move |other| all || !other.control_plane
}

fn last_of(node: &Node, whole: &str, otherwise: &str) -> Refusal {
    let name = &node.name;
    let message = format!(
        "{name} is the last of its {whole} in service, all others are cordoned, not ready, tainted or in work: bring \
         one back first, or {otherwise}"
    );
    Refusal { rule: Rule::LastNode, message }
}

/// Whether an action is about the label that protects nodes.
fn touches(action: &ActionSpec, term: &str) -> bool {
    match action {
        ActionSpec::Label(wanted) => wanted.labels.contains_key(key(term)),
        ActionSpec::Unlabel(unwanted) => unwanted.keys.iter().any(|unwanted| unwanted == key(term)),
        _ => false,
    }
}

fn has(node: &Node, term: &str) -> bool {
    match term.split_once('=') {
        Some((key, value)) => node.labels.get(key).is_some_and(|have| have == value),
        None => node.labels.contains_key(term),
    }
}

fn key(term: &str) -> &str {
    term.split_once('=').map_or(term, |(key, _)| key)
}

#[cfg(test)]
mod tests;
