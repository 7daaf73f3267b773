//! What people and decisions are told of the nodes of the configured clusters.
//!
//! Everything comes from the one [`super::reflector`] of a cluster, but for what somebody is about to decide by: which nodes
//! are cordoned is then read from the cluster, a small list that grows with the cordons and not with the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use super::annotations::Annotations;
use super::clusters::{Entry, KubeClusters};
use super::errors::root_cause;
use super::reflector::lost;
use crate::BoxError;
use crate::action::nodes::NodePod;
use crate::action::{
    ClusterError, Clusters, Freshness, NodeChanges, NodeDetail, NodePods, NodeView, NodeViews, Nodes,
};
use crate::task::ClusterName;

#[async_trait]
impl Clusters for KubeClusters {
    fn names(&self) -> Vec<ClusterName> {
        Self::names(self)
    }

    async fn nodes(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        let entry = self.entry(cluster)?;
        entry.nodes.nodes().await.map_err(|why| unavailable(cluster, why))
    }

    async fn nodes_now(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        let entry = self.entry(cluster)?;
        // The first list may take long, so it is there before the cordons are read.
        entry.nodes.nodes().await.map_err(|why| unavailable(cluster, why))?;
        let cordoned = entry.cordoned(self.list_timeout()).await.map_err(|why| unavailable(cluster, why))?;
        let nodes = entry.nodes.nodes().await.map_err(|why| unavailable(cluster, why))?;
        if nodes.freshness.stale {
            return Err(unavailable(cluster, lost(nodes.freshness.cause)));
        }
        Ok(Nodes { nodes: with_cordons(nodes.nodes, cordoned), ..nodes })
    }
}

#[async_trait]
impl NodeViews for KubeClusters {
    fn freshness(&self, cluster: &ClusterName) -> Option<Freshness> {
        self.entry(cluster).ok()?.nodes.freshness()
    }

    async fn node(&self, cluster: &ClusterName, name: &str) -> Result<Option<NodeDetail>, ClusterError> {
        let entry = self.entry(cluster)?;
        entry.nodes.node(name).await.map_err(|why| unavailable(cluster, why))
    }

    async fn pods_on(&self, cluster: &ClusterName, node: &str) -> Result<NodePods, ClusterError> {
        let entry = self.entry(cluster)?;
        // It goes into a selector, so one that is no name would ask for something else.
        if !Annotations::is_dns_name(node) {
            return Ok(NodePods::default());
        }
        let read = timeout(self.list_timeout(), entry.cluster.pods_on(node)).await;
        let read = read.map_err(|late| unavailable(cluster, late.into()))?;
        let (pods, more) = read.map_err(|why| unavailable(cluster, root_cause(&why).to_string().into()))?;
        Ok(NodePods {
            count: u32::try_from(pods.len()).unwrap_or(u32::MAX),
            more,
            pods: pods.iter().map(brief).collect(),
        })
    }

    async fn follow(&self, cluster: &ClusterName) -> Result<(Nodes, NodeChanges), ClusterError> {
        let entry = self.entry(cluster)?;
        entry.nodes.follow().await.map_err(|why| unavailable(cluster, why))
    }
}

impl Entry {
    async fn cordoned(&self, limit: std::time::Duration) -> Result<BTreeSet<String>, BoxError> {
        Ok(timeout(limit, self.cluster.cordoned()).await??)
    }
}

fn unavailable(cluster: &ClusterName, source: BoxError) -> ClusterError {
    ClusterError::Unavailable { cluster: cluster.clone(), source }
}

/// The nodes, of which exactly these are cordoned. One that is not known yet is not known to be ready either.
fn with_cordons(nodes: Vec<Arc<NodeView>>, mut cordoned: BTreeSet<String>) -> Vec<Arc<NodeView>> {
    let set = |node: Arc<NodeView>| match cordoned.remove(&node.name) {
        unschedulable if unschedulable == node.unschedulable => node,
        unschedulable => Arc::new(NodeView { unschedulable, ..NodeView::clone(&node) }),
    };
    let mut nodes: Vec<_> = nodes.into_iter().map(set).collect();
    let new = |name| Arc::new(NodeView { name, unschedulable: true, ..NodeView::default() });
    nodes.extend(cordoned.into_iter().map(new));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn brief(pod: &Pod) -> NodePod {
    let metadata = &pod.metadata;
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let ends = metadata.deletion_timestamp.is_some();
    NodePod {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        phase: if ends { "Terminating".to_owned() } else { phase.unwrap_or_else(|| "Unknown".to_owned()) },
        owner: controller.map(|owner| format!("{} {}", owner.kind, owner.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_says_of_cordons_counts() {
        let node = |name: &str, unschedulable| {
            let node = NodeView { name: name.into(), ready: true, unschedulable, ..NodeView::default() };
            Arc::new(node)
        };
        let nodes = vec![node("b", false), node("c", true), node("d", true)];
        let cordoned = ["a", "b", "d"].map(String::from).into();
        let seen = with_cordons(nodes, cordoned);
        let seen: Vec<_> = seen.iter().map(|n| (n.name.as_str(), n.unschedulable, n.ready)).collect();
        assert_eq!(seen, [("a", true, false), ("b", true, true), ("c", false, true), ("d", true, true)]);
    }
}
