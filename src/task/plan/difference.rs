//! What became different between a plan that somebody agreed to and the one of now.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Plan, PlanHash};

/// Most nodes that are named.
const NODES_MAX: usize = 100;

/// What is remembered of a plan, to say later what became different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its hash.
    pub hash: PlanHash,
    request: [u8; 32],
    missing: Vec<super::Right>,
    waves: Vec<u32>,
    nodes: Vec<KnownNode>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownNode {
    name: Box<str>,
    uid: Option<Box<str>>,
    digest: Box<str>,
    says: Box<str>,
}

/// What became different.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// What is different about the task as a whole, in sentences.
    pub task: Vec<String>,
    /// The nodes to which something else would be done; at most 100.
    pub nodes: Vec<Difference>,
    /// How many more there are.
    pub more: u32,
}

/// A node to which something else would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// What was planned.
    pub planned: String,
    /// What would be done now.
    pub now: String,
}

impl From<&Plan> for Known {
    fn from(plan: &Plan) -> Self {
        let node = |node: &super::NodePlan| KnownNode {
            name: node.name.as_str().into(),
            uid: node.uid.as_deref().map(Into::into),
            digest: node.digest.as_str().into(),
            says: node.says.as_str().into(),
        };
        Self {
            hash: plan.hash,
            request: plan.request,
            missing: plan.missing.clone(),
            waves: plan.waves.clone(),
            nodes: plan.nodes.iter().map(node).collect(),
        }
    }
}

impl Known {
    /// What a newer plan has different. Nothing when the hashes are the same.
    #[must_use]
    pub fn differences(&self, now: &Plan) -> Differences {
        if self.hash == now.hash {
            return Differences::default();
        }
        if self.request != now.request {
            let task = vec!["this is another request than the one that was planned".to_owned()];
            return Differences { task, ..Differences::default() };
        }
        let nodes = self.nodes(now);
        let more = u32::try_from(nodes.len().saturating_sub(NODES_MAX)).unwrap_or(u32::MAX);
        let mut task = self.rights(now);
        let order = self.nodes.iter().map(|node| &*node.name).ne(now.nodes.iter().map(|node| &*node.name));
        if order || self.waves != now.waves {
            task.push("nodes would be started in another order".to_owned());
        }
        if task.is_empty() && nodes.is_empty() {
            task.push("whether it would be begun at all is another matter now".to_owned());
        }
        Differences { task, nodes: nodes.into_iter().take(NODES_MAX).collect(), more }
    }

    fn rights(&self, now: &Plan) -> Vec<String> {
        let lost = now.missing.iter().filter(|right| !self.missing.contains(right));
        let lost = lost.map(|right| format!("the right to {right} is missing now"));
        let found = self.missing.iter().filter(|right| !now.missing.contains(right));
        lost.chain(found.map(|right| format!("the right to {right} is there now"))).collect()
    }

    fn nodes(&self, now: &Plan) -> Vec<Difference> {
        let known: HashMap<&str, &KnownNode> = self.nodes.iter().map(|node| (&*node.name, node)).collect();
        let changed = now.nodes.iter().filter_map(|node| {
            let before = known.get(node.name.as_str()).filter(|before| *before.digest != *node.digest)?;
            let replaced = before.uid.as_deref() != node.uid.as_deref() && node.uid.is_some();
            let other = if replaced && before.uid.is_some() { "another node of this name: " } else { "" };
            Some(Difference {
                name: node.name.clone(),
                planned: before.says.to_string(),
                now: format!("{other}{}", node.says),
            })
        });
        changed.collect()
    }
}
