//! Promises to the worker about results, counts and endings.

use std::time::Duration;

use futures_util::future::join_all;

use super::AnyStore;
use super::kit::{
    by, claim, claim_and_lapse, draft, fence, find, is_fenced, is_refused, moment, result, submit,
    succeed_all, succeeded, terminal, worker,
};
use crate::store::{Control, Fence, ItemQuery, RECORD_MAX, Renewal};
use crate::task::{
    Attempt, Counts, Effect, EventKind, Item, ItemOutcome, ItemResult, ItemState, Seq, Status, TaskId,
};

pub(super) async fn a_result_is_recorded_once_and_stays(store: AnyStore) {
    let task = submit(&store, "ann", draft(3)).await;
    let claim = claim(&store).await;
    let first = result(1, ItemOutcome::Succeeded { effect: Effect::Already });
    let expected = Counts { succeeded: 1, ..Counts::new(3) };
    assert_eq!(store.record(fence(&claim), std::slice::from_ref(&first)).await.unwrap(), expected);
    assert_eq!(store.record(fence(&claim), std::slice::from_ref(&first)).await.unwrap(), expected);
    let other = result(1, ItemOutcome::failed("too late"));
    let both =
        [other, result(2, ItemOutcome::skipped("new")), result(2, ItemOutcome::failed("twice in one call"))];
    let expected = Counts { skipped: 1, ..expected };
    assert_eq!(store.record(fence(&claim), &both).await.unwrap(), expected);
    assert_eq!(find(&store, task.id).await.counts, expected);
    let items = items(&store, task.id).await;
    assert_eq!((items[0].result.as_ref(), items[1].result.as_ref()), (None, Some(&first)));
    assert_eq!(items[2].result, Some(both[1].clone()));
}

pub(super) async fn counts_are_the_sum_of_results(store: AnyStore) {
    let task = submit(&store, "ann", draft(20)).await;
    let claim = claim(&store).await;
    let outcome = |index: u32| match index % 4 {
        0 => ItemOutcome::Succeeded { effect: Effect::Changed },
        1 => ItemOutcome::failed("no"),
        2 => ItemOutcome::skipped("no need"),
        _ => ItemOutcome::Cancelled,
    };
    let results: Vec<ItemResult> = (0..18).map(|index| result(index, outcome(index))).collect();
    for window in results.windows(5) {
        store.record(fence(&claim), window).await.unwrap();
    }
    let mut expected = Counts::new(20);
    for item in items(&store, task.id).await {
        if let Some(result) = item.result {
            expected.add(&result.outcome);
        }
    }
    assert_eq!(expected.current(), 18);
    assert_eq!(find(&store, task.id).await.counts, expected);
}

pub(super) async fn a_whole_batch_of_results_is_recorded(store: AnyStore) {
    submit(&store, "ann", draft(RECORD_MAX + 1)).await;
    let claim = claim(&store).await;
    let results: Vec<_> = (0..u32::try_from(RECORD_MAX).unwrap()).map(succeeded).collect();
    let counts = store.record(fence(&claim), &results).await.unwrap();
    assert_eq!((counts.succeeded, counts.pending()), (5_000, 1));
    assert_eq!(store.record(fence(&claim), &[]).await.unwrap(), counts);
}

pub(super) async fn a_stale_attempt_writes_nothing(store: AnyStore) {
    let task = submit(&store, "ann", draft(1)).await;
    let stale = claim_and_lapse(&store).await;
    let mut event = terminal(&succeed_all(&store, &stale).await);
    event.attempt = stale.task.state.attempt;
    let current = claim(&store).await;
    assert_eq!(current.task.state.attempt, Attempt(2));
    let before = find(&store, task.id).await;
    assert!(is_fenced(&store.record(fence(&stale), &[succeeded(0)]).await));
    assert!(is_fenced(&store.finish(fence(&stale), &event).await));
    assert!(is_fenced(&store.hand_over(fence(&stale)).await));
    let renewed = store.renew(&[fence(&stale)], Duration::from_secs(60)).await.unwrap();
    assert_eq!(renewed, [Renewal::Lost]);
    let ahead = Fence { task: task.id, attempt: Attempt(3) };
    assert!(is_fenced(&store.record(ahead, &[succeeded(0)]).await));
    assert_eq!(find(&store, task.id).await, before);
    store.finish(fence(&current), &terminal(&before)).await.unwrap();
}

pub(super) async fn an_unknown_task_is_fenced(store: AnyStore) {
    submit(&store, "ann", draft(1)).await;
    let event = terminal(&succeed_all(&store, &claim(&store).await).await);
    let unknown = Fence { task: TaskId::generate(), attempt: Attempt(1) };
    assert!(is_fenced(&store.record(unknown, &[succeeded(0)]).await));
    assert!(is_fenced(&store.finish(unknown, &event).await));
    assert!(is_fenced(&store.hand_over(unknown).await));
}

pub(super) async fn an_index_that_the_task_does_not_have_adds_nothing(store: AnyStore) {
    let task = submit(&store, "ann", draft(2)).await;
    let claim = claim(&store).await;
    let counts =
        store.record(fence(&claim), &[succeeded(2), succeeded(0), succeeded(u32::MAX)]).await.unwrap();
    assert_eq!(counts.succeeded, 1);
    assert_eq!(items(&store, task.id).await.len(), 2);
}

pub(super) async fn a_paused_task_takes_the_results_of_what_was_in_flight(store: AnyStore) {
    let task = submit(&store, "ann", draft(2)).await;
    let first = claim(&store).await;
    store.control(task.id, Control::Pause, &by("ann")).await.unwrap();
    assert_eq!(store.record(fence(&first), &[succeeded(0)]).await.unwrap().succeeded, 1);
    assert_eq!(store.hand_over(fence(&first)).await.unwrap(), Status::Paused);
    assert_eq!(find(&store, task.id).await.worker, None);
    store.control(task.id, Control::Resume, &by("ann")).await.unwrap();
    let second = claim(&store).await;
    assert_eq!(second.pending.len(), 1);
    assert!(is_fenced(&store.record(fence(&first), &[succeeded(1)]).await));
}

pub(super) async fn a_task_ends_once_with_its_event_in_the_outbox(store: AnyStore) {
    let task = submit(&store, "ann", draft(2)).await;
    let claim = claim(&store).await;
    let results = [succeeded(0), result(1, ItemOutcome::failed("no"))];
    store.record(fence(&claim), &results).await.unwrap();
    let mut event = terminal(&find(&store, task.id).await);
    event.error = Some("one node did not answer".into());
    event.message = Some("done".into());
    let id = store.finish(fence(&claim), &event).await.unwrap();
    let over = find(&store, task.id).await;
    assert_eq!(over.state.status, Status::CompletedWithErrors);
    assert_eq!((over.state.attempt, over.worker, &over.error), (Attempt(1), None, &event.error));
    assert!(over.finished_at.is_some());
    let outbox = store.unpublished(std::time::Duration::ZERO, 10).await.unwrap();
    assert_eq!(outbox.len(), 1);
    assert_eq!((outbox[0].id, &outbox[0].owner, &outbox[0].event), (id, &task.owner, &event));
    assert!(is_fenced(&store.record(fence(&claim), &[succeeded(0)]).await), "it is over");
    assert!(is_refused(&store.hand_over(fence(&claim)).await));
    assert!(store.claim(&worker(1), &super::kit::RULES).await.unwrap().is_none());
}

pub(super) async fn finishing_again_returns_the_same_row(store: AnyStore) {
    submit(&store, "ann", draft(1)).await;
    let claim = claim(&store).await;
    let event = terminal(&succeed_all(&store, &claim).await);
    let first = store.finish(fence(&claim), &event).await.unwrap();
    assert_eq!(store.finish(fence(&claim), &event).await.unwrap(), first);
    store.published(&[first]).await.unwrap();
    assert_eq!(store.finish(fence(&claim), &event).await.unwrap(), first);
    let mut other = event;
    other.status = Status::Failed;
    assert!(is_refused(&store.finish(fence(&claim), &other).await));
}

pub(super) async fn a_task_with_pending_items_is_not_finished(store: AnyStore) {
    let task = submit(&store, "ann", draft(2)).await;
    let claim = claim(&store).await;
    store.record(fence(&claim), &[succeeded(0)]).await.unwrap();
    let mut event = find(&store, task.id).await.event(EventKind::Complete, Seq(3), moment());
    assert!(is_refused(&store.finish(fence(&claim), &event).await), "running is not an end");
    event.status = Status::Completed;
    assert!(is_refused(&store.finish(fence(&claim), &event).await), "an item is pending");
    assert_eq!(find(&store, task.id).await.state.status, Status::Running);
    store.record(fence(&claim), &[succeeded(1)]).await.unwrap();
    store.finish(fence(&claim), &event).await.unwrap();
}

pub(super) async fn racing_records_of_the_same_items_count_once(store: AnyStore) {
    let task = submit(&store, "ann", draft(100)).await;
    let claim = claim(&store).await;
    let results: Vec<_> = (0..100).map(succeeded).collect();
    let races = (0..8).map(|n| store.record(fence(&claim), &results[n * 5..60 + n * 5]));
    for outcome in join_all(races).await {
        outcome.unwrap();
    }
    assert_eq!(find(&store, task.id).await.counts.succeeded, 95);
    let recorded = items(&store, task.id).await;
    assert_eq!(recorded.iter().filter(|item| item.state() == ItemState::Succeeded).count(), 95);
}

async fn items(store: &AnyStore, task: TaskId) -> Vec<Item> {
    store.items(task, &ItemQuery { limit: 1_000, ..ItemQuery::default() }).await.unwrap()
}
