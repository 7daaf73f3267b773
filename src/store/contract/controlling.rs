//! Promises to users who change a task.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::AnyStore;
use super::kit::{
    LAPSING, RULES, by, claim, claim_and_lapse, complete_next, draft, fence, find, is_fenced, is_refused,
    result, submit, succeeded, terminal, until, worker,
};
use crate::store::{Control, Controlled, ItemQuery};
use crate::task::{Attempt, Counts, Draft, EventKind, ItemOutcome, ItemState, Seq, Status, TaskId};

pub(super) async fn a_cancel_of_a_queued_task_ends_it(store: AnyStore) {
    let task = submit(&store, "ann", draft(3)).await;
    let Controlled { task: ended, outbox } = control(&store, task.id, Control::Cancel).await;
    let row = outbox.expect("the change ended it");
    assert_eq!((ended.state.status, ended.state.attempt), (Status::Cancelled, Attempt(1)));
    assert_eq!(ended.counts, Counts { cancelled: 3, ..Counts::new(3) });
    assert!(ended.finished_at.is_some());
    assert_eq!(find(&store, task.id).await, ended);
    assert_eq!((row.event.order(), row.event.kind), ((Attempt(1), Seq::FIRST), EventKind::Complete));
    assert_eq!((row.event.status, row.event.counts), (Status::Cancelled, ended.counts));
    assert_eq!(store.unpublished(Duration::ZERO, 10).await.unwrap(), [row]);
    assert_eq!(cancelled_items(&store, task.id).await, 3);
    assert!(store.claim(&worker(0), &RULES).await.unwrap().is_none());
    let again = control(&store, task.id, Control::Cancel).await;
    assert_eq!((again.task, again.outbox), (ended, None), "asking again changes nothing");
    assert_eq!(cancelled_items(&store, task.id).await, 3);
}

pub(super) async fn a_cancel_of_a_paused_task_shuts_its_worker_out(store: AnyStore) {
    let task = submit(&store, "ann", draft(3)).await;
    let held = claim(&store).await;
    store.record(fence(&held), &[succeeded(0)]).await.unwrap();
    control(&store, task.id, Control::Pause).await;
    let ended = control(&store, task.id, Control::Cancel).await;
    assert_eq!((ended.task.state.status, ended.task.state.attempt), (Status::Cancelled, Attempt(2)));
    assert_eq!(ended.task.counts, Counts { succeeded: 1, cancelled: 2, ..Counts::new(3) });
    assert_eq!(ended.outbox.unwrap().event.order(), (Attempt(2), Seq::FIRST));
    assert!(is_fenced(&store.record(fence(&held), &[succeeded(1)]).await));
    assert_eq!(cancelled_items(&store, task.id).await, 2);
}

pub(super) async fn a_cancel_of_a_running_task_is_left_to_its_holder(store: AnyStore) {
    let task = submit(&store, "ann", draft(2)).await;
    let held = claim(&store).await;
    let asked = control(&store, task.id, Control::Cancel).await;
    assert_eq!((asked.task.state.status, asked.outbox), (Status::Cancelling, None));
    assert_eq!(asked.task.worker, Some(worker(0)));
    let results = [succeeded(0), result(1, ItemOutcome::Cancelled)];
    store.record(fence(&held), &results).await.unwrap();
    let event = terminal(&find(&store, task.id).await);
    assert_eq!(event.status, Status::Cancelled);
    store.finish(fence(&held), &event).await.unwrap();
    assert_eq!(find(&store, task.id).await.state.status, Status::Cancelled);
}

pub(super) async fn a_cancel_survives_a_takeover(store: AnyStore) {
    let task = submit(&store, "ann", draft(2)).await;
    store.claim(&worker(0), &LAPSING).await.unwrap().unwrap();
    control(&store, task.id, Control::Cancel).await;
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    let second = claim(&store).await;
    assert_eq!((second.task.state.status, second.task.state.attempt), (Status::Cancelling, Attempt(2)));
    assert!(is_refused(&store.control(task.id, Control::Resume, &by("ann")).await));
}

pub(super) async fn a_cancel_of_a_finished_task_is_refused(store: AnyStore) {
    submit(&store, "ann", draft(1)).await;
    let (over, _) = complete_next(&store).await;
    for change in [Control::Cancel, Control::Pause, Control::Resume] {
        assert!(is_refused(&store.control(over.id, change, &by("ann")).await), "{change:?}");
    }
    assert_eq!(find(&store, over.id).await, over);
}

pub(super) async fn a_paused_task_waits_until_it_is_resumed(store: AnyStore) {
    let task = submit(&store, "ann", draft(1)).await;
    assert!(is_refused(&store.control(task.id, Control::Resume, &by("ann")).await), "it is not paused");
    let paused = control(&store, task.id, Control::Pause).await;
    assert_eq!((paused.task.state.status, paused.outbox), (Status::Paused, None));
    assert_eq!(control(&store, task.id, Control::Pause).await.task, paused.task);
    assert!(store.claim(&worker(0), &RULES).await.unwrap().is_none());
    assert_eq!(store.claimable(10).await.unwrap(), []);
    let resumed = control(&store, task.id, Control::Resume).await;
    assert_eq!((resumed.task.state.status, resumed.task.worker), (Status::Queued, None));
    assert_eq!(claim(&store).await.task.id, task.id);
}

pub(super) async fn pausing_often_uses_up_no_tries(store: AnyStore) {
    let task = submit(&store, "ann", Draft { max_attempts: Some(1), ..draft(1) }).await;
    for attempt in 1..=4 {
        assert_eq!(claim(&store).await.task.state.attempt, Attempt(attempt));
        control(&store, task.id, Control::Pause).await;
        control(&store, task.id, Control::Resume).await;
    }
    let last = claim_and_lapse(&store).await;
    assert_eq!((last.task.state.attempt, last.task.state.tries), (Attempt(5), 1));
    assert!(store.claim(&worker(1), &RULES).await.unwrap().is_none(), "its one try is used up");
}

pub(super) async fn racing_cancels_end_a_task_once(store: AnyStore) {
    let task = submit(&store, "ann", draft(50)).await;
    let races =
        join_all((0..10).map(async |_| store.control(task.id, Control::Cancel, &by("ann")).await)).await;
    let ended = races.into_iter().filter(|done| done.as_ref().unwrap().as_ref().unwrap().outbox.is_some());
    assert_eq!(ended.count(), 1);
    assert_eq!(store.unpublished(Duration::ZERO, 10).await.unwrap().len(), 1);
    assert_eq!(find(&store, task.id).await.state.attempt, Attempt(1));
}

pub(super) async fn a_change_rings_for_the_worker_that_holds_the_task(store: AnyStore) {
    let (rings, holder) = (AtomicU32::new(0), worker(0));
    let heard = || rings.load(Ordering::SeqCst);
    let changes = async {
        until("it begins to hear", async || heard() > 0).await;
        let task = submit(&store, "ann", draft(1)).await;
        claim(&store).await;
        for change in [Control::Concurrency(Some(2)), Control::Pause] {
            let before = heard();
            control(&store, task.id, change).await;
            until("it rings", async || heard() > before).await;
        }
    };
    let ring = || {
        rings.fetch_add(1, Ordering::SeqCst);
    };
    tokio::select! {
        () = store.hear(&holder, &ring) => panic!("it hears no more"),
        () = changes => {}
    }
}

async fn control(store: &AnyStore, id: TaskId, control: Control) -> Controlled {
    store.control(id, control, &by("ann")).await.unwrap().expect("the task is there")
}

/// How many items were cancelled, when asked for them alone and when asked for all.
async fn cancelled_items(store: &AnyStore, id: TaskId) -> usize {
    let query = ItemQuery { state: Some(ItemState::Cancelled), limit: 1_000, ..ItemQuery::default() };
    let cancelled = store.items(id, &query).await.unwrap();
    let mut all = store.items(id, &ItemQuery { state: None, ..query }).await.unwrap();
    all.retain(|item| item.state() == ItemState::Cancelled);
    assert_eq!(cancelled, all);
    let over = find(store, id).await.finished_at;
    assert!(all.iter().all(|item| item.result.as_ref().map(|result| result.finished_at) == over));
    all.len()
}
