//! Where the lanes of a task leave what happened, for the publisher and the recorder to carry away.
//!
//! Leaving a result never waits for the bus or the store: a short lock and a wake-up. Results that no store has taken
//! yet are kept; when [`UNRECORDED_MAX`] wait, [`Reporter::room`] holds the lanes back before they start another item.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lease::lock;
use super::progress::Progress;
use super::stall::Stall;
use crate::config::WorkerConfig;
use crate::store::{RECORD_MAX, Task};
use crate::task::{Counts, Event, EventKind, ItemName, ItemResult, Seq, Status};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Outcome;

/// Results that may wait for the store before no further item is started.
pub(super) const UNRECORDED_MAX: usize = 5_000;

/// What happened to one task and was not yet carried away.
pub(super) struct Reporter {
    progress: Mutex<Progress>,
    stall: Mutex<Stall>,
    unrecorded: Mutex<Unrecorded>,
    record_batch: usize,
    metrics: Metrics,
    /// Rung when there may be an event to publish.
    pub(super) news: Notify,
    /// Rung when a full batch waits for the store.
    pub(super) due: Notify,
    room: Notify,
}

#[derive(Default)]
struct Unrecorded {
    results: VecDeque<ItemResult>,
    /// Taken by the recorder and not known to be recorded.
    in_call: usize,
}

impl Unrecorded {
    fn len(&self) -> usize {
        self.results.len() + self.in_call
    }
}

impl Reporter {
    pub(super) fn new(task: Task, config: &WorkerConfig, metrics: Metrics) -> Self {
        Self {
            progress: Mutex::new(Progress::new(task)),
            stall: Mutex::new(Stall::new(config.stall_after, Instant::now())),
            unrecorded: Mutex::default(),
            record_batch: config.record_batch.clamp(1, RECORD_MAX),
            metrics,
            news: Notify::new(),
            due: Notify::new(),
            room: Notify::new(),
        }
    }

    /// A lane took an item.
    pub(super) fn started(&self, index: u32, name: &ItemName) {
        lock(&self.progress).started(index, name.clone());
    }

    /// An item finished. Never waits.
    pub(super) fn finished(&self, result: ItemResult) {
        let status = result.outcome.state().as_str();
        self.metrics.items_finished.get_or_create(&Outcome { status }).inc();
        lock(&self.progress).finished(&result);
        lock(&self.stall).finished(Instant::now());
        let mut unrecorded = lock(&self.unrecorded);
        unrecorded.results.push_back(result);
        let full = unrecorded.results.len() >= self.record_batch;
        drop(unrecorded);
        self.news.notify_one();
        if full {
            self.due.notify_one();
        }
    }

    /// Tells the watchers of a change of the task itself.
    pub(super) fn say(&self, kind: EventKind, status: Status, message: Option<String>) {
        lock(&self.progress).say(kind, status, message);
        self.news.notify_one();
    }

    /// The status that watchers know once all that was said is published.
    pub(super) fn status(&self) -> Status {
        lock(&self.progress).status()
    }

    /// Waits until results that wait for the store are few enough to start another item.
    pub(super) async fn room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Listens before it looks, so that no wake-up falls in between.
            room.as_mut().enable();
            if lock(&self.unrecorded).len() < UNRECORDED_MAX {
                return;
            }
            room.await;
        }
    }

    /// Lets items that are in work for long be told of, and a task that does not get on. Called at a steady pace; whether
    /// there is news.
    pub(super) fn tick(&self, now: Timestamp) -> bool {
        let mut progress = lock(&self.progress);
        let late = progress.tick();
        // Whoever rests or waits to be ended is not expected to get on.
        let stalled = progress.status().is_held().then(|| lock(&self.stall).look(Instant::now())).flatten();
        if let Some(quiet) = stalled {
            let since = SignedDuration::try_from(quiet).ok().and_then(|quiet| now.checked_sub(quiet).ok());
            progress.stalled(since.unwrap_or(now), quiet);
        }
        late || stalled.is_some()
    }

    /// Whether so much waits that the next event will be full.
    pub(super) fn is_full(&self) -> bool {
        lock(&self.progress).is_full()
    }

    /// The event to publish now. The same one until [`Reporter::published`] is told of it.
    pub(super) fn next_event(&self, now: Timestamp) -> Option<Arc<Event>> {
        lock(&self.progress).next(now)
    }

    pub(super) fn published(&self, seq: Seq) {
        lock(&self.progress).published(seq);
    }

    /// The last event of the task, with what was not told before.
    pub(super) fn terminal(&self, counts: Counts, verdict: Status, now: Timestamp) -> Event {
        lock(&self.progress).terminal(counts, verdict, now)
    }

    /// The store refused to end the task with this event.
    pub(super) fn take_back(&self, terminal: Event) {
        lock(&self.progress).take_back(terminal);
    }

    /// Takes the oldest results for one call to the store. Empty when none wait.
    pub(super) fn take_batch(&self) -> Vec<ItemResult> {
        let mut unrecorded = lock(&self.unrecorded);
        let n = unrecorded.results.len().min(self.record_batch);
        unrecorded.in_call = n;
        unrecorded.results.drain(..n).collect()
    }

    /// The batch taken last is in the store.
    pub(super) fn recorded(&self) {
        lock(&self.unrecorded).in_call = 0;
        self.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::tests::{result, task};
    use super::*;

    fn reporter(total: u32) -> Reporter {
        Reporter::new(task(total), &WorkerConfig::default(), Metrics::new())
    }

    #[tokio::test]
    async fn lanes_are_held_back_while_too_many_results_wait_for_the_store() {
        let total = u32::try_from(UNRECORDED_MAX).unwrap();
        let reporter = Arc::new(reporter(total));
        (0..total).for_each(|index| reporter.finished(result(index)));
        let lane = Arc::clone(&reporter);
        let lane = tokio::spawn(async move { lane.room().await });
        tokio::task::yield_now().await;
        assert_eq!(reporter.take_batch().len(), 500);
        tokio::task::yield_now().await;
        assert!(!lane.is_finished(), "a batch in a call is not recorded yet");
        reporter.recorded();
        lane.await.unwrap();
    }

    #[test]
    fn a_batch_holds_the_oldest_results_and_ends() {
        let reporter = reporter(600);
        (0..600).for_each(|index| reporter.finished(result(index)));
        let sizes: Vec<_> = std::iter::repeat_with(|| reporter.take_batch().len()).take(3).collect();
        assert_eq!(sizes, [500, 100, 0]);
    }
}
