//! Dispatch wakes workers: "there is something to claim".
//!
//! It carries tokens, not jobs. What a woken worker runs is the store's choice at claim time, so a lost token delays
//! work until the next poll and a doubled one finds nothing; neither loses or doubles a task.
//!
//! Backends: `memory`, `redis`, `postgres`. Each runs the whole of `contract`. Not here: the choice of the task
//! ([`crate::store::ClaimStore`]).

pub mod contract;
pub mod memory;
pub mod postgres;
mod queue;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;

pub use self::redis::RedisDispatch;
pub use memory::MemoryDispatch;
pub use postgres::PostgresDispatch;

use crate::BoxError;
use crate::task::{ReplicaId, TaskId};

/// Why a dispatch call failed: there is one way, and callers all wait and try again.
#[derive(Debug, thiserror::Error)]
#[error("dispatch is unavailable while {doing}")]
pub struct DispatchError {
    /// What was tried.
    pub doing: &'static str,
    /// The backend's own error.
    #[source]
    pub source: BoxError,
}

/// A wake-up in hand. Ack it after the claim it led to, found something or not; dropped unacked it comes again to
/// some worker later, where the backend can do that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The task it was rung for; a hint, for logs only.
    pub task_id: Option<TaskId>,
    /// The backend's own name of the delivery; empty where there is nothing to ack.
    pub receipt: String,
}

/// The ringing side: the gateway after a submit, a worker after a hand-over, maintenance after a rescue.
#[async_trait]
pub trait Dispatcher: Send + Sync + 'static {
    /// Wakes one worker. At least once. Cancel-safe: the token is out or not.
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError>;

    /// Wake-ups that no worker has taken yet. None where they are not kept.
    async fn waiting(&self) -> Result<u64, DispatchError> {
        Ok(0)
    }

    /// Opens the receiving side for one worker process.
    async fn receiver(&self, worker: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError>;
}

/// The waking side: one per worker process.
#[async_trait]
pub trait TokenSource: Send {
    /// Waits up to `wait` for at most `max` tokens; empty means that none came.
    ///
    /// Not cancel-safe in every backend: let it return.
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, DispatchError>;

    /// Ends a delivery, and says whether it was ours to end. A token that has since passed to another worker is left
    /// alone: only its owner acks.
    async fn ack(&mut self, token: Token) -> Result<bool, DispatchError>;

    /// Ends this consumer in an orderly way, so that nobody waits for it. Its unacked tokens pass on.
    async fn close(self: Box<Self>) -> Result<(), DispatchError>;
}
