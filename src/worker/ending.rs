//! How a task leaves this process: ended, handed over, or let go.
//!
//! Whatever becomes of a task is in the record first. A terminal event is committed with the end and published after, by
//! us or else by the relay; a task given back is told of as the record has it then. So nobody is told of what is not
//! true, and no end is lost.

use std::time::Duration;

use tokio::time::timeout;

use super::Shared;
use super::guard::{Guard, Stopped};
use super::lease::{Held, Order};
use super::publisher::Publishing;
use super::recorder::{STORE_DEADLINE, abandon, keep_trying};
use super::reporter::Reporter;
use crate::store::{OutboxId, StoreError, Task};
use crate::task::{Counts, Event, EventKind, Status, TaskState};
use crate::telemetry::metrics::Fenced;

/// Longest wait for the wake-up of the next worker.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(2);

/// A task whose lanes are through and whose results are recorded.
pub(super) struct Ending<'a> {
    pub(super) worker: &'a Shared,
    pub(super) held: &'a Held,
    pub(super) reporter: &'a Reporter,
    pub(super) guard: &'a Guard,
    pub(super) task: &'a Task,
}

/// How far an end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There is nothing left to do for it here.
    Done,
    /// It cannot be given back because a user cancelled it meanwhile: end it.
    Cancelled,
}

impl Ending<'_> {
    /// Ends the task when every item has a result, else does as ordered.
    pub(super) async fn end(
        &self,
        recorded: Counts,
        failure: Option<String>,
        publishing: &mut Publishing<'_>,
    ) -> Left {
        let Stopped { aborted, message, .. } = self.guard.stopped();
        let failure = failure.or(message.filter(|_| aborted));
        let verdict = TaskState { aborted, ..self.task.state }.verdict(&recorded);
        match (verdict, self.held.order()) {
            (_, Order::Stop) => Left::Done,
            (Some(verdict), _) => self.finish(recorded, verdict, failure, publishing).await,
            (None, Order::HandOver | Order::LetGo) => self.give_back(publishing).await,
            (None, Order::Run | Order::Halt | Order::Cancel) => {
                let left = recorded.pending();
                tracing::warn!(left, "items are left without a result; the next attempt runs them");
                Left::Done
            }
        }
    }

    async fn finish(
        &self,
        counts: Counts,
        verdict: Status,
        failure: Option<String>,
        publishing: &mut Publishing<'_>,
    ) -> Left {
        let now = self.worker.parts.clock.now();
        let mut event = self.reporter.terminal(counts, verdict, now);
        (event.message, event.error) = (Some(summary(counts)), failure);
        self.held.leave();
        let (store, fence) = (&self.worker.parts.store, self.held.fence);
        match keep_trying(self.worker, self.held, "ending a task", || store.finish(fence, &event)).await {
            Ok(row) => self.ended(row, &event, publishing).await,
            // A pause that came before the last result was recorded: it rests with nothing left to run.
            Err(StoreError::Refused { .. }) => {
                self.reporter.take_back(event);
                return self.give_back(publishing).await;
            }
            Err(error) => abandon(self.worker, self.held, &error, Fenced::Terminal),
        }
        Left::Done
    }

    async fn ended(&self, row: OutboxId, event: &Event, publishing: &mut Publishing<'_>) {
        self.worker.parts.metrics.count_end(event.status);
        let Counts { total: items, failed, .. } = event.counts;
        tracing::info!(status = %event.status, items, failed, "a task ended");
        if publishing.publish_terminal(event).await {
            self.mark_published(row).await;
        }
    }

    /// Spares the relay a repeat. When it fails the relay repeats, and the bus adds nothing.
    async fn mark_published(&self, row: OutboxId) {
        let marked = timeout(STORE_DEADLINE, self.worker.parts.store.published(&[row])).await;
        if let Ok(Err(error)) = marked {
            self.worker.record.failed(&error);
        }
    }

    /// Gives the task back in the record, then tells what the record made of it.
    async fn give_back(&self, publishing: &mut Publishing<'_>) -> Left {
        self.held.leave();
        let (store, fence) = (&self.worker.parts.store, self.held.fence);
        match keep_trying(self.worker, self.held, "giving a task back", || store.hand_over(fence)).await {
            Ok(status) => self.given_back(status, publishing).await,
            Err(StoreError::Refused { status: Status::Cancelling, .. }) => return Left::Cancelled,
            Err(error) => abandon(self.worker, self.held, &error, Fenced::HandOver),
        }
        Left::Done
    }

    async fn given_back(&self, status: Status, publishing: &mut Publishing<'_>) {
        tracing::info!(%status, "gave a task back");
        let Stopped { message, rests, .. } = self.guard.stopped();
        if status == Status::Queued {
            self.reporter.wait_for(message.clone().filter(|_| rests));
            let message = message.filter(|_| rests).unwrap_or_else(|| "another worker goes on".to_owned());
            self.reporter.say(EventKind::Requeued, status, Some(message));
        } else if self.reporter.status() != status {
            // A pause that we had not heard of in time to tell it while the lanes ran.
            self.reporter.say(EventKind::Paused, status, message);
        }
        publishing.drain().await;
        if status == Status::Queued && !rests {
            self.wake_another().await;
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
