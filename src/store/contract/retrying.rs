//! Promises about retries: which items they take, that none runs twice at once, and what they add up to.

use futures_util::future::join_all;

use super::AnyStore;
use super::kit::{by, claim, draft, fence, find, is_refused, moment, result, submit, terminal, user};
use crate::store::{
    Control, Created, IdempotencyKey, ItemQuery, NewRetry, NotRetried, RETRIES_MAX, StoreError, Task,
};
use crate::task::{
    Counts, Draft, Effect, FailureBudget, ItemOutcome, ItemState, Origin, Retry, RetryDraft, Status, TaskId,
};

const OK: ItemOutcome = ItemOutcome::Succeeded { effect: Effect::Changed };

fn no() -> ItemOutcome {
    ItemOutcome::failed("no")
}

fn retry_of(parent: TaskId, draft: RetryDraft) -> NewRetry {
    let (id, owner) = (TaskId::generate(), user("ann"));
    NewRetry {
        id,
        parent,
        owner,
        retry: Retry::new(draft).unwrap(),
        key: None,
        open_max: 1_000,
        origin: Origin::default(),
    }
}

async fn retry(store: &AnyStore, parent: TaskId) -> Task {
    match store.retry(retry_of(parent, RetryDraft::default())).await.unwrap() {
        Some(Created::New(task)) => task,
        other => panic!("no new retry: {other:?}"),
    }
}

async fn refusal(store: &AnyStore, parent: TaskId, draft: RetryDraft) -> NotRetried {
    match store.retry(retry_of(parent, draft)).await {
        Err(StoreError::NotRetried { why, task }) if task == parent => why,
        other => panic!("not refused: {other:?}"),
    }
}

/// Runs the only task that waits, with one outcome per item, to its end.
async fn run(store: &AnyStore, outcomes: &[ItemOutcome]) -> Task {
    let held = claim(store).await;
    let outcome = |(index, _): &(u32, _)| result(*index, outcomes[*index as usize].clone());
    let results: Vec<_> = held.pending.iter().map(outcome).collect();
    store.record(fence(&held), &results).await.unwrap();
    let task = find(store, held.task.id).await;
    store.finish(fence(&held), &terminal(&task)).await.unwrap();
    find(store, task.id).await
}

async fn names(store: &AnyStore, task: TaskId) -> Vec<String> {
    let items = store.items(task, &ItemQuery { limit: 1_000, ..ItemQuery::default() }).await.unwrap();
    items.into_iter().map(|item| item.name.to_string()).collect()
}

async fn merged(store: &AnyStore, task: TaskId) -> Option<Counts> {
    store.retries(task).await.unwrap().merged
}

pub(super) async fn a_retry_takes_what_failed_and_is_otherwise_the_same(store: AnyStore) {
    let budget = FailureBudget { percent: Some(50), ..FailureBudget::default() };
    let full = Draft {
        reason: Some("kernel update".into()),
        priority: Some(2),
        concurrency: Some(3),
        item_timeout_ms: Some(4_000),
        max_attempts: Some(5),
        failure_budget: Some(budget),
        ..draft(6)
    };
    submit(&store, "ann", full).await;
    let skipped = ItemOutcome::skipped("no need");
    let first = run(&store, &[OK, no(), skipped, no(), OK, ItemOutcome::Cancelled]).await;
    let again = retry(&store, first.id).await;
    assert_eq!(names(&store, again.id).await, ["node-1", "node-3"]);
    assert_eq!(again.spec(Vec::new()), first.spec(Vec::new()));
    assert_eq!(
        (again.parent, again.owner.clone(), again.state.status),
        (Some(first.id), user("ann"), Status::Queued)
    );
    assert_eq!(find(&store, again.id).await, again);
    assert_eq!((again.view().parent_id, again.counts), (Some(first.id), Counts::new(2)));
    assert_eq!(find(&store, first.id).await, first, "the first stays as it is");
}

pub(super) async fn a_retry_may_take_more_and_do_it_otherwise(store: AnyStore) {
    submit(&store, "ann", Draft { reason: Some("old".into()), ..draft(4) }).await;
    let first = run(&store, &[ItemOutcome::Cancelled, no(), ItemOutcome::skipped("s"), OK]).await;
    let include = Some(vec![ItemState::Cancelled, ItemState::Skipped, ItemState::Failed]);
    let draft =
        RetryDraft { include, reason: Some("new".into()), concurrency: Some(1), ..RetryDraft::default() };
    let Some(Created::New(again)) = store.retry(retry_of(first.id, draft)).await.unwrap() else {
        panic!("it is new")
    };
    assert_eq!(names(&store, again.id).await, ["node-0", "node-1", "node-2"]);
    assert_eq!((again.reason.as_deref(), again.concurrency), (Some("new"), Some(1)));
}

pub(super) async fn what_is_not_over_or_has_nothing_left_is_not_retried(store: AnyStore) {
    let unknown = TaskId::generate();
    assert_eq!(store.retry(retry_of(unknown, RetryDraft::default())).await.unwrap(), None);
    assert_eq!(store.retries(unknown).await.unwrap(), crate::store::Retries::default());
    let task = submit(&store, "ann", draft(2)).await;
    assert!(is_refused(&store.retry(retry_of(task.id, RetryDraft::default())).await));
    run(&store, &[OK, ItemOutcome::Cancelled]).await;
    assert_eq!(refusal(&store, task.id, RetryDraft::default()).await, NotRetried::NothingLeft);
    assert_eq!(merged(&store, task.id).await, None);
    let other = submit(&store, "ann", draft(1)).await;
    run(&store, &[no()]).await;
    let again = retry(&store, other.id).await;
    assert_eq!(refusal(&store, other.id, RetryDraft::default()).await, NotRetried::Open(again.id));
    let full = NewRetry {
        open_max: 1,
        ..retry_of(task.id, RetryDraft { include: Some(vec![ItemState::Cancelled]), ..RetryDraft::default() })
    };
    assert!(matches!(store.retry(full).await, Err(StoreError::TooManyOpen { max: 1, .. })));
}

pub(super) async fn retries_add_up_by_the_newest_result_of_each_item(store: AnyStore) {
    submit(&store, "ann", draft(5)).await;
    let first = run(&store, &[OK, no(), no(), no(), no()]).await;
    let second = retry(&store, first.id).await;
    assert_eq!(merged(&store, first.id).await, Some(first.counts), "nothing of it has run yet");
    run(&store, &[OK, no(), ItemOutcome::skipped("s"), ItemOutcome::Cancelled]).await;
    let by_newest = Counts { succeeded: 2, failed: 2, skipped: 1, ..Counts::new(5) };
    assert_eq!(merged(&store, first.id).await, Some(by_newest), "what was cancelled there still has failed");
    let third = retry(&store, second.id).await;
    assert_eq!(names(&store, third.id).await, ["node-2"], "of the retry only what failed in it");
    run(&store, &[OK]).await;
    let fourth = retry(&store, first.id).await;
    assert_eq!(names(&store, fourth.id).await, ["node-4"], "of all of them what has failed so far");
    run(&store, &[OK]).await;
    let all = Counts { succeeded: 4, skipped: 1, ..Counts::new(5) };
    assert_eq!(merged(&store, first.id).await, Some(all));
    let of_second = Counts { succeeded: 3, skipped: 1, ..Counts::new(4) };
    assert_eq!(merged(&store, second.id).await, Some(of_second), "also what a later retry of the first did");
    let ids = |tasks: &[Task]| tasks.iter().map(|task| task.id).collect::<Vec<_>>();
    assert_eq!(ids(&store.retries(first.id).await.unwrap().tasks), [second.id, fourth.id]);
    assert_eq!(ids(&store.retries(second.id).await.unwrap().tasks), [third.id]);
    assert_eq!(refusal(&store, first.id, RetryDraft::default()).await, NotRetried::NothingLeft);
}

pub(super) async fn what_was_given_up_is_retried(store: AnyStore) {
    let task = submit(&store, "ann", Draft { max_attempts: Some(1), ..draft(3) }).await;
    let held = super::kit::claim_and_lapse(&store).await;
    store.record(fence(&held), &[super::kit::succeeded(1)]).await.unwrap();
    assert_eq!(store.give_up(10).await.unwrap(), [Status::Failed]);
    let again = retry(&store, task.id).await;
    assert_eq!(names(&store, again.id).await, ["node-0", "node-2"]);
    run(&store, &[OK, OK]).await;
    assert_eq!(merged(&store, task.id).await, Some(Counts { succeeded: 3, ..Counts::new(3) }));
    let cancelled = submit(&store, "ann", draft(2)).await;
    store.control(cancelled.id, Control::Cancel, &by("ann")).await.unwrap();
    assert_eq!(refusal(&store, cancelled.id, RetryDraft::default()).await, NotRetried::NothingLeft);
    let include = Some(vec![ItemState::Cancelled]);
    let asked = retry_of(cancelled.id, RetryDraft { include, ..RetryDraft::default() });
    let Some(Created::New(again)) = store.retry(asked).await.unwrap() else { panic!("it is new") };
    assert_eq!(again.counts.total, 2);
}

pub(super) async fn racing_retries_run_no_item_twice(store: AnyStore) {
    submit(&store, "ann", draft(3)).await;
    let first = run(&store, &[no(), no(), no()]).await;
    let races = join_all((0..8).map(|_| store.retry(retry_of(first.id, RetryDraft::default())))).await;
    let new = races.iter().filter(|done| matches!(done, Ok(Some(Created::New(_))))).count();
    let open = races
        .iter()
        .filter(|done| matches!(done, Err(StoreError::NotRetried { why: NotRetried::Open(_), .. })));
    assert_eq!((new, open.count()), (1, 7), "{races:?}");
    assert_eq!(store.retries(first.id).await.unwrap().tasks.len(), 1);
}

pub(super) async fn a_repeated_retry_with_its_key_is_the_first_one(store: AnyStore) {
    submit(&store, "ann", draft(1)).await;
    let first = run(&store, &[no()]).await;
    let keyed = |body: u8| NewRetry {
        key: Some(IdempotencyKey { key: "again".into(), fingerprint: [body; 32] }),
        ..retry_of(first.id, RetryDraft::default())
    };
    let Some(Created::New(made)) = store.retry(keyed(1)).await.unwrap() else { panic!("it is new") };
    for _ in 0..2 {
        let Some(Created::Existing(same)) = store.retry(keyed(1)).await.unwrap() else {
            panic!("it is there")
        };
        assert_eq!(same.id, made.id);
        if same.state.status == Status::Queued {
            run(&store, &[OK]).await;
        }
    }
    assert!(matches!(store.retry(keyed(2)).await, Err(StoreError::KeyConflict { task }) if task == made.id));
    let races = join_all((0..4).map(|_| store.retry(keyed(1)))).await;
    assert!(races.iter().all(|done| matches!(done, Ok(Some(Created::Existing(_))))), "{races:?}");
}

pub(super) async fn a_family_of_retries_is_bounded_and_outlives_its_first_task(store: AnyStore) {
    submit(&store, "ann", draft(2)).await;
    let first = run(&store, &[no(), OK]).await;
    let mut last = first.clone();
    for _ in 0..RETRIES_MAX {
        last = retry(&store, last.id).await;
        run(&store, &[no()]).await;
    }
    for task in [first.id, last.id] {
        assert_eq!(refusal(&store, task, RetryDraft::default()).await, NotRetried::TooMany);
    }
    assert_eq!(merged(&store, first.id).await, Some(Counts { succeeded: 1, failed: 1, ..Counts::new(2) }));
    assert!(first.finished_at > Some(moment()));
    assert_eq!(store.prune(std::time::Duration::ZERO, 1).await.unwrap(), 1);
    assert_eq!(store.find(first.id).await.unwrap(), None);
    let second = store.retries(last.parent.unwrap()).await.unwrap();
    assert_eq!(second.tasks, [find(&store, last.id).await]);
}
