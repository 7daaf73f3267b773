//! Shows what waits, in the metrics of the leader. Replicas that do not lead show nothing, so that sums are right.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::Duty;
use crate::BoxError;
use crate::store::UpkeepStore;
use crate::telemetry::Metrics;

/// Counting costs the store a scan; scrapes are rarer than this anyway.
pub(super) const INTERVAL_MIN: Duration = Duration::from_secs(5);

pub(super) struct Gauges {
    pub(super) store: Arc<dyn UpkeepStore>,
    pub(super) metrics: Metrics,
    pub(super) interval: Duration,
}

#[async_trait]
impl Duty for Gauges {
    fn name(&self) -> &'static str {
        "gauges"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        let backlog = self.store.backlog().await?;
        self.show(backlog.queued, backlog.oldest_queued.as_secs());
        Ok(0)
    }

    fn rest(&self) {
        self.show(0, 0);
    }
}

impl Gauges {
    fn show(&self, queued: u64, oldest_s: u64) {
        self.metrics.queue_depth.set(i64::try_from(queued).unwrap_or(i64::MAX));
        self.metrics.queue_oldest_seconds.set(i64::try_from(oldest_s).unwrap_or(i64::MAX));
    }
}
