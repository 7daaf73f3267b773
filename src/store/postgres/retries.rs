//! Retries in SQL: who is in a family, and the newest result of each item. Not here: what a family is
//! ([`crate::store::retry`]).

use sqlx::PgConnection;
use uuid::Uuid;

use super::rows::CountsRow;
use super::tasks::{Lineage, insert};
use super::{Failure, PostgresStore, begin, lock, statements};
use crate::store::{Created, NewRetry, NewTask, NotRetried, RETRIES_MAX, Retries, StoreError, Task};
use crate::task::{Counts, ItemName, ItemState, TaskId};

/// Looks for the retry of a key that is being used by somebody else right now.
const KEY_LOOKS: usize = 5;

/// What became of one try to record a retry.
enum Tried {
    New(Box<Task>),
    /// There is no such task.
    Unknown,
    /// The key is there by now, or there is no room.
    NoRow,
}

impl PostgresStore {
    pub(super) async fn retry_or_find(&self, new: &NewRetry) -> Result<Option<Created>, Failure> {
        for _ in 0..KEY_LOOKS {
            if let Some(key) = &new.key
                && let Some(task) = self.task_of_key(&new.owner, key).await?
            {
                return Ok(Some(Created::Existing(task)));
            }
            match self.db.transaction(4, 1, self.try_retry(new)).await? {
                Tried::New(task) => return Ok(Some(Created::New(*task))),
                Tried::Unknown => return Ok(None),
                Tried::NoRow => self.check_room(&new.owner, new.open_max).await?,
            }
        }
        Err(sqlx::Error::RowNotFound.into())
    }

    async fn try_retry(&self, new: &NewRetry) -> Result<Tried, Failure> {
        let mut tx = begin(&self.db).await?;
        let Some((parent, _)) = lock(&mut tx, new.parent).await? else { return Ok(Tried::Unknown) };
        let (task, status) = (parent.id, parent.state.status);
        if !status.is_terminal() {
            return Err(StoreError::Refused { task, status }.into());
        }
        let root: Uuid =
            sqlx::query_scalar(statements::ROOT).bind(task.as_uuid()).fetch_one(&mut *tx).await?;
        sqlx::query(statements::LOCK_FAMILY).bind(root.to_string()).execute(&mut *tx).await?;
        let items = match left(&mut tx, &parent, root, &new.retry.include).await? {
            Ok(items) => items,
            Err(why) => return Err(StoreError::NotRetried { task, why }.into()),
        };
        let spec = new.retry.of(parent.spec(items));
        let (owner, key) = (new.owner.clone(), new.key.clone());
        let origin = new.origin.clone();
        let child = NewTask { id: new.id, owner, spec, key, open_max: new.open_max, origin };
        let lineage = Lineage { parent: task.as_uuid(), root };
        let Some(row) = insert(&mut tx, &child, Some(lineage)).await? else { return Ok(Tried::NoRow) };
        tx.commit().await?;
        Ok(Tried::New(Box::new(row.try_into()?)))
    }

    pub(super) async fn retries_of(&self, id: TaskId) -> Result<Retries, Failure> {
        let rows = async {
            let rows = sqlx::query_as(statements::RETRIES).bind(id.as_uuid());
            Ok::<_, Failure>(rows.fetch_all(self.db.pool()).await?)
        };
        let tasks = super::tasks::readable(self.db.read(rows).await?);
        if tasks.is_empty() {
            return Ok(Retries::default());
        }
        let counts = async {
            let counts = sqlx::query_as::<_, CountsRow>(statements::MERGED).bind(id.as_uuid());
            Ok::<_, Failure>(counts.fetch_one(self.db.pool()).await?)
        };
        let merged = Some(Counts::from(self.db.read(counts).await?));
        Ok(Retries { tasks, merged })
    }
}

/// The items to retry. The family is locked, so what it says stays so.
async fn left(
    tx: &mut PgConnection,
    parent: &Task,
    root: Uuid,
    include: &[ItemState],
) -> Result<Result<Vec<ItemName>, NotRetried>, Failure> {
    let family = sqlx::query_as::<_, (i64, Option<Uuid>)>(statements::FAMILY).bind(root);
    let (retries, open) = family.fetch_one(&mut *tx).await?;
    if let Some(open) = open {
        return Ok(Err(NotRetried::Open(TaskId::from_uuid(open))));
    }
    if retries >= i64::from(RETRIES_MAX) {
        return Ok(Err(NotRetried::TooMany));
    }
    let states: Vec<&str> = include.iter().map(|state| state.as_str()).collect();
    let names = sqlx::query_scalar::<_, Vec<String>>(statements::LEFT_TO_RETRY);
    let names = names.bind(parent.id.as_uuid()).bind(states).fetch_one(tx).await?;
    if names.is_empty() {
        return Ok(Err(NotRetried::NothingLeft));
    }
    let names = names.iter().map(|name| super::rows::name(parent.id, name));
    Ok(Ok(names.collect::<Result<_, _>>()?))
}
