//! What a worker can do to an item, and what a gateway can learn about clusters.
//!
//! Every action observes, decides, acts: run again after a crash it finds its work done and says so. Not here: lanes,
//! time-outs and retries (worker).

mod context;
pub mod kubernetes;
pub mod registry;
pub mod wait;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::BoxError;
use crate::store::Task;
use crate::task::{ClusterName, Effect, ItemName};

pub use context::{Context, Report};
pub use kubernetes::KubeClusters;
pub use registry::Registry;

/// How an item ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// What was asked for holds, and whether that took a change.
    Succeeded(Effect),
    /// It was left alone on purpose, with a sentence for the user.
    Skipped(String),
}

/// Why an item did not end well. The decision to retry travels with the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// It may work in a moment.
    #[error("{message}")]
    Transient {
        /// A sentence for the user.
        message: String,
        /// The least time to wait, when the target said so.
        retry_after: Option<Duration>,
    },
    /// Nothing was asked of the target, which is away or has enough to do: it costs no try, and the lane is left to others.
    #[error("{message}")]
    Later {
        /// A sentence for the user.
        message: String,
        /// The least time to wait.
        retry_after: Duration,
    },
    /// It will not work by trying again.
    #[error("{message}")]
    Permanent {
        /// A sentence for the user.
        message: String,
    },
    /// It was told to stop and is at a point where it can be left; a later run goes on from there.
    #[error("{message}")]
    Stopped {
        /// How far it came: what the user is told when there will be no later run.
        message: String,
    },
}

impl ActionError {
    /// An error that trying again may mend.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::Transient { message: message.into(), retry_after: None }
    }

    /// An error that trying again does not mend.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::Permanent { message: message.into() }
    }
}

/// One item to act on.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Place of the item in the task, from 0.
    pub index: u32,
    /// Name of the item.
    pub name: &'a ItemName,
}

/// An action made ready for one task.
#[async_trait]
pub trait Action: Send + Sync {
    /// Acts on one item. Safe to run again. Each call to the target has a deadline of its own. What takes more than some
    /// seconds heeds [`Context::stopping`] and reports its steps.
    ///
    /// Cancel-safe in the sense that a dropped call has acted or has not: the next run observes first.
    async fn run(&self, target: Target<'_>, context: &Context) -> Result<Done, ActionError>;
}

/// Makes actions for tasks. The worker's side.
#[async_trait]
pub trait Actions: Send + Sync + 'static {
    /// The action of a claimed task, with its connection to the cluster. An error here fails the task's items.
    async fn prepare(&self, task: &Task) -> Result<Arc<dyn Action>, ActionError>;
}

/// A node, as lists and pickers show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct NodeView {
    /// Name of the node.
    pub name: String,
    /// Whether its `Ready` condition is true.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Roles from its `node-role.kubernetes.io/` labels.
    pub roles: Vec<String>,
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
    pub labels: std::collections::BTreeMap<String, String>,
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
}

/// Why a cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No cluster of this name is configured.
    #[error("no cluster is called {0}")]
    Unknown(ClusterName),
    /// The cluster does not answer.
    #[error("cluster {cluster} cannot be reached")]
    Unavailable {
        /// Which cluster.
        cluster: ClusterName,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// What gateways ask about clusters.
#[async_trait]
pub trait Clusters: Send + Sync + 'static {
    /// Names of the configured clusters, sorted.
    fn names(&self) -> Vec<ClusterName>;

    /// The nodes of a cluster, by name. Bounded in time; cancel-safe.
    async fn nodes(&self, cluster: &ClusterName) -> Result<Vec<NodeView>, ClusterError>;
}
