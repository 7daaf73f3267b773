//! A failure budget is used up, or a user wants more or fewer items at once, while a task is running.

use super::*;
use crate::task::{EventKind, FailureBudget, ItemOutcome, Then};

/// Items with an index below `good` succeed, all others fail; each takes so long.
fn failing_from(good: u32, time: Duration) -> TestActions {
    TestActions::new(move |index| {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            if index < good { CHANGED } else { Err(ActionError::permanent("no")) }
        })
    })
}

async fn submit(rig: &Rig, items: u32, concurrency: u16, failure_budget: FailureBudget) -> TaskId {
    let items = (0..items).map(|index| format!("node-{index}")).collect();
    let draft = Draft {
        action: "cordon".into(),
        cluster: "prod".into(),
        items,
        concurrency: Some(concurrency),
        failure_budget: Some(failure_budget),
        ..Draft::default()
    };
    rig.submit_draft("ada", draft).await
}

const SECOND: Duration = Duration::from_secs(1);

fn failed(most: u32, then: Then) -> FailureBudget {
    FailureBudget { failed: Some(most), then, ..FailureBudget::default() }
}

async fn is_let_go(rig: &Rig, id: TaskId) {
    until("the task is let go", || async { rig.task(id).await.worker.is_none() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_used_up_budget_pauses_once_and_a_resume_begins_another() {
    let rig = Rig::new();
    let actions = failing_from(5, SECOND);
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = submit(&rig, 40, 5, failed(3, Then::Pause)).await;
    rig.has_status(id, Status::Paused).await;
    is_let_go(&rig, id).await;
    let paused = rig.task(id).await;
    let why = "the failure budget is used up: 4 failed, and 3 may";
    assert_eq!((paused.state.status, paused.message.as_deref()), (Status::Paused, Some(why)));
    assert_eq!((paused.counts.succeeded, paused.counts.failed), (5, 5), "what was in flight is recorded");
    assert_eq!(paused.state.tries, 0, "a pause uses up no try");
    let events = rig.dense_events(id);
    let pauses: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Paused).collect();
    assert_eq!((pauses.len(), pauses[0].message.as_deref()), (1, Some(why)));
    assert_eq!(events.last().unwrap().status, Status::Paused);

    for failures in [10, 15] {
        rig.control(id, Control::Resume).await;
        rig.dispatch.notify(id).await.unwrap();
        until("all in flight have failed", || async { rig.task(id).await.counts.failed == failures }).await;
        rig.has_status(id, Status::Paused).await;
        is_let_go(&rig, id).await;
        let again = rig.task(id).await;
        let why = "the failure budget is used up: 4 more failed, and 3 may";
        assert_eq!((again.state.status, again.message.as_deref()), (Status::Paused, Some(why)));
    }
    assert_eq!(actions.runs(id), once_each(20));
    assert_eq!(told(&rig.dense_events(id), 40)[..20], once_each_told(20));
}

fn once_each_told(items: usize) -> Vec<usize> {
    vec![1; items]
}

#[tokio::test(start_paused = true)]
async fn a_used_up_budget_that_aborts_ends_the_task_as_failed() {
    let rig = Rig::new();
    let actions = failing_from(20, SECOND);
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let percent = FailureBudget { percent: Some(2), then: Then::Abort, ..FailureBudget::default() };
    let id = submit(&rig, 100, 4, percent).await;
    let task = rig.over(id).await;
    let why = "the failure budget is used up: 3 of 100 failed, and 2 % may";
    assert_eq!((task.state.status, task.error.as_deref()), (Status::Failed, Some(why)));
    let counts = (task.counts.succeeded, task.counts.failed, task.counts.cancelled);
    assert_eq!(counts, (20, 4, 76), "what was in flight finished");
    assert_eq!(actions.runs(id), once_each(24));
    let events = rig.dense_events(id);
    let stopped = events.iter().find(|event| event.kind == EventKind::Cancelling).unwrap();
    assert_eq!(stopped.message.as_deref(), Some(why));
    let last = events.last().unwrap();
    assert_eq!(
        (last.kind, last.status, last.error.as_deref()),
        (EventKind::Error, Status::Failed, Some(why))
    );
    assert_eq!(told(&events, 100), once_each_told(100));
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_are_counted_in_the_order_of_ending() {
    let rig = Rig::new();
    // Odd items fail early, even ones succeed late: in the order of their ending, five fail in a row.
    let actions = TestActions::new(|index| {
        Box::pin(async move {
            tokio::time::sleep(SECOND * (10 - 5 * (index % 2)) + Duration::from_millis(index.into())).await;
            if index % 2 == 0 { CHANGED } else { Err(ActionError::permanent("no")) }
        })
    });
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let row = |most| FailureBudget { consecutive: Some(most), then: Then::Abort, ..FailureBudget::default() };
    let tolerant = submit(&rig, 10, 10, row(5)).await;
    assert_eq!(rig.over(tolerant).await.state.status, Status::CompletedWithErrors);
    let strict = submit(&rig, 10, 10, row(4)).await;
    let why = "the failure budget is used up: 5 failed in a row, and 4 may";
    assert_eq!(rig.over(strict).await.error.as_deref(), Some(why));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_would_hold_nothing_back_is_none() {
    let rig = Rig::new();
    let _life = rig.worker("w1", &failing_from(0, SECOND), WorkerConfig::default());
    let id = submit(&rig, 4, 4, failed(0, Then::Pause)).await;
    let over = rig.over(id).await;
    assert_eq!((over.state.status, over.message, over.error), (Status::Failed, None, None));
    let id = submit(&rig, 4, 4, failed(3, Then::Abort)).await;
    let over = rig.over(id).await;
    assert!(over.error.unwrap().contains("4 failed, and 3 may"), "also the last item can use it up");
    assert_eq!((over.state.status, over.counts.failed), (Status::Failed, 4));
}

/// Claims under a lease that has lapsed at once, and records that so many items failed.
async fn an_attempt_that_died(rig: &Rig, failures: u32) -> Claim {
    let rules = ClaimRules { lease: Duration::ZERO, per_cluster_max: 32 };
    let claim = rig.store.store.claim(&ReplicaId::new("dead").unwrap(), &rules).await.unwrap().unwrap();
    let fence = Fence { task: claim.task.id, attempt: claim.task.state.attempt };
    let result = |(index, name): &(u32, ItemName)| ItemResult {
        index: *index,
        name: name.clone(),
        outcome: ItemOutcome::failed("no"),
        tries: 1,
        finished_at: Timestamp::UNIX_EPOCH,
    };
    let results: Vec<_> = claim.pending.iter().take(failures as usize).map(result).collect();
    rig.store.store.record(fence, &results).await.unwrap();
    claim
}

#[tokio::test(start_paused = true)]
async fn a_takeover_knows_the_failures_of_before_and_runs_nothing_more() {
    for then in [Then::Pause, Then::Abort] {
        let rig = Rig::new();
        let id = submit(&rig, 20, 5, failed(2, then)).await;
        an_attempt_that_died(&rig, 3).await;
        let actions = failing_from(20, SECOND);
        let _life = rig.worker("w2", &actions, WorkerConfig::default());
        rig.dispatch.notify(id).await.unwrap();
        let stopped = match then {
            Then::Pause => Status::Paused,
            Then::Abort => Status::Failed,
        };
        rig.has_status(id, stopped).await;
        is_let_go(&rig, id).await;
        let task = rig.task(id).await;
        assert_eq!(task.message.as_deref(), Some("the failure budget is used up: 3 failed, and 2 may"));
        assert_eq!(actions.runs(id), [0; 0], "nothing was started");
        assert_eq!(task.counts.failed, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_called_off_is_ended_as_failed_by_the_next_worker() {
    let rig = Rig::new();
    let id = submit(&rig, 20, 5, failed(2, Then::Abort)).await;
    let dead = an_attempt_that_died(&rig, 3).await.task;
    let fence = Fence { task: id, attempt: dead.state.attempt };
    rig.store.store.halt(fence, Then::Abort, "enough").await.unwrap();
    let actions = failing_from(20, SECOND);
    let _life = rig.worker("w2", &actions, WorkerConfig::default());
    rig.dispatch.notify(id).await.unwrap();
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.error.as_deref()), (Status::Failed, Some("enough")));
    assert_eq!((task.counts.failed, task.counts.cancelled), (3, 17));
    assert_eq!(actions.runs(id), [0; 0]);
    assert_eq!(rig.events(id).last().unwrap().error.as_deref(), Some("enough"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_holds_the_lanes_until_it_knows() {
    let rig = Rig::new();
    let actions = failing_from(2, SECOND);
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = submit(&rig, 50, 2, failed(0, Then::Pause)).await;
    until("the first items are through", || async { actions.runs(id).len() >= 4 }).await;
    rig.store.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(SECOND * 3).await;
    assert_eq!((actions.runs(id).len(), actions.in_work()), (4, 0), "no further item is started");
    assert_eq!(rig.task(id).await.state.status, Status::Running);
    assert!(rig.events(id).iter().all(|event| event.kind != EventKind::Paused), "nobody is told too early");
    rig.store.away.store(false, Ordering::SeqCst);
    is_let_go(&rig, id).await;
    let paused = rig.task(id).await;
    assert_eq!((paused.state.status, paused.counts.failed), (Status::Paused, 2));
}

#[tokio::test(start_paused = true)]
async fn a_users_cancel_outranks_the_budget() {
    let rig = Rig::new();
    let config = deaf(&rig);
    let _life = rig.worker("w1", &failing_from(0, SECOND * 2), config);
    let id = submit(&rig, 50, 2, failed(1, Then::Abort)).await;
    rig.has_status(id, Status::Running).await;
    rig.control(id, Control::Cancel).await;
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.error), (Status::Cancelled, None));
    assert_eq!((task.counts.failed, task.counts.cancelled), (2, 48));
}

#[tokio::test(start_paused = true)]
async fn more_or_fewer_items_run_at_once_as_soon_as_a_user_wants_it() {
    let rig = Rig::new();
    let actions = TestActions::taking(SECOND);
    let config = WorkerConfig {
        lease: Duration::from_secs(600),
        renew_interval: Duration::from_secs(200),
        ..WorkerConfig::default()
    };
    let _life = rig.worker("w1", &actions, config);
    let tolerant = failed(1_000, Then::Pause);
    let id = submit(&rig, 300, 4, tolerant).await;
    until("four are in work", || async { actions.in_work() == 4 }).await;
    let began = Instant::now();
    for (wanted, in_work) in
        [(Some(12), 12), (Some(2), 2), (Some(9), 9), (None, 20), (Some(1), 1), (Some(500), 20)]
    {
        rig.control(id, Control::Concurrency(wanted)).await;
        until("so many are in work", || async { actions.in_work() == in_work }).await;
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(actions.in_work(), in_work, "{wanted:?}: and it stays so");
    }
    assert!(began.elapsed() < SECOND * 15, "{:?}: long before a renewal", began.elapsed());
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.succeeded), (Status::Completed, 300));
    assert_eq!((actions.runs(id), actions.most_in_work()), (once_each(300), 20));
    let events = rig.dense_events(id);
    let changes: Vec<_> = events.iter().filter(|e| e.kind == EventKind::ConcurrencyChanged).collect();
    let numbers: Vec<_> = changes.iter().map(|event| event.concurrency).collect();
    assert_eq!(numbers, [Some(12), Some(2), Some(9), None, Some(1), Some(500)]);
    assert!(changes.iter().all(|event| event.status == Status::Running && event.message.is_some()));
    assert_eq!(told(&events, 300), once_each_told(300));
}

#[tokio::test(start_paused = true)]
async fn a_user_is_obeyed_long_before_the_next_renewal() {
    let rig = Rig::new();
    let actions = TestActions::taking(SECOND * 2);
    let config = WorkerConfig {
        lease: Duration::from_secs(600),
        renew_interval: Duration::from_secs(200),
        ..WorkerConfig::default()
    };
    let _life = rig.worker("w1", &actions, config);
    for (change, status) in [(Control::Pause, Status::Paused), (Control::Cancel, Status::Cancelling)] {
        let id = rig.submit(1_000).await;
        until("items are in flight", || async { actions.in_work() == 20 }).await;
        let began = Instant::now();
        rig.control(id, change).await;
        until("it is told", || async { rig.events(id).last().is_some_and(|e| e.status == status) }).await;
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        is_let_go(&rig, id).await;
    }
}
