//! How long to wait before trying again. Not here: what is tried, and how often.

use std::time::Duration;

/// Full jitter: any wait up to `base` doubled per failure, never above `max`. `random` is from 0 to 1.
pub(super) fn full_jitter(base: Duration, max: Duration, failures: u32, random: f64) -> Duration {
    let doubled = base.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(max).mul_f64(random.clamp(0.0, 1.0))
}

/// A wait between half of `most` and all of it, so that replicas do not move in step.
pub(super) fn jittered(most: Duration) -> Duration {
    most.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// The waits of something tried until it works: doubling, jittered, never shorter than half of the first.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// For calls to our own backends.
    pub(super) fn of_backend() -> Self {
        Self { base: Duration::from_millis(50), max: Duration::from_secs(2), failures: 0 }
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        jittered(doubled.min(self.max))
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_wait_is_at_most_the_base_and_each_next_at_most_double() {
        let wait = |failures| {
            full_jitter(Duration::from_millis(200), Duration::from_secs(1), failures, 1.0).as_millis()
        };
        assert_eq!([1, 2, 3, 4, 5].map(wait), [200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn chance_takes_any_part_of_a_wait() {
        let (base, max) = (Duration::from_millis(200), Duration::from_secs(1));
        let wait = |random| full_jitter(base, max, 3, random).as_millis();
        assert_eq!([0.0, 0.25, 1.0].map(wait), [0, 200, 800]);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_bound(failures: u32, random in 0.0_f64..1.0) {
            let max = Duration::from_secs(10);
            prop_assert!(full_jitter(Duration::from_millis(200), max, failures, random) <= max);
        }

        #[test]
        fn a_backend_is_never_asked_in_a_busy_loop(failures in 0_usize..200) {
            let mut backoff = Backoff::of_backend();
            let last = (0..=failures).map(|_| backoff.next()).last().unwrap_or_default();
            prop_assert!(last >= Duration::from_millis(25) && last <= Duration::from_secs(2));
        }
    }
}
