//! The configured clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use super::agent;
use super::annotations::Annotations;
use super::cluster::{Cluster, Limits, Source};
use super::drain::Drain;
use super::driver::{Change, NodeAction};
use super::errors::root_cause;
use super::guard::{Asker, Guard, Guarded};
use super::protected::Protected;
use super::reflector::Reflector;
use crate::action::{Action, ActionError, ClusterError};
use crate::clock::Clock;
use crate::config::{ActionsConfig, ClusterConfig};
use crate::store::Task;
use crate::task::safety::Rules;
use crate::task::spec::UncordonParameters;
use crate::task::{ActionSpec, ClusterName};
use crate::telemetry::Metrics;

/// Nodes of a task that are worth a list of all nodes of the cluster.
const MANY: u32 = 20;
/// How many calls' time a list of all nodes may take.
const LIST_CALLS: u32 = 3;

/// What is wrong with the configured clusters and what actions share; every fault, one to a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.join("\n"))]
pub struct ClustersError {
    /// The faults, each a sentence that names the cluster or the setting.
    pub faults: Vec<String>,
}

/// A cluster that is configured.
#[derive(Clone)]
pub(super) struct Entry {
    /// What it was made from.
    config: ClusterConfig,
    pub(super) cluster: Arc<Cluster>,
    pub(super) nodes: Arc<Reflector>,
}

/// Clusters by name.
type Configured = BTreeMap<ClusterName, Entry>;

/// Every configured cluster, each with one client that is made when first needed.
pub struct KubeClusters {
    clusters: RwLock<Configured>,
    make: Make,
    protected: Protected,
}

/// What clusters are made with.
struct Make {
    limits: Limits,
    /// The rules of clusters that have none of their own.
    rules: Rules,
    metrics: Metrics,
    annotations: Annotations,
    list_timeout: Duration,
}

impl KubeClusters {
    /// Checks the names, the sources and the prefix of annotations. Reads no kubeconfig yet and talks to no cluster.
    ///
    /// # Errors
    /// Every fault.
    pub fn new(configs: &[ClusterConfig], actions: &ActionsConfig) -> Result<Self, ClustersError> {
        Self::measured(configs, actions, Metrics::new())
    }

    /// The same, with calls counted in `metrics`.
    ///
    /// # Errors
    /// Every fault.
    pub fn measured(
        configs: &[ClusterConfig],
        actions: &ActionsConfig,
        metrics: Metrics,
    ) -> Result<Self, ClustersError> {
        let limits = Limits {
            call_timeout: actions.call_timeout,
            per_second: actions.calls_per_second,
            at_once: actions.calls_at_once,
        };
        let make = Make {
            limits,
            rules: actions.safety.clone(),
            metrics,
            annotations: Annotations::new(&actions.annotation_prefix, &actions.foreign_reasons),
            list_timeout: actions.call_timeout * LIST_CALLS,
        };
        let (clusters, mut faults) = configured(configs, &Configured::new(), &make);
        if !Annotations::is_dns_name(&actions.annotation_prefix) {
            faults.push(format!("actions.annotation_prefix is no DNS name: {:?}", actions.annotation_prefix));
        }
        for bad in actions.foreign_reasons.iter().filter(|text| !Annotations::is_foreign(text)) {
            faults.push(format!("actions.foreign_reasons holds no key or prefix of annotations: {bad:?}"));
        }
        if !faults.is_empty() {
            return Err(ClustersError { faults });
        }
        clusters.values().for_each(|entry| entry.cluster.meter.open());
        let protected =
            Protected { allowed: actions.allowed_keys.clone(), own: actions.annotation_prefix.clone() };
        Ok(Self { clusters: RwLock::new(clusters), make, protected })
    }

    /// Puts other clusters in force. Those whose configuration is the same stay as they are; tasks that run on one that is
    /// gone or changed end on the old one, which is watched and counted no more. Returns the names of the clusters that are
    /// new, changed or gone.
    ///
    /// # Errors
    /// Every fault; then nothing is changed.
    pub fn reload(&self, configs: &[ClusterConfig]) -> Result<Vec<ClusterName>, ClustersError> {
        let mut clusters = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        let (fresh, faults) = configured(configs, &clusters, &self.make);
        if !faults.is_empty() {
            return Err(ClustersError { faults });
        }
        let of = |map: &Configured, name: &ClusterName| map.get(name).map(|entry| entry.config.clone());
        let names: BTreeSet<_> = clusters.keys().chain(fresh.keys()).cloned().collect();
        let changed: Vec<_> =
            names.into_iter().filter(|name| of(&clusters, name) != of(&fresh, name)).collect();
        let of_changed = |map: &Configured, then: fn(&Entry)| {
            changed.iter().filter_map(|name| map.get(name)).for_each(then);
        };
        of_changed(&clusters, |entry| entry.cluster.meter.close());
        of_changed(&fresh, |entry| entry.cluster.meter.open());
        *clusters = fresh;
        Ok(changed)
    }

    fn read(&self) -> RwLockReadGuard<'_, Configured> {
        self.clusters.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entry(&self, name: &ClusterName) -> Result<Entry, ClusterError> {
        self.read().get(name).cloned().ok_or_else(|| ClusterError::Unknown(name.clone()))
    }

    /// How long a list may take, as many pages as it has.
    pub(super) fn list_timeout(&self) -> Duration {
        self.make.list_timeout
    }

    /// What decisions go by in every cluster.
    pub(super) fn rules(&self) -> (&Annotations, &Protected) {
        (&self.make.annotations, &self.protected)
    }

    /// Whether there is such a cluster.
    #[must_use]
    pub fn has(&self, name: &ClusterName) -> bool {
        self.read().contains_key(name)
    }

    /// Names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<ClusterName> {
        self.read().keys().cloned().collect()
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
        let Ok(Entry { cluster, nodes, .. }) = self.entry(&task.cluster) else { return Ok(None) };
        cluster.connect().await.map_err(|error| {
            let cause = root_cause(error.as_ref());
            ActionError::permanent(format!("cluster {} cannot be used: {cause}", cluster.name))
        })?;
        if let Some(missing) = task.may.lacks(&task.action) {
            let why =
                format!("{} did not hold the capability {missing} when the task was submitted", task.owner);
            return Err(ActionError::permanent(why));
        }
        let sender = agent::of_task(task);
        if let ActionSpec::Drain(asked) = &task.action {
            let evictions = cluster.preflight(&task.action, &sender).await?;
            let guard = self.guard(task, (&cluster, &nodes), &clock);
            let with = (clock, sender, evictions);
            let inner = Drain::new(task, asked, &self.make.annotations, &cluster, with).guarded(&guard);
            return Ok(Some(Arc::new(Guarded { inner, guard })));
        }
        let change = Change::new(task, &self.make.annotations, &self.protected)?;
        cluster.preflight(&task.action, &sender).await?;
        let guard = cluster.safety.rules.concern(&task.action);
        let guard = guard.then(|| self.guard(task, (&cluster, &nodes), &clock));
        let nodes = Some(nodes).filter(|_| task.counts.total >= MANY);
        let inner = NodeAction { cluster, nodes, change, clock, sender };
        Ok(Some(match guard {
            Some(guard) => Arc::new(Guarded { inner, guard }),
            None => Arc::new(inner),
        }))
    }

    /// The rules of the cluster, asked for a task.
    fn guard(
        &self,
        task: &Task,
        (cluster, nodes): (&Arc<Cluster>, &Arc<Reflector>),
        clock: &Arc<dyn Clock>,
    ) -> Arc<Guard> {
        let own = UncordonParameters { of_task: Some(task.id), foreign: false };
        let undo = NodeAction {
            cluster: Arc::clone(cluster),
            nodes: None,
            change: Change::Uncordon(self.make.annotations.clone(), own),
            clock: Arc::clone(clock),
            sender: agent::of_task(task),
        };
        let asker = Asker { action: task.action.clone(), may: task.may, task: task.id };
        Arc::new(Guard { cluster: Arc::clone(cluster), nodes: Arc::clone(nodes), asker, undo })
    }
}

impl Make {
    fn entry(&self, name: ClusterName, config: &ClusterConfig, source: Source) -> Entry {
        let rules = config.safety.clone().unwrap_or_else(|| self.rules.clone());
        let cluster = Cluster::new(name, source, &self.limits, self.metrics.clone()).with_rules(rules);
        let cluster = Arc::new(cluster);
        let nodes = Reflector::new(Arc::clone(&cluster), self.annotations.clone(), self.list_timeout);
        Entry { config: config.clone(), cluster, nodes: Arc::new(nodes) }
    }
}

/// Clusters for these configurations, taken over from `before` where nothing changed, and every fault.
fn configured(configs: &[ClusterConfig], before: &Configured, make: &Make) -> (Configured, Vec<String>) {
    let (mut clusters, mut faults) = (Configured::new(), Vec::new());
    for config in configs {
        let (name, source) = match source(config) {
            Ok(checked) => checked,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let same = before.get(&name).filter(|entry| entry.config == *config).cloned();
        let entry = same.unwrap_or_else(|| make.entry(name.clone(), config, source));
        if clusters.insert(name, entry).is_some() {
            faults.push(format!("cluster {} is listed twice", config.name));
        }
    }
    (clusters, faults)
}

fn source(config: &ClusterConfig) -> Result<(ClusterName, Source), String> {
    let name = &config.name;
    let source = match (&config.kubeconfig, config.in_cluster) {
        (Some(path), false) => Source::Kubeconfig {
            path: path.clone(),
            context: config.context.clone(),
            allow_exec: config.allow_exec,
        },
        (None, true) => Source::InCluster,
        (Some(_), true) => {
            return Err(format!("cluster {name} has both kubeconfig and in_cluster: one is enough"));
        }
        (None, false) => return Err(format!("cluster {name} needs kubeconfig, or in_cluster: true")),
    };
    let name = ClusterName::new(name).map_err(|error| format!("the cluster name {name:?} {error}"))?;
    Ok((name, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Clusters;

    fn config(name: &str, kubeconfig: Option<&str>, in_cluster: bool) -> ClusterConfig {
        ClusterConfig {
            name: name.into(),
            kubeconfig: kubeconfig.map(Into::into),
            in_cluster,
            ..ClusterConfig::default()
        }
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

    #[test]
    fn a_reload_changes_what_changed_and_nothing_when_it_is_faulty() {
        let a = config("a", Some("x"), false);
        let configs = [a.clone(), config("b", Some("x"), false), config("c", Some("x"), false)];
        let clusters = KubeClusters::new(&configs, &ActionsConfig::default()).unwrap();
        let named =
            |names: &[&str]| names.iter().map(|name| ClusterName::new(*name).unwrap()).collect::<Vec<_>>();
        let before = clusters.entry(&named(&["a"])[0]).unwrap().cluster;
        let configs = [a.clone(), config("b", Some("y"), false), config("d", Some("x"), false)];
        assert_eq!(clusters.reload(&configs).unwrap(), named(&["b", "c", "d"]));
        assert_eq!(clusters.names(), named(&["a", "b", "d"]));
        assert!(
            Arc::ptr_eq(&before, &clusters.entry(&named(&["a"])[0]).unwrap().cluster),
            "it keeps what it knows"
        );
        assert!(clusters.reload(&[a.clone(), a]).is_err());
        assert_eq!(clusters.names(), named(&["a", "b", "d"]));
    }

    #[tokio::test]
    async fn a_cluster_whose_kubeconfig_is_missing_is_unavailable() {
        let clusters =
            KubeClusters::new(&[config("a", Some("/nowhere"), false)], &ActionsConfig::default()).unwrap();
        let name = clusters.names().remove(0);
        let Err(ClusterError::Unavailable { source, .. }) = clusters.nodes(&name).await else {
            panic!("it is not there");
        };
        assert!(source.to_string().contains("kubeconfig /nowhere: "), "{source}");
        let other = ClusterName::new("z").unwrap();
        assert!(matches!(clusters.nodes(&other).await, Err(ClusterError::Unknown(_))));
    }
}
