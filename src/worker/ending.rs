//! How a task leaves this process: ended, handed over, or let go.
//!
//! A task ends in the record first; the terminal event is committed with it and published after, by us or else by the
//! relay. So nobody is told of an end that is not true, and no end is lost.

use std::time::Duration;

use tokio::time::timeout;

use super::Shared;
use super::lease::{Held, Order};
use super::publisher::Publishing;
use super::recorder::{STORE_DEADLINE, abandon, keep_trying};
use super::reporter::Reporter;
use crate::store::{OutboxId, StoreError, Task};
use crate::task::{Counts, Event, EventKind, Status};
use crate::telemetry::metrics::Outcome;

/// Longest wait for the wake-up of the next worker.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(2);

/// A task whose lanes are through and whose results are recorded.
pub(super) struct Ending<'a> {
    pub(super) worker: &'a Shared,
    pub(super) held: &'a Held,
    pub(super) reporter: &'a Reporter,
    pub(super) task: &'a Task,
}

impl Ending<'_> {
    /// Ends the task when every item has a result, else does as ordered.
    pub(super) async fn end(
        &self,
        recorded: Counts,
        failure: Option<String>,
        publishing: &mut Publishing<'_>,
    ) {
        match (recorded.verdict(), self.held.order()) {
            (_, Order::Stop) => {}
            (Some(verdict), _) => self.finish(recorded, verdict, failure, publishing).await,
            (None, Order::HandOver) => self.hand_over(publishing).await,
            (None, Order::LetGo) => {
                self.give_back().await;
            }
            (None, Order::Run | Order::Cancel) => {
                tracing::warn!(task.id = %self.task.id, left = recorded.pending(),
                    "items are left without a result; the next attempt runs them");
            }
        }
    }

    async fn finish(
        &self,
        counts: Counts,
        verdict: Status,
        failure: Option<String>,
        publishing: &mut Publishing<'_>,
    ) {
        let now = self.worker.parts.clock.now();
        let mut event = self.reporter.terminal(counts, verdict, now);
        (event.message, event.error) = (Some(summary(counts)), failure);
        let Some(row) = self.commit(&event).await else { return };
        self.worker.parts.metrics.tasks_finished.get_or_create(&Outcome { status: verdict.as_str() }).inc();
        tracing::info!(task.id = %self.task.id, task.attempt = %self.held.fence.attempt, status = %verdict,
            items = counts.total, failed = counts.failed, "a task ended");
        if publishing.publish_terminal(&event).await {
            self.mark_published(row).await;
        }
    }

    /// Ends the task in the record. `None` when it is not ours to end.
    async fn commit(&self, event: &Event) -> Option<OutboxId> {
        self.held.leave();
        let (store, fence) = (&self.worker.parts.store, self.held.fence);
        match keep_trying(self.worker, self.held, "ending a task", || store.finish(fence, event)).await {
            Ok(row) => Some(row),
            Err(StoreError::Refused { status, .. }) => {
                tracing::info!(task.id = %self.task.id, %status, "a user changed the task before it ended");
                self.give_back().await;
                None
            }
            Err(error) => {
                abandon(self.worker, self.held, &error);
                None
            }
        }
    }

    /// Spares the relay a repeat. When it fails the relay repeats, and the bus adds nothing.
    async fn mark_published(&self, row: OutboxId) {
        let marked = timeout(STORE_DEADLINE, self.worker.parts.store.published(&[row])).await;
        if let Ok(Err(error)) = marked {
            self.worker.record.failed(&error);
        }
    }

    async fn hand_over(&self, publishing: &mut Publishing<'_>) {
        let message = Some("its worker stops; another one goes on".to_owned());
        self.reporter.say(EventKind::Requeued, Status::Queued, message);
        publishing.drain().await;
        if self.give_back().await {
            tracing::info!(task.id = %self.task.id, "handed a task over");
            self.wake_another().await;
        }
    }

    /// Lets go of the task in the record; a paused one stays paused. Whether that was possible.
    async fn give_back(&self) -> bool {
        self.held.leave();
        let (store, fence) = (&self.worker.parts.store, self.held.fence);
        match keep_trying(self.worker, self.held, "handing over", || store.hand_over(fence)).await {
            Ok(()) => true,
            Err(StoreError::Refused { status, .. }) => {
                tracing::info!(task.id = %self.task.id, %status, "a user changed the task before it was let go");
                false
            }
            Err(error) => {
                abandon(self.worker, self.held, &error);
                false
            }
        }
    }

    /// When this fails the reconciler rings, or the next poll finds the task.
    async fn wake_another(&self) {
        let notified = timeout(NOTIFY_DEADLINE, self.worker.parts.dispatcher.notify(self.task.id)).await;
        if let Ok(Err(error)) = notified {
            self.worker.dispatch.failed(&error);
        }
    }
}

/// The end of a task in a sentence.
fn summary(counts: Counts) -> String {
    let Counts { total, succeeded, failed, skipped, cancelled } = counts;
    let mut text = format!("{succeeded} of {total} succeeded");
    for (n, word) in [(failed, "failed"), (skipped, "skipped"), (cancelled, "cancelled")] {
        if n > 0 {
            text.push_str(&format!(", {n} {word}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_in_a_sentence() {
        let counts = Counts { total: 10, succeeded: 7, failed: 2, skipped: 0, cancelled: 1 };
        assert_eq!(summary(counts), "7 of 10 succeeded, 2 failed, 1 cancelled");
        assert_eq!(summary(Counts { total: 1, succeeded: 1, ..Counts::default() }), "1 of 1 succeeded");
    }
}
