//! The record in Postgres, the authority for everything that must survive.
//!
//! * A change of state loads the row under a lock, asks [`crate::task::TaskState::apply`], and writes the answer with
//!   everything that follows from it (items, counts, event) in the same transaction.
//! * Results are recorded in one statement that checks the fence, adds rows and counts those it really added.
//! * A change by a user of a task that is held notifies its worker in the same transaction (`bell`).
//! * A claim walks a short list without locks and then locks one task. The limit of a cluster is kept by an advisory
//!   lock per cluster that lasts to the end of the claim: a counter in a row would have to be mended after every crash,
//!   while the number of held tasks is always what it is.
//!
//! * Which task may act on a node is a row that counts for as long as its holder has a lease: nothing is cleared after a
//!   crash. Nodes are taken many at once, and freed by the statement that records results (`strategies`).
//! * Who did what is a row in the statement or the transaction that does it (`audit`); what came of each node is the recorded
//!   result, which outlives its task.
//!
//! Not here: connections and deadlines ([`crate::postgres`]), and waking workers ([`crate::dispatch`]).

mod audit;
mod bell;
mod claims;
mod lead;
mod retries;
mod rows;
pub mod statements;
mod strategies;
mod tasks;
mod upkeep;
mod words;

use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use jiff_sqlx::{Timestamp, ToSqlx};
use sqlx::{PgConnection, Postgres, Transaction};

use self::lead::Lead;
use self::rows::LockedRow;
use super::change::Ending;
use super::{Outbox, OutboxId, OutboxRow, StoreError, Task};
use crate::config::Notify;
use crate::postgres::Database;
use crate::task::{Event, ItemState, ReplicaId, TaskId};

/// The record in Postgres. Needs a migrated schema.
pub struct PostgresStore {
    db: Database,
    notify: Notify,
    lead: Lead,
}

impl PostgresStore {
    /// A store over a connected database.
    #[must_use]
    pub fn new(db: Database) -> Self {
        Self { lead: Lead::new(db.clone()), notify: Notify::default(), db }
    }

    /// How workers learn of changes by users: at once by notifications, or by their renewals alone.
    #[must_use]
    pub fn with_notify(self, notify: Notify) -> Self {
        Self { notify, ..self }
    }
}

#[async_trait]
impl Outbox for PostgresStore {
    async fn published(&self, rows: &[OutboxId]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let call = async {
            sqlx::query(statements::PUBLISHED).bind(ids).execute(self.db.pool()).await?;
            Ok(())
        };
        self.db.write(call).await.map_err(while_("noting published events"))
    }
}

/// Why a call failed, while it is not yet known what to call it.
#[derive(Debug)]
enum Failure {
    Sql(sqlx::Error),
    Store(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Gives a failure of the database the words for what was tried.
fn while_(doing: &'static str) -> impl FnOnce(Failure) -> StoreError {
    move |failure| match failure {
        Failure::Sql(source) => StoreError::Unavailable { doing, source: source.into() },
        Failure::Store(error) => error,
    }
}

/// Locks a task until the end of the transaction, and tells the time of the database.
async fn lock(tx: &mut PgConnection, id: TaskId) -> Result<Option<(Task, Timestamp)>, Failure> {
    let row: Option<LockedRow> =
        sqlx::query_as(statements::LOCK).bind(id.as_uuid()).fetch_optional(tx).await?;
    row.map(locked).transpose()
}

fn locked(row: LockedRow) -> Result<(Task, Timestamp), Failure> {
    Ok((row.task.try_into()?, row.at))
}

/// What goes with a change of a task.
#[derive(Default)]
struct Along<'a> {
    /// A lease that begins now. Without one the old lease stays.
    lease: Option<Duration>,
    /// The terminal event, for the outbox.
    event: Option<&'a Event>,
    /// How every item ends that has no result.
    rest: Option<ItemState>,
}

/// Writes what a change left of a locked task.
async fn save(tx: &mut PgConnection, task: &Task, along: Along<'_>) -> Result<Option<OutboxId>, Failure> {
    let event = along.event.map(serde_json::to_string).transpose();
    let event = event.map_err(|error| sqlx::Error::Encode(error.into()))?;
    let row = sqlx::query_scalar(statements::SAVE)
        .bind(task.id.as_uuid())
        .bind(along.lease.map(millis))
        .bind(task.state.status.as_str())
        .bind(i64::from(task.state.attempt.0))
        .bind(task.worker.as_ref().map(ReplicaId::as_str))
        .bind(i32::from(task.state.tries))
        .bind(task.error.as_deref().map(text))
        .bind(int(task.counts.failed))
        .bind(int(task.counts.cancelled))
        .bind(task.started_at.map(ToSqlx::to_sqlx))
        .bind(task.finished_at.map(ToSqlx::to_sqlx))
        .bind(task.updated_at.to_sqlx())
        .bind(event)
        .bind(along.rest.map(ItemState::as_str))
        .bind(task.concurrency.map(i32::from))
        .bind(task.failed_before.map(int))
        .bind(task.state.aborted)
        .bind(task.message.as_deref().map(text))
        .bind(int(task.opened))
        .bind(task.rests_until.map(ToSqlx::to_sqlx));
    Ok(row.fetch_optional(tx).await?.map(OutboxId))
}

/// Writes a change, with its event when it was an ending that no worker decided.
async fn save_change(
    tx: &mut PgConnection,
    task: &Task,
    ending: Option<Ending>,
) -> Result<Option<OutboxRow>, Failure> {
    let Some(Ending { pending, event }) = ending else {
        save(tx, task, Along::default()).await?;
        return Ok(None);
    };
    let along = Along { lease: None, event: Some(&event), rest: Some(pending.state()) };
    let id = save(tx, task, along).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Some(OutboxRow { id, owner: task.owner.clone(), event }))
}

async fn begin(db: &Database) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    db.pool().begin().await
}

/// Postgres texts cannot hold the character 0, and a message from elsewhere must not stop a task from ending.
fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Counts and indexes are at most 100,000.
fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
