//! What a task would do, said before it is done.
//!
//! Whoever knows the cluster makes a [`Survey`]: item by item what would become of it, and what stands in the way of all.
//! [`Plan::new`] puts it into the order and the waves of the strategy, counts, estimates ([`estimate`]) and seals it with a
//! hash ([`seal`]): two plans with the same hash are plans of the same doing. [`difference`] says what became different
//! between two of them. Pure. Not here: reading clusters (action), and rules about which nodes may be touched at all, which
//! a survey brings as refusals and warnings of its nodes.

mod assemble;
mod difference;
mod estimate;
mod node;
mod seal;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use difference::{Difference, Differences, Known};
pub use estimate::{Basis, Estimate, Past};
pub use node::{BudgetHold, Fate, Field, FieldChange, NodeNow, NodePlan, Outcome, PodClass, PodGroup};
pub use seal::PlanHash;

use super::ItemName;

/// Most items of one plan: as many nodes as Kubernetes supports in a cluster.
pub const PLAN_ITEMS_MAX: usize = 5_000;

/// A right in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Right {
    /// The Kubernetes verb, such as `patch`.
    pub verb: String,
    /// Plural name of the resource, with its subresource: `pods/eviction`.
    pub resource: String,
    /// In this namespace; in the whole cluster when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Right {
    /// A right in the whole cluster.
    #[must_use]
    pub fn new(verb: &str, resource: &str) -> Self {
        Self { verb: verb.to_owned(), resource: resource.to_owned(), namespace: None }
    }

    /// The same right in one namespace.
    #[must_use]
    pub fn within(self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.verb, self.resource)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, " in namespace {namespace}"))
    }
}

/// What the cluster says about a task: facts, without order, waves and counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Each item, in the order of the request.
    pub nodes: Vec<NodePlan>,
    /// Rights that the task needs and this account does not have.
    pub missing: Vec<Right>,
    /// Why no item would be begun, if that is so.
    pub refused: Option<String>,
    /// What is to be known about the task as a whole.
    pub warnings: Vec<String>,
}

impl Survey {
    /// A survey of items of which nothing is known but one outcome.
    #[must_use]
    pub fn alike(items: &[ItemName], outcome: Outcome, says: &str) -> Self {
        let node = |name: &ItemName| NodePlan::new(name.as_str(), outcome, says);
        Self { nodes: items.iter().map(node).collect(), ..Self::default() }
    }
}

/// What a task would do, as far as that can be known now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Stands for everything that counts; a submit can demand it.
    pub hash: PlanHash,
    /// What is done to each item.
    pub action: String,
    /// The cluster.
    pub cluster: String,
    /// How many items come to what.
    pub summary: Summary,
    /// Rights that the task needs and the account of Milepost does not have.
    pub missing: Vec<Right>,
    /// Why no item would be begun, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What is to be known about the task as a whole.
    pub warnings: Vec<String>,
    /// Items of each wave, in order; a single one for a task without waves.
    pub waves: Vec<u32>,
    /// What decides the order, in a sentence.
    pub order: String,
    /// How long it may take.
    pub estimate: Estimate,
    /// Every item, in the order in which they would be started.
    pub nodes: Vec<NodePlan>,
    /// SHA-256 of the request.
    #[serde(skip)]
    pub(crate) request: [u8; 32],
}

/// How many items come to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// All items.
    pub nodes: u32,
    /// Items that would be changed.
    pub change: u32,
    /// Items that are as asked for already.
    pub already: u32,
    /// Items that would be left alone on purpose.
    pub skip: u32,
    /// Items that would fail.
    pub fail: u32,
    /// Items that do not exist; they would fail.
    pub missing: u32,
    /// Items that could not be looked at.
    pub unknown: u32,
    /// Pods that would be evicted.
    pub evictions: u32,
    /// Items with pods that a disruption budget would not let go now.
    pub held_by_budgets: u32,
}

impl Plan {
    /// Whether nothing is known that would go wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Summary { fail, missing, unknown, .. } = self.summary;
        self.refused.is_none() && self.missing.is_empty() && fail + missing + unknown == 0
    }
}
