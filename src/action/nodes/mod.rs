//! Nodes as people and decisions see them: what is known of one, of all, how current that is, and how it changes.
//!
//! Plain data. Which nodes somebody asked for is in [`filter`], what there is of each kind in [`summary`]. Not here: where
//! nodes come from ([`super::kubernetes`]) and how they are sent (gateway).

pub mod filter;
pub mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;

pub use filter::{FilterDraft, NodeFilter};
pub use summary::Summary;

/// A node, as lists and pickers show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Name of the node.
    pub name: String,
    /// Its identity: another one under the same name is another node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Whether its `Ready` condition is true.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Roles from its `node-role.kubernetes.io/` labels.
    pub roles: Vec<String>,
    /// Conditions other than `Ready` that hold, such as `DiskPressure`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Why it is cordoned, as whoever did it wrote it down; other tools where `actions.foreign_reasons` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon_reason: Option<String>,
    /// Who cordoned it: the user behind a task, otherwise the program, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned_by: Option<String>,
    /// Since when, as they wrote it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned_at: Option<String>,
    /// The task that cordoned it; only of cordons made by Milepost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon_task: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints as `key=value:effect`.
    pub taints: Vec<String>,
    /// Kubelet version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

impl NodeView {
    /// The zone it is in, if its labels say so.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone").map(String::as_str)
    }

    /// Whether it is a node of the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.roles.iter().any(|role| role == "control-plane" || role == "master")
    }

    /// Names of the fields in which it is not as it was.
    #[must_use]
    pub fn changed_from(&self, before: &Self) -> Vec<&'static str> {
        let cordon = |node: &Self| {
            [&node.cordon_reason, &node.cordoned_by, &node.cordoned_at, &node.cordon_task].map(Clone::clone)
        };
        let differences = [
            ("ready", self.ready != before.ready),
            ("unschedulable", self.unschedulable != before.unschedulable),
            ("cordon", cordon(self) != cordon(before)),
            ("roles", self.roles != before.roles),
            ("problems", self.problems != before.problems),
            ("labels", self.labels != before.labels),
            ("taints", self.taints != before.taints),
            ("version", self.version != before.version),
        ];
        differences.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
    }
}

/// What a list does not show of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeMore {
    /// Its conditions, `Ready` first.
    pub conditions: Vec<NodeCondition>,
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
    /// What it has, as Kubernetes writes quantities.
    pub capacity: BTreeMap<String, String>,
    /// What of it pods may use.
    pub allocatable: BTreeMap<String, String>,
    /// Annotations of Milepost, and reasons of other tools where `actions.foreign_reasons` says.
    pub annotations: BTreeMap<String, String>,
    /// Operating system, kernel, container runtime and the like.
    pub system: BTreeMap<String, String>,
    /// The version that was seen, for a write that must not meet another one. Nobody is told.
    #[serde(skip)]
    pub seen: String,
}

/// A condition of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCondition {
    /// Its type, such as `Ready`.
    pub name: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// An address of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeAddress {
    /// Its kind, such as `InternalIP`.
    pub kind: String,
    /// The address.
    pub address: String,
}

/// A node with its particulars, and how current they are.
#[derive(Debug, Clone)]
pub struct NodeDetail {
    /// What lists show.
    pub node: Arc<NodeView>,
    /// The rest.
    pub more: Arc<NodeMore>,
    /// How current it is.
    pub freshness: Freshness,
}

/// Pods on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodePods {
    /// How many there are, as far as they were read.
    pub count: u32,
    /// Whether there are more than that.
    pub more: bool,
    /// The first 500 of them.
    pub pods: Vec<NodePod>,
}

/// A pod on a node, in brief.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`; `Terminating` once it is being deleted.
    pub phase: String,
    /// What controls it, such as `ReplicaSet web-5d4f`; left out when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// How current what is known of a cluster is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Freshness {
    /// Whether the watch is lost, so that what has changed since is not known.
    pub stale: bool,
    /// For how long the cluster has said nothing, in milliseconds. While the watch holds that means that nothing changed.
    pub silent_ms: u64,
    /// Why the watch is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl Freshness {
    /// As [`Freshness::silent_ms`].
    #[must_use]
    pub fn silent(&self) -> Duration {
        Duration::from_millis(self.silent_ms)
    }
}

/// The nodes of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<Arc<NodeView>>,
    /// How current they are.
    pub freshness: Freshness,
}

impl Nodes {
    /// Nodes as they are at this moment.
    #[must_use]
    pub fn fresh(nodes: impl IntoIterator<Item = NodeView>) -> Self {
        Self { nodes: nodes.into_iter().map(Arc::new).collect(), freshness: Freshness::default() }
    }
}

/// What became of a node.
#[derive(Debug, Clone)]
pub enum NodeChange {
    /// It is new.
    Added(Arc<NodeView>),
    /// It looks different from before.
    Updated {
        /// How it looks now.
        node: Arc<NodeView>,
        /// As [`NodeView::changed_from`] says.
        changed: Arc<[&'static str]>,
    },
    /// It is gone; this is how it looked last.
    Deleted(Arc<NodeView>),
}

/// What comes next of the changes of a cluster.
#[derive(Debug)]
pub enum Followed {
    /// A change.
    Change(NodeChange),
    /// Changes came faster than they were taken: follow anew.
    Lagged,
    /// The cluster is not configured any more, or differently.
    Over,
}

/// Changes of a cluster's nodes, in their order. Bounded: who takes them too slowly is told so.
#[derive(Debug)]
pub struct NodeChanges(Option<broadcast::Receiver<NodeChange>>);

impl NodeChanges {
    /// Those of a cluster in which nothing ever changes.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Followed {
        let Some(changes) = &mut self.0 else { return std::future::pending().await };
        match changes.recv().await {
            Ok(change) => Followed::Change(change),
            Err(RecvError::Lagged(_)) => Followed::Lagged,
            Err(RecvError::Closed) => Followed::Over,
        }
    }
}

impl From<broadcast::Receiver<NodeChange>> for NodeChanges {
    fn from(changes: broadcast::Receiver<NodeChange>) -> Self {
        Self(Some(changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_its_fields() {
        let before = NodeView { name: "n".into(), ready: true, ..NodeView::default() };
        assert_eq!(before.changed_from(&before), Vec::<&str>::new());
        let after = NodeView {
            unschedulable: true,
            cordon_reason: Some("disk".into()),
            taints: vec!["a:NoSchedule".into()],
            ..before.clone()
        };
        assert_eq!(after.changed_from(&before), ["unschedulable", "cordon", "taints"]);
    }

    #[tokio::test]
    async fn who_takes_changes_too_slowly_is_told_so() {
        let (sender, receiver) = broadcast::channel(2);
        let mut changes = NodeChanges::from(receiver);
        for _ in 0..3 {
            sender.send(NodeChange::Added(Arc::default())).unwrap();
        }
        assert!(matches!(changes.next().await, Followed::Lagged));
        assert!(matches!(changes.next().await, Followed::Change(NodeChange::Added(_))));
        drop((changes.next().await, sender));
        assert!(matches!(changes.next().await, Followed::Over));
    }
}
