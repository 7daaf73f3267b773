//! The bus carries progress events from workers to everyone watching a user's tasks.
//!
//! A user has one stream. Inside it order is total and entry ids only grow; between users nothing is promised. The
//! bus may lose its tail or be wiped: then the epoch changes or an id is gone, and readers are told so ([`Loss`]).
//! What must never be lost is in the record ([`crate::store`]); the bus makes it fast to see.
//!
//! Backends: `memory`, `redis`, `postgres`. Each runs the whole of `contract`. Not here: fan-out to sockets
//! ([`crate::gateway`]) and handing out work ([`crate::dispatch`]).

pub mod contract;
pub mod memory;
pub mod postgres;
pub mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::redis::{RedisBus, RedisPublisher};
pub use memory::MemoryBus;
pub use postgres::{PostgresFeed, PostgresPublisher};

use crate::BoxError;
use crate::task::{Attempt, EntryId, Event, ItemResult, Position, Seq, TaskId, UserId};

/// Why a bus call failed. A variant exists only where a caller acts differently.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A newer attempt has published; the writer holds the task no longer and must stop.
    #[error("attempt {current} of the task has published; this one is over")]
    Fenced {
        /// The attempt that may publish.
        current: Attempt,
    },
    /// Something that is not ours lies where the user's stream belongs. Trying again does not help; once it is gone a new
    /// stream begins, and its readers get a snapshot.
    #[error("the user's stream is taken by something else, found while {doing}")]
    Taken {
        /// What was tried.
        doing: &'static str,
        /// The backend's own error.
        #[source]
        source: BoxError,
    },
    /// The backend cannot be reached or answered too late. The outcome is unknown: publish the same event again.
    #[error("the progress bus is unavailable while {doing}")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// The backend's own error.
        #[source]
        source: BoxError,
    },
}

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The event is in the stream at this place.
    Appended(Position),
    /// An event with this or a later number of the same attempt is already there; nothing was added.
    Repeat,
}

/// The writing side: workers, the outbox relay, and the gateway for what happens before a worker.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Checks the fence, appends, keeps the live snapshot and rings the doorbell, all or nothing.
    ///
    /// An event of an older attempt than one already published is [`BusError::Fenced`]; one whose `(attempt, seq)` is
    /// not newer is [`Published::Repeat`]. So publishing the same event again is always safe.
    ///
    /// Cancel-safe: a dropped call has published or has not, as with any lost reply.
    async fn publish(&self, user: &UserId, event: &Event) -> Result<Published, BusError> {
        self.report(user, event, None).await
    }

    /// Publishes, and keeps the results in the event for the attempt after this one, until they are known to be recorded
    /// or the task is over.
    ///
    /// With `recorded`, all results of older attempts, and those in events of this attempt up to that number, are in the
    /// record; `Some(Seq(0))` says it of older attempts alone. `None` says nothing. Cancel-safe as [`Self::publish`].
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError>;

    /// Results that attempts older than `attempt` told of and that are not known to be recorded, in the order they were
    /// told. Some may be in the record all the same, and some may be lost with the stream; none is invented.
    ///
    /// Ask after the first event of `attempt` is in the stream: from then on no older attempt adds any. Cancel-safe.
    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError>;
}

/// How long the fence of a task that is not over is kept after its last event. The record has its own, which never ends.
const FENCE_TTL: Duration = Duration::from_secs(24 * 3600);

/// An event in a stream, ready to be framed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// Whose event it is.
    pub task_id: TaskId,
    /// Attempt of the event.
    pub attempt: Attempt,
    /// Number of the event.
    pub seq: Seq,
    /// Whether it says that the task is over.
    pub terminal: bool,
    /// The event as a JSON object, as published.
    pub body: Bytes,
    /// Says, by being dropped, that every local socket has the entry. `None` for entries that need no ack.
    pub receipt: Option<Arc<Receipt>>,
}

/// Dropping the last clone of a receipt acknowledges the entry to the backend. Never blocks.
pub struct Receipt {
    user: UserId,
    id: EntryId,
    acks: Arc<dyn AckSink>,
}

/// Takes acknowledgements. Implemented by a backend; must not block or panic.
pub trait AckSink: Send + Sync {
    /// The entry `id` of `user`'s stream has reached every socket here.
    fn ack(&self, user: &UserId, id: EntryId);
}

impl Receipt {
    /// A receipt for one delivered entry.
    #[must_use]
    pub fn new(user: UserId, id: EntryId, acks: Arc<dyn AckSink>) -> Self {
        Self { user, id, acks }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.acks.ack(&self.user, self.id);
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receipt({} {})", self.user, self.id)
    }
}

/// Why a position cannot be continued. The reader needs a fresh snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The stream is another one than the position was taken in: wiped, expired or recreated.
    Epoch,
    /// Entries after the position have been trimmed.
    Trimmed,
    /// The position is ahead of the stream: its tail was lost, as after a failover.
    Ahead,
    /// The reader itself lost track, as after an error that may have swallowed entries.
    Reader,
}

impl Loss {
    /// The word used in metrics and in the hello frame.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Trimmed => "trimmed",
            Self::Ahead => "ahead",
            Self::Reader => "reader",
        }
    }
}

/// Entries after a position.
#[derive(Debug)]
pub enum Replay {
    /// The next entries in order. `complete` is false when more may follow: ask again after the last one.
    Page {
        /// The entries, oldest first. They carry no receipt.
        entries: Vec<Entry>,
        /// Whether the end of the stream was reached.
        complete: bool,
    },
    /// The position cannot be continued.
    Lost(Loss),
}

/// Where a backend delivers a followed user's entries. Implemented by the gateway's hub; never blocks.
pub trait Inbox: Send + Sync + 'static {
    /// New entries of one user, in order, each exactly once per follow.
    fn deliver(&self, user: &UserId, entries: Vec<Entry>);

    /// Entries of this user may be missing from here on; every socket of the user needs a fresh snapshot. Entries
    /// delivered after this call are in order again.
    fn lost(&self, user: &UserId, loss: Loss);
}

/// Keeps a user followed. Dropping it ends the deliveries soon after, and cleans up in the background.
#[must_use = "dropping the guard ends the deliveries"]
pub struct Following {
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Following {
    /// A guard that runs `stop` once, on drop. `stop` must not block.
    pub fn new(stop: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { stop: Some(Box::new(stop)) }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Following")
    }
}

/// Whether the backend can deliver right now, with a sentence for the readiness page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether events flow.
    pub ready: bool,
    /// What is wrong, or what is right.
    pub detail: String,
}

/// The reading side: gateways.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Starts delivering `user`'s entries to `inbox`.
    ///
    /// Every entry appended after this returns is delivered, in order; earlier ones may be too. So a reader follows
    /// first, then replays from its position, and drops what it has seen by position. Following a user twice at once
    /// from one `Feed` is a mistake of the caller: the hub does it once per user. Cancel-safe: a dropped call follows
    /// nobody.
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError>;

    /// The place after the newest entry. Makes the stream's epoch if the user has none yet. Cancel-safe.
    async fn head(&self, user: &UserId) -> Result<Position, BusError>;

    /// Up to `limit` entries after a position, or why it cannot be continued. Cancel-safe.
    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError>;

    /// The newest event of each of these tasks that the bus still knows, in no order, without their `items`; they may
    /// be ahead of the record. Cancel-safe.
    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError>;

    /// Whether events flow. Answers from memory; never waits for the backend.
    fn health(&self) -> Health;
}
