//! How often one user may call. The bound on sockets is kept where sockets are counted ([`super::hub`]).
//!
//! Limits hold per replica. The table forgets users who have not called for a while.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::error::ApiError;
use crate::config::LimitsConfig;
use crate::task::UserId;

/// Pause between clean-ups of the table.
pub(crate) const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// Refusals of one user that the audit is told of.
const REFUSALS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).expect("30 is not 0");

/// What users may do per second.
pub(crate) struct Limits {
    requests: DefaultKeyedRateLimiter<UserId>,
    refusals: DefaultKeyedRateLimiter<UserId>,
    clock: DefaultClock,
}

impl Limits {
    pub(crate) fn new(config: &LimitsConfig) -> Self {
        let rate = NonZeroU32::new(config.requests_per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        let quota = Quota::per_second(rate).allow_burst(burst);
        let refusals = RateLimiter::keyed(Quota::per_minute(REFUSALS_PER_MINUTE));
        Self { requests: RateLimiter::keyed(quota), refusals, clock: DefaultClock::default() }
    }

    /// Takes one request off a user's rate.
    pub(crate) fn request(&self, user: &UserId) -> Result<(), ApiError> {
        self.requests.check_key(user).map_err(|until| {
            ApiError::TooMany(until.wait_time_from(self.clock.now()), "you send requests too fast")
        })
    }

    /// Whether a further refusal of a user is told to the audit.
    pub(crate) fn refusal(&self, user: &UserId) -> bool {
        self.refusals.check_key(user).is_ok()
    }

    /// Forgets users whose rate is whole again.
    pub(crate) fn forget_idle(&self) {
        self.refusals.retain_recent();
        self.refusals.shrink_to_fit();
        self.requests.retain_recent();
        self.requests.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_past_the_burst_is_told_to_wait_and_others_are_not() {
        let limits = Limits::new(&LimitsConfig { requests_per_second: 1, ..LimitsConfig::default() });
        let (one, other) = (UserId::new("one").unwrap(), UserId::new("other").unwrap());
        assert!(limits.request(&one).is_ok() && limits.request(&one).is_ok());
        assert!(matches!(limits.request(&one), Err(ApiError::TooMany(..))));
        assert!(limits.request(&other).is_ok());
    }

    #[test]
    fn refusals_of_a_user_are_told_up_to_a_bound() {
        let limits = Limits::new(&LimitsConfig::default());
        let (one, other) = (UserId::new("one").unwrap(), UserId::new("other").unwrap());
        let told = (0..100).filter(|_| limits.refusal(&one)).count();
        assert!((30..40).contains(&told), "{told}");
        assert!(limits.refusal(&other));
    }

    #[test]
    fn users_who_stopped_calling_are_forgotten() {
        let limits = Limits::new(&LimitsConfig { requests_per_second: u32::MAX, ..LimitsConfig::default() });
        for i in 0..1_000 {
            limits.request(&UserId::new(format!("u{i}")).unwrap()).unwrap();
        }
        limits.forget_idle();
        assert_eq!(limits.requests.len(), 0);
    }
}
