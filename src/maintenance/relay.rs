//! Publishes committed events that their worker did not: it died in between, or the bus was away.
//!
//! Rows go out in the order of their commit, and none overtakes an older one of the same user: a user whose event cannot
//! be published waits for the next run, and holds up nobody else. When that happens to a few users in a row the bus is
//! taken to be away, and the run ends. An event that the bus has already, or that a newer attempt shut out, counts as
//! published; so does one of a user whose stream is taken by something else: when that is gone readers get a snapshot.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::driver::Duty;
use crate::BoxError;
use crate::bus::{BusError, Publisher};
use crate::store::{OutboxId, OutboxRow, UpkeepStore};

/// Rows read and marked at once.
const BATCH: u32 = 200;
/// Batches in one run, so that a long outage is worked off without keeping other duties waiting.
const BATCHES_MAX: u32 = 10;
/// Users whose events could not be published, after which the bus counts as away.
const FAILED_USERS_MAX: usize = 3;
/// Longest wait for the bus to take one event.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(3);

pub(super) struct Relay {
    pub(super) store: Arc<dyn UpkeepStore>,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) age: Duration,
    pub(super) interval: Duration,
}

#[async_trait]
impl Duty for Relay {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        let mut total = 0;
        for _ in 0..BATCHES_MAX {
            let rows = self.store.unpublished(self.age, BATCH).await?;
            let (done, failure) = self.publish(&rows).await;
            if !done.is_empty() {
                self.store.published(&done).await?;
                total += done.len() as u64;
            }
            if let Some(error) = failure {
                return Err(error.into());
            }
            if rows.len() < BATCH as usize {
                break;
            }
        }
        Ok(total)
    }
}

impl Relay {
    /// Publishes what it can. Gives back what is done with, and the first failure.
    async fn publish(&self, rows: &[OutboxRow]) -> (Vec<OutboxId>, Option<BusError>) {
        let (mut done, mut failure) = (Vec::with_capacity(rows.len()), None);
        let mut failed = HashSet::new();
        for row in rows {
            if failed.contains(&row.owner) {
                continue;
            }
            match self.publish_one(row).await {
                Ok(()) => done.push(row.id),
                Err(error) => {
                    failed.insert(&row.owner);
                    failure.get_or_insert(error);
                }
            }
            if failed.len() == FAILED_USERS_MAX {
                break;
            }
        }
        (done, failure)
    }

    async fn publish_one(&self, row: &OutboxRow) -> Result<(), BusError> {
        let reply = timeout(PUBLISH_DEADLINE, self.publisher.publish(&row.owner, &row.event)).await;
        match reply {
            Ok(Ok(_) | Err(BusError::Fenced { .. })) => Ok(()),
            Ok(Err(error @ BusError::Taken { .. })) => {
                tracing::warn!(%error, user.id = %row.owner, "the end of a task cannot be told");
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(late) => Err(BusError::Unavailable { doing: "relaying", source: Box::new(late) }),
        }
    }
}
