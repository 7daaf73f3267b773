//! What a strategy needs of the record: the order of items, being held back, and nodes that only one task may act on.

use std::collections::HashMap;
use std::time::Duration;

use super::book::{Book, Now, Record};
use crate::store::{Fence, HoldBack, Holder, NODES_MAX, NodeHeld, StoreError, change};
use crate::task::{ClusterName, ItemName, ItemResult, Status, TaskId, TaskState};

/// Frees what a task holds that left its worker.
pub(super) fn free(nodes: &mut HashMap<(ClusterName, ItemName), Fence>, record: &mut Record) {
    for name in record.locks.drain() {
        free_one(nodes, record.task.id, &record.task.cluster, &name);
    }
}

fn free_one(
    nodes: &mut HashMap<(ClusterName, ItemName), Fence>,
    task: TaskId,
    cluster: &ClusterName,
    name: &ItemName,
) {
    let key = (cluster.clone(), name.clone());
    if nodes.get(&key).is_some_and(|holder| holder.task == task) {
        nodes.remove(&key);
    }
}

/// Frees what the items held that ended.
pub(super) fn free_ended(
    nodes: &mut HashMap<(ClusterName, ItemName), Fence>,
    record: Option<&mut Record>,
    results: &[ItemResult],
) {
    let Some(record) = record else { return };
    let (task, cluster) = (record.task.id, record.task.cluster.clone());
    let freed = results.iter().filter(|result| record.locks.remove(&result.name));
    freed.for_each(|result| free_one(nodes, task, &cluster, &result.name));
}

impl Record {
    /// How long it still rests.
    pub(super) fn rest_left(&self, now: &Now) -> Option<Duration> {
        let until = self.task.rests_until.filter(|until| *until > now.wall)?;
        let queued = self.task.state.status == Status::Queued;
        queued.then(|| until.duration_since(now.wall).try_into().unwrap_or_default())
    }
}

impl Book {
    pub(super) fn next_lapse(&self, now: &Now) -> Option<Duration> {
        let held = self.open_records().filter(|record| record.task.state.status.is_held());
        let claimable = held.filter(|record| record.task.state.tries < record.task.max_attempts);
        let ends = claimable.map(|record| record.lease_until.unwrap_or(now.mono));
        let ends = ends.map(|end| end.saturating_duration_since(now.mono));
        ends.chain(self.open_records().filter_map(|record| record.rest_left(now))).min()
    }

    pub(super) fn keep_order(&mut self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError> {
        Ok(self.fenced(fence)?.order.get_or_insert_with(|| order.to_vec()).clone())
    }

    pub(super) fn hold_back(
        &mut self,
        fence: Fence,
        hold: &HoldBack,
        now: &Now,
    ) -> Result<TaskState, StoreError> {
        let task = &mut self.fenced(fence)?.task;
        change::hold_back(task, fence.attempt, hold, now.wall)?;
        Ok(task.state)
    }

    pub(super) fn take_nodes(
        &mut self,
        fence: Fence,
        nodes: &[(u32, ItemName)],
        now: &Now,
    ) -> Result<Vec<NodeHeld>, StoreError> {
        debug_assert!(nodes.len() <= NODES_MAX, "a caller takes nodes in batches");
        if !self.is_live(fence, now) {
            return Err(StoreError::Fenced { task: fence.task, by: fence.attempt });
        }
        let cluster = self.fenced(fence)?.task.cluster.clone();
        let mut held = Vec::new();
        for (_, name) in nodes {
            let key = (cluster.clone(), name.clone());
            match self.nodes.get(&key) {
                Some(holder) if holder.task != fence.task && self.is_live(*holder, now) => {
                    held.push(NodeHeld { name: name.clone(), by: self.holder(*holder) });
                }
                _ => {
                    self.nodes.insert(key, fence);
                    self.fenced(fence)?.locks.insert(name.clone());
                }
            }
        }
        Ok(held)
    }

    /// Whether an attempt holds its task under a lease that is not over.
    fn is_live(&self, fence: Fence, now: &Now) -> bool {
        self.tasks.get(&fence.task).is_some_and(|record| {
            record.task.state.attempt == fence.attempt
                && record.task.worker.is_some()
                && record.lease_until.is_some_and(|until| until > now.mono)
        })
    }

    fn holder(&self, holder: Fence) -> Option<Holder> {
        let task = &self.tasks.get(&holder.task)?.task;
        let (owner, action) = (task.owner.clone(), task.action.name().to_owned());
        Some(Holder { task: task.id, owner, action })
    }
}
