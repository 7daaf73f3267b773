//! Where the lanes of a task leave what happened, for the publisher and the recorder to carry away.
//!
//! Leaving a result never waits for the bus or the store: a short lock and a wake-up. Results that no store has taken
//! yet are kept; when [`UNRECORDED_MAX`] wait, [`Reporter::room`] holds the lanes back before they start another item.
//! And a lane waits in [`Reporter::safe`] until its last result is told or recorded, so that a crash costs each lane one
//! item at most; not for a bus that is slow or away.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::lease::lock;
use super::progress::Progress;
use super::stall::Stall;
use crate::config::WorkerConfig;
use crate::store::{RECORD_MAX, Task};
use crate::task::{Counts, Event, EventKind, ItemName, ItemResult, Seq, Status, Step};
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
    safe: watch::Sender<Safe>,
    /// Lanes that are open.
    lanes: AtomicUsize,
    /// Rung when every lane waits for its last result to be told.
    lanes_wait: Notify,
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
    /// Recorded so far.
    recorded: u64,
}

/// What a crash would not undo.
#[derive(Debug, Clone, Copy, Default)]
struct Safe {
    /// Results up to this number are told or recorded.
    results: u64,
    /// Whether the bus takes events so quickly that waiting for it costs nothing to speak of.
    prompt: bool,
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
            safe: watch::Sender::default(),
            lanes: AtomicUsize::new(0),
            lanes_wait: Notify::new(),
            news: Notify::new(),
            due: Notify::new(),
            room: Notify::new(),
        }
    }

    /// A lane took an item.
    pub(super) fn started(&self, index: u32, name: &ItemName) {
        lock(&self.progress).started(index, name.clone());
    }

    /// An item in work says what it is at. Never waits; told with the next look at long items.
    pub(super) fn step(&self, index: u32, step: Step) {
        if lock(&self.progress).step(index, step) {
            lock(&self.stall).finished(Instant::now());
        }
    }

    /// An item finished. Never waits. Returns the number of the result.
    pub(super) fn finished(&self, result: ItemResult) -> u64 {
        let status = result.outcome.state().as_str();
        self.metrics.items_finished.get_or_create(&Outcome { status }).inc();
        lock(&self.stall).finished(Instant::now());
        // Under both locks, always taken in this order: results are told and recorded in the order of their numbers.
        let mut progress = lock(&self.progress);
        let mut unrecorded = lock(&self.unrecorded);
        let number = progress.finished(&result);
        unrecorded.results.push_back(result);
        let full = unrecorded.results.len() >= self.record_batch;
        drop(unrecorded);
        drop(progress);
        self.news.notify_one();
        if full {
            self.due.notify_one();
        }
        if self.all_wait(number) {
            self.lanes_wait.notify_waiters();
        }
        number
    }

    /// So many lanes are open now.
    pub(super) fn lanes(&self, open: usize) {
        self.lanes.store(open, Ordering::Relaxed);
        self.lanes_wait.notify_waiters();
    }

    /// Whether every lane waits to be told that its last result is safe, when there are so many results: none will come
    /// before an event was published.
    fn all_wait(&self, results: u64) -> bool {
        let (lanes, safe) = (self.lanes.load(Ordering::Relaxed) as u64, *self.safe.borrow());
        lanes > 0 && safe.prompt && results.saturating_sub(safe.results) >= lanes
    }

    /// Waits until nothing can be won by waiting: every lane waits for the next event. Cancel-safe.
    pub(super) async fn lanes_wait(&self) {
        loop {
            let wait = self.lanes_wait.notified();
            tokio::pin!(wait);
            // Listens before it looks, so that no wake-up falls in between.
            wait.as_mut().enable();
            if self.all_wait(lock(&self.progress).results()) {
                return;
            }
            wait.await;
        }
    }

    /// Waits until the result with this number is told or recorded, at most `longest`.
    pub(super) async fn safe(&self, number: u64, longest: Duration) {
        let mut safe = self.safe.subscribe();
        let safe = safe.wait_for(|safe| !safe.prompt || safe.results >= number);
        if timeout(longest, safe).await.is_err() {
            self.is_prompt(false);
        }
    }

    /// Notes whether the bus takes events quickly.
    pub(super) fn is_prompt(&self, prompt: bool) {
        self.safe.send_if_modified(|safe| std::mem::replace(&mut safe.prompt, prompt) != prompt);
    }

    fn safe_up_to(&self, results: u64) {
        self.safe.send_if_modified(|safe| {
            let more = results > safe.results;
            safe.results = safe.results.max(results);
            more
        });
    }

    /// Tells the watchers of a change of the task itself.
    pub(super) fn say(&self, kind: EventKind, status: Status, message: Option<String>) {
        lock(&self.progress).say(kind, status, message);
        self.news.notify_one();
    }

    /// Notes why no item is started for now, for the events to come.
    pub(super) fn wait_for(&self, why: Option<String>) {
        lock(&self.progress).wait_for(why);
    }

    /// Tells the watchers why no item is started for now, or that it goes on; once.
    pub(super) fn say_waiting(&self, why: Option<&str>) {
        if lock(&self.progress).say_waiting(why) {
            self.news.notify_one();
        }
    }

    /// Tells the watchers that a user changed how many items run at once.
    pub(super) fn say_concurrency(&self, concurrency: Option<u16>) {
        lock(&self.progress).say_concurrency(concurrency);
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
        let goes_on = progress.status().is_held() && !progress.waits();
        let stalled = goes_on.then(|| lock(&self.stall).look(Instant::now())).flatten();
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
        let told = lock(&self.progress).published(seq);
        self.safe_up_to(told);
    }

    /// The event with this number cannot be told to anybody.
    pub(super) fn dropped(&self, seq: Seq) {
        lock(&self.progress).dropped(seq);
    }

    /// What older attempts left is recorded, with these counts, or will be run again.
    pub(super) fn inherited(&self, counts: Counts, found: usize) {
        lock(&self.progress).inherited(counts, found);
        self.news.notify_one();
    }

    /// The last event whose results, and those of all before it, are in the record.
    pub(super) fn recorded_seq(&self) -> Option<Seq> {
        lock(&self.progress).recorded_seq()
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
        let recorded = {
            let mut unrecorded = lock(&self.unrecorded);
            unrecorded.recorded += std::mem::take(&mut unrecorded.in_call) as u64;
            unrecorded.recorded
        };
        lock(&self.progress).recorded(recorded);
        self.safe_up_to(recorded);
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
        (0..total).for_each(|index| {
            reporter.finished(result(index));
        });
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
        (0..600).for_each(|index| {
            reporter.finished(result(index));
        });
        let sizes: Vec<_> = std::iter::repeat_with(|| reporter.take_batch().len()).take(3).collect();
        assert_eq!(sizes, [500, 100, 0]);
    }
}
