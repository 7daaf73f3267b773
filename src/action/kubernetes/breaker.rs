//! Whether a cluster can be reached at all: after some calls in a row that got no answer none is sent for a while, and
//! then one, which decides. So an outage costs its items a sentence instead of a time-out each, and holds no lane.
//!
//! Any answer counts, refusals too: a server that says no is there. Pure but for the clock of durations.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Calls without an answer in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// How long it stays open the first time; it doubles with each probe that fails.
const OPEN: Duration = Duration::from_secs(1);
/// The longest it stays open between two probes.
const OPEN_MAX: Duration = Duration::from_secs(15);

/// Lets calls through, or not.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    until: Instant,
    wait: Duration,
    /// A probe is on its way.
    probing: bool,
}

/// The right to send one call. Dropped without a word it has told nothing, and the next call may probe.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

/// No call is sent for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    /// How long the cluster has not answered.
    pub(super) since: Duration,
    /// When it may be asked again.
    pub(super) retry_after: Duration,
}

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    Opened,
    Closed,
}

impl Breaker {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to send a call.
    pub(super) fn pass(&self) -> Result<Pass<'_>, Broken> {
        let mut state = self.lock();
        state.check()?;
        let probe = state.open.as_mut().map(|open| open.probing = true).is_some();
        Ok(Pass { breaker: self, probe })
    }

    /// Whether a call could be sent now, without asking for it.
    pub(super) fn check(&self) -> Result<(), Broken> {
        self.lock().check()
    }
}

impl State {
    fn check(&self) -> Result<(), Broken> {
        let now = Instant::now();
        let Some(open) = self.open.filter(|open| open.probing || now < open.until) else { return Ok(()) };
        let retry_after = if open.probing { open.wait } else { open.until - now };
        Err(Broken { since: now - open.since, retry_after })
    }
}

impl Pass<'_> {
    /// The server answered, whatever it said.
    pub(super) fn answered(mut self) -> Option<Turned> {
        let mut state = self.breaker.lock();
        self.probe = false;
        state.failures = 0;
        // An answer to a call from before it opened is as good as one to a probe.
        state.open.take().map(|_| Turned::Closed)
    }

    /// There was no answer.
    pub(super) fn failed(mut self) -> Option<Turned> {
        let now = Instant::now();
        let mut state = self.breaker.lock();
        let probe = std::mem::take(&mut self.probe);
        state.failures = state.failures.saturating_add(1);
        if let Some(open) = &mut state.open {
            if probe {
                open.wait = (open.wait * 2).min(OPEN_MAX);
                (open.until, open.probing) = (now + open.wait, false);
            }
            return None;
        }
        if state.failures < FAILURES_MAX {
            return None;
        }
        state.open = Some(Open { since: now, until: now + OPEN, wait: OPEN, probing: false });
        Some(Turned::Opened)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.breaker.lock().open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn fail(breaker: &Breaker) -> Option<Turned> {
        breaker.pass().unwrap().failed()
    }

    fn open(breaker: &Breaker) {
        let turned: Vec<_> = (0..FAILURES_MAX).filter_map(|_| fail(breaker)).collect();
        assert_eq!(turned, [Turned::Opened]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_answer_in_between_does_not() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            for _ in 1..FAILURES_MAX {
                assert_eq!(fail(&breaker), None);
            }
            assert_eq!(breaker.pass().unwrap().answered(), None);
        }
        open(&breaker);
        advance(OPEN / 4).await;
        assert_eq!(breaker.pass().unwrap_err(), Broken { since: OPEN / 4, retry_after: OPEN * 3 / 4 });
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_decides() {
        let breaker = Breaker::default();
        open(&breaker);
        let mut wait = OPEN;
        for _ in 0..8 {
            advance(wait).await;
            let probe = breaker.pass().unwrap();
            assert!(breaker.pass().is_err(), "a second probe");
            assert_eq!(probe.failed(), None);
            wait = (wait * 2).min(OPEN_MAX);
            assert_eq!(breaker.pass().unwrap_err().retry_after, wait);
        }
        advance(wait).await;
        assert_eq!(breaker.pass().unwrap().answered(), Some(Turned::Closed));
        assert!(breaker.pass().is_ok() && breaker.pass().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_given_up_makes_room_for_the_next() {
        let breaker = Breaker::default();
        open(&breaker);
        advance(OPEN).await;
        drop(breaker.pass().unwrap());
        assert!(breaker.pass().is_ok());
    }
}
