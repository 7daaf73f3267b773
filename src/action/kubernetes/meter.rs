//! A cluster's series in the metrics: there while the cluster is configured, and gone with it.
//!
//! Tasks that run on a cluster which is configured no more go on, and must not bring its series back. So they are written
//! under one lock with the end of them.

use std::sync::{Mutex, PoisonError};

use crate::task::ClusterName;
use crate::task::safety::Rule;
use crate::telemetry::Metrics;

/// What is counted of a cluster. Closed until it is in force.
#[derive(Debug)]
pub(super) struct Meter {
    cluster: ClusterName,
    metrics: Metrics,
    open: Mutex<bool>,
}

impl Meter {
    pub(super) fn new(cluster: ClusterName, metrics: Metrics) -> Self {
        Self { cluster, metrics, open: Mutex::new(false) }
    }

    /// The cluster is in force.
    pub(super) fn open(&self) {
        *self.lock() = true;
        self.metrics.cluster_reachable(self.cluster.as_str(), true);
    }

    /// It is not any more.
    pub(super) fn close(&self) {
        let mut open = self.lock();
        if std::mem::take(&mut *open) {
            self.metrics.forget_cluster(self.cluster.as_str());
        }
    }

    pub(super) fn call(&self, outcome: &'static str) {
        self.write(|metrics, cluster| metrics.count_call(cluster, outcome));
    }

    pub(super) fn reachable(&self, reachable: bool) {
        self.write(|metrics, cluster| metrics.cluster_reachable(cluster, reachable));
    }

    /// A rule of safety has kept a node as it is.
    pub(super) fn refusal(&self, rule: Rule) {
        self.metrics.count_safety(rule);
    }

    /// Whether the nodes are known and watched.
    pub(super) fn watched(&self, synced: bool) {
        self.write(|metrics, cluster| metrics.nodes_watched(cluster, synced));
    }

    /// The cluster told something of its nodes.
    pub(super) fn heard(&self) {
        self.write(|metrics, cluster| metrics.node_watch_silence.now(cluster));
    }

    /// The nodes were listed `n` times more.
    pub(super) fn relisted(&self, n: u64) {
        self.write(|metrics, cluster| metrics.count_relists(cluster, n));
    }

    fn write(&self, note: impl FnOnce(&Metrics, &str)) {
        let open = self.lock();
        if *open {
            note(&self.metrics, self.cluster.as_str());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_gone_is_counted_no_more() {
        let metrics = Metrics::new();
        let meter = Meter::new(ClusterName::new("prod").unwrap(), metrics.clone());
        meter.call("answered");
        assert!(!metrics.text().contains("prod"), "it is not in force yet");
        meter.open();
        meter.call("answered");
        assert!(metrics.text().contains("milepost_cluster_up{cluster=\"prod\"} 1"));
        meter.close();
        meter.reachable(true);
        assert!(!metrics.text().contains("prod"), "{}", metrics.text());
    }
}
