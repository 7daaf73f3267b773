//! The maintenance side: what waits, what is stuck, what is old.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::rows::{EventRow, LockedRow, StalledRow};
use super::statements::audit;
use super::{Failure, PostgresStore, begin, locked, millis, save_change, statements, while_};
use crate::store::{Backlog, Leadership, OutboxRow, StalledTask, StoreError, UpkeepStore, change};
use crate::task::{Change, Status, TaskId};

/// Items deleted by one call at most, unless a single task has more: a fraction of a second's work.
const PRUNE_ITEMS_MAX: i64 = 20_000;

#[async_trait]
impl UpkeepStore for PostgresStore {
    async fn claimable(&self, limit: u32) -> Result<Vec<TaskId>, StoreError> {
        let call = self.ids(statements::CLAIMABLE, limit);
        let ids = self.db.read(call).await.map_err(while_("looking for claimable tasks"))?;
        Ok(ids.into_iter().map(TaskId::from_uuid).collect())
    }

    async fn give_up(&self, limit: u32) -> Result<Vec<Status>, StoreError> {
        let doing = "giving up tasks";
        let ids = self.db.read(self.ids(statements::USED_UP, limit)).await.map_err(while_(doing))?;
        let mut given_up = Vec::new();
        for id in ids {
            let ended = self.db.transaction(1, 1, self.give_up_one(id)).await.map_err(while_(doing))?;
            given_up.extend(ended);
        }
        Ok(given_up)
    }

    async fn unpublished(&self, age: Duration, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let call = async {
            let rows = sqlx::query_as::<_, EventRow>(statements::UNPUBLISHED)
                .bind(millis(age))
                .bind(i64::from(limit));
            Ok(rows.fetch_all(self.db.pool()).await?)
        };
        let rows = self.db.read(call).await.map_err(while_("reading the outbox"))?;
        rows.into_iter().map(OutboxRow::try_from).collect()
    }

    async fn prune(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        let age = millis(age);
        let call = async {
            let tasks = sqlx::query(statements::PRUNE).bind(age).bind(i64::from(limit)).bind(PRUNE_ITEMS_MAX);
            let pruned = tasks.execute(self.db.pool()).await?.rows_affected();
            let owners = sqlx::query(statements::FORGET_OWNERS).bind(age).bind(i64::from(limit));
            owners.execute(self.db.pool()).await?;
            Ok(pruned)
        };
        self.db.transaction(0, 2, call).await.map_err(while_("pruning tasks"))
    }

    async fn prune_audit(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        let (age, limit) = (millis(age), i64::from(limit));
        let call = async {
            let tasks = sqlx::query(audit::PRUNE_AUDIT).bind(age).bind(limit).bind(PRUNE_ITEMS_MAX);
            let tasks = tasks.execute(self.db.pool()).await?.rows_affected();
            let notes = sqlx::query(audit::PRUNE_NOTES).bind(age).bind(limit);
            Ok(tasks + notes.execute(self.db.pool()).await?.rows_affected())
        };
        self.db.transaction(0, 2, call).await.map_err(while_("pruning the audit"))
    }

    async fn stalled(&self, after: Duration, limit: u32) -> Result<Vec<StalledTask>, StoreError> {
        let call = async {
            let rows = sqlx::query_as::<_, StalledRow>(statements::STALLED)
                .bind(millis(after))
                .bind(i64::from(limit));
            Ok(rows.fetch_all(self.db.pool()).await?)
        };
        let rows = self.db.read(call).await.map_err(while_("looking for stalled tasks"))?;
        rows.into_iter().map(StalledTask::try_from).collect()
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        type Row = (i64, i64, i64, i64, Option<i64>);
        let call =
            async { Ok(sqlx::query_as::<_, Row>(statements::BACKLOG).fetch_one(self.db.pool()).await?) };
        let row = self.db.read(call).await.map_err(while_("counting what waits"))?;
        let (queued, held, lapsed, outbox, oldest_ms) = row;
        let positive = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Backlog {
            queued: positive(queued),
            held: positive(held),
            lapsed: positive(lapsed),
            outbox: positive(outbox),
            oldest_queued: Duration::from_millis(positive(oldest_ms.unwrap_or(0))),
        })
    }
}

impl PostgresStore {
    async fn ids(&self, statement: &'static str, limit: u32) -> Result<Vec<Uuid>, Failure> {
        Ok(sqlx::query_scalar(statement).bind(i64::from(limit)).fetch_all(self.db.pool()).await?)
    }

    /// A transaction for each task, so that one that cannot be ended does not hold up the others.
    async fn give_up_one(&self, id: Uuid) -> Result<Option<Status>, Failure> {
        let mut tx = begin(&self.db).await?;
        let row: Option<LockedRow> =
            sqlx::query_as(statements::LOCK_USED_UP).bind(id).fetch_optional(&mut *tx).await?;
        let Some((mut task, at)) = row.map(locked).transpose()? else { return Ok(None) };
        let ending = change::apply(&mut task, Change::GiveUp, at.to_jiff())?;
        save_change(&mut tx, &task, ending).await?;
        tx.commit().await?;
        Ok(Some(task.state.status))
    }
}

#[async_trait]
impl Leadership for PostgresStore {
    async fn lead(&self) -> Result<bool, StoreError> {
        self.lead.take_or_keep().await.map_err(Failure::from).map_err(while_("taking the lead"))
    }

    async fn step_down(&self) {
        self.lead.give_back().await;
    }
}
