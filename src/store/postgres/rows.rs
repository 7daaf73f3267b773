//! Rows, and the way back to the words of the core. A row that breaks a rule is named by table, column and id.

use std::time::Duration;

use jiff_sqlx::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use crate::store::{OutboxId, OutboxRow, Renewal, StalledTask, StoreError, Task};
use crate::task::{
    ActionSpec, Attempt, Capabilities, Capability, Counts, Effect, Event, FailureBudget, Item, ItemName,
    ItemOutcome, ItemResult, Priority, Strategy, TaskId, TaskState, UserId,
};

/// A row of `tasks`, without its lease.
#[derive(sqlx::FromRow)]
pub(super) struct TaskRow {
    id: Uuid,
    owner: String,
    action: String,
    parameters: Json<Value>,
    cluster: String,
    reason: Option<String>,
    priority: i16,
    concurrency: Option<i32>,
    item_timeout_ms: Option<i64>,
    max_attempts: i32,
    failure_budget: Option<Json<Value>>,
    failed_before: Option<i32>,
    strategy: Option<Json<Value>>,
    may: Option<Vec<String>>,
    opened: i32,
    rests_until: Option<Timestamp>,
    parent_id: Option<Uuid>,
    status: String,
    attempt: i64,
    tries: i32,
    aborted: bool,
    #[sqlx(flatten)]
    counts: CountsRow,
    worker: Option<String>,
    message: Option<String>,
    error: Option<String>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    updated_at: Timestamp,
}

/// A row of `tasks` that we hold a lock on.
#[derive(sqlx::FromRow)]
pub(super) struct LockedRow {
    #[sqlx(flatten)]
    pub(super) task: TaskRow,
    /// The time of the transaction.
    pub(super) at: Timestamp,
}

/// What a renewal says of one task: nothing when it is lost.
#[derive(sqlx::FromRow)]
pub(super) struct RenewedRow {
    status: Option<String>,
    concurrency: Option<i32>,
}

impl RenewedRow {
    pub(super) fn renewal(self, task: TaskId) -> Result<Renewal, StoreError> {
        let place = Place { table: "tasks", id: &task };
        let Some(status) = self.status else { return Ok(Renewal::Lost) };
        let concurrency =
            self.concurrency.map(|n| place.read("concurrency", u16::try_from(n))).transpose()?;
        Ok(Renewal::Held { status: place.read("status", status.parse())?, concurrency })
    }
}

/// The counts of a task.
#[derive(sqlx::FromRow)]
pub(super) struct CountsRow {
    total: i32,
    succeeded: i32,
    failed: i32,
    skipped: i32,
    cancelled: i32,
}

impl From<CountsRow> for Counts {
    /// The schema keeps every count at 0 or above.
    fn from(row: CountsRow) -> Self {
        Self {
            total: row.total.unsigned_abs(),
            succeeded: row.succeeded.unsigned_abs(),
            failed: row.failed.unsigned_abs(),
            skipped: row.skipped.unsigned_abs(),
            cancelled: row.cancelled.unsigned_abs(),
        }
    }
}

impl TryFrom<TaskRow> for Task {
    type Error = StoreError;

    fn try_from(row: TaskRow) -> Result<Self, StoreError> {
        let place = Place { table: "tasks", id: &row.id };
        let state = TaskState {
            status: place.read("status", row.status.parse())?,
            attempt: Attempt(place.read("attempt", u32::try_from(row.attempt))?),
            tries: place.read("tries", u16::try_from(row.tries))?,
            aborted: row.aborted,
        };
        let strategy = row.strategy.map(|strategy| place.read("strategy", read_strategy(strategy.0)));
        let budget = row.failure_budget.map(|budget| serde_json::from_value::<FailureBudget>(budget.0));
        Ok(Self {
            id: TaskId::from_uuid(row.id),
            owner: place.read("owner", row.owner.parse())?,
            action: place
                .read("action", ActionSpec::parse(super::words::action(&row.action), &row.parameters))?,
            cluster: place.read("cluster", row.cluster.parse())?,
            reason: row.reason,
            priority: Priority(row.priority),
            concurrency: row.concurrency.map(|n| place.read("concurrency", u16::try_from(n))).transpose()?,
            item_timeout: row.item_timeout_ms.map(|ms| Duration::from_millis(ms.unsigned_abs())),
            max_attempts: place.read("max_attempts", u16::try_from(row.max_attempts))?,
            budget: budget.map(|budget| place.read("failure_budget", budget)).transpose()?,
            failed_before: row.failed_before.map(i32::unsigned_abs),
            strategy: strategy.transpose()?.flatten(),
            may: capabilities(row.may),
            opened: row.opened.unsigned_abs(),
            rests_until: row.rests_until.map(Timestamp::to_jiff),
            parent: row.parent_id.map(TaskId::from_uuid),
            state,
            counts: row.counts.into(),
            worker: row.worker.map(|worker| place.read("worker", worker.parse())).transpose()?,
            message: row.message,
            error: row.error,
            created_at: row.created_at.to_jiff(),
            started_at: row.started_at.map(Timestamp::to_jiff),
            finished_at: row.finished_at.map(Timestamp::to_jiff),
            updated_at: row.updated_at.to_jiff(),
        })
    }
}

/// What the submitter might. A release that did not know of capabilities wrote none, and let everybody force a drain. One
/// that only a later release knows lets nobody do anything here.
fn capabilities(stored: Option<Vec<String>>) -> Capabilities {
    let Some(words) = stored else { return Capabilities::from_iter([Capability::Force]) };
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

fn read_strategy(stored: Value) -> Result<Option<Strategy>, String> {
    let draft = serde_json::from_value(stored).map_err(|error| error.to_string())?;
    Strategy::parse(&draft).map_err(|faults| format!("{faults:?}"))
}

/// A row of `items` with the item's name. The state is missing while the item is pending.
#[derive(sqlx::FromRow)]
pub(super) struct ItemRow {
    pub(super) idx: i32,
    pub(super) name: String,
    pub(super) state: Option<String>,
    pub(super) effect: Option<String>,
    pub(super) message: Option<String>,
    pub(super) tries: i32,
    pub(super) finished_at: Option<Timestamp>,
}

impl ItemRow {
    pub(super) fn item(self, task: TaskId) -> Result<Item, StoreError> {
        let id = format!("{task}/{}", self.idx);
        let place = Place { table: "items", id: &id };
        let index = self.idx.unsigned_abs();
        let name: ItemName = place.read("name", self.name.parse())?;
        let (Some(state), Some(finished_at)) = (self.state, self.finished_at) else {
            return Ok(Item { index, name, result: None });
        };
        let message = self.message.unwrap_or_default();
        let outcome = match (state.as_str(), self.effect.as_deref()) {
            ("succeeded", Some("changed")) => ItemOutcome::Succeeded { effect: Effect::Changed },
            ("succeeded", _) => ItemOutcome::Succeeded { effect: Effect::Already },
            ("failed", _) => ItemOutcome::Failed { error: message },
            ("skipped", _) => ItemOutcome::Skipped { reason: message },
            ("cancelled", _) => ItemOutcome::Cancelled,
            _ => return place.read("state", Err(format!("{state:?} is not a state of an item that ended"))),
        };
        let tries = place.read("tries", u16::try_from(self.tries))?;
        let finished_at = finished_at.to_jiff();
        let result = ItemResult { index, name: name.clone(), outcome, tries, finished_at };
        Ok(Item { index, name, result: Some(result) })
    }
}

/// The word in storage for an effect.
pub(super) fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Changed => "changed",
        Effect::Already => "already",
    }
}

/// A name out of `task_members`.
pub(super) fn name(task: TaskId, name: &str) -> Result<ItemName, StoreError> {
    Place { table: "task_members", id: &task }.read("names", ItemName::new(name))
}

/// An owner out of `tasks`.
pub(super) fn owner(task: TaskId, owner: &str) -> Result<UserId, StoreError> {
    Place { table: "tasks", id: &task }.read("owner", owner.parse())
}

/// A row of `outbox`.
#[derive(sqlx::FromRow)]
pub(super) struct EventRow {
    id: i64,
    owner: String,
    event: Json<Value>,
}

impl TryFrom<EventRow> for OutboxRow {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let place = Place { table: "outbox", id: &row.id };
        Ok(Self {
            id: OutboxId(row.id),
            owner: place.read("owner", row.owner.parse())?,
            event: place.read("event", serde_json::from_value::<Event>(row.event.0))?,
        })
    }
}

/// A row of `tasks` that stands still.
#[derive(sqlx::FromRow)]
pub(super) struct StalledRow {
    id: Uuid,
    worker: Option<String>,
    quiet_ms: i64,
}

impl TryFrom<StalledRow> for StalledTask {
    type Error = StoreError;

    fn try_from(row: StalledRow) -> Result<Self, StoreError> {
        let place = Place { table: "tasks", id: &row.id };
        let worker = row.worker.map(|worker| place.read("worker", worker.parse())).transpose()?;
        let quiet = Duration::from_millis(u64::try_from(row.quiet_ms).unwrap_or(0));
        Ok(Self { id: TaskId::from_uuid(row.id), worker, quiet })
    }
}

/// Where a value came from, for the error that names it.
pub(super) struct Place<'a> {
    pub(super) table: &'static str,
    pub(super) id: &'a dyn std::fmt::Display,
}

impl Place<'_> {
    pub(super) fn read<T, E: std::fmt::Display>(
        &self,
        column: &'static str,
        value: Result<T, E>,
    ) -> Result<T, StoreError> {
        value.map_err(|error| StoreError::Corrupt {
            table: self.table,
            column,
            row: self.id.to_string(),
            why: error.to_string(),
        })
    }
}
