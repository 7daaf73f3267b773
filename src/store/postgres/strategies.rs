//! What a strategy needs of the record, in SQL: the order of items, being held back, and nodes that only one task may act
//! on.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::claims::fenced;
use super::{Along, Failure, PostgresStore, begin, int, lock, rows, save, statements, words};
use crate::store::{Fence, HoldBack, Holder, NodeHeld, Task, change};
use crate::task::{ItemName, TaskId, TaskState};

/// Name of a node, and the id, the owner and the word of the task that holds it.
type HolderRow = (String, Uuid, String, String);

impl PostgresStore {
    pub(super) async fn keep_first_order(&self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, Failure> {
        let order: Vec<i32> = order.iter().map(|index| int(*index)).collect();
        let kept = sqlx::query_scalar::<_, Vec<i32>>(statements::KEEP_ORDER)
            .bind(fence.task.as_uuid())
            .bind(i64::from(fence.attempt.0))
            .bind(order)
            .fetch_optional(self.db.pool())
            .await?;
        Ok(indexes(kept.ok_or_else(|| fenced(fence))?))
    }

    /// The order of a task whose strategy has rules for it, if one is kept.
    pub(super) async fn kept_order(&self, task: &Task) -> Result<Option<Vec<u32>>, Failure> {
        if task.strategy.as_ref().is_none_or(|strategy| strategy.order.is_empty()) {
            return Ok(None);
        }
        let call = async {
            let row = sqlx::query_scalar::<_, Option<Vec<i32>>>(statements::ORDER).bind(task.id.as_uuid());
            Ok::<_, Failure>(row.fetch_optional(self.db.pool()).await?)
        };
        Ok(self.db.read(call).await?.flatten().map(indexes))
    }

    pub(super) async fn hold_task_back(&self, fence: Fence, hold: &HoldBack) -> Result<TaskState, Failure> {
        let mut tx = begin(&self.db).await?;
        let Some((mut task, at)) = lock(&mut tx, fence.task).await? else { return Err(fenced(fence).into()) };
        let before = task.clone();
        change::hold_back(&mut task, fence.attempt, hold, at.to_jiff())?;
        if task != before {
            save(&mut tx, &task, Along::default()).await?;
        }
        tx.commit().await?;
        Ok(task.state)
    }

    pub(super) async fn take_all_nodes(
        &self,
        fence: Fence,
        nodes: &[(u32, ItemName)],
    ) -> Result<Vec<NodeHeld>, Failure> {
        let names: Vec<&str> = nodes.iter().map(|(_, name)| name.as_str()).collect();
        let indexes: Vec<i32> = nodes.iter().map(|(index, _)| int(*index)).collect();
        let call = async {
            let row = sqlx::query_as::<_, (bool, Vec<String>)>(statements::TAKE_NODES);
            let row = row.bind(fence.task.as_uuid()).bind(i64::from(fence.attempt.0));
            Ok::<_, Failure>(row.bind(&names).bind(indexes).fetch_one(self.db.pool()).await?)
        };
        let (holds, taken) = self.db.write(call).await?;
        if !holds {
            return Err(fenced(fence).into());
        }
        if taken.len() == nodes.len() {
            return Ok(Vec::new());
        }
        let taken: HashSet<&str> = taken.iter().map(String::as_str).collect();
        let missed: Vec<&ItemName> =
            nodes.iter().map(|(_, name)| name).filter(|name| !taken.contains(name.as_str())).collect();
        let mut holders = self.holders(fence.task, &missed).await?;
        let held = |name: &ItemName| NodeHeld { name: name.clone(), by: holders.remove(name.as_str()) };
        Ok(missed.into_iter().map(held).collect())
    }

    /// Who holds these nodes. One that was freed meanwhile is held by nobody.
    async fn holders(&self, task: TaskId, nodes: &[&ItemName]) -> Result<HashMap<String, Holder>, Failure> {
        let names: Vec<&str> = nodes.iter().map(|name| name.as_str()).collect();
        let call = async {
            let rows = sqlx::query_as::<_, HolderRow>(statements::HOLDERS).bind(task.as_uuid()).bind(names);
            Ok::<_, Failure>(rows.fetch_all(self.db.pool()).await?)
        };
        let found: Vec<HolderRow> = self.db.read(call).await?;
        let holder = |(name, id, owner, word): HolderRow| {
            let task = TaskId::from_uuid(id);
            let (owner, action) = (rows::owner(task, &owner)?, words::action(&word).to_owned());
            Ok((name, Holder { task, owner, action }))
        };
        found.into_iter().map(holder).collect()
    }
}

fn indexes(stored: Vec<i32>) -> Vec<u32> {
    stored.into_iter().map(i32::unsigned_abs).collect()
}
