//! When to connect again, and when to give up. Pure: what happened and a random number in, a decision out.
//!
//! Full jitter, so that the clients of a gateway that went away do not come back together. A connection that held for
//! a while starts the back-off over; one that breaks at once keeps backing off.

use std::time::Duration;

/// The wait before the first retry is at most this long.
const WAIT_BASE: Duration = Duration::from_millis(250);
/// No wait is longer than this, unless the server asks for it.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// The longest wait that a server may ask for.
const ASKED_MAX: Duration = Duration::from_secs(60);
/// A connection that held this long counts as a success.
const STEADY: Duration = Duration::from_secs(5);

/// How a connection, or the attempt at one, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The gateway closed with a code.
    Closed {
        /// The close code; 1005 when it gave none.
        code: u16,
        /// Its words.
        reason: String,
    },
    /// The gateway answered the request with an HTTP error instead.
    Answered {
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
        /// The least time to wait, when it said so.
        retry_after: Option<Duration>,
    },
    /// The network failed, or nobody spoke for too long.
    Broken(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed { code, reason } if reason.is_empty() => write!(f, "closed by the server ({code})"),
            Self::Closed { code, reason } => write!(f, "closed by the server ({code}: {reason})"),
            Self::Answered { status, reason, .. } => write!(f, "the server answered {status}: {reason}"),
            Self::Broken(reason) => f.write_str(reason),
        }
    }
}

impl Ending {
    /// Whether coming back by oneself is of no use: close codes 4500-4999, and answers that say so.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Closed { code, .. } => (4500..=4999).contains(code),
            Self::Answered { status, .. } => {
                (400..500).contains(status) && !matches!(status, 408 | 425 | 429)
            }
            Self::Broken(_) => false,
        }
    }

    /// The least time to wait that the server asked for: Retry-After, or `retry_ms=` in the reason of a close.
    fn asked_wait(&self) -> Duration {
        let asked = match self {
            Self::Answered { retry_after, .. } => *retry_after,
            Self::Closed { reason, .. } => {
                let ms = reason.split_once("retry_ms=").and_then(|(_, ms)| ms.trim().parse().ok());
                ms.map(Duration::from_millis)
            }
            Self::Broken(_) => None,
        };
        asked.unwrap_or_default().min(ASKED_MAX)
    }
}

/// Counts failures and decides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reconnect {
    failures: u32,
}

impl Reconnect {
    /// How long to wait before the next attempt. `held` is how long the connection stood (zero for a failed attempt)
    /// and `random` is from 0 to 1.
    pub fn wait(&mut self, ending: &Ending, held: Duration, random: f64) -> Duration {
        if held >= STEADY {
            self.failures = 0;
        }
        let ceiling = WAIT_BASE.saturating_mul(1 << self.failures.min(16)).min(WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0)).max(ending.asked_wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16) -> Ending {
        Ending::Closed { code, reason: String::new() }
    }

    fn answered(status: u16) -> Ending {
        Ending::Answered { status, reason: String::new(), retry_after: Some(Duration::from_secs(7)) }
    }

    #[test]
    fn close_codes_and_answers_tell_whether_to_come_back() {
        for code in [1000, 1001, 1005, 1006, 1011, 1012, 1013, 4000, 4008, 4499] {
            assert!(!closed(code).is_final(), "{code}");
        }
        for code in [4500, 4501, 4999] {
            assert!(closed(code).is_final(), "{code}");
        }
        for (status, is_final) in
            [(401, true), (403, true), (404, true), (429, false), (502, false), (503, false)]
        {
            assert_eq!(answered(status).is_final(), is_final, "{status}");
        }
        assert!(!Ending::Broken("reset".into()).is_final());
    }

    #[test]
    fn waits_grow_with_jitter_and_a_bound_and_start_over_after_a_steady_connection() {
        let mut reconnect = Reconnect::default();
        let ending = closed(1006);
        let mut ceilings: Vec<u64> = Vec::new();
        for _ in 0..9 {
            ceilings.push(reconnect.wait(&ending, Duration::ZERO, 1.0).as_millis().try_into().unwrap());
        }
        assert_eq!(ceilings, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
        assert_eq!(reconnect.wait(&ending, Duration::from_millis(4_900), 0.0), Duration::ZERO);
        assert_eq!(reconnect.wait(&ending, Duration::from_secs(5), 1.0), Duration::from_millis(250));
    }

    #[test]
    fn a_wait_that_the_server_asks_for_is_kept() {
        let wait = Reconnect::default().wait(&answered(503), Duration::ZERO, 0.0);
        assert_eq!(wait, Duration::from_secs(7));
        let restarting = Ending::Closed { code: 1012, reason: "restarting; retry_ms=2300".into() };
        assert_eq!(Reconnect::default().wait(&restarting, Duration::ZERO, 0.0), Duration::from_millis(2_300));
    }
}
