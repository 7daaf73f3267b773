//! What this process knows about its own deliveries, for readiness.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bus::Health;

/// How old the last ring may be. Probes ring every second, so several have to get lost.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Whether doorbells arrive and streams can be read.
#[derive(Debug, Default)]
pub(super) struct Status {
    bell: Mutex<Bell>,
    /// Readers whose last read failed.
    failing: AtomicUsize,
    /// Told when the subscription should be built anew.
    pub(super) rebuild: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bell {
    connected_at: Option<Instant>,
    heard_at: Option<Instant>,
}

impl Status {
    fn bell(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) {
        *self.bell() = Bell { connected_at: Some(Instant::now()), heard_at: None };
    }

    pub(super) fn disconnected(&self) {
        *self.bell() = Bell::default();
    }

    /// A message came over the subscription.
    pub(super) fn heard(&self) {
        self.bell().heard_at = Some(Instant::now());
    }

    pub(super) fn reader_failed(&self) {
        self.failing.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn reader_recovered(&self) {
        self.failing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the subscription is up and has been silent for too long.
    pub(super) fn is_deaf(&self) -> bool {
        let bell = *self.bell();
        let last = bell.heard_at.or(bell.connected_at);
        last.is_some_and(|last| last.elapsed() > SILENCE_MAX)
    }

    pub(super) fn health(&self) -> Health {
        let bell = *self.bell();
        let (ready, detail) = match (bell.connected_at, bell.heard_at) {
            (None, _) => (false, "the doorbell subscription to Redis is down".to_owned()),
            (Some(_), None) => (false, "no doorbell has come over the new subscription yet".to_owned()),
            (_, Some(heard)) if heard.elapsed() > SILENCE_MAX => {
                (false, format!("no doorbell for {} s, though probes are sent", heard.elapsed().as_secs()))
            }
            _ if self.failing.load(Ordering::SeqCst) > 0 => {
                (false, "streams in Redis cannot be read".to_owned())
            }
            _ => (true, "doorbells of Redis arrive".to_owned()),
        };
        Health { ready, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ready_means_connected_heard_and_reading() {
        let status = Status::default();
        assert!(!status.health().ready);
        status.connected();
        assert!(!status.health().ready, "a connection alone proves nothing");
        status.heard();
        assert!(status.health().ready);
        status.reader_failed();
        assert!(!status.health().ready);
        status.reader_recovered();
        assert!(status.health().ready);
        tokio::time::advance(SILENCE_MAX * 2).await;
        assert!(!status.health().ready && status.is_deaf());
        status.heard();
        assert!(status.health().ready && !status.is_deaf());
        status.disconnected();
        assert!(!status.health().ready && !status.is_deaf());
    }
}
