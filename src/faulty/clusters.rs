//! Clusters with faults.

use async_trait::async_trait;

use super::{Away, Faulty, WORDS, pass};
use crate::action::{ClusterError, Clusters, NodeView};
use crate::task::ClusterName;

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

    async fn nodes(&self, cluster: &ClusterName) -> Result<Vec<NodeView>, ClusterError> {
        pass!(self.plan, "clusters.nodes", self.inner.nodes(cluster))
    }
}
