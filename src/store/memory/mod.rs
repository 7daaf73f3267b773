//! The record in this process, gone with it: for a laptop, for tests, and as the model of what `postgres` does.
//!
//! Everything is under one mutex, held for the length of one call and never across an await. Leases are measured by
//! the monotonic clock, all else by the wall clock. There is one process, so it always leads. Bounded by the pruner,
//! which forgets what is over. Not here: the rules ([`book`]).

mod audit;
mod book;
mod retries;
mod strategies;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::audit::MemoryAudit;
use self::book::{Book, Now};
use super::audit::Asked;
use super::{
    Audit, AuditEntry, AuditQuery, AuditRow, AuditedNode, Backlog, Claim, ClaimRules, ClaimStore, Control,
    Controlled, Created, Fence, HoldBack, IdempotencyKey, ItemQuery, Leadership, NewRetry, NewTask, NodeHeld,
    Outbox, OutboxId, OutboxRow, Renewal, Retries, StalledTask, StoreError, Task, TaskQuery, TaskStore,
    UpkeepStore, Watched,
};
use crate::clock::Clock;
use crate::task::{
    By, Counts, Event, Item, ItemName, ItemResult, ReplicaId, Status, TaskId, TaskState, Then, UserId,
};

/// The record in this process.
pub struct MemoryStore {
    book: Mutex<Book>,
    /// Counts changes by users.
    changes: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

impl MemoryStore {
    /// An empty record.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { book: Mutex::default(), changes: watch::Sender::default(), clock }
    }

    /// Where rows of the audit go that other parts of this process add.
    #[must_use]
    pub fn audit(&self) -> MemoryAudit {
        self.book().audit.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no call panics while it holds the book")
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.now(), mono: Instant::now() }
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn published(&self, rows: &[OutboxId]) -> Result<(), StoreError> {
        self.book().published(rows);
        Ok(())
    }
}

#[async_trait]
impl Audit for MemoryStore {
    async fn note_refusal(&self, asked: &Asked, message: &str, by: &By) -> Result<(), StoreError> {
        self.audit().add(AuditEntry::refused(asked, message, by.clone()), self.now().wall);
        Ok(())
    }

    async fn audited(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        Ok(self.book().audited(query))
    }

    async fn audited_nodes(
        &self,
        task: TaskId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<AuditedNode>, StoreError> {
        Ok(self.book().audited_nodes(task, after, limit))
    }
}

#[async_trait]
impl TaskStore for MemoryStore {
    async fn create(&self, new: NewTask) -> Result<Created, StoreError> {
        self.book().create(new, &self.now())
    }

    async fn of_key(&self, owner: &UserId, key: &IdempotencyKey) -> Result<Option<Task>, StoreError> {
        let known = self.book().of_key(owner, Some(key))?;
        Ok(known.map(|(Created::New(task) | Created::Existing(task))| task))
    }

    async fn find(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        Ok(self.book().find(id))
    }

    async fn list(&self, query: &TaskQuery) -> Result<Vec<Task>, StoreError> {
        Ok(self.book().list(query))
    }

    async fn items(&self, task: TaskId, query: &ItemQuery) -> Result<Vec<Item>, StoreError> {
        Ok(self.book().items(task, query))
    }

    async fn snapshot(&self, owner: &UserId, recent: u32) -> Result<Vec<Task>, StoreError> {
        Ok(self.book().snapshot(owner, recent))
    }

    async fn ended(&self, tasks: &[TaskId], age: Duration) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.book().ended(tasks, age, &self.now()))
    }

    async fn watched(&self, owners: &[UserId], recent: Duration) -> Result<Vec<Watched>, StoreError> {
        Ok(self.book().watched(owners, recent, &self.now()))
    }

    async fn control(&self, id: TaskId, control: Control, by: &By) -> Result<Option<Controlled>, StoreError> {
        let controlled = self.book().control(id, control, by, &self.now())?;
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        Ok(controlled)
    }

    async fn retry(&self, new: NewRetry) -> Result<Option<Created>, StoreError> {
        self.book().retry(new, &self.now())
    }

    async fn retries(&self, id: TaskId) -> Result<Retries, StoreError> {
        Ok(self.book().retries(id))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl ClaimStore for MemoryStore {
    async fn claim(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Option<Claim>, StoreError> {
        self.book().claim(worker, rules, &self.now())
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        Ok(self.book().next_lapse(&self.now()))
    }

    async fn renew(&self, held: &[Fence], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        Ok(self.book().renew(held, lease, &self.now()))
    }

    async fn hear(&self, _: &ReplicaId, ring: &(dyn Fn() + Send + Sync)) {
        let mut changes = self.changes.subscribe();
        loop {
            ring();
            // The sender lives in `self`, so the wait cannot fail.
            let _ = changes.changed().await;
        }
    }

    async fn record(&self, fence: Fence, results: &[ItemResult]) -> Result<Counts, StoreError> {
        debug_assert!(results.len() <= super::RECORD_MAX, "a caller records in batches");
        self.book().record(fence, results, &self.now())
    }

    async fn finish(&self, fence: Fence, event: &Event) -> Result<OutboxId, StoreError> {
        self.book().finish(fence, event, &self.now())
    }

    async fn halt(&self, fence: Fence, then: Then, message: &str) -> Result<TaskState, StoreError> {
        self.book().halt(fence, then, message, &self.now())
    }

    async fn keep_order(&self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError> {
        self.book().keep_order(fence, order)
    }

    async fn hold_back(&self, fence: Fence, hold: &HoldBack) -> Result<TaskState, StoreError> {
        self.book().hold_back(fence, hold, &self.now())
    }

    async fn take_nodes(&self, fence: Fence, nodes: &[(u32, ItemName)]) -> Result<Vec<NodeHeld>, StoreError> {
        self.book().take_nodes(fence, nodes, &self.now())
    }

    async fn hand_over(&self, fence: Fence) -> Result<Status, StoreError> {
        self.book().hand_over(fence, &self.now())
    }
}

#[async_trait]
impl UpkeepStore for MemoryStore {
    async fn claimable(&self, limit: u32) -> Result<Vec<TaskId>, StoreError> {
        Ok(self.book().claimable(limit, &self.now()))
    }

    async fn give_up(&self, limit: u32) -> Result<Vec<Status>, StoreError> {
        self.book().give_up(limit, &self.now())
    }

    async fn unpublished(&self, age: Duration, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.book().unpublished(age, limit, &self.now()))
    }

    async fn prune(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        Ok(self.book().prune(age, limit, &self.now()))
    }

    async fn prune_audit(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        Ok(self.book().prune_audit(age, limit, &self.now()))
    }

    async fn stalled(&self, after: Duration, limit: u32) -> Result<Vec<StalledTask>, StoreError> {
        Ok(self.book().stalled(after, limit, &self.now()))
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        Ok(self.book().backlog(&self.now()))
    }
}

#[async_trait]
impl Leadership for MemoryStore {
    async fn lead(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn step_down(&self) {}
}

#[cfg(test)]
mod tests;
