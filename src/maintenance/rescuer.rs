//! Ends tasks that used up their tries: each of them killed or outlasted every worker that held it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::Duty;
use crate::BoxError;
use crate::store::UpkeepStore;
use crate::telemetry::Metrics;

/// Tasks ended in one run.
const BATCH: u32 = 100;

pub(super) struct Rescuer {
    pub(super) store: Arc<dyn UpkeepStore>,
    pub(super) metrics: Metrics,
    pub(super) interval: Duration,
}

#[async_trait]
impl Duty for Rescuer {
    fn name(&self) -> &'static str {
        "rescuer"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        let ended = self.store.give_up(BATCH).await?;
        ended.iter().for_each(|status| self.metrics.count_end(*status));
        if !ended.is_empty() {
            tracing::warn!(tasks = ended.len(), "gave up tasks that used up their tries");
        }
        Ok(ended.len() as u64)
    }
}
