//! Retries: a task that is over is tried again as a further task, with the items that did not end well.
//!
//! A first task and all retries that come of it are a family. What holds of an item is its newest result in the family:
//! it is derived from the results each time somebody asks, and nowhere counted up. An item that a retry did not come
//! to, because that was cancelled, keeps the result from before. Not here: SQL.

use super::{IdempotencyKey, Task};
use crate::task::{Counts, ItemState, Origin, Retry, TaskId, UserId};

/// Most retries that come of one first task, so that adding their results up stays cheap.
pub const RETRIES_MAX: u32 = 32;

/// A retry, checked and ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewRetry {
    /// The id it will have.
    pub id: TaskId,
    /// The task to retry.
    pub parent: TaskId,
    /// Who submits it.
    pub owner: UserId,
    /// Which items, and what to do otherwise.
    pub retry: Retry,
    /// The caller's idempotency key and the fingerprint of the body it came with.
    pub key: Option<IdempotencyKey>,
    /// As of [`super::NewTask`].
    pub open_max: u32,
    /// From where it is submitted, for the audit.
    pub origin: Origin,
}

/// What came of a task after its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retries {
    /// Its retries, oldest first. At most [`RETRIES_MAX`].
    pub tasks: Vec<Task>,
    /// Its items by their newest results, those of retries of retries included. `None` when it was never retried.
    pub merged: Option<Counts>,
}

/// Why a task that is over is not retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRetried {
    /// Another retry of the family is not over: its items would run twice at once.
    #[error("its retry {0} is not over")]
    Open(TaskId),
    /// No item is in any of the states asked for.
    #[error("none of its items are left to retry")]
    NothingLeft,
    /// There are as many retries as there may be.
    #[error("it was retried {RETRIES_MAX} times; submit what is left as a new task")]
    TooMany,
}

/// The counts of items by their newest results.
pub(super) fn counts(states: impl Iterator<Item = Option<ItemState>>) -> Counts {
    let mut counts = Counts::default();
    for state in states {
        counts.total += 1;
        match state {
            Some(ItemState::Succeeded) => counts.succeeded += 1,
            Some(ItemState::Failed) => counts.failed += 1,
            Some(ItemState::Skipped) => counts.skipped += 1,
            Some(ItemState::Cancelled) => counts.cancelled += 1,
            Some(ItemState::Pending | ItemState::Running) | None => {}
        }
    }
    counts
}
