//! The gateway's side: submits, lists, pages, snapshots, changes by users.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::rows::{EventRow, ItemRow, TaskRow, name};
use super::{
    Failure, PostgresStore, audit, begin, bell, int, lock, millis, save_change, statements, text, while_,
};
use crate::store::audit::detail_of;
use crate::store::{
    AuditEntry, Control, Controlled, Created, IdempotencyKey, ItemQuery, NewRetry, NewTask, OutboxRow,
    Retries, StoreError, Task, TaskQuery, TaskStore, WATCHED_MAX, Watched, change,
};
use crate::task::{By, Capability, ClusterName, Item, ItemName, ItemState, TaskId, UserId};

/// Looks for the task of a key that is being used by somebody else right now.
const KEY_LOOKS: usize = 5;

#[async_trait]
impl TaskStore for PostgresStore {
    async fn create(&self, new: NewTask) -> Result<Created, StoreError> {
        self.create_or_find(&new).await.map_err(while_("recording a task"))
    }

    async fn of_key(&self, owner: &UserId, key: &IdempotencyKey) -> Result<Option<Task>, StoreError> {
        self.task_of_key(owner, key).await.map_err(while_("reading the task of a key"))
    }

    async fn find(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.find_task(id).await.map_err(while_("reading a task"))
    }

    async fn list(&self, query: &TaskQuery) -> Result<Vec<Task>, StoreError> {
        let statuses: Vec<&str> = query.statuses.iter().map(|status| status.as_str()).collect();
        let all_open = !statuses.is_empty() && !query.statuses.iter().any(|status| status.is_terminal());
        let statement = match (&query.owner, all_open) {
            (Some(_), _) => statements::LIST_OF_OWNER,
            (None, true) => statements::LIST_OPEN,
            (None, false) => statements::LIST,
        };
        let mut page = sqlx::query_as(statement)
            .bind(query.before.map_or(Uuid::max(), |before| before.as_uuid()))
            .bind(statuses)
            .bind(query.cluster.as_ref().map(ClusterName::as_str))
            .bind(i64::from(query.limit));
        if let Some(owner) = &query.owner {
            page = page.bind(owner.as_str());
        }
        let call = async { Ok(page.fetch_all(self.db.pool()).await?) };
        self.db.read(call).await.map(readable).map_err(while_("listing tasks"))
    }

    async fn items(&self, task: TaskId, query: &ItemQuery) -> Result<Vec<Item>, StoreError> {
        let first = query.after.map_or(0, |after| after.saturating_add(1));
        let page = match query.state {
            Some(ItemState::Running) => Ok(Vec::new()),
            Some(ItemState::Pending) => self.pending_page(task, first, query.limit).await,
            state => self.item_page(task, state, first, query.limit).await,
        };
        page.map_err(while_("reading items"))
    }

    async fn snapshot(&self, owner: &UserId, recent: u32) -> Result<Vec<Task>, StoreError> {
        let call = async {
            let rows = sqlx::query_as(statements::SNAPSHOT).bind(owner.as_str()).bind(i64::from(recent));
            Ok(rows.fetch_all(self.db.pool()).await?)
        };
        self.db.read(call).await.map(readable).map_err(while_("reading a snapshot"))
    }

    async fn ended(&self, tasks: &[TaskId], age: Duration) -> Result<Vec<OutboxRow>, StoreError> {
        let doing = "looking for ends";
        let ids: Vec<Uuid> = tasks.iter().map(TaskId::as_uuid).collect();
        let call = async {
            let rows = sqlx::query_as::<_, EventRow>(statements::ENDED).bind(ids).bind(millis(age));
            Ok(rows.fetch_all(self.db.pool()).await?)
        };
        let rows = self.db.read(call).await.map_err(while_(doing))?;
        rows.into_iter().map(OutboxRow::try_from).collect()
    }

    async fn watched(&self, owners: &[UserId], recent: Duration) -> Result<Vec<Watched>, StoreError> {
        let owners: Vec<&str> = owners.iter().map(UserId::as_str).collect();
        let most = i64::try_from(WATCHED_MAX).unwrap_or(i64::MAX);
        let call = async {
            let rows = sqlx::query_as::<_, (String, Uuid, bool)>(statements::WATCHED);
            let rows = rows.bind(owners).bind(millis(recent)).bind(most);
            Ok(rows.fetch_all(self.db.pool()).await?)
        };
        let rows = self.db.read(call).await.map_err(while_("looking for watched tasks"))?;
        let watched = |(owner, id, over): (String, Uuid, bool)| {
            let owner = owner.parse().ok()?;
            Some(Watched { owner, task: TaskId::from_uuid(id), over })
        };
        Ok(rows.into_iter().filter_map(watched).collect())
    }

    async fn control(&self, id: TaskId, control: Control, by: &By) -> Result<Option<Controlled>, StoreError> {
        let call = self.change(id, control, by);
        self.db.transaction(1, 3, call).await.map_err(while_("changing a task"))
    }

    async fn retry(&self, new: NewRetry) -> Result<Option<Created>, StoreError> {
        self.retry_or_find(&new).await.map_err(while_("recording a retry"))
    }

    async fn retries(&self, id: TaskId) -> Result<Retries, StoreError> {
        self.retries_of(id).await.map_err(while_("reading retries"))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await.map_err(Failure::from).map_err(while_("asking whether it answers"))
    }
}

impl PostgresStore {
    async fn create_or_find(&self, new: &NewTask) -> Result<Created, Failure> {
        for _ in 0..KEY_LOOKS {
            let insert = async { insert(&mut *self.db.pool().acquire().await?, new, None).await };
            if let Some(row) = self.db.write(insert).await? {
                return Ok(Created::New(row.try_into()?));
            }
            // No row: the key was there, or there was no room. Either may have changed again by now, with a pruned
            // task or an undone insert, or with a task that ended.
            if let Some(key) = &new.key
                && let Some(task) = self.task_of_key(&new.owner, key).await?
            {
                return Ok(Created::Existing(task));
            }
            self.check_room(&new.owner, new.open_max).await?;
        }
        Err(sqlx::Error::RowNotFound.into())
    }

    pub(super) async fn check_room(&self, owner: &UserId, open_max: u32) -> Result<(), Failure> {
        let max = i64::from(open_max);
        let open = sqlx::query_scalar::<_, i64>(statements::COUNT_OPEN).bind(owner.as_str()).bind(max);
        let open = self.db.read(open.fetch_one(self.db.pool())).await?;
        if open >= max {
            return Err(StoreError::TooManyOpen { owner: owner.clone(), max: open_max }.into());
        }
        Ok(())
    }

    pub(super) async fn task_of_key(
        &self,
        owner: &UserId,
        key: &IdempotencyKey,
    ) -> Result<Option<Task>, Failure> {
        let call = async {
            let row = sqlx::query_as::<_, (Vec<u8>, Uuid)>(statements::FIND_BY_KEY);
            let row = row.bind(owner.as_str()).bind(&key.key);
            Ok::<_, Failure>(row.fetch_optional(self.db.pool()).await?)
        };
        let Some((fingerprint, id)) = self.db.read(call).await? else { return Ok(None) };
        let task = TaskId::from_uuid(id);
        if fingerprint != key.fingerprint {
            return Err(StoreError::KeyConflict { task }.into());
        }
        self.find_task(task).await
    }

    pub(super) async fn find_task(&self, id: TaskId) -> Result<Option<Task>, Failure> {
        let call = async {
            let row = sqlx::query_as::<_, TaskRow>(statements::FIND).bind(id.as_uuid());
            Ok::<_, Failure>(row.fetch_optional(self.db.pool()).await?)
        };
        Ok(self.db.read(call).await?.map(Task::try_from).transpose()?)
    }

    async fn item_page(
        &self,
        task: TaskId,
        state: Option<ItemState>,
        first: u32,
        limit: u32,
    ) -> Result<Vec<Item>, Failure> {
        let statement = if state.is_some() { statements::ITEMS_IN_STATE } else { statements::ITEMS };
        let limit = limit.min(int(u32::MAX).unsigned_abs() - first.min(int(u32::MAX).unsigned_abs()));
        let mut page =
            sqlx::query_as::<_, ItemRow>(statement).bind(task.as_uuid()).bind(int(first)).bind(int(limit));
        if let Some(state) = state {
            page = page.bind(state.as_str());
        }
        let rows = self.db.read(async { Ok::<_, Failure>(page.fetch_all(self.db.pool()).await?) }).await?;
        Ok(rows.into_iter().map(|row| row.item(task)).collect::<Result<_, _>>()?)
    }

    async fn pending_page(&self, task: TaskId, first: u32, limit: u32) -> Result<Vec<Item>, Failure> {
        let pending = self.pending(task, first, limit as usize).await?;
        Ok(pending.into_iter().map(|(index, name)| Item { index, name, result: None }).collect())
    }

    /// Items without a result from an index on. Both lists come whole, as two arrays: that is quicker than a join, also
    /// for 100,000 items.
    pub(super) async fn pending(
        &self,
        task: TaskId,
        first: u32,
        limit: usize,
    ) -> Result<Vec<(u32, ItemName)>, Failure> {
        let call = async {
            let row = sqlx::query_as::<_, (Vec<String>, Vec<i32>)>(statements::PENDING).bind(task.as_uuid());
            Ok::<_, Failure>(row.fetch_optional(self.db.pool()).await?)
        };
        let Some((names, done)) = self.db.read(call).await? else { return Ok(Vec::new()) };
        let mut is_done = vec![false; names.len()];
        for index in done {
            if let Some(place) = is_done.get_mut(index.unsigned_abs() as usize) {
                *place = true;
            }
        }
        let items = (0_u32..).zip(names).zip(is_done).skip(first as usize);
        let pending = items.filter(|(_, done)| !done).take(limit);
        Ok(pending
            .map(|((index, text), _)| Ok((index, name(task, &text)?)))
            .collect::<Result<_, StoreError>>()?)
    }

    async fn change(&self, id: TaskId, control: Control, by: &By) -> Result<Option<Controlled>, Failure> {
        let mut tx = begin(&self.db).await?;
        let Some((mut task, at)) = lock(&mut tx, id).await? else { return Ok(None) };
        let before = task.clone();
        let ending = change::control(&mut task, control, at.to_jiff())?;
        if task == before {
            return Ok(Some(Controlled { task, outbox: None }));
        }
        let outbox = save_change(&mut tx, &task, ending).await?;
        audit::note(&mut tx, &AuditEntry::order(&task, control, by.clone())).await?;
        if let Some(worker) = &before.worker {
            bell::ring(&mut tx, worker).await?;
        }
        tx.commit().await?;
        Ok(Some(Controlled { task, outbox }))
    }
}

/// The task that a retry retries, and the first of their family.
pub(super) struct Lineage {
    pub(super) parent: Uuid,
    pub(super) root: Uuid,
}

/// Records a task. Nothing comes back when its key was there before, or when there is no room.
pub(super) async fn insert(
    connection: &mut PgConnection,
    new: &NewTask,
    lineage: Option<Lineage>,
) -> Result<Option<TaskRow>, Failure> {
    let spec = &new.spec;
    let names: Vec<&str> = spec.items.iter().map(ItemName::as_str).collect();
    let parent = lineage.as_ref().map(|lineage| TaskId::from_uuid(lineage.parent));
    let row = sqlx::query_as(statements::CREATE)
        .bind(new.id.as_uuid())
        .bind(new.owner.as_str())
        .bind(super::words::word(spec))
        .bind(Json(spec.action.parameters()))
        .bind(spec.cluster.as_str())
        .bind(spec.reason.as_deref().map(text))
        .bind(spec.priority.0)
        .bind(spec.concurrency.map(i32::from))
        .bind(spec.item_timeout.map(millis))
        .bind(i32::from(spec.max_attempts))
        .bind(names)
        .bind(new.key.as_ref().map(|key| key.key.as_str()))
        .bind(new.key.as_ref().map(|key| &key.fingerprint[..]))
        .bind(i64::from(new.open_max))
        .bind(spec.budget.map(Json))
        .bind(lineage.as_ref().map(|lineage| lineage.parent))
        .bind(lineage.as_ref().map(|lineage| lineage.root))
        .bind(spec.strategy.as_ref().map(|strategy| Json(strategy.draft())))
        .bind(spec.may.iter().map(Capability::as_str).collect::<Vec<_>>())
        .bind(new.origin.role.as_deref())
        .bind(new.origin.address.map(|address| address.to_string()))
        .bind(new.origin.agent.as_deref())
        .bind(new.origin.request.as_deref())
        .bind(Json(detail_of(spec, parent)));
    Ok(row.fetch_optional(connection).await?)
}

/// The tasks that this release can read. One that a newer release made with an action of its own is left out of a
/// list, and said so, rather than taking the list away.
pub(super) fn readable(rows: Vec<TaskRow>) -> Vec<Task> {
    let read = |row: TaskRow| match row.try_into() {
        Ok(task) => Some(task),
        Err(error) => {
            let error: StoreError = error;
            tracing::warn!(%error, "a task is left out of a list");
            None
        }
    };
    rows.into_iter().filter_map(read).collect()
}
