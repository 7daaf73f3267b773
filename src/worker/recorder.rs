//! Carries a task's results to the store, in batches, and keeps each until the store has it.
//!
//! An absent store is asked again until our lease is over (which stops the whole task), and at most
//! [`FAILURES_MAX`] times in a row. Not here: the end of the task ([`super::runner`]).

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backoff::Backoff;
use super::lease::{Held, Order};
use super::reporter::Reporter;
use crate::store::StoreError;
use crate::task::{Counts, ItemResult};
use crate::telemetry::metrics::Fenced;

/// Longest wait for one call to the store. Statements have shorter deadlines of their own.
pub(super) const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Failures in a row, over a minute or more, after which a task is left to its next attempt although its lease holds.
pub(super) const FAILURES_MAX: u32 = 60;

/// Records the results of one task.
pub(super) struct Recording<'a> {
    worker: &'a Shared,
    held: &'a Held,
    reporter: &'a Reporter,
    counts: Counts,
}

impl<'a> Recording<'a> {
    /// Starts from the counts that the record has.
    pub(super) fn new(worker: &'a Shared, held: &'a Held, reporter: &'a Reporter, counts: Counts) -> Self {
        Self { worker, held, reporter, counts }
    }

    /// Records until `close`, then all that is left. Returns the recorded counts; when the task is not ours any more it
    /// returns early, and the caller is about to be dropped.
    pub(super) async fn run(mut self, close: &CancellationToken) -> Counts {
        loop {
            let closing = close.is_cancelled();
            let batch = self.reporter.take_batch();
            if batch.is_empty() && closing {
                return self.counts;
            }
            if !batch.is_empty() && !self.record(&batch).await {
                return self.counts;
            }
            self.wait(close).await;
        }
    }

    async fn wait(&self, close: &CancellationToken) {
        tokio::select! {
            () = close.cancelled() => {}
            () = self.reporter.due.notified() => {}
            () = sleep(self.worker.parts.config.record_interval) => {}
        }
    }

    /// Records one batch, however long it takes. False when the task is not ours any more.
    async fn record(&mut self, batch: &[ItemResult]) -> bool {
        let store = &self.worker.parts.store;
        let doing = "recording results";
        let recorded =
            keep_trying(self.worker, self.held, doing, || store.record(self.held.fence, batch)).await;
        match recorded {
            Ok(counts) => {
                self.counts = counts;
                self.reporter.recorded();
                true
            }
            Err(error) => {
                abandon(self.worker, self.held, &error, Fenced::Result);
                false
            }
        }
    }
}

/// Asks the store until it answers, while we may write.
///
/// # Errors
/// The store's own answer, or the last outage when we may not write any more or failed too often.
pub(super) async fn keep_trying<T, F>(
    worker: &Shared,
    held: &Held,
    doing: &'static str,
    mut call: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::of_backend();
    loop {
        if !held.may_write() {
            return Err(StoreError::Unavailable { doing, source: "the lease may be over".into() });
        }
        let reply = timeout(STORE_DEADLINE, call()).await;
        let late = |late| Err(StoreError::Unavailable { doing, source: Box::new(late) });
        match reply.unwrap_or_else(late) {
            Err(error @ StoreError::Unavailable { .. }) => {
                worker.record.failed(&error);
                sleep(backoff.next()).await;
                if backoff.failures() >= FAILURES_MAX {
                    return Err(error);
                }
            }
            answer => {
                worker.record.over();
                return answer;
            }
        }
    }
}

/// Stops a task that cannot go on here because this write failed. Its lease ends by itself, and the next attempt takes
/// over.
pub(super) fn abandon(worker: &Shared, held: &Held, error: &StoreError, write: Fenced) {
    if matches!(error, StoreError::Fenced { .. }) {
        worker.parts.metrics.count_fenced(write);
    }
    tracing::warn!(%error, "leaving a task");
    held.give(Order::Stop);
}
