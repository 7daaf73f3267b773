//! Pauses between tries: they double, are bounded, and differ between replicas.

use std::time::Duration;

/// The first pause, about.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(2);

/// Counts failures in a row and says how long to wait after each.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure: how long to wait now. Between half and the whole of the pause, so that replicas spread out.
    #[must_use]
    pub fn failed(&mut self) -> Duration {
        let pause = LONGEST.min(FIRST.saturating_mul(1 << self.failures.min(10)));
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Notes a success. Says whether it ended a row of failures.
    pub fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Failures in a row so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.failed()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        assert!(pauses[39] >= LONGEST / 2);
        assert!(backoff.succeeded());
        assert!(!backoff.succeeded());
        assert!(backoff.failed() <= FIRST);
    }
}
