//! The wall clock, which hub and client share on one machine.

/// Microseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "a load test measures real time")]
pub fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
