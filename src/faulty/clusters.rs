//! Clusters with faults.

use async_trait::async_trait;

use super::{Away, Faulty, WORDS, pass};
use crate::action::{
    ClusterError, Clusters, Freshness, NodeChanges, NodeDetail, NodePods, NodeViews, Nodes, Planner,
};
use crate::task::plan::Survey;
use crate::task::{ActionSpec, ClusterName, Fault, TaskSpec, UserId};

/// A cluster that is away is away whichever it is.
impl Away for ClusterError {
    fn away(_: &'static str) -> Self {
        let cluster = ClusterName::new("any").expect("the name follows the rules of names");
        Self::Unavailable { cluster, source: WORDS.into() }
    }

    fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

#[async_trait]
impl<S: Clusters + ?Sized> Clusters for Faulty<S> {
    fn names(&self) -> Vec<ClusterName> {
        self.inner.names()
    }

    async fn nodes(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        pass!(self.plan, "clusters.nodes", self.inner.nodes(cluster))
    }

    async fn nodes_now(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        pass!(self.plan, "clusters.nodes_now", self.inner.nodes_now(cluster))
    }
}

#[async_trait]
impl<S: NodeViews + ?Sized> NodeViews for Faulty<S> {
    fn freshness(&self, cluster: &ClusterName) -> Option<Freshness> {
        self.inner.freshness(cluster)
    }

    async fn node(&self, cluster: &ClusterName, name: &str) -> Result<Option<NodeDetail>, ClusterError> {
        pass!(self.plan, "clusters.node", self.inner.node(cluster, name))
    }

    async fn pods_on(&self, cluster: &ClusterName, node: &str) -> Result<NodePods, ClusterError> {
        pass!(self.plan, "clusters.pods_on", self.inner.pods_on(cluster, node))
    }

    async fn follow(&self, cluster: &ClusterName) -> Result<(Nodes, NodeChanges), ClusterError> {
        pass!(self.plan, "clusters.follow", self.inner.follow(cluster))
    }
}

#[async_trait]
impl<S: Planner + ?Sized> Planner for Faulty<S> {
    fn faults(&self, action: &ActionSpec) -> Vec<Fault> {
        self.inner.faults(action)
    }

    async fn survey(&self, spec: &TaskSpec, owner: &UserId) -> Result<Survey, ClusterError> {
        pass!(self.plan, "clusters.survey", self.inner.survey(spec, owner))
    }
}
