//! Deletes tasks that ended long ago, with all that belongs to them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::Duty;
use crate::BoxError;
use crate::store::UpkeepStore;

/// Tasks deleted in one transaction; each may have 100,000 items.
const BATCH: u32 = 20;
/// Transactions in one run.
const BATCHES_MAX: u32 = 50;

pub(super) struct Pruner {
    pub(super) store: Arc<dyn UpkeepStore>,
    pub(super) age: Duration,
    pub(super) interval: Duration,
}

#[async_trait]
impl Duty for Pruner {
    fn name(&self) -> &'static str {
        "pruner"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        let mut total = 0;
        for _ in 0..BATCHES_MAX {
            let pruned = self.store.prune(self.age, BATCH).await?;
            total += pruned;
            if pruned < u64::from(BATCH) {
                break;
            }
        }
        Ok(total)
    }
}
