//! The configured clusters.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::agent;
use super::annotations::Annotations;
use super::cluster::{Cluster, Source};
use super::drain::Drain;
use super::driver::{Change, NodeAction};
use super::errors::root_cause;
use super::node::view;
use super::protected::Protected;
use crate::BoxError;
use crate::action::{Action, ActionError, ClusterError, NodeView};
use crate::clock::Clock;
use crate::config::{ActionsConfig, ClusterConfig};
use crate::store::Task;
use crate::task::{ActionSpec, ClusterName};

/// How many calls' time a list of all nodes may take.
const LIST_CALLS: u32 = 3;

/// What is wrong with the configured clusters and what actions share; every fault, one to a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.join("\n"))]
pub struct ClustersError {
    /// The faults, each a sentence that names the cluster or the setting.
    pub faults: Vec<String>,
}

/// Every configured cluster, each with one client that is made when first needed.
pub struct KubeClusters {
    clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    annotations: Annotations,
    protected: Protected,
    list_timeout: Duration,
}

impl KubeClusters {
    /// Checks the names, the sources and the prefix of annotations. Reads no kubeconfig yet and talks to no cluster.
    ///
    /// # Errors
    /// Every fault.
    pub fn new(configs: &[ClusterConfig], actions: &ActionsConfig) -> Result<Self, ClustersError> {
        let (mut clusters, mut faults) = (BTreeMap::new(), Vec::new());
        for config in configs {
            match cluster(config, actions) {
                Err(fault) => faults.push(fault),
                Ok(cluster) => match clusters.entry(cluster.name.clone()) {
                    btree_map::Entry::Vacant(entry) => drop(entry.insert(Arc::new(cluster))),
                    btree_map::Entry::Occupied(_) => {
                        faults.push(format!("cluster {} is listed twice", config.name));
                    }
                },
            }
        }
        if !Annotations::is_dns_name(&actions.annotation_prefix) {
            faults.push(format!("actions.annotation_prefix is no DNS name: {:?}", actions.annotation_prefix));
        }
        for bad in actions.foreign_reasons.iter().filter(|text| !Annotations::is_foreign(text)) {
            faults.push(format!("actions.foreign_reasons holds no key or prefix of annotations: {bad:?}"));
        }
        if !faults.is_empty() {
            return Err(ClustersError { faults });
        }
        let annotations = Annotations::new(&actions.annotation_prefix, &actions.foreign_reasons);
        let protected =
            Protected { allowed: actions.allowed_keys.clone(), own: actions.annotation_prefix.clone() };
        Ok(Self { clusters, annotations, protected, list_timeout: actions.call_timeout * LIST_CALLS })
    }

    /// Whether there is such a cluster.
    #[must_use]
    pub fn has(&self, name: &ClusterName) -> bool {
        self.clusters.contains_key(name)
    }

    /// Names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<ClusterName> {
        self.clusters.keys().cloned().collect()
    }

    /// The action of a task, with the client of its cluster; `None` when there is no such cluster.
    ///
    /// # Errors
    /// Permanent when the task asks for what is not done to nodes, or the way to the cluster cannot be read.
    pub async fn prepare(
        &self,
        task: &Task,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Arc<dyn Action>>, ActionError> {
        let Some(cluster) = self.clusters.get(&task.cluster) else { return Ok(None) };
        cluster.connect().await.map_err(|error| {
            let cause = root_cause(error.as_ref());
            ActionError::permanent(format!("cluster {} cannot be used: {cause}", cluster.name))
        })?;
        let sender = agent::of_task(task);
        Ok(Some(match &task.action {
            ActionSpec::Drain(asked) => {
                Arc::new(Drain::new(task, asked, &self.annotations, cluster, (clock, sender)))
            }
            _ => {
                let change = Change::new(task, &self.annotations, &self.protected)?;
                Arc::new(NodeAction { cluster: Arc::clone(cluster), change, clock, sender })
            }
        }))
    }

    /// The nodes of a cluster, by name. Bounded in time and number; cancel-safe.
    ///
    /// # Errors
    /// When there is no such cluster, or it does not answer in time.
    pub async fn nodes(&self, name: &ClusterName) -> Result<Vec<NodeView>, ClusterError> {
        let cluster = self.clusters.get(name).ok_or_else(|| ClusterError::Unknown(name.clone()))?;
        let unavailable = |source: BoxError| ClusterError::Unavailable { cluster: name.clone(), source };
        let list =
            timeout(self.list_timeout, cluster.list()).await.map_err(|late| unavailable(late.into()))?;
        let nodes = list.map_err(|error| unavailable(error.into()))?;
        let mut views: Vec<_> = nodes.into_iter().map(|node| view(node, &self.annotations)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }
}

fn cluster(config: &ClusterConfig, actions: &ActionsConfig) -> Result<Cluster, String> {
    let name = &config.name;
    let source = match (&config.kubeconfig, config.in_cluster) {
        (Some(path), false) => Source::Kubeconfig { path: path.clone(), context: config.context.clone() },
        (None, true) => Source::InCluster,
        (Some(_), true) => {
            return Err(format!("cluster {name} has both kubeconfig and in_cluster: one is enough"));
        }
        (None, false) => return Err(format!("cluster {name} needs kubeconfig, or in_cluster: true")),
    };
    let name = ClusterName::new(name).map_err(|error| format!("the cluster name {name:?} {error}"))?;
    Ok(Cluster::new(name, source, actions.call_timeout, actions.calls_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, kubeconfig: Option<&str>, in_cluster: bool) -> ClusterConfig {
        ClusterConfig { name: name.into(), kubeconfig: kubeconfig.map(Into::into), context: None, in_cluster }
    }

    #[test]
    fn every_fault_of_the_list_is_named() {
        let configs = [
            config("a", Some("x"), false),
            config("a", Some("y"), false),
            config("b", None, false),
            config("c", Some("x"), true),
            config("d/e", None, true),
        ];
        let actions = ActionsConfig {
            annotation_prefix: "a b".into(),
            foreign_reasons: ["a.b/c", "a.b", "/c"].map(String::from).into(),
            ..ActionsConfig::default()
        };
        let Err(error) = KubeClusters::new(&configs, &actions) else { panic!("it is faulty") };
        let expected = [
            "cluster a is listed twice",
            "cluster b needs kubeconfig, or in_cluster: true",
            "cluster c has both kubeconfig and in_cluster: one is enough",
            "the cluster name \"d/e\" must not contain '/'",
            "actions.annotation_prefix is no DNS name: \"a b\"",
            "actions.foreign_reasons holds no key or prefix of annotations: \"/c\"",
        ];
        assert_eq!(error.faults, expected);
    }

    #[tokio::test]
    async fn a_cluster_whose_kubeconfig_is_missing_is_unavailable() {
        let clusters =
            KubeClusters::new(&[config("a", Some("/nowhere"), false)], &ActionsConfig::default()).unwrap();
        let name = clusters.names().remove(0);
        assert!(matches!(clusters.nodes(&name).await, Err(ClusterError::Unavailable { .. })));
        let other = ClusterName::new("z").unwrap();
        assert!(matches!(clusters.nodes(&other).await, Err(ClusterError::Unknown(_))));
    }
}
