//! The worker's side: claims, renewals, results, endings.

use std::time::Duration;

use async_trait::async_trait;
use jiff_sqlx::{Timestamp, ToSqlx};
use sqlx::PgConnection;
use uuid::Uuid;

use super::rows::{CountsRow, LockedRow, RenewedRow, effect_word};
use super::{
    Along, Failure, PostgresStore, begin, lock, locked, millis, save, save_change, statements, text, while_,
    words,
};
use crate::planted;
use crate::store::{
    Claim, ClaimRules, ClaimStore, Fence, HoldBack, NODES_MAX, NodeHeld, OutboxId, RECORD_MAX, Renewal,
    StoreError, Task, change,
};
use crate::task::{Change, Counts, Event, ItemName, ItemResult, ReplicaId, Status, TaskId, TaskState, Then};

/// Candidates on a short list: more than there are workers that claim in the same moment.
const SHORTLIST_MAX: i64 = 32;
/// Short lists in one claim. A list is used up only when others claimed everything on it.
const SHORTLISTS_MAX: usize = 8;

#[async_trait]
impl ClaimStore for PostgresStore {
    async fn claim(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Option<Claim>, StoreError> {
        self.claim_best(worker, rules).await.map_err(while_("claiming a task"))
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        let call = async {
            let left = sqlx::query_scalar::<_, Option<i64>>(statements::NEXT_LAPSE).bind(&words::KNOWN[..]);
            Ok(left.fetch_one(self.db.pool()).await?)
        };
        let left = self.db.read(call).await.map_err(while_("looking for the next lapse"))?;
        Ok(left.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    async fn renew(&self, held: &[Fence], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        self.db.write(self.renew_all(held, lease)).await.map_err(while_("renewing leases"))
    }

    async fn hear(&self, worker: &ReplicaId, ring: &(dyn Fn() + Send + Sync)) {
        self.hear_of_changes(worker, ring).await;
    }

    async fn record(&self, fence: Fence, results: &[ItemResult]) -> Result<Counts, StoreError> {
        debug_assert!(results.len() <= RECORD_MAX, "a caller records in batches");
        self.db.write(self.record_results(fence, results)).await.map_err(while_("recording results"))
    }

    async fn finish(&self, fence: Fence, event: &Event) -> Result<OutboxId, StoreError> {
        let call = self.finish_task(fence, event);
        self.db.transaction(1, 1, call).await.map_err(while_("finishing a task"))
    }

    async fn halt(&self, fence: Fence, then: Then, message: &str) -> Result<TaskState, StoreError> {
        let call = self.halt_task(fence, then, message);
        self.db.transaction(1, 1, call).await.map_err(while_("stopping a task"))
    }

    async fn keep_order(&self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError> {
        self.db
            .write(self.keep_first_order(fence, order))
            .await
            .map_err(while_("keeping the order of a task"))
    }

    async fn hold_back(&self, fence: Fence, hold: &HoldBack) -> Result<TaskState, StoreError> {
        let call = self.hold_task_back(fence, hold);
        self.db.transaction(1, 1, call).await.map_err(while_("holding a task back"))
    }

    async fn take_nodes(&self, fence: Fence, nodes: &[(u32, ItemName)]) -> Result<Vec<NodeHeld>, StoreError> {
        debug_assert!(nodes.len() <= NODES_MAX, "a caller takes nodes in batches");
        self.take_all_nodes(fence, nodes).await.map_err(while_("taking nodes"))
    }

    async fn hand_over(&self, fence: Fence) -> Result<Status, StoreError> {
        let call = self.give_back(fence);
        self.db.transaction(1, 1, call).await.map_err(while_("handing a task over"))
    }
}

/// What became of one walk down a short list.
enum Walk {
    Claimed(Box<Task>),
    NothingWaits,
    OthersWereQuicker,
}

impl PostgresStore {
    async fn claim_best(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Option<Claim>, Failure> {
        for _ in 0..SHORTLISTS_MAX {
            match self.walk(worker, rules).await? {
                Walk::NothingWaits => return Ok(None),
                Walk::OthersWereQuicker => {}
                Walk::Claimed(task) => {
                    let pending = self.pending(task.id, 0, usize::MAX).await?;
                    let order = self.kept_order(&task).await?;
                    return Ok(Some(Claim { task: *task, pending, order }));
                }
            }
        }
        Ok(None)
    }

    async fn walk(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Walk, Failure> {
        let shortlist = self.db.read(self.shortlist(rules)).await?;
        if shortlist.is_empty() {
            return Ok(Walk::NothingWaits);
        }
        let claimed = self.db.transaction(3, 1, self.claim_from(&shortlist, worker, rules)).await?;
        Ok(claimed.map_or(Walk::OthersWereQuicker, |task| Walk::Claimed(Box::new(task))))
    }

    async fn shortlist(&self, rules: &ClaimRules) -> Result<Vec<Uuid>, Failure> {
        let ids = sqlx::query_scalar(statements::SHORTLIST)
            .bind(i64::from(rules.per_cluster_max))
            .bind(SHORTLIST_MAX)
            .bind(&words::KNOWN[..]);
        Ok(ids.fetch_all(self.db.pool()).await?)
    }

    /// Locks, in this order and never another: the task, its cluster, its owner.
    async fn claim_from(
        &self,
        shortlist: &[Uuid],
        worker: &ReplicaId,
        rules: &ClaimRules,
    ) -> Result<Option<Task>, Failure> {
        let mut tx = begin(&self.db).await?;
        let row: Option<LockedRow> =
            sqlx::query_as(statements::TAKE).bind(shortlist).fetch_optional(&mut *tx).await?;
        let Some((mut task, at)) = row.map(locked).transpose()? else { return Ok(None) };
        let cluster = task.cluster.as_str();
        sqlx::query(statements::LOCK_CLUSTER).bind(cluster).execute(&mut *tx).await?;
        // A statement of its own: it must see what was committed while we waited for the lock.
        let others = sqlx::query_scalar::<_, i64>(statements::HELD_ON_CLUSTER);
        let others = others.bind(cluster).bind(task.id.as_uuid()).fetch_one(&mut *tx).await?;
        if others >= i64::from(rules.per_cluster_max) {
            return Ok(None);
        }
        change::claim(&mut task, worker, at.to_jiff())?;
        save(&mut tx, &task, Along { lease: Some(rules.lease), ..Along::default() }).await?;
        tx.commit().await?;
        Ok(Some(task))
    }

    async fn renew_all(&self, held: &[Fence], lease: Duration) -> Result<Vec<Renewal>, Failure> {
        let (ids, attempts): (Vec<Uuid>, Vec<i64>) =
            held.iter().map(|fence| (fence.task.as_uuid(), i64::from(fence.attempt.0))).unzip();
        let renewed: Vec<RenewedRow> = sqlx::query_as(statements::RENEW)
            .bind(ids)
            .bind(attempts)
            .bind(millis(lease))
            .fetch_all(self.db.pool())
            .await?;
        let renewals = held.iter().zip(renewed).map(|(fence, row)| row.renewal(fence.task));
        Ok(renewals.collect::<Result<_, _>>()?)
    }

    async fn record_results(&self, fence: Fence, results: &[ItemResult]) -> Result<Counts, Failure> {
        let columns = Columns::of(results);
        let counts: Option<CountsRow> = sqlx::query_as(planted::record_sql(statements::RECORD))
            .bind(fence.task.as_uuid())
            .bind(i64::from(fence.attempt.0))
            .bind(columns.indexes)
            .bind(columns.states)
            .bind(columns.effects)
            .bind(columns.messages)
            .bind(columns.tries)
            .bind(columns.finished_at)
            .fetch_optional(self.db.pool())
            .await?;
        counts.map(Counts::from).ok_or_else(|| fenced(fence).into())
    }

    async fn finish_task(&self, fence: Fence, event: &Event) -> Result<OutboxId, Failure> {
        let mut tx = begin(&self.db).await?;
        let Some((mut task, at)) = lock(&mut tx, fence.task).await? else { return Err(fenced(fence).into()) };
        if (task.state.attempt, task.state.status) == (fence.attempt, event.status)
            && let Some(id) = committed_event(&mut tx, task.id).await?
        {
            return Ok(id);
        }
        change::finish(&mut task, fence.attempt, event, at.to_jiff())?;
        let along = Along { event: Some(event), ..Along::default() };
        let id = save(&mut tx, &task, along).await?.ok_or(sqlx::Error::RowNotFound)?;
        tx.commit().await?;
        Ok(id)
    }

    async fn halt_task(&self, fence: Fence, then: Then, message: &str) -> Result<TaskState, Failure> {
        let mut tx = begin(&self.db).await?;
        let Some((mut task, at)) = lock(&mut tx, fence.task).await? else { return Err(fenced(fence).into()) };
        let before = task.clone();
        change::halt(&mut task, fence.attempt, then, message, at.to_jiff())?;
        if task != before {
            save(&mut tx, &task, Along::default()).await?;
        }
        tx.commit().await?;
        Ok(task.state)
    }

    async fn give_back(&self, fence: Fence) -> Result<Status, Failure> {
        let mut tx = begin(&self.db).await?;
        let Some((mut task, at)) = lock(&mut tx, fence.task).await? else { return Err(fenced(fence).into()) };
        let before = task.clone();
        let ending = change::apply(&mut task, Change::HandOver { by: fence.attempt }, at.to_jiff())?;
        if task != before {
            save_change(&mut tx, &task, ending).await?;
        }
        tx.commit().await?;
        Ok(task.state.status)
    }
}

/// The event of a task that its holder ended before, when the reply was lost.
async fn committed_event(tx: &mut PgConnection, task: TaskId) -> Result<Option<OutboxId>, sqlx::Error> {
    let id = sqlx::query_scalar(statements::FIND_EVENT).bind(task.as_uuid()).fetch_optional(tx).await?;
    Ok(id.map(OutboxId))
}

pub(super) fn fenced(fence: Fence) -> StoreError {
    let Fence { task, attempt: by } = fence;
    StoreError::Fenced { task, by }
}

/// Results as columns, one array each.
#[derive(Default)]
struct Columns<'a> {
    indexes: Vec<i32>,
    states: Vec<&'static str>,
    effects: Vec<Option<&'static str>>,
    messages: Vec<Option<std::borrow::Cow<'a, str>>>,
    tries: Vec<i32>,
    finished_at: Vec<Timestamp>,
}

impl<'a> Columns<'a> {
    fn of(results: &'a [ItemResult]) -> Self {
        let mut columns = Self::default();
        for result in results {
            // An index beyond what the column holds is beyond every task too.
            let Ok(index) = i32::try_from(result.index) else { continue };
            columns.indexes.push(index);
            columns.states.push(result.outcome.state().as_str());
            columns.effects.push(result.outcome.effect().map(effect_word));
            columns.messages.push(result.outcome.message().map(text));
            columns.tries.push(i32::from(result.tries));
            columns.finished_at.push(result.finished_at.to_sqlx());
        }
        columns
    }
}
