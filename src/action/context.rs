//! What an item in work hears from its worker and tells it: that it should stop, until when it may run, what it is at.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::task::Step;

/// Takes what an item is at. Never waits; a newer step replaces one that nobody was told of yet.
pub type Report = Arc<dyn Fn(Step) + Send + Sync>;

/// The way between one run of an action and the worker that runs it.
#[derive(Clone)]
pub struct Context {
    stopping: CancellationToken,
    deadline: Option<Instant>,
    report: Report,
}

impl Context {
    /// A run that is stopped by `stopping`, is dropped at `deadline`, and reports to `report`.
    #[must_use]
    pub fn new(stopping: CancellationToken, deadline: Option<Instant>, report: Report) -> Self {
        Self { stopping, deadline, report }
    }

    /// A run that nobody stops and nobody watches.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(CancellationToken::new(), None, Arc::new(|_| {}))
    }

    /// Waits until the task was cancelled, paused or is handed over: an action that takes long goes on to the next point
    /// where it can be left, and says [`super::ActionError::Stopped`]. Quick ones need not ask. Cancel-safe.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether [`Self::stopping`] would return at once.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// When the run will be dropped, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Tells what the item is at.
    pub fn report(&self, step: Step) {
        (self.report)(step.bounded());
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
