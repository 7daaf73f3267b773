//! Durations as people write them: `250ms`, `5s`, `1m 30s`, `7d`. A day has 24 hours.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

pub use jiff::fmt::serde::unsigned_duration::friendly::compact::required::serialize;

/// Reads a length of time from its text.
///
/// # Errors
/// Says why the text is not one.
pub fn parse(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| error.to_string())?;
    Duration::try_from(length).map_err(|_| "a length of time cannot be negative".to_owned())
}

/// For `#[serde(with = ...)]`: reads the text form, which is what [`serialize`] writes.
///
/// # Errors
/// When the value is not text, or not a length of time.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)
}

/// Whole milliseconds, for backends that count in them.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_up_to_days_are_read_and_nonsense_is_refused() {
        for (text, ms) in
            [("250ms", 250), ("5s", 5_000), ("1m 30s", 90_000), ("1m30s", 90_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse(text).map(millis), Ok(ms), "{text}");
        }
        for text in ["", "5", "-5s", "5 parsecs", "1mo"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
