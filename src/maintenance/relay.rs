//! Publishes committed events that their worker did not: it died in between, or the bus was away.
//!
//! Rows go out in the order of their commit. The first one that cannot be published ends the run, so that no event
//! overtakes an older one. An event that the bus has already, or that a newer attempt shut out, counts as published.

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
    /// Publishes in order up to the first failure.
    async fn publish(&self, rows: &[OutboxRow]) -> (Vec<OutboxId>, Option<BusError>) {
        let mut done = Vec::with_capacity(rows.len());
        for row in rows {
            let reply = timeout(PUBLISH_DEADLINE, self.publisher.publish(&row.owner, &row.event)).await;
            let late = |late| Err(BusError::Unavailable { doing: "relaying", source: Box::new(late) });
            match reply.unwrap_or_else(late) {
                Ok(_) | Err(BusError::Fenced { .. }) => done.push(row.id),
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }
}
