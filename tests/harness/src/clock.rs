//! A wall clock that a test moves, for processes of its own: libfaketime, preloaded.
//!
//! Only the time of day moves; monotonic time goes on as it is, as it does when an operator or NTP steps a real clock,
//! unless asked for. The offset is read from a file at every look at the clock, so it may change while a process runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where Debian and others keep the library.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// A clock that starts right.
#[derive(Debug)]
pub struct FakeClock {
    library: &'static str,
    monotonic: bool,
    folder: TempDir,
}

impl FakeClock {
    /// A clock that shows the right time until it is moved.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn new() -> Result<Self> {
        Self::moving(false)
    }

    /// A clock that takes monotonic time with it. Stop a process, set this clock back by as long as it stood, and let it
    /// go on: as after the suspension of a host, the process cannot know that time has passed.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn of_suspended_host() -> Result<Self> {
        Self::moving(true)
    }

    fn moving(monotonic: bool) -> Result<Self> {
        let library = PLACES.into_iter().find(|place| std::path::Path::new(place).exists());
        let library = library.context("libfaketime is not installed: apt-get install faketime")?;
        let folder = tempfile::Builder::new().prefix("milepost-clock-").tempdir()?;
        let clock = Self { library, monotonic, folder };
        clock.write("+0")?;
        Ok(clock)
    }

    /// Moves the clock so far ahead of the real one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn ahead(&self, by: Duration) -> Result<()> {
        self.write(&format!("+{}", by.as_secs()))
    }

    /// Moves the clock so far behind the real one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn behind(&self, by: Duration) -> Result<()> {
        self.write(&format!("-{}", by.as_secs()))
    }

    /// The words that start a program under this clock; the program and its arguments follow.
    #[must_use]
    pub fn prefix(&self) -> Vec<String> {
        // The C library's own allocator, before any other: jemalloc looks at the clock before it can allocate, and
        // libfaketime allocates before it can tell the time.
        let preload = format!("LD_PRELOAD={}:libc.so.6", self.library);
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", self.file().display());
        let real = format!("FAKETIME_DONT_FAKE_MONOTONIC={}", u8::from(!self.monotonic));
        let words = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", &real];
        words.map(str::to_owned).to_vec()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// A reader sees the old offset or the new one, never half of it.
    fn write(&self, offset: &str) -> Result<()> {
        let part = self.folder.path().join("part");
        std::fs::write(&part, offset)?;
        std::fs::rename(part, self.file())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Redis;

    fn now(redis: &Redis) -> i64 {
        let reply = redis.command(&["TIME"]).unwrap();
        reply.lines().nth(2).unwrap().parse().unwrap()
    }

    fn real() -> i64 {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        i64::try_from(since).unwrap()
    }

    #[test]
    fn a_running_server_sees_the_clock_jump_both_ways() {
        let clock = FakeClock::new().unwrap();
        let redis = Redis::with_clock(&clock).unwrap();
        assert!((now(&redis) - real()).abs() < 60);
        clock.ahead(Duration::from_secs(3_600)).unwrap();
        assert!((now(&redis) - real() - 3_600).abs() < 60);
        clock.behind(Duration::from_secs(3_600)).unwrap();
        assert!((now(&redis) - real() + 3_600).abs() < 60);
    }
}
