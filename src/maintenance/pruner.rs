//! Deletes tasks that ended long ago, with all that belongs to them, and later what the audit tells of them: one small
//! transaction after the other, so that nobody waits for a lock for long, until none is left or the time of a run is over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::driver::Duty;
use crate::BoxError;
use crate::store::UpkeepStore;

/// Tasks deleted in one transaction; the store takes fewer when they have many items.
const BATCH: u32 = 100;
/// Time after which a run begins no further transaction: a duty has half a minute.
const RUN_MAX: Duration = Duration::from_secs(20);

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
        let (began, mut total) = (Instant::now(), 0);
        while began.elapsed() < RUN_MAX {
            match self.store.prune(self.age, BATCH).await? {
                0 => break,
                pruned => total += pruned,
            }
        }
        Ok(total)
    }
}

/// The same for the audit.
pub(super) struct AuditPruner {
    pub(super) store: Arc<dyn UpkeepStore>,
    pub(super) age: Duration,
    pub(super) interval: Duration,
}

#[async_trait]
impl Duty for AuditPruner {
    fn name(&self) -> &'static str {
        "audit_pruner"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        let (began, mut total) = (Instant::now(), 0);
        while began.elapsed() < RUN_MAX {
            match self.store.prune_audit(self.age, BATCH).await? {
                0 => break,
                pruned => total += pruned,
            }
        }
        Ok(total)
    }
}
