//! Durations as people write them: `250ms`, `5s`, `1m 30s`, `7d`.

use std::time::Duration;

pub use jiff::fmt::serde::unsigned_duration::friendly::compact::required::{deserialize, serialize};

/// Whole milliseconds, for backends that count in them.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
