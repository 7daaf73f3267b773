//! What this process knows about its own deliveries, for readiness.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bus::Health;
use crate::redis::Address;

/// How old the last ring may be. Probes ring every second, so several have to get lost. With the time that a new
/// connection takes, a deaf one is replaced within ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether doorbells arrive and streams can be read.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// One for each server that is subscribed to.
    bells: Mutex<BTreeMap<Address, Arc<Bell>>>,
    /// Readers whose last read failed.
    failing: AtomicUsize,
}

impl Status {
    /// A bell for a server that is to be subscribed to from now on.
    pub(super) fn hang(&self, server: &Address) -> Arc<Bell> {
        let bell = Arc::new(Bell::default());
        lock(&self.bells).insert(server.clone(), Arc::clone(&bell));
        bell
    }

    /// The server is not subscribed to any more.
    pub(super) fn take_down(&self, server: &Address) {
        lock(&self.bells).remove(server);
    }

    pub(super) fn reader_failed(&self) {
        self.failing.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn reader_recovered(&self) {
        self.failing.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn health(&self) -> Health {
        let bells = lock(&self.bells);
        if bells.is_empty() {
            return Health {
                ready: false,
                detail: "it is not known yet which servers of Redis there are".into(),
            };
        }
        let one = bells.len() == 1;
        let trouble = bells.iter().find_map(|(server, bell)| {
            let trouble = bell.trouble()?;
            Some(if one { trouble } else { format!("{server}: {trouble}") })
        });
        let failing = self.failing.load(Ordering::SeqCst) > 0;
        let trouble = trouble.or_else(|| failing.then(|| "streams in Redis cannot be read".to_owned()));
        let ready = trouble.is_none();
        Health { ready, detail: trouble.unwrap_or_else(|| "doorbells of Redis arrive".into()) }
    }
}

/// What is heard over the subscription to one server.
#[derive(Debug, Default)]
pub(super) struct Bell {
    times: Mutex<Times>,
    /// Told when the subscription should be built anew.
    pub(super) rebuild: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    connected_at: Option<Instant>,
    heard_at: Option<Instant>,
}

impl Bell {
    pub(super) fn connected(&self) {
        *lock(&self.times) = Times { connected_at: Some(Instant::now()), heard_at: None };
    }

    pub(super) fn disconnected(&self) {
        *lock(&self.times) = Times::default();
    }

    /// A message came over the subscription.
    pub(super) fn heard(&self) {
        lock(&self.times).heard_at = Some(Instant::now());
    }

    /// Whether the subscription is up and has been silent for too long.
    pub(super) fn is_deaf(&self) -> bool {
        let times = *lock(&self.times);
        times.heard_at.or(times.connected_at).is_some_and(|last| last.elapsed() > SILENCE_MAX)
    }

    fn trouble(&self) -> Option<String> {
        let times = *lock(&self.times);
        match (times.connected_at, times.heard_at) {
            (None, _) => Some("the doorbell subscription to Redis is down".into()),
            (Some(_), None) => Some("no doorbell has come over the new subscription yet".into()),
            (_, Some(heard)) if heard.elapsed() > SILENCE_MAX => {
                Some(format!("no doorbell for {} s, though probes are sent", heard.elapsed().as_secs()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Address {
        Address { host: "redis".into(), port }
    }

    #[tokio::test(start_paused = true)]
    async fn ready_means_connected_heard_and_reading() {
        let status = Status::default();
        assert!(!status.health().ready);
        let bell = status.hang(&server(1));
        assert!(!status.health().ready);
        bell.connected();
        assert!(!status.health().ready, "a connection alone proves nothing");
        bell.heard();
        assert!(status.health().ready);
        status.reader_failed();
        assert!(!status.health().ready);
        status.reader_recovered();
        assert!(status.health().ready);
        tokio::time::advance(SILENCE_MAX * 2).await;
        assert!(!status.health().ready && bell.is_deaf());
        bell.heard();
        assert!(status.health().ready && !bell.is_deaf());
        bell.disconnected();
        assert!(!status.health().ready && !bell.is_deaf());
    }

    #[tokio::test(start_paused = true)]
    async fn every_server_must_be_heard_and_the_one_that_is_not_is_named() {
        let status = Status::default();
        let (one, two) = (status.hang(&server(1)), status.hang(&server(2)));
        for bell in [&one, &two] {
            bell.connected();
            bell.heard();
        }
        assert!(status.health().ready);
        two.disconnected();
        let health = status.health();
        assert!(!health.ready && health.detail.starts_with("redis:2: "), "{}", health.detail);
        status.take_down(&server(2));
        assert!(status.health().ready);
    }
}
