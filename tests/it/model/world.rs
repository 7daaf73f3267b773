//! What an actor can ask for, in words that plain maps and real backends share.
//!
//! Tasks, items and users are numbers here, so that both worlds give the same answers and a failed run reads well.

use milepost::store::Control;
use milepost::task::{Counts, EventKind, ItemOutcome, Status};

/// A task, by the order of its submit, from 0.
pub type Id = usize;

/// Users, each with a stream of their own.
pub const USERS: usize = 2;
/// Most tasks of one user that are not over.
pub const OPEN_MAX: u32 = 4;
/// Most tasks held at once.
pub const CLUSTER_MAX: u32 = 3;
/// Claims before a task is given up.
pub const TRIES_MAX: u16 = 3;
/// How long a claim holds without a renewal, in milliseconds.
pub const LEASE_MS: u64 = 5_000;

/// Why a call brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// Another attempt holds the task.
    Fenced,
    /// The change does not fit the status.
    Refused(Status),
    /// The key was used with another body.
    KeyConflict(Id),
    /// Too many tasks are open.
    TooManyOpen,
    /// The reply was lost, or the call never arrived. The caller cannot tell.
    Away,
}

/// What a call brought.
pub type Answer<T> = Result<T, No>;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub task: Id,
    pub attempt: u32,
}

/// A submit.
#[derive(Debug, Clone)]
pub struct New {
    pub id: Id,
    pub user: usize,
    pub items: u32,
    /// The key, and the body that it came with.
    pub key: Option<(u8, u8)>,
}

/// What a submit made, or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    New(Id),
    Existing(Id),
}

/// A claimed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub fence: Fence,
    pub user: usize,
    pub status: Status,
    pub tries: u16,
    pub counts: Counts,
    pub pending: Vec<u32>,
}

/// A task as the record shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub status: Status,
    pub attempt: u32,
    pub tries: u16,
    pub held: bool,
    pub counts: Counts,
    /// The results, by index.
    pub results: Vec<Option<ItemOutcome>>,
}

/// An event, as far as the worlds agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub task: Id,
    pub attempt: u32,
    pub seq: u64,
    pub kind: EventKind,
    pub status: Status,
    pub counts: Counts,
    pub items: Vec<u32>,
}

impl Told {
    pub fn order(&self) -> (u32, u64) {
        (self.attempt, self.seq)
    }
}

/// A committed event. Its row has the number of its task: a task ends once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: Id,
    pub user: usize,
    pub event: Told,
}

/// What a user's change came to: whether a worker holds the task, and the row of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub user: usize,
    pub status: Status,
    pub attempt: u32,
    pub counts: Counts,
    pub held: bool,
    pub row: Option<Row>,
}

/// What a publish did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Added,
    Repeat,
}

/// Everything that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub queued: u64,
    pub held: u64,
    pub lapsed: u64,
    pub outbox: u64,
}

/// The store, the dispatch and the bus, as actors see them.
pub trait World {
    fn create(&mut self, new: &New) -> Answer<Made>;
    fn control(&mut self, task: Id, control: Control) -> Answer<Option<Changed>>;

    fn claim(&mut self, worker: usize) -> Answer<Option<Held>>;
    /// `None`: lost.
    fn renew(&mut self, fence: Fence) -> Answer<Option<Status>>;
    fn record(&mut self, fence: Fence, results: &[(u32, ItemOutcome)]) -> Answer<Counts>;
    fn finish(&mut self, event: &Told) -> Answer<Id>;
    fn hand_over(&mut self, fence: Fence) -> Answer<Status>;

    fn unpublished(&mut self, limit: u32) -> Answer<Vec<Row>>;
    fn published(&mut self, rows: &[Id]) -> Answer<()>;
    fn claimable(&mut self, limit: u32) -> Answer<Vec<Id>>;
    fn give_up(&mut self, limit: u32) -> Answer<Vec<Status>>;

    fn publish(&mut self, user: usize, event: &Told) -> Answer<Put>;
    /// Number of the newest event of a task that the bus knows.
    fn newest(&mut self, user: usize, task: Id) -> Answer<Option<(u32, u64)>>;

    fn notify(&mut self, task: Id) -> Answer<()>;
    /// Takes a token, which stays with the worker until it is acked. Which task it was rung for.
    fn receive(&mut self, worker: usize) -> Answer<Option<Id>>;
    /// Acks all that the worker has.
    fn ack(&mut self, worker: usize) -> Answer<()>;
    /// The worker's process is gone: what it has not acked passes on.
    fn die(&mut self, worker: usize);

    fn pass(&mut self, ms: u64);
    fn trim(&mut self, user: usize, keep: usize);
    fn wipe(&mut self, user: usize);

    fn shown(&mut self, task: Id) -> Option<Shown>;
    fn waiting(&mut self) -> Waiting;
    /// Task, attempt and number of all that a user's stream keeps, oldest first, and how many entries it has had.
    fn stream(&mut self, user: usize) -> (Vec<(Id, u32, u64)>, usize);
}

/// Nothing waits.
pub const NOTHING: Waiting = Waiting { queued: 0, held: 0, lapsed: 0, outbox: 0 };
