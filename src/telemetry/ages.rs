//! How long ago something last happened, by cluster, counted at the moment of each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::Instant;

use super::metrics::InCluster;

/// A gauge of seconds for each cluster that was heard of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ages {
    name: &'static str,
    help: &'static str,
    since: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Ages {
    /// Of what, without the prefix of all metrics.
    #[must_use]
    pub fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, since: Arc::default() }
    }

    /// It happens now.
    pub fn now(&self, cluster: &str) {
        self.lock().insert(cluster.to_owned(), Instant::now());
    }

    /// The cluster is not there any more.
    pub fn forget(&self, cluster: &str) {
        self.lock().remove(cluster);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (cluster, since) in self.lock().iter() {
            let label = InCluster { cluster: cluster.clone() };
            ConstGauge::new(since.elapsed().as_secs_f64()).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}
