//! Another writer in the cluster: it labels and taints nodes in turn, so that whoever writes from an older version meets
//! conflicts, and whoever overwrites what is not theirs can be seen to have done so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Simulator;
use super::cluster::Cluster;
use super::nodes;
use super::object::Object;
use super::selector::Selector;

/// The label and the taint that are written; their value is the number of the write.
const KEY: &str = "simulator.milepost.dev/meddled";

/// Another writer at work. It stops when dropped.
#[derive(Debug)]
pub struct Meddler {
    writes: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Meddler {
    /// How often it has written.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// What the last write left on a node, as (label, taint); the same number twice if nobody undid it.
    #[must_use]
    pub fn marks(node: &Value) -> (Option<&str>, Option<&str>) {
        let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let taint = taints.find(|taint| taint["key"] == KEY).and_then(|taint| taint["value"].as_str());
        (node.label(KEY), taint)
    }
}

impl Simulator {
    /// Has another writer change the label and the taint of every node in turn, one node at a time, with this pause
    /// between two writes. Must be called inside a tokio runtime.
    #[must_use = "the writer stops when this is dropped"]
    pub fn meddle(&self, every: Duration) -> Meddler {
        let stop = CancellationToken::new();
        let writes = Arc::new(AtomicU64::new(0));
        let (cluster, stopped, counter) = (Arc::clone(&self.api.cluster), stop.clone(), Arc::clone(&writes));
        let work = async move {
            loop {
                for node in cluster.nodes.all(&Selector::default()) {
                    tokio::time::sleep(every).await;
                    write(&cluster, node.name(), counter.load(Ordering::SeqCst) + 1);
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                // A cluster without nodes must not make this a busy loop.
                tokio::time::sleep(every.max(Duration::from_millis(1))).await;
            }
        };
        tokio::spawn(async move { stopped.run_until_cancelled(work).await });
        Meddler { writes, _stop: stop.drop_guard() }
    }
}

fn write(cluster: &Cluster, node: &str, number: u64) {
    let number = number.to_string();
    // A node that is gone is not written to.
    let _ = cluster.nodes.update(node, false, |node| {
        let mut new = node.clone();
        new["metadata"]["labels"][KEY] = number.as_str().into();
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.retain(|taint| taint["key"] != KEY);
        taints.push(json!({"key": KEY, "value": number, "effect": "PreferNoSchedule"}));
        new["spec"]["taints"] = taints.into();
        nodes::admit(node, new)
    });
}
