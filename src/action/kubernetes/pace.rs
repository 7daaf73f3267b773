//! How fast a cluster is asked: two buckets of turns, one for reads and one for writes, which follow what the cluster says.
//!
//! A refusal by priority and fairness (429) or by an overloaded server (503) halves the rate of its bucket, at most once
//! in [`SETTLE`], so that refusals of calls that were already under way count once. Every call that is answered raises
//! it again by a share of the configured rate, back to that in about [`RECOVER`] calls. Not here: when to try a refused
//! call again (the worker, which honours `Retry-After`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A further refusal this soon after one says nothing new.
const SETTLE: Duration = Duration::from_secs(1);
/// The least that is left of the configured rate.
const FLOOR: f64 = 1.0 / 64.0;
/// Answered calls that bring a bucket from nothing back to its configured rate.
const RECOVER: f64 = 100.0;

/// A token bucket with a rate that adapts. Its burst is two seconds of its rate.
#[derive(Debug)]
pub(super) struct Pace {
    /// Turns per second when nobody complains.
    most: f64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rate: f64,
    /// Turns in hand; below zero for those who were given one of the future.
    turns: f64,
    counted: Instant,
    refused: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        let most = f64::from(per_second.max(1));
        let inner = Inner { rate: most, turns: most * 2.0, counted: Instant::now(), refused: None };
        Self { most, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Cancel-safe; a wait that is dropped gives up its turn.
    ///
    /// # Errors
    /// At once, with the time it would take, when that is more than `longest`.
    pub(super) async fn turn(&self, longest: Duration) -> Result<(), Duration> {
        let now = Instant::now();
        let at = {
            let mut inner = self.lock();
            inner.count(now);
            let wait = Duration::from_secs_f64(((1.0 - inner.turns) / inner.rate).max(0.0));
            if wait > longest {
                return Err(wait);
            }
            inner.turns -= 1.0;
            now + wait
        };
        sleep_until(at).await;
        Ok(())
    }

    /// A call was answered.
    pub(super) fn answered(&self) {
        let mut inner = self.lock();
        inner.count(Instant::now());
        inner.rate = (inner.rate + self.most / RECOVER).min(self.most);
    }

    /// A call was refused because the server has too much to do. Returns whether that slowed the pace.
    pub(super) fn refused(&self) -> bool {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.refused.is_some_and(|before| now.duration_since(before) < SETTLE) {
            return false;
        }
        inner.count(now);
        inner.refused = Some(now);
        inner.rate = (inner.rate / 2.0).max(self.most * FLOOR);
        // What was saved up for a burst would be sent at once.
        inner.turns = inner.turns.min(0.0);
        true
    }

    /// Turns per second now.
    #[cfg(test)]
    fn rate(&self) -> f64 {
        self.lock().rate
    }
}

impl Inner {
    /// Adds the turns that have come since they were last counted.
    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.turns = (self.turns + passed * self.rate).min(self.rate * 2.0);
        self.counted = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_two_seconds_and_then_the_rate_holds() {
        let pace = Pace::new(10);
        let began = Instant::now();
        for _ in 0..30 {
            pace.turn(LONG).await.unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        assert!((0.99..1.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_would_come_too_late_is_refused_and_not_used_up() {
        let pace = Pace::new(1);
        pace.turn(LONG).await.unwrap();
        pace.turn(LONG).await.unwrap();
        for _ in 0..3 {
            let wait = pace.turn(Duration::from_millis(500)).await.unwrap_err();
            assert_eq!(wait, Duration::from_secs(1));
        }
        pace.turn(Duration::from_millis(1_001)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_halves_the_rate_once_and_answers_bring_it_back() {
        let pace = Pace::new(64);
        assert!(pace.refused());
        assert!(!pace.refused(), "calls that were under way tell nothing new");
        assert!((pace.rate() - 32.0).abs() < 0.01);
        for _ in 0..20 {
            advance(SETTLE).await;
            pace.refused();
        }
        assert!((pace.rate() - 1.0).abs() < 0.01, "it never stops for good");
        for _ in 0..100 {
            pace.answered();
        }
        assert!((pace.rate() - 64.0).abs() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_was_saved_up_is_sent_after_a_refusal() {
        let pace = Pace::new(2);
        pace.refused();
        let began = Instant::now();
        pace.turn(LONG).await.unwrap();
        assert!((1.0..1.01).contains(&began.elapsed().as_secs_f64()));
    }
}
