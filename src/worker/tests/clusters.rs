//! Nodes as a test says they are.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::super::lease::lock;
use crate::action::{ClusterError, Clusters, NodeView, Nodes};
use crate::task::ClusterName;

/// A cluster whose nodes are as a test says; `None` cannot be read.
#[derive(Default)]
pub(in super::super) struct TestClusters {
    pub(super) nodes: Mutex<Option<Vec<NodeView>>>,
    pub(super) looks: AtomicU32,
}

#[async_trait]
impl Clusters for TestClusters {
    fn names(&self) -> Vec<ClusterName> {
        Vec::new()
    }

    async fn nodes(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        lock(&self.nodes).clone().map(Nodes::fresh).ok_or_else(|| ClusterError::Unknown(cluster.clone()))
    }

    async fn nodes_now(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        self.nodes(cluster).await
    }
}
