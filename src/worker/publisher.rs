//! Carries a task's events to the bus, one at a time.
//!
//! Each event is paid for with a pause that follows the cost of its publish, at most `flush_interval`, so that a slow bus
//! gets fewer and fuller events. A task that was quiet has some of that time saved up ([`Pace`]): its next events go at once.
//! So does an event for whose telling every lane waits, because nothing could be merged into it. A publish whose outcome is
//! unknown is repeated as it was. Nothing here holds up the record, nor the lanes longer than a prompt bus takes. Not here:
//! what an event says ([`super::progress`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backoff::Backoff;
use super::lease::{Held, Order};
use super::reporter::Reporter;
use crate::bus::{BusError, Published};
use crate::task::{Attempt, Event, UserId};
use crate::telemetry::metrics::Fenced;

/// Longest wait for the bus to take one event.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(3);
/// Time that each event is paid for with at least, however fast the bus is. No timer is finer.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// An event may take the bus this share of the time: one part publishing, four parts pause.
const PAUSE_PER_PUBLISH: u32 = 4;
/// A publish that takes no longer is prompt: lanes may wait for it.
const PROMPT_MAX: Duration = Duration::from_millis(100);
/// Tries to open an attempt that takes over from another one.
const OPEN_TRIES: u32 = 3;
/// How often long items are looked for; one that is in work for two looks is told of as running.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// At the end of an attempt: how long an absent bus may hold it up. What was not told by then is in the record.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What came of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There was nothing to publish, or we may not.
    Nothing,
    /// An event is in the stream.
    Sent,
    /// There is nowhere to tell the event; it is gone.
    Dropped,
    /// The bus is away; the same event is due again.
    Failed,
}

/// Publishes the events of one task.
pub(super) struct Publishing<'a> {
    worker: &'a Shared,
    held: &'a Held,
    reporter: &'a Reporter,
    owner: &'a UserId,
    backoff: Backoff,
    pace: Pace,
    pause: Duration,
}

/// When the next event may go: each is paid for in time, and up to one longest pause can be saved up for later events.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// When everything so far is paid for.
    paid: Instant,
}

impl Pace {
    /// The pause after a publish that took so long and ended now. One that no timer could keep is added to the next.
    fn after(&mut self, took: Duration, most: Duration, now: Instant) -> Duration {
        let price = (took * PAUSE_PER_PUBLISH).max(PAUSE_MIN).min(most);
        let saved = now.checked_sub(took + most).map_or(self.paid, |earliest| self.paid.max(earliest));
        self.paid = saved + took + price;
        let pause = self.paid.saturating_duration_since(now);
        if pause < PAUSE_MIN { Duration::ZERO } else { pause }
    }
}

impl<'a> Publishing<'a> {
    pub(super) fn new(worker: &'a Shared, held: &'a Held, reporter: &'a Reporter, owner: &'a UserId) -> Self {
        let (backoff, pace) = (Backoff::of_backend(), Pace { paid: Instant::now() });
        Self { worker, held, reporter, owner, backoff, pace, pause: Duration::ZERO }
    }

    /// Publishes the first event, which shuts an older attempt out. Returns whether it is in the stream. An absent bus
    /// does not keep us from working: the event then goes out first when it is back.
    pub(super) async fn open(&mut self) -> bool {
        self.step().await == Step::Sent
    }

    /// As [`Self::open`], for an attempt that would lose something if its first event failed.
    pub(super) async fn open_with_patience(&mut self) -> bool {
        for _ in 1..OPEN_TRIES {
            match self.step().await {
                Step::Sent => return true,
                Step::Nothing | Step::Dropped => return false,
                Step::Failed => sleep(self.pause).await,
            }
        }
        self.open().await
    }

    /// Publishes until `close`, then what is left, as far as the bus takes it in time.
    pub(super) async fn run(&mut self, close: &CancellationToken) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !close.is_cancelled() {
            tokio::select! {
                () = close.cancelled() => {}
                () = self.reporter.news.notified() => self.publish_news(close).await,
                _ = look.tick() => if self.reporter.tick(self.worker.parts.clock.now()) {
                    self.publish_news(close).await;
                },
            }
        }
        self.drain().await;
    }

    /// Publishes what is left, as far as the bus takes it in time.
    pub(super) async fn drain(&mut self) {
        let all = async {
            loop {
                match self.step().await {
                    Step::Nothing => break,
                    Step::Sent | Step::Dropped => {}
                    Step::Failed => sleep(self.pause).await,
                }
            }
        };
        let _ = timeout(DRAIN_MAX, all).await;
    }

    /// Publishes a committed terminal event. A failure costs time only: the relay publishes it from the outbox.
    pub(super) async fn publish_terminal(&mut self, event: &Event) -> bool {
        matches!(self.call(event).await, Ok(_) | Err(BusError::Fenced { .. }))
    }

    async fn publish_news(&mut self, close: &CancellationToken) {
        // Items that end in the same instant share an event: let their lanes run first.
        tokio::task::yield_now().await;
        while !close.is_cancelled() && self.step().await != Step::Nothing {
            if self.pause.is_zero() {
                continue;
            }
            tokio::select! {
                () = close.cancelled() => {}
                () = self.reporter.lanes_wait() => {}
                () = sleep(self.pause) => {}
            }
        }
    }

    /// Publishes the next event, if there is one, and sets the pause after it.
    async fn step(&mut self) -> Step {
        let event = self.reporter.next_event(self.worker.parts.clock.now());
        let Some(event) = event.filter(|_| self.held.may_write()) else { return Step::Nothing };
        let began = Instant::now();
        match self.call(&event).await {
            Ok(_) => {
                self.sent(&event, began.elapsed());
                Step::Sent
            }
            Err(BusError::Fenced { current }) => {
                self.fenced(current);
                Step::Nothing
            }
            Err(BusError::Taken { .. }) => {
                self.reporter.is_prompt(false);
                self.reporter.dropped(event.seq);
                self.pause = self.worker.parts.config.record_interval;
                Step::Dropped
            }
            Err(BusError::Unavailable { .. }) => {
                self.reporter.is_prompt(false);
                self.pause = self.backoff.next();
                Step::Failed
            }
        }
    }

    async fn call(&self, event: &Event) -> Result<Published, BusError> {
        let recorded = self.reporter.recorded_seq();
        let publish = self.worker.parts.publisher.report(self.owner, event, recorded);
        let reply = timeout(PUBLISH_DEADLINE, publish).await;
        let late = |late| Err(BusError::Unavailable { doing: "publishing", source: Box::new(late) });
        let result = reply.unwrap_or_else(late);
        match &result {
            Ok(_) => {
                self.worker.bus.over();
                self.worker.parts.metrics.events_published.inc();
            }
            Err(BusError::Fenced { .. }) => {}
            Err(error) => {
                self.worker.bus.failed(error);
                self.worker.parts.metrics.publish_errors.inc();
            }
        }
        result
    }

    fn sent(&mut self, event: &Arc<Event>, took: Duration) {
        self.reporter.published(event.seq);
        self.reporter.is_prompt(took <= PROMPT_MAX);
        self.backoff.reset();
        // A pause is for merging; there is nothing to win by it once the next event is full.
        let most =
            if self.reporter.is_full() { Duration::ZERO } else { self.worker.parts.config.flush_interval };
        self.pause = self.pace.after(took, most, Instant::now());
    }

    fn fenced(&self, current: Attempt) {
        // Of a task that was given back this only means that the next worker was quick.
        if !self.held.is_leaving() {
            self.worker.parts.metrics.count_fenced(Fenced::Event);
            tracing::warn!(%current, "another attempt publishes; stopping");
        }
        self.held.give(Order::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(10);

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_pause_follows_the_cost_of_a_publish_within_bounds() {
        let mut now = Instant::now();
        let mut pace = Pace { paid: now };
        for (took, pause) in [(0, 1_000), (100, 1_000), (500, 2_000), (2_000, 8_000), (9_000, 10_000)] {
            now += us(took);
            assert_eq!(pace.after(us(took), MOST, now), us(pause), "after {took} us");
            now += us(pause);
        }
        assert_eq!(pace.after(us(1_000_000), Duration::ZERO, now + us(1_000_000)), Duration::ZERO);
    }

    #[test]
    fn a_quiet_task_has_saved_up_for_some_events_and_no_more() {
        let mut now = Instant::now();
        let mut pace = Pace { paid: now };
        now += Duration::from_secs(60);
        let mut pauses = std::iter::repeat_with(|| {
            now += us(250);
            pace.after(us(250), MOST, now)
        });
        let at_once = pauses.by_ref().take_while(Duration::is_zero).count();
        assert_eq!(at_once, 10, "one longest pause, of a millisecond for each");
    }
}
