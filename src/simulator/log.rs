//! What was asked, for assertions and for people who wonder. Bounded: the oldest entries go first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// When it arrived, since the start of the simulator.
    pub at: Duration,
    /// The Kubernetes verb: `get`, `list`, `watch`, `patch`, ...
    pub verb: &'static str,
    /// Path without the query.
    pub path: String,
    /// The query, undecoded.
    pub query: String,
    /// Who asked.
    pub user_agent: String,
    /// HTTP status of the answer; `None` while it is worked on, or when the connection was cut.
    pub status: Option<u16>,
}

/// Hears of each request as it arrives. Called inside the simulator: it must not block.
pub type Observer = Box<dyn Fn(&LoggedRequest) + Send + Sync>;

pub(super) struct RequestLog {
    start: Instant,
    max: usize,
    inner: Mutex<Inner>,
    observer: OnceLock<Observer>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<LoggedRequest>,
    /// Number of the first kept entry.
    first: u64,
}

impl RequestLog {
    pub(super) fn new(max: usize, start: Instant) -> Self {
        Self { start, max, inner: Mutex::default(), observer: OnceLock::new() }
    }

    pub(super) fn observe(&self, observer: Observer) {
        let _ = self.observer.set(observer);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request and returns its number, to answer under.
    pub(super) fn arrived(&self, verb: &'static str, path: &str, query: &str, user_agent: &str) -> u64 {
        let entry = LoggedRequest {
            at: self.start.elapsed(),
            verb,
            path: path.to_owned(),
            query: query.to_owned(),
            user_agent: user_agent.to_owned(),
            status: None,
        };
        if let Some(observer) = self.observer.get() {
            observer(&entry);
        }
        let mut inner = self.lock();
        inner.entries.push_back(entry);
        while inner.entries.len() > self.max {
            inner.entries.pop_front();
            inner.first += 1;
        }
        inner.first + inner.entries.len() as u64 - 1
    }

    /// Notes the answer, if the request is still kept.
    pub(super) fn answered(&self, number: u64, status: u16) {
        let mut inner = self.lock();
        let place = number.checked_sub(inner.first).and_then(|i| usize::try_from(i).ok());
        if let Some(entry) = place.and_then(|i| inner.entries.get_mut(i)) {
            entry.status = Some(status);
        }
    }

    pub(super) fn entries(&self) -> Vec<LoggedRequest> {
        self.lock().entries.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_late_answers_find_their_request() {
        let log = RequestLog::new(2, Instant::now());
        let numbers: Vec<_> =
            ["/a", "/b", "/c"].iter().map(|path| log.arrived("get", path, "", "test")).collect();
        log.answered(numbers[0], 200);
        log.answered(numbers[2], 404);
        let kept: Vec<_> = log.entries().into_iter().map(|e| (e.path, e.status)).collect();
        assert_eq!(kept, [("/b".to_owned(), None), ("/c".to_owned(), Some(404))]);
    }
}
