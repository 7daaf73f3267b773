//! Which action a task gets, and which clusters there are: what the worker and the gateway hold of this module.

use std::sync::Arc;

use async_trait::async_trait;

use super::kubernetes::{ClustersError, KubeClusters};
use super::wait::Wait;
use super::{
    Action, ActionError, Actions, ClusterError, Clusters, Freshness, NodeChanges, NodeDetail, NodePods,
    NodeViews, Nodes, Planner,
};
use crate::clock::Clock;
use crate::config::ClusterConfig;
use crate::store::Task;
use crate::task::plan::{Outcome, Survey};
use crate::task::{ActionSpec, ClusterName, Fault, TaskSpec, UserId};

/// The cluster that needs no configuration: it has no nodes, and only `wait` can be done there.
pub const LOCAL: &str = "local";

/// Every action and every cluster of this process.
pub struct Registry {
    clusters: KubeClusters,
    /// The `local` cluster, where the `wait` action is allowed.
    local: Option<ClusterName>,
    clock: Arc<dyn Clock>,
}

impl Registry {
    /// With `wait`, the action of that name is allowed, on every cluster and on [`LOCAL`].
    #[must_use]
    pub fn new(clusters: KubeClusters, wait: bool, clock: Arc<dyn Clock>) -> Self {
        let local = wait.then(|| ClusterName::new(LOCAL).expect("the name follows the rules of names"));
        Self { clusters, local, clock }
    }

    /// Puts other clusters in force; see [`KubeClusters::reload`].
    ///
    /// # Errors
    /// Every fault; then nothing is changed.
    pub fn reload(&self, configs: &[ClusterConfig]) -> Result<Vec<ClusterName>, ClustersError> {
        self.clusters.reload(configs)
    }

    fn is_local(&self, cluster: &ClusterName) -> bool {
        self.local.as_ref() == Some(cluster) && !self.clusters.has(cluster)
    }

    fn wait(&self, task: &Task, action: Wait) -> Result<Arc<dyn Action>, ActionError> {
        if self.local.is_none() {
            return Err(ActionError::permanent("the action wait is not allowed here: actions.wait is off"));
        }
        if !self.is_local(&task.cluster) && !self.clusters.has(&task.cluster) {
            return Err(unknown(&task.cluster));
        }
        Ok(Arc::new(action))
    }
}

fn no_nodes(action: &ActionSpec) -> String {
    format!("the cluster {LOCAL} has no nodes to {}", action.name())
}

fn unknown(cluster: &ClusterName) -> ActionError {
    ActionError::permanent(ClusterError::Unknown(cluster.clone()).to_string())
}

#[async_trait]
impl Actions for Registry {
    async fn prepare(&self, task: &Task) -> Result<Arc<dyn Action>, ActionError> {
        if let ActionSpec::Wait(parameters) = &task.action {
            return self.wait(task, Wait::new(parameters));
        }
        if self.is_local(&task.cluster) {
            return Err(ActionError::permanent(no_nodes(&task.action)));
        }
        self.clusters.prepare(task, Arc::clone(&self.clock)).await?.ok_or_else(|| unknown(&task.cluster))
    }
}

#[async_trait]
impl Clusters for Registry {
    fn names(&self) -> Vec<ClusterName> {
        let mut names = self.clusters.names();
        names.extend(self.local.clone());
        names.sort();
        names.dedup();
        names
    }

    async fn nodes(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        if self.is_local(cluster) {
            return Ok(Nodes::default());
        }
        self.clusters.nodes(cluster).await
    }

    async fn nodes_now(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        if self.is_local(cluster) {
            return Ok(Nodes::default());
        }
        self.clusters.nodes_now(cluster).await
    }
}

#[async_trait]
impl NodeViews for Registry {
    fn freshness(&self, cluster: &ClusterName) -> Option<Freshness> {
        if self.is_local(cluster) { Some(Freshness::default()) } else { self.clusters.freshness(cluster) }
    }

    async fn node(&self, cluster: &ClusterName, name: &str) -> Result<Option<NodeDetail>, ClusterError> {
        if self.is_local(cluster) {
            return Ok(None);
        }
        self.clusters.node(cluster, name).await
    }

    async fn pods_on(&self, cluster: &ClusterName, node: &str) -> Result<NodePods, ClusterError> {
        if self.is_local(cluster) {
            return Ok(NodePods::default());
        }
        self.clusters.pods_on(cluster, node).await
    }

    async fn follow(&self, cluster: &ClusterName) -> Result<(Nodes, NodeChanges), ClusterError> {
        if self.is_local(cluster) {
            return Ok((Nodes::default(), NodeChanges::never()));
        }
        self.clusters.follow(cluster).await
    }
}

#[async_trait]
impl Planner for Registry {
    fn faults(&self, action: &ActionSpec) -> Vec<Fault> {
        self.clusters.faults(action)
    }

    async fn survey(&self, spec: &TaskSpec, owner: &UserId) -> Result<Survey, ClusterError> {
        if let ActionSpec::Wait(parameters) = &spec.action {
            return Ok(Wait::new(parameters).survey(&spec.items));
        }
        if self.is_local(&spec.cluster) {
            let why = no_nodes(&spec.action);
            let survey = Survey::alike(&spec.items, Outcome::Fail, &why);
            return Ok(Survey { refused: Some(why), ..survey });
        }
        self.clusters.survey(spec, owner, self.clock.now()).await
    }
}
