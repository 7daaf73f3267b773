//! Promises to maintenance.

use std::time::Duration;

use super::AnyStore;
use super::kit::{
    LAPSING, RULES, by, claim, claim_and_lapse, complete_next, draft, fence, find, is_fenced, keyed, submit,
    succeeded, until, user, worker,
};
use crate::store::{Control, Created, ItemQuery, OutboxId, TaskQuery};
use crate::task::{Attempt, Counts, Draft, EventKind, ItemState, Seq, Status};

pub(super) async fn what_may_be_claimed_is_listed_oldest_first(store: AnyStore) {
    let lapsed = submit(&store, "ann", draft(1)).await.id;
    claim_and_lapse(&store).await;
    let queued = submit(&store, "ann", draft(1)).await.id;
    let paused = submit(&store, "ann", draft(1)).await.id;
    store.control(paused, Control::Pause, &by("ann")).await.unwrap();
    let other = submit(&store, "bob", draft(1)).await.id;
    assert_eq!(store.claimable(10).await.unwrap(), [lapsed, queued, other]);
    assert_eq!(store.claimable(2).await.unwrap(), [lapsed, queued]);
    claim(&store).await;
    assert_eq!(store.claimable(10).await.unwrap().len(), 2);
}

pub(super) async fn a_task_without_tries_left_is_given_up(store: AnyStore) {
    let poison = Draft { max_attempts: Some(2), ..draft(3) };
    let task = submit(&store, "ann", poison).await;
    let first = claim_and_lapse(&store).await;
    assert_eq!(store.give_up(10).await.unwrap(), [], "a try is left");
    let second = store.claim(&worker(0), &LAPSING).await.unwrap().unwrap();
    store.record(fence(&second), &[succeeded(1)]).await.unwrap();
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    assert!(store.claim(&worker(0), &RULES).await.unwrap().is_none());
    assert_eq!(store.claimable(10).await.unwrap(), []);
    assert_eq!(store.give_up(10).await.unwrap(), [Status::Failed]);
    assert_eq!(store.give_up(10).await.unwrap(), []);
    let over = find(&store, task.id).await;
    assert_eq!((over.state.status, over.state.attempt), (Status::Failed, Attempt(3)));
    assert_eq!(over.error.as_deref(), Some("gave up after 2 attempts"));
    assert_eq!(over.counts, Counts { succeeded: 1, failed: 2, ..Counts::new(3) });
    let failed = ItemQuery { state: Some(ItemState::Failed), limit: 10, ..ItemQuery::default() };
    let failed = store.items(task.id, &failed).await.unwrap();
    assert_eq!(failed.iter().map(|item| item.index).collect::<Vec<_>>(), [0, 2]);
    let why = failed[0].result.as_ref().and_then(|result| result.outcome.message());
    assert_eq!(why, over.error.as_deref());
    let rows = store.unpublished(Duration::ZERO, 10).await.unwrap();
    let event = &rows[0].event;
    assert_eq!((event.order(), event.kind), ((Attempt(3), Seq::FIRST), EventKind::Error));
    assert_eq!((event.counts, &event.error), (over.counts, &over.error));
    assert!(is_fenced(&store.record(fence(&first), &[succeeded(0)]).await));
}

pub(super) async fn a_cancelling_task_without_tries_left_ends_as_cancelled(store: AnyStore) {
    let task = submit(&store, "ann", Draft { max_attempts: Some(1), ..draft(2) }).await;
    store.claim(&worker(0), &LAPSING).await.unwrap().unwrap();
    store.control(task.id, Control::Cancel, &by("ann")).await.unwrap();
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    assert_eq!(store.give_up(10).await.unwrap(), [Status::Cancelled]);
    let over = find(&store, task.id).await;
    assert_eq!((over.state.status, over.counts.cancelled, over.error), (Status::Cancelled, 2, None));
    let rows = store.unpublished(Duration::ZERO, 10).await.unwrap();
    assert_eq!((rows[0].event.status, rows[0].event.kind), (Status::Cancelled, EventKind::Complete));
}

pub(super) async fn the_outbox_is_in_order_until_published(store: AnyStore) {
    let mut made = Vec::new();
    for n in 0..4 {
        submit(&store, &format!("user-{n}"), draft(1)).await;
        made.push(complete_next(&store).await.1);
    }
    let unpublished = async |limit| {
        let rows = store.unpublished(Duration::ZERO, limit).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(unpublished(10).await, made);
    assert_eq!(unpublished(3).await, made[..3]);
    assert_eq!(store.backlog().await.unwrap().outbox, 4);
    assert_eq!(store.unpublished(Duration::from_secs(3_600), 10).await.unwrap(), []);
    store.published(&[made[2], made[0], OutboxId(i64::MAX)]).await.unwrap();
    store.published(&[made[2]]).await.unwrap();
    store.published(&[]).await.unwrap();
    assert_eq!(unpublished(10).await, [made[1], made[3]]);
}

pub(super) async fn pruning_forgets_what_is_long_over_and_nothing_else(store: AnyStore) {
    let mut over = Vec::new();
    for _ in 0..3 {
        submit(&store, "ann", draft(2)).await;
        over.push(complete_next(&store).await.0.id);
    }
    let queued = submit(&store, "ann", draft(1)).await.id;
    assert_eq!(store.prune(Duration::from_secs(3_600), 10).await.unwrap(), 0);
    assert_eq!(store.prune(Duration::ZERO, 2).await.unwrap(), 2);
    let left = store.list(&TaskQuery { limit: 10, ..TaskQuery::default() }).await.unwrap();
    assert_eq!(left.iter().map(|task| task.id).collect::<Vec<_>>(), [queued, over[2]]);
    assert_eq!(store.items(over[0], &ItemQuery { limit: 9, ..ItemQuery::default() }).await.unwrap(), []);
    assert_eq!(store.prune(Duration::ZERO, 2).await.unwrap(), 1);
    assert_eq!(store.prune(Duration::ZERO, 2).await.unwrap(), 0);
    assert_eq!(store.unpublished(Duration::ZERO, 10).await.unwrap(), []);
    assert_eq!(claim(&store).await.task.id, queued);
    assert_eq!(store.prune(Duration::ZERO, 2).await.unwrap(), 0, "held is not over");
}

pub(super) async fn pruning_frees_the_key(store: AnyStore) {
    let Created::New(first) = store.create(keyed("ann", draft(1), "k", 1)).await.unwrap() else {
        panic!("the first is new")
    };
    store.control(first.id, Control::Cancel, &by("ann")).await.unwrap();
    assert_eq!(store.prune(Duration::ZERO, 10).await.unwrap(), 1);
    let made = store.create(keyed("ann", draft(1), "k", 2)).await.unwrap();
    assert!(matches!(made, Created::New(task) if task.id != first.id));
    assert_eq!(store.find(first.id).await.unwrap(), None);
}

pub(super) async fn what_is_held_without_news_is_stalled(store: AnyStore) {
    let stalled = async |after| store.stalled(after, 10).await.unwrap();
    let (first, second) = (submit(&store, "ann", draft(2)).await, submit(&store, "bob", draft(2)).await);
    assert_eq!(stalled(Duration::ZERO).await, [], "who waits is not held");
    let held = claim(&store).await;
    claim(&store).await;
    let quiet = Duration::from_millis(300);
    until("both are quiet", async || stalled(quiet).await.len() == 2).await;
    store.renew(&[fence(&held)], RULES.lease).await.unwrap();
    let found = stalled(quiet).await;
    assert_eq!(found.iter().map(|task| task.id).collect::<Vec<_>>(), [first.id, second.id]);
    assert!(found.iter().all(|task| task.quiet >= quiet && task.worker == Some(worker(0))), "{found:?}");
    store.record(fence(&held), &[succeeded(1)]).await.unwrap();
    let found = stalled(Duration::ZERO).await;
    assert_eq!(
        found.iter().map(|task| task.id).collect::<Vec<_>>(),
        [second.id, first.id],
        "a result is news"
    );
    assert_eq!(store.stalled(Duration::ZERO, 1).await.unwrap().len(), 1);
    assert_eq!(stalled(Duration::from_secs(3_600)).await, []);
}

pub(super) async fn the_backlog_counts_what_waits(store: AnyStore) {
    assert_eq!(store.backlog().await.unwrap(), crate::store::Backlog::default());
    submit(&store, "ann", draft(1)).await;
    complete_next(&store).await;
    submit(&store, "bob", draft(1)).await;
    claim_and_lapse(&store).await;
    let queued = submit(&store, "ann", draft(1)).await;
    submit(&store, "ann", draft(1)).await;
    let held = store.claim(&worker(0), &RULES).await.unwrap().unwrap();
    assert_eq!((held.task.owner, held.task.id), (user("ann"), queued.id), "bob holds one, lapsed or not");
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.queued, backlog.held, backlog.lapsed, backlog.outbox), (1, 2, 1, 1));
    until("the queued task ages", async || store.backlog().await.unwrap().oldest_queued > Duration::ZERO)
        .await;
    assert!(store.backlog().await.unwrap().oldest_queued < Duration::from_secs(120));
}

pub(super) async fn the_lead_is_kept_and_given_back(store: AnyStore) {
    assert!(store.lead().await.unwrap());
    assert!(store.lead().await.unwrap());
    store.step_down().await;
    store.step_down().await;
    // A server may take a moment to end a session.
    until("the lead is free again", async || store.lead().await.unwrap()).await;
}
