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

/// What users may do per second.
pub(crate) struct Limits {
    requests: DefaultKeyedRateLimiter<UserId>,
    clock: DefaultClock,
}

impl Limits {
    pub(crate) fn new(config: &LimitsConfig) -> Self {
        let rate = NonZeroU32::new(config.requests_per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self { requests: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes one request off a user's rate.
    pub(crate) fn request(&self, user: &UserId) -> Result<(), ApiError> {
        self.requests.check_key(user).map_err(|until| {
            ApiError::TooMany(until.wait_time_from(self.clock.now()), "you send requests too fast")
        })
    }

    /// Forgets users whose rate is whole again.
    pub(crate) fn forget_idle(&self) {
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
    fn users_who_stopped_calling_are_forgotten() {
        let limits = Limits::new(&LimitsConfig { requests_per_second: u32::MAX, ..LimitsConfig::default() });
        for i in 0..1_000 {
            limits.request(&UserId::new(format!("u{i}")).unwrap()).unwrap();
        }
        limits.forget_idle();
        assert_eq!(limits.requests.len(), 0);
    }
}
