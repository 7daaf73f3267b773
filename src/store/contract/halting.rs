//! Promises about failure budgets and about how many items run at once: what the holder does on a user's behalf, and what
//! it is told of a user's wishes.

use std::time::Duration;

use super::AnyStore;
use super::kit::{
    LAPSING, LONG, RULES, by, claim, draft, fence, find, is_fenced, is_refused, result, submit, succeeded,
    until, worker,
};
use crate::store::{Control, Fence, Renewal};
use crate::task::{
    Attempt, Counts, Draft, EventKind, FailureBudget, ItemOutcome, ItemResult, Seq, Status, Then,
};

const WHY: &str = "the failure budget is used up";

fn failed(index: u32) -> ItemResult {
    result(index, ItemOutcome::failed("no"))
}

pub(super) async fn a_used_up_budget_pauses_a_task_and_says_why(store: AnyStore) {
    let budget = FailureBudget { failed: Some(0), ..FailureBudget::default() };
    let task = submit(&store, "ann", Draft { failure_budget: Some(budget), ..draft(4) }).await;
    assert_eq!(task.budget, Some(budget));
    let held = claim(&store).await;
    assert_eq!((held.task.budget, held.task.failed_before), (Some(budget), Some(0)));
    assert_eq!(store.halt(fence(&held), Then::Pause, WHY).await.unwrap().status, Status::Paused);
    assert_eq!(store.halt(fence(&held), Then::Pause, "again").await.unwrap().status, Status::Paused);
    let paused = find(&store, task.id).await;
    assert_eq!((paused.state.status, paused.message.as_deref()), (Status::Paused, Some(WHY)));
    assert_eq!(
        (paused.worker.clone(), paused.state.tries),
        (Some(worker(0)), 0),
        "it finishes what is in flight"
    );
    assert_eq!(paused.view().message.as_deref(), Some(WHY));
    store.record(fence(&held), &[failed(0), failed(1)]).await.unwrap();
    assert_eq!(store.hand_over(fence(&held)).await.unwrap(), Status::Paused);
    assert!(store.claim(&worker(1), &RULES).await.unwrap().is_none());
}

pub(super) async fn a_resume_begins_a_budget_that_knows_all_failures_of_before(store: AnyStore) {
    let task = submit(&store, "ann", draft(4)).await;
    let held = claim(&store).await;
    store.halt(fence(&held), Then::Pause, WHY).await.unwrap();
    store.record(fence(&held), &[failed(0)]).await.unwrap();
    let resumed = store.control(task.id, Control::Resume, &by("ann")).await.unwrap().unwrap().task;
    assert_eq!((resumed.state.status, &resumed.message), (Status::Queued, &None));
    store.record(fence(&held), &[failed(1)]).await.unwrap();
    let next = claim(&store).await;
    assert_eq!((next.task.failed_before, next.task.counts.failed), (Some(2), 2), "the late one as well");
    store.record(fence(&next), &[failed(2)]).await.unwrap();
    store.hand_over(fence(&next)).await.unwrap();
    let third = claim(&store).await;
    assert_eq!(
        (third.task.failed_before, third.task.counts.failed),
        (Some(2), 3),
        "no resume, no new budget"
    );
}

pub(super) async fn a_task_that_is_called_off_ends_as_failed(store: AnyStore) {
    let task = submit(&store, "ann", draft(3)).await;
    let held = claim(&store).await;
    assert_eq!(store.halt(fence(&held), Then::Abort, WHY).await.unwrap().status, Status::Cancelling);
    let stopped = find(&store, task.id).await;
    assert_eq!((stopped.state.aborted, stopped.message.as_deref()), (true, Some(WHY)));
    assert!(is_refused(&store.hand_over(fence(&held)).await));
    let rest = [failed(0), result(1, ItemOutcome::Cancelled), result(2, ItemOutcome::Cancelled)];
    let counts = store.record(fence(&held), &rest).await.unwrap();
    let verdict = stopped.state.verdict(&counts).unwrap();
    let mut event = stopped.event(EventKind::terminal(verdict), Seq(4), super::kit::moment());
    (event.status, event.error) = (verdict, Some(WHY.into()));
    store.finish(fence(&held), &event).await.unwrap();
    let over = find(&store, task.id).await;
    assert_eq!((over.state.status, over.error.as_deref()), (Status::Failed, Some(WHY)));
    assert_eq!(over.counts, Counts { failed: 1, cancelled: 2, ..Counts::new(3) });
}

pub(super) async fn what_is_called_off_stays_so_when_its_worker_dies(store: AnyStore) {
    let task = submit(&store, "ann", Draft { max_attempts: Some(2), ..draft(2) }).await;
    let first = store.claim(&worker(0), &LAPSING).await.unwrap().unwrap();
    store.record(fence(&first), &[failed(0)]).await.unwrap();
    store.halt(fence(&first), Then::Abort, WHY).await.unwrap();
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    let second = store.claim(&worker(1), &LAPSING).await.unwrap().unwrap();
    assert_eq!((second.task.state.status, second.task.state.aborted), (Status::Cancelling, true));
    assert_eq!(second.task.message.as_deref(), Some(WHY));
    assert!(is_fenced(&store.halt(fence(&first), Then::Abort, WHY).await));
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    assert_eq!(store.give_up(10).await.unwrap(), [Status::Failed]);
    let over = find(&store, task.id).await;
    assert_eq!((over.error.as_deref(), over.state.attempt), (Some(WHY), Attempt(3)));
    assert_eq!(over.counts, Counts { failed: 1, cancelled: 1, ..Counts::new(2) });
    let rows = store.unpublished(Duration::ZERO, 10).await.unwrap();
    assert_eq!((rows[0].event.kind, rows[0].event.error.as_deref()), (EventKind::Error, Some(WHY)));
}

pub(super) async fn what_a_user_did_first_stays(store: AnyStore) {
    for (change, status) in [(Control::Cancel, Status::Cancelling), (Control::Pause, Status::Paused)] {
        let task = submit(&store, "ann", draft(1)).await;
        let held = claim(&store).await;
        store.control(task.id, change, &by("ann")).await.unwrap();
        for then in [Then::Abort, Then::Pause] {
            assert_eq!(store.halt(fence(&held), then, WHY).await.unwrap().status, status);
        }
        let after = find(&store, task.id).await;
        assert_eq!((after.state.status, after.state.aborted, after.message), (status, false, None));
    }
    let unknown = Fence { task: crate::task::TaskId::generate(), attempt: Attempt(1) };
    assert!(is_fenced(&store.halt(unknown, Then::Abort, WHY).await));
}

pub(super) async fn a_change_of_concurrency_reaches_the_holder(store: AnyStore) {
    let task = submit(&store, "ann", Draft { concurrency: Some(3), ..draft(1) }).await;
    let set =
        async |n| store.control(task.id, Control::Concurrency(n), &by("ann")).await.unwrap().unwrap().task;
    assert_eq!(set(Some(5)).await.concurrency, Some(5));
    let held = claim(&store).await;
    assert_eq!(held.task.concurrency, Some(5));
    for n in [Some(1_000), None, Some(1)] {
        let after = set(n).await;
        assert_eq!((after.concurrency, after.state), (n, held.task.state));
        assert_eq!(find(&store, task.id).await, after);
        let told = Renewal::Held { status: Status::Running, concurrency: n };
        assert_eq!(store.renew(&[fence(&held)], LONG).await.unwrap(), [told]);
    }
    store.record(fence(&held), &[succeeded(0)]).await.unwrap();
    let event = super::kit::terminal(&find(&store, task.id).await);
    store.finish(fence(&held), &event).await.unwrap();
    assert!(is_refused(&store.control(task.id, Control::Concurrency(Some(2)), &by("ann")).await));
    assert_eq!(find(&store, task.id).await.concurrency, Some(1));
}
