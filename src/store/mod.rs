//! The durable record: tasks, their frozen items, results, and who may work on what.
//!
//! The store is the authority. Split by caller, so that a worker cannot prune and a gateway cannot claim:
//! [`TaskStore`] (gateway), [`ClaimStore`] (worker), [`UpkeepStore`] (maintenance); a backend is all three.
//! Statuses change only as [`crate::task::TaskState::apply`] says.
//!
//! Backends: `memory` (held by this process, gone with it) and `postgres`. Both run the whole of `contract`. Not
//! here: live progress ([`crate::bus`]).

pub mod audit;
mod change;
pub mod contract;
pub mod memory;
pub mod postgres;
mod record;
pub mod retry;

use std::time::Duration;

use async_trait::async_trait;

use crate::BoxError;
use crate::task::{
    Attempt, By, ClusterName, Counts, Event, Item, ItemName, ItemResult, ItemState, Origin, ReplicaId,
    Status, TaskId, TaskSpec, TaskState, Then, UserId,
};

pub use audit::{Audit, AuditEntry, AuditKind, AuditPlace, AuditQuery, AuditRow, AuditedNode, AuditedTask};
pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use record::Task;
pub use retry::{NewRetry, NotRetried, RETRIES_MAX, Retries};

/// Most results in one [`ClaimStore::record`].
pub const RECORD_MAX: usize = 5_000;

/// How long a lead lasts that is not kept, at most; a leader that is only stopped loses it too.
pub const LEAD_LAPSE: Duration = Duration::from_secs(5);

/// Most tasks in one answer of [`TaskStore::watched`].
pub const WATCHED_MAX: usize = 50_000;

/// Why a store call failed. A variant exists only where a caller acts differently.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The caller's attempt no longer holds the task. Stop at once; nothing was written.
    #[error("attempt {by} no longer holds task {task}")]
    Fenced {
        /// Which task.
        task: TaskId,
        /// Who asked.
        by: Attempt,
    },
    /// The change does not fit the task's status, such as a resume of a finished task.
    #[error("task {task} is {status}")]
    Refused {
        /// Which task.
        task: TaskId,
        /// Its status.
        status: Status,
    },
    /// The idempotency key was used before with another body.
    #[error("the idempotency key was used for task {task} with another body")]
    KeyConflict {
        /// The task that the key made.
        task: TaskId,
    },
    /// The owner has as many tasks that are not over as one user may have.
    #[error("{owner} has {max} tasks that are not over, and may have no more")]
    TooManyOpen {
        /// Whose tasks.
        owner: UserId,
        /// How many one user may have.
        max: u32,
    },
    /// A task that is over is not retried.
    #[error("task {task} is not retried: {why}")]
    NotRetried {
        /// Which task.
        task: TaskId,
        /// Why.
        #[source]
        why: NotRetried,
    },
    /// The database cannot be reached or answered too late. The outcome of a write is unknown.
    #[error("the store is unavailable while {doing}")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// The backend's own error.
        #[source]
        source: BoxError,
    },
    /// A stored row breaks a rule that every writer keeps.
    #[error("{table}.{column} of {row} cannot be read: {why}")]
    Corrupt {
        /// Table of the row.
        table: &'static str,
        /// Column that is wrong.
        column: &'static str,
        /// Id of the row.
        row: String,
        /// What is wrong.
        why: String,
    },
}

/// A submit, checked and ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// The id it will have.
    pub id: TaskId,
    /// Who submits it.
    pub owner: UserId,
    /// What to do.
    pub spec: TaskSpec,
    /// The caller's idempotency key and the fingerprint of the body it came with.
    pub key: Option<IdempotencyKey>,
    /// Most tasks of its owner that are not over, this one included. It bounds every snapshot of theirs. Submits that
    /// race each other may pass it by as many as they are.
    pub open_max: u32,
    /// From where it is submitted, for the audit.
    pub origin: Origin,
}

/// A key that makes a repeated submit return the first task. Scoped to its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's text, 1..=255 visible ASCII characters.
    pub key: String,
    /// SHA-256 of the request as understood.
    pub fingerprint: [u8; 32],
}

/// What a create did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The task is recorded.
    New(Task),
    /// The key had made this task before; nothing was recorded.
    Existing(Task),
}

/// Which tasks to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskQuery {
    /// Only this user's.
    pub owner: Option<UserId>,
    /// Only with one of these statuses; all when empty.
    pub statuses: Vec<Status>,
    /// Only on this cluster.
    pub cluster: Option<ClusterName>,
    /// Only older than this one: the last of the page before.
    pub before: Option<TaskId>,
    /// At most so many.
    pub limit: u32,
}

/// Which items to list, in order of index.
#[derive(Debug, Clone, Default)]
pub struct ItemQuery {
    /// Only in this state. `Running` matches none: it is only ever seen live.
    pub state: Option<ItemState>,
    /// Only with an index above this one: the last of the page before.
    pub after: Option<u32>,
    /// At most so many.
    pub limit: u32,
}

/// The number of an outbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub i64);

/// A committed event that may not have been published yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number.
    pub id: OutboxId,
    /// Whose stream it belongs to.
    pub owner: UserId,
    /// The event.
    pub event: Event,
}

/// A task that somebody may be watching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Whose it is.
    pub owner: UserId,
    /// Which one.
    pub task: TaskId,
    /// Whether it is over.
    pub over: bool,
}

/// What a user's change of a task did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controlled {
    /// The task after it.
    pub task: Task,
    /// An event to publish, when the change itself ended the task. Committed in the same transaction.
    pub outbox: Option<OutboxRow>,
}

/// A user's change of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// End it early.
    Cancel,
    /// Start no further items.
    Pause,
    /// Go on.
    Resume,
    /// Work on at most so many items at once; `None` for as many as the worker allows.
    Concurrency(Option<u16>),
}

/// What everyone does who publishes an event that was committed to the outbox.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Notes that outbox rows were published. Unknown rows are fine. Cancel-safe.
    async fn published(&self, rows: &[OutboxId]) -> Result<(), StoreError>;
}

/// The gateway's side. Every call is cancel-safe: a dropped write has happened or has not.
#[async_trait]
pub trait TaskStore: Outbox + Audit {
    /// Records a task, its items and its key in one transaction.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`] when the key was used with another body, [`StoreError::TooManyOpen`] when the owner
    /// has too many tasks that are not over; neither uses the key up.
    async fn create(&self, new: NewTask) -> Result<Created, StoreError>;

    /// The task that a key of this user has made, if any.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`] when it was made with another body.
    async fn of_key(&self, owner: &UserId, key: &IdempotencyKey) -> Result<Option<Task>, StoreError>;

    /// One task, or `None`. Whether the caller may see it is the gateway's business: the owner is in it.
    async fn find(&self, id: TaskId) -> Result<Option<Task>, StoreError>;

    /// A page of tasks, newest first.
    async fn list(&self, query: &TaskQuery) -> Result<Vec<Task>, StoreError>;

    /// A page of a task's items. An unknown task has none.
    async fn items(&self, task: TaskId, query: &ItemQuery) -> Result<Vec<Item>, StoreError>;

    /// What a late joiner sees: every task of `owner` that is not over, and the newest `recent` that are. Newest first.
    /// Bounded, because [`Self::create`] bounds the tasks that are not over.
    async fn snapshot(&self, owner: &UserId, recent: u32) -> Result<Vec<Task>, StoreError>;

    /// The terminal events of those of these tasks that are over for at least `age`, published or not.
    async fn ended(&self, tasks: &[TaskId], age: Duration) -> Result<Vec<OutboxRow>, StoreError>;

    /// The tasks of these users that are not over, or were not so long ago. At most [`WATCHED_MAX`], in no order.
    async fn watched(&self, owners: &[UserId], recent: Duration) -> Result<Vec<Watched>, StoreError>;

    /// Changes a task on a user's behalf, which the audit tells. `None` when there is no such task. A cancel of a task that nobody works on
    /// ends it, and its items without a result, under a new attempt. A resume begins a new failure budget. Asking again
    /// changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the change does not fit the status.
    async fn control(&self, id: TaskId, control: Control, by: &By) -> Result<Option<Controlled>, StoreError>;

    /// Records a further task for those items of one that is over whose newest results are in the states asked for, in
    /// their order. `None` when there is no such task. All in one transaction: of two retries in the same moment one is
    /// refused. A repeat with the same key returns the first retry, whatever has become of it.
    ///
    /// # Errors
    /// [`StoreError::Refused`] while the task is not over, [`StoreError::NotRetried`] when there is nothing to do or it is
    /// being done, and those of [`Self::create`].
    async fn retry(&self, new: NewRetry) -> Result<Option<Created>, StoreError>;

    /// The retries of a task, and what they came to. An unknown task has none.
    async fn retries(&self, id: TaskId) -> Result<Retries, StoreError>;

    /// Whether the store answers, within its own deadline.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// How claims choose and hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRules {
    /// How long a claim lasts without a renewal, by the store's clock.
    pub lease: Duration,
    /// Most tasks held at once on one cluster, over all workers.
    pub per_cluster_max: u32,
}

/// Why a task starts no item for now, as its holder found by its strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldBack {
    /// The wave that opens after it, from 1, when it is what is between two waves.
    pub opens: Option<u32>,
    /// For how long nobody is to claim it, from now on.
    pub rest: Duration,
    /// Whether it rests until somebody resumes it.
    pub pause: bool,
    /// Why, in a sentence.
    pub message: String,
}

impl HoldBack {
    /// Holds a task back until somebody resumes it.
    #[must_use]
    pub fn until_resumed(message: String) -> Self {
        Self { opens: None, rest: Duration::ZERO, pause: true, message }
    }
}

/// A node that was not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHeld {
    /// Name of the node.
    pub name: ItemName,
    /// Who holds it; unknown when it was freed in the same moment.
    pub by: Option<Holder>,
}

/// A task that holds a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which task.
    pub task: TaskId,
    /// Whose that is.
    pub owner: UserId,
    /// What that does, such as `cordon`.
    pub action: String,
}

/// Most nodes in one [`ClaimStore::take_nodes`].
pub const NODES_MAX: usize = 500;

/// A task in a worker's hands.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The task, already under the new attempt.
    pub task: Task,
    /// Items without a recorded result, in order.
    pub pending: Vec<(u32, ItemName)>,
    /// The order that [`ClaimStore::keep_order`] has kept, for a task whose strategy has rules for it.
    pub order: Option<Vec<u32>>,
}

/// Proof of who writes: the fence of every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Which task.
    pub task: TaskId,
    /// Under which attempt.
    pub attempt: Attempt,
}

/// What became of a held task at a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Still held.
    Held {
        /// Tells whether a user wants it cancelled or paused.
        status: Status,
        /// Most items at once, as a user wants it now.
        concurrency: Option<u16>,
    },
    /// Another attempt holds it, or it is over. Stop at once.
    Lost,
}

/// The worker's side.
#[async_trait]
pub trait ClaimStore: Outbox {
    /// Claims the best next task, or `None` when nothing may be claimed.
    ///
    /// Claimable is what is queued and does not rest, and what is held under a lapsed lease, on a cluster below its limit and with tries
    /// left. Best: the owner with the fewest held tasks first, then the owner served longest ago, then priority, then
    /// age. Two workers never get the same task. Not cancel-safe: a dropped claim may hold a task until its lease
    /// ends.
    async fn claim(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Option<Claim>, StoreError>;

    /// How long until the first lease of a held task ends, or a queued task has rested, that may then be claimed: zero when a
    /// lease has ended, `None` when there is none.
    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError>;

    /// Renews all leases of a worker in one call, and tells of each, in order. A paused task is held until it is handed
    /// over, so that the worker learns of the pause.
    async fn renew(&self, held: &[Fence], lease: Duration) -> Result<Vec<Renewal>, StoreError>;

    /// Calls `ring` whenever a user may have changed a task that this worker holds, so that it need not wait for its next
    /// renewal to know; and when it begins to hear, because it may have missed some. A ring may be lost or be for nothing:
    /// what is to be done is what a renewal says. Ends only when this backend never rings. Cancel-safe.
    async fn hear(&self, worker: &ReplicaId, ring: &(dyn Fn() + Send + Sync));

    /// Records results under the fence, all or nothing. A result already there stays as it is, so recording twice is
    /// safe. Counts follow from what was really added; an index that the task does not have adds nothing. A task that
    /// was paused still takes the results of what was in flight. At most [`RECORD_MAX`] results at once.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task.
    async fn record(&self, fence: Fence, results: &[ItemResult]) -> Result<Counts, StoreError>;

    /// Ends a task under the fence. `event` must be the terminal event that will be published; it is committed to the
    /// outbox in the same transaction. A task cancelled before all items were run gets its other items recorded as
    /// cancelled by the caller first. Finishing again in the same way, as after a lost reply, returns the same row.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task, [`StoreError::Refused`] while items are pending.
    async fn finish(&self, fence: Fence, event: &Event) -> Result<OutboxId, StoreError>;

    /// Stops a task whose failure budget is used up, with a sentence that says so, and returns its state: paused or
    /// cancelling, as the budget has it; or what a user made of it before, which stays as it is. The holder goes on to
    /// hold it: it finishes what is in flight, and then hands it over or ends it. A task that is called off ends as failed.
    /// Stopping it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task.
    async fn halt(&self, fence: Fence, then: Then, message: &str) -> Result<TaskState, StoreError>;

    /// Keeps in which order the items of a task start, and returns the order that is kept: the first one, whatever later
    /// attempts make of later facts. So a wave never changes once any was begun.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task.
    async fn keep_order(&self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError>;

    /// Holds a task back as its strategy says, and returns its state: paused at a gate, or still held, to be handed over
    /// for as long as it rests. What a user made of it before stays as it is. Opening the same wave again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task.
    async fn hold_back(&self, fence: Fence, hold: &HoldBack) -> Result<TaskState, StoreError>;

    /// Takes nodes of the task's cluster for these items, so that no other task acts on them, and returns those that it did
    /// not get, with who holds them. A node is free again with the result of its item, when its task leaves its worker, and
    /// when the lease or the attempt of its holder is over. Taking what one holds is fine. At most [`NODES_MAX`].
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task, or its lease is over.
    async fn take_nodes(&self, fence: Fence, nodes: &[(u32, ItemName)]) -> Result<Vec<NodeHeld>, StoreError>;

    /// Gives a task back unfinished, without using up a try, and returns its status: queued, or paused when a user paused
    /// it. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another attempt holds the task, [`StoreError::Refused`] while it is cancelling: end
    /// it, or let the lease lapse.
    async fn hand_over(&self, fence: Fence) -> Result<Status, StoreError>;
}

/// What upkeep found waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Tasks that are queued and do not rest.
    pub queued: u64,
    /// Tasks that are held, under a lease that holds or lapsed.
    pub held: u64,
    /// Held tasks whose lease lapsed.
    pub lapsed: u64,
    /// Outbox rows not known to be published.
    pub outbox: u64,
    /// Age of the oldest queued task.
    pub oldest_queued: Duration,
}

/// A held task of which nothing was recorded for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StalledTask {
    /// Which task.
    pub id: TaskId,
    /// Who holds it, under a lease that holds or lapsed.
    pub worker: Option<ReplicaId>,
    /// How long nothing was recorded: no claim, no result, no change by a user.
    pub quiet: Duration,
}

/// The maintenance side. Every call is idempotent, safe from several replicas at once, and bounded by its argument.
#[async_trait]
pub trait UpkeepStore: Outbox {
    /// Tasks that may be claimed now: queued ones and lapsed ones with tries left, oldest first.
    async fn claimable(&self, limit: u32) -> Result<Vec<TaskId>, StoreError>;

    /// Ends lapsed tasks that used up their tries: as failed, or as cancelled when that was asked for. Items without a
    /// result end the same way. The terminal events are in the outbox. Returns the status of each.
    async fn give_up(&self, limit: u32) -> Result<Vec<Status>, StoreError>;

    /// Outbox rows older than `age` and not known to be published, in order of commit.
    async fn unpublished(&self, age: Duration, limit: u32) -> Result<Vec<OutboxRow>, StoreError>;

    /// Deletes tasks that ended longer ago than `age`, with all that belongs to them and is not in the audit. Returns how
    /// many.
    async fn prune(&self, age: Duration, limit: u32) -> Result<u64, StoreError>;

    /// Deletes the audit of pruned tasks that ended longer ago than `age`, with what came of their nodes, and other rows of
    /// that age. Returns how many tasks and other rows.
    async fn prune_audit(&self, age: Duration, limit: u32) -> Result<u64, StoreError>;

    /// Held tasks of which nothing was recorded for at least `after`, longest first.
    async fn stalled(&self, after: Duration, limit: u32) -> Result<Vec<StalledTask>, StoreError>;

    /// Counts what waits, for metrics.
    async fn backlog(&self) -> Result<Backlog, StoreError>;
}

/// Picks the one replica that does the maintenance.
#[async_trait]
pub trait Leadership: Send + Sync + 'static {
    /// Takes or keeps the lead, if it is free or ours. Call it before every round of duties, and several times in a
    /// [`LEAD_LAPSE`]: `false` means that another replica leads. A leader that dies loses the lead at once, one that
    /// hangs or is cut off after [`LEAD_LAPSE`].
    async fn lead(&self) -> Result<bool, StoreError>;

    /// Gives the lead back, so that another replica need not wait.
    async fn step_down(&self);
}

/// A backend: all sides.
pub trait Store: TaskStore + ClaimStore + UpkeepStore + Leadership {}

impl<T: TaskStore + ClaimStore + UpkeepStore + Leadership> Store for T {}
