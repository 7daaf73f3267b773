//! The store with faults.

use std::time::Duration;

use async_trait::async_trait;

use super::{Faulty, pass};
use crate::store::audit::Asked;
use crate::store::{
    Audit, AuditQuery, AuditRow, AuditedNode, Backlog, Claim, ClaimRules, ClaimStore, Control, Controlled,
    Created, Fence, HoldBack, IdempotencyKey, ItemQuery, Leadership, NewRetry, NewTask, NodeHeld, Outbox,
    OutboxId, OutboxRow, Renewal, Retries, StalledTask, StoreError, Task, TaskQuery, TaskStore, UpkeepStore,
    Watched,
};
use crate::task::{
    By, Counts, Event, Item, ItemName, ItemResult, ReplicaId, Status, TaskId, TaskState, Then, UserId,
};

#[async_trait]
impl<S: Outbox + ?Sized> Outbox for Faulty<S> {
    async fn published(&self, rows: &[OutboxId]) -> Result<(), StoreError> {
        pass!(self.plan, "store.published", self.inner.published(rows))
    }
}

#[async_trait]
impl<S: Audit + ?Sized> Audit for Faulty<S> {
    async fn note_refusal(&self, asked: &Asked, message: &str, by: &By) -> Result<(), StoreError> {
        pass!(self.plan, "store.note_refusal", self.inner.note_refusal(asked, message, by))
    }

    async fn audited(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        pass!(self.plan, "store.audited", self.inner.audited(query))
    }

    async fn audited_nodes(
        &self,
        task: TaskId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<AuditedNode>, StoreError> {
        pass!(self.plan, "store.audited_nodes", self.inner.audited_nodes(task, after, limit))
    }
}

#[async_trait]
impl<S: TaskStore + ?Sized> TaskStore for Faulty<S> {
    async fn create(&self, new: NewTask) -> Result<Created, StoreError> {
        pass!(self.plan, "store.create", self.inner.create(new.clone()))
    }

    async fn of_key(&self, owner: &UserId, key: &IdempotencyKey) -> Result<Option<Task>, StoreError> {
        pass!(self.plan, "store.of_key", self.inner.of_key(owner, key))
    }

    async fn find(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        pass!(self.plan, "store.find", self.inner.find(id))
    }

    async fn list(&self, query: &TaskQuery) -> Result<Vec<Task>, StoreError> {
        pass!(self.plan, "store.list", self.inner.list(query))
    }

    async fn items(&self, task: TaskId, query: &ItemQuery) -> Result<Vec<Item>, StoreError> {
        pass!(self.plan, "store.items", self.inner.items(task, query))
    }

    async fn snapshot(&self, owner: &UserId, recent: u32) -> Result<Vec<Task>, StoreError> {
        pass!(self.plan, "store.snapshot", self.inner.snapshot(owner, recent))
    }

    async fn ended(&self, tasks: &[TaskId], age: Duration) -> Result<Vec<OutboxRow>, StoreError> {
        pass!(self.plan, "store.ended", self.inner.ended(tasks, age))
    }

    async fn watched(&self, owners: &[UserId], recent: Duration) -> Result<Vec<Watched>, StoreError> {
        pass!(self.plan, "store.watched", self.inner.watched(owners, recent))
    }

    async fn control(&self, id: TaskId, control: Control, by: &By) -> Result<Option<Controlled>, StoreError> {
        pass!(self.plan, "store.control", self.inner.control(id, control, by))
    }

    async fn retry(&self, new: NewRetry) -> Result<Option<Created>, StoreError> {
        pass!(self.plan, "store.retry", self.inner.retry(new.clone()))
    }

    async fn retries(&self, id: TaskId) -> Result<Retries, StoreError> {
        pass!(self.plan, "store.retries", self.inner.retries(id))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        pass!(self.plan, "store.ping", self.inner.ping())
    }
}

#[async_trait]
impl<S: ClaimStore + ?Sized> ClaimStore for Faulty<S> {
    async fn claim(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Option<Claim>, StoreError> {
        pass!(self.plan, "store.claim", self.inner.claim(worker, rules))
    }

    async fn hear(&self, worker: &ReplicaId, ring: &(dyn Fn() + Send + Sync)) {
        self.inner.hear(worker, ring).await;
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        pass!(self.plan, "store.next_lapse", self.inner.next_lapse())
    }

    async fn renew(&self, held: &[Fence], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        pass!(self.plan, "store.renew", self.inner.renew(held, lease))
    }

    async fn record(&self, fence: Fence, results: &[ItemResult]) -> Result<Counts, StoreError> {
        pass!(self.plan, "store.record", self.inner.record(fence, results))
    }

    async fn finish(&self, fence: Fence, event: &Event) -> Result<OutboxId, StoreError> {
        pass!(self.plan, "store.finish", self.inner.finish(fence, event))
    }

    async fn halt(&self, fence: Fence, then: Then, message: &str) -> Result<TaskState, StoreError> {
        pass!(self.plan, "store.halt", self.inner.halt(fence, then, message))
    }

    async fn keep_order(&self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError> {
        pass!(self.plan, "store.keep_order", self.inner.keep_order(fence, order))
    }

    async fn hold_back(&self, fence: Fence, hold: &HoldBack) -> Result<TaskState, StoreError> {
        pass!(self.plan, "store.hold_back", self.inner.hold_back(fence, hold))
    }

    async fn take_nodes(&self, fence: Fence, nodes: &[(u32, ItemName)]) -> Result<Vec<NodeHeld>, StoreError> {
        pass!(self.plan, "store.take_nodes", self.inner.take_nodes(fence, nodes))
    }

    async fn hand_over(&self, fence: Fence) -> Result<Status, StoreError> {
        pass!(self.plan, "store.hand_over", self.inner.hand_over(fence))
    }
}

#[async_trait]
impl<S: UpkeepStore + ?Sized> UpkeepStore for Faulty<S> {
    async fn claimable(&self, limit: u32) -> Result<Vec<TaskId>, StoreError> {
        pass!(self.plan, "store.claimable", self.inner.claimable(limit))
    }

    async fn give_up(&self, limit: u32) -> Result<Vec<Status>, StoreError> {
        pass!(self.plan, "store.give_up", self.inner.give_up(limit))
    }

    async fn unpublished(&self, age: Duration, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        pass!(self.plan, "store.unpublished", self.inner.unpublished(age, limit))
    }

    async fn prune(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        pass!(self.plan, "store.prune", self.inner.prune(age, limit))
    }

    async fn prune_audit(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        pass!(self.plan, "store.prune_audit", self.inner.prune_audit(age, limit))
    }

    async fn stalled(&self, after: Duration, limit: u32) -> Result<Vec<StalledTask>, StoreError> {
        pass!(self.plan, "store.stalled", self.inner.stalled(after, limit))
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        pass!(self.plan, "store.backlog", self.inner.backlog())
    }
}

#[async_trait]
impl<S: Leadership + ?Sized> Leadership for Faulty<S> {
    async fn lead(&self) -> Result<bool, StoreError> {
        pass!(self.plan, "store.lead", self.inner.lead())
    }

    async fn step_down(&self) {
        self.inner.step_down().await;
    }
}
