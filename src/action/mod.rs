//! What a worker can do to an item, and what a gateway can learn about clusters.
//!
//! Every action observes, decides, acts: run again after a crash it finds its work done and says so. Not here: lanes,
//! time-outs and retries (worker).

mod context;
pub mod kubernetes;
pub mod nodes;
pub mod registry;
pub mod wait;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::BoxError;
use crate::store::Task;
use crate::task::plan::Survey;
use crate::task::{ActionSpec, ClusterName, Effect, Fault, ItemName, TaskSpec, UserId};

pub use context::{Context, Report};
pub use kubernetes::KubeClusters;
pub use nodes::{Freshness, NodeChange, NodeChanges, NodeDetail, NodePods, NodeView, Nodes};
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
    /// The target is away or has enough to do, which says nothing about this item: it costs no try, and the lane is left to
    /// others.
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

/// What is asked about clusters by whoever decides something.
#[async_trait]
pub trait Clusters: Send + Sync + 'static {
    /// Names of the configured clusters, sorted.
    fn names(&self) -> Vec<ClusterName>;

    /// The nodes of a cluster as they are known here, and how current that is. Costs the cluster nothing: one watch per
    /// process keeps them. The first call waits for the first list, at most as long as a list may take, and is refused when
    /// there is none. Bounded in time; cancel-safe.
    async fn nodes(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError>;

    /// The nodes of a cluster as they are now, to decide by: what is cordoned is read from the cluster, so that whatever
    /// anybody cordoned or uncordoned before the call is in it, and what is known otherwise is not stale. Bounded in time;
    /// cancel-safe.
    async fn nodes_now(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError>;
}

/// What gateways ask about nodes beside that, for people who look at them.
#[async_trait]
pub trait NodeViews: Clusters {
    /// How current the nodes are that [`Clusters::nodes`] would give; `None` while there are none.
    fn freshness(&self, cluster: &ClusterName) -> Option<Freshness>;

    /// One node with its particulars; `None` when the cluster has none of that name. As current as [`Clusters::nodes`].
    async fn node(&self, cluster: &ClusterName, name: &str) -> Result<Option<NodeDetail>, ClusterError>;

    /// The pods on a node, read from the cluster now: a page of them, and how many there are. Bounded in time; cancel-safe.
    async fn pods_on(&self, cluster: &ClusterName, node: &str) -> Result<NodePods, ClusterError>;

    /// The nodes as they are known, and every change from there on, without a gap between the two.
    async fn follow(&self, cluster: &ClusterName) -> Result<(Nodes, NodeChanges), ClusterError>;
}

/// What gateways ask about a task that somebody may submit.
#[async_trait]
pub trait Planner: NodeViews {
    /// What is wrong with an action here, whatever a cluster says: keys that belong to somebody else. Asks nobody.
    fn faults(&self, action: &ActionSpec) -> Vec<Fault>;

    /// What a task of this user would do to each of its items if it were submitted now, decided as its worker would. Reads
    /// only. At most [`crate::task::plan::PLAN_ITEMS_MAX`] items. Bounded in time; cancel-safe.
    async fn survey(&self, spec: &TaskSpec, owner: &UserId) -> Result<Survey, ClusterError>;
}
