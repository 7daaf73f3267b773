//! What the promises share: drafts, claims and waits.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::AnyStore;
use crate::store::{Claim, ClaimRules, Created, Fence, IdempotencyKey, NewTask, OutboxId, StoreError, Task};
use crate::task::{
    By, Draft, Effect, Event, EventKind, ItemName, ItemOutcome, ItemResult, Origin, ReplicaId, Seq, TaskId,
    TaskSpec, UserId,
};

/// A lease that no promise outlives.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// A lease to let lapse.
pub(super) const SHORT: Duration = Duration::from_millis(50);
/// How long anything awaited may take on a loaded machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Rules under which nothing lapses and no cluster is full.
pub(super) const RULES: ClaimRules = ClaimRules { lease: LONG, per_cluster_max: 1_000 };
/// Rules under which a claim lapses soon.
pub(super) const LAPSING: ClaimRules = ClaimRules { lease: SHORT, per_cluster_max: 1_000 };

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A user of whom nothing else is known.
pub(super) fn by(name: &str) -> By {
    By::of(user(name))
}

pub(super) fn worker(n: usize) -> ReplicaId {
    ReplicaId::new(format!("worker-{n}")).unwrap()
}

/// A draft with so many items on the cluster `prod`.
pub(super) fn draft(items: usize) -> Draft {
    Draft {
        action: "wait".into(),
        parameters: json!({"duration_ms": 1, "fail_every": 0}),
        cluster: "prod".into(),
        items: (0..items).map(|n| format!("node-{n}")).collect(),
        ..Draft::default()
    }
}

pub(super) fn new_task(owner: &str, draft: Draft) -> NewTask {
    let spec = TaskSpec::new(draft).unwrap();
    NewTask {
        id: TaskId::generate(),
        owner: user(owner),
        spec,
        key: None,
        open_max: 1_000,
        origin: Origin::default(),
    }
}

pub(super) fn keyed(owner: &str, draft: Draft, key: &str, body: u8) -> NewTask {
    let key = IdempotencyKey { key: key.into(), fingerprint: [body; 32] };
    NewTask { key: Some(key), ..new_task(owner, draft) }
}

/// Records a task that must be new.
pub(super) async fn submit(store: &AnyStore, owner: &str, draft: Draft) -> Task {
    match store.create(new_task(owner, draft)).await.unwrap() {
        Created::New(task) => task,
        Created::Existing(task) => panic!("task {} was there before", task.id),
    }
}

/// Claims under rules that hold up nothing; there must be a task.
pub(super) async fn claim(store: &AnyStore) -> Claim {
    store.claim(&worker(0), &RULES).await.unwrap().expect("there is something to claim")
}

/// Claims and lets the lease lapse. What is claimed next may be this task again.
pub(super) async fn claim_and_lapse(store: &AnyStore) -> Claim {
    let claim = store.claim(&worker(0), &LAPSING).await.unwrap().expect("there is something to claim");
    until("a lease lapses", async || store.backlog().await.unwrap().lapsed > 0).await;
    claim
}

pub(super) fn fence(claim: &Claim) -> Fence {
    Fence { task: claim.task.id, attempt: claim.task.state.attempt }
}

pub(super) async fn find(store: &AnyStore, id: TaskId) -> Task {
    store.find(id).await.unwrap().expect("the task is there")
}

/// Some moment, in whole microseconds as every backend keeps them.
pub(super) fn moment() -> Timestamp {
    Timestamp::from_microsecond(1_790_000_000_123_456).unwrap()
}

pub(super) fn result(index: u32, outcome: ItemOutcome) -> ItemResult {
    let name = ItemName::new(format!("node-{index}")).unwrap();
    ItemResult { index, name, outcome, tries: 1, finished_at: moment() }
}

pub(super) fn succeeded(index: u32) -> ItemResult {
    result(index, ItemOutcome::Succeeded { effect: Effect::Changed })
}

/// Records that every pending item of the claim succeeded.
pub(super) async fn succeed_all(store: &AnyStore, claim: &Claim) -> Task {
    let results: Vec<_> = claim.pending.iter().map(|(index, _)| succeeded(*index)).collect();
    store.record(fence(claim), &results).await.unwrap();
    find(store, claim.task.id).await
}

/// The terminal event that a worker makes of a task whose items all have a result.
pub(super) fn terminal(task: &Task) -> Event {
    let verdict = task.counts.verdict().expect("every item has a result");
    let mut event = task.event(EventKind::terminal(verdict), Seq(9), moment());
    event.status = verdict;
    event
}

/// Claims the best next task and ends it well.
pub(super) async fn complete_next(store: &AnyStore) -> (Task, OutboxId) {
    let claim = claim(store).await;
    let task = succeed_all(store, &claim).await;
    let row = store.finish(fence(&claim), &terminal(&task)).await.unwrap();
    (find(store, task.id).await, row)
}

pub(super) fn is_fenced<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Fenced { .. }))
}

pub(super) fn is_refused<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Refused { .. }))
}

/// Waits until `done` says so.
pub(super) async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "waited {DEADLINE:?} in vain until {what}");
}
