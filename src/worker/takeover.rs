//! What a new attempt takes over from those before it: results that were told, and not recorded before their worker died.
//!
//! Asked for once the first event of this attempt is in the stream: from then on no older attempt can tell anything, so
//! the answer does not change any more. What is found is recorded under our own fence like any other result; what is not
//! found there is run again. Not here: keeping results on the bus ([`crate::bus::Publisher::report`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::timeout;

use super::Shared;
use super::lanes::Queue;
use super::lease::{Held, lock};
use super::recorder::{abandon, keep_trying};
use super::reporter::Reporter;
use crate::bus::BusError;
use crate::store::Task;
use crate::task::{Attempt, Counts, ItemName, ItemResult};
use crate::telemetry::metrics::Fenced;

/// Longest wait for what older attempts told.
const READ_DEADLINE: Duration = Duration::from_secs(3);

/// A task in hand whose first event is in the stream.
pub(super) struct Takeover<'a> {
    pub(super) worker: &'a Shared,
    pub(super) held: &'a Held,
    pub(super) reporter: &'a Reporter,
    pub(super) task: &'a Task,
    /// Items without a recorded result; those with a result that was told are taken out.
    pub(super) queue: &'a Queue,
}

impl Takeover<'_> {
    /// Whether an attempt before this one may have left anything.
    pub(super) fn is_one(task: &Task) -> bool {
        task.state.attempt > Attempt(1)
    }

    /// Records what was told, and takes it out of the queue. Returns the counts of the record after it. A bus that cannot
    /// be read costs another run of the items, not the task.
    pub(super) async fn run(&self) -> Counts {
        let told = match self.read().await {
            Ok(told) => self.still_pending(told),
            Err(error) => {
                tracing::warn!(%error, "what the attempt before told cannot be read; its last items run again");
                Vec::new()
            }
        };
        let Some(counts) = self.record(&told).await else { return self.task.counts };
        let ended: HashSet<u32> = told.iter().map(|result| result.index).collect();
        lock(self.queue).retain(|(index, _)| !ended.contains(index));
        self.worker.parts.metrics.results_inherited.inc_by(told.len() as u64);
        self.reporter.inherited(counts, told.len());
        if !told.is_empty() {
            tracing::info!(results = told.len(), "recorded what the attempt before had told");
        }
        counts
    }

    async fn read(&self) -> Result<Vec<ItemResult>, BusError> {
        let Task { id, owner, state, .. } = self.task;
        let read = self.worker.parts.publisher.unrecorded(owner, *id, state.attempt);
        let late = |late| Err(BusError::Unavailable { doing: "taking over", source: Box::new(late) });
        timeout(READ_DEADLINE, read).await.unwrap_or_else(late)
    }

    /// One result of each item that the record has none of: the first that was told.
    fn still_pending(&self, told: Vec<ItemResult>) -> Vec<ItemResult> {
        let mut pending: HashMap<u32, ItemName> = lock(self.queue).iter().cloned().collect();
        let mut fits =
            |result: &ItemResult| pending.remove(&result.index).is_some_and(|name| name == result.name);
        told.into_iter().filter(|result| fits(result)).collect()
    }

    /// Records in batches. `None` when the task is not ours any more.
    async fn record(&self, told: &[ItemResult]) -> Option<Counts> {
        let (store, fence) = (&self.worker.parts.store, self.held.fence);
        let mut counts = self.task.counts;
        for batch in told.chunks(self.worker.parts.config.record_batch.max(1)) {
            let doing = "recording what was told before";
            match keep_trying(self.worker, self.held, doing, || store.record(fence, batch)).await {
                Ok(recorded) => counts = recorded,
                Err(error) => {
                    abandon(self.worker, self.held, &error, Fenced::Result);
                    return None;
                }
            }
        }
        Some(counts)
    }
}
