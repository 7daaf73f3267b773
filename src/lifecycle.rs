//! How a process stops: first softly, then hard.
//!
//! The first signal (or a crashed task) cancels the soft token: stop taking work, finish or hand over. A second signal
//! or the end of the grace time cancels the hard token: drop everything. Every task of a role is spawned on the
//! tracker, so that the process ends when the last one has. Not here: what each role does when told to stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The stop tokens and the tracker, handed to every role. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    crashed: Arc<AtomicBool>,
}

impl Lifecycle {
    /// A process that runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when work should end in good order.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when work should end at once.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Spawns a task of a role. One that panics begins a soft stop, and the process will report a crash; no panic
    /// passes to another task.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (soft, crashed) = (self.soft.clone(), Arc::clone(&self.crashed));
        let inner = tokio::spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = inner.await {
                tracing::error!(task = name, %error, "a task crashed; stopping");
                crashed.store(true, Ordering::SeqCst);
                soft.cancel();
            }
        });
    }

    /// Begins a soft stop.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Waits for SIGTERM or SIGINT (or a crash), then for all tasks, at most for `grace`; a second signal ends the
    /// wait. Returns whether every task ended well.
    pub async fn run(&self, grace: Duration) -> bool {
        let mut signals = Signals::new();
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "stopping"),
            () = self.soft.cancelled() => {}
        }
        self.soft.cancel();
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => {}
            name = signals.next() => tracing::warn!(signal = name, "stopping at once"),
            () = tokio::time::sleep(grace) => tracing::warn!("the grace time is over; stopping at once"),
        }
        self.hard.cancel();
        let drained = tokio::time::timeout(Duration::from_secs(2), self.tracker.wait()).await.is_ok();
        drained && !self.crashed.load(Ordering::SeqCst)
    }

    /// Stops softly and waits for all tasks, at most for `grace`, then hard. For tests and one-shot commands.
    pub async fn shut_down(&self, grace: Duration) {
        self.soft.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(grace, self.tracker.wait()).await;
        self.hard.cancel();
    }
}

struct Signals {
    term: Option<tokio::signal::unix::Signal>,
    int: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new() -> Self {
        Self { term: signal(SignalKind::terminate()).ok(), int: signal(SignalKind::interrupt()).ok() }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = recv(&mut self.term) => "SIGTERM",
            () = recv(&mut self.int) => "SIGINT",
        }
    }
}

async fn recv(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crash_stops_the_process_softly_and_is_reported() {
        let life = Lifecycle::new();
        let soft = life.soft().clone();
        life.spawn("waits", async move { soft.cancelled().await });
        life.spawn("crashes", async { panic!("on purpose") });
        assert!(!life.run(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_told_so_after_the_grace_time() {
        let life = Lifecycle::new();
        let hard = life.hard().clone();
        life.spawn("stubborn", async move { hard.cancelled().await });
        life.stop();
        assert!(life.run(Duration::from_secs(5)).await);
    }
}
