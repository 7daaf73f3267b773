//! A worker is told to stop, softly or hard.

use super::*;
use crate::task::{EventKind, Step};

#[tokio::test(start_paused = true)]
async fn a_stopped_worker_finishes_what_is_in_flight_and_another_runs_only_the_rest() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(2));
    let first = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(100).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    let began = Instant::now();
    first.stop();
    until("the second goes on", || async { rig.task(id).await.state.attempt.0 == 2 }).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(rig.task(id).await.state.tries, 1, "the hand-over gave its try back");
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.succeeded), (Status::Completed, 100));
    assert_eq!(actions.runs(id), once_each(100));
    let events = rig.dense_events(id);
    assert_eq!(told(&events, 100), vec![1; 100]);
    assert!(events.iter().any(|event| event.kind == EventKind::Requeued && event.attempt.0 == 1));
    first.shut_down(Duration::from_secs(10)).await;
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn items_that_outlast_the_grace_time_are_left_to_the_next_worker() {
    let rig = Rig::new();
    let hangs = TestActions::new(|index| {
        Box::pin(async move {
            if index < 3 {
                std::future::pending::<()>().await;
            }
            CHANGED
        })
    });
    let config = WorkerConfig { lanes_per_task: 5, ..WorkerConfig::default() };
    let first = rig.worker("w1", &hangs, config);
    let id = rig.submit(10).await;
    until("only the hanging items are left", || async { rig.task(id).await.counts.succeeded == 7 }).await;
    let began = Instant::now();
    first.shut_down(Duration::from_secs(60)).await;
    let took = began.elapsed();
    assert!((Duration::from_secs(20)..Duration::from_secs(25)).contains(&took), "{took:?}");
    let task = rig.task(id).await;
    assert_eq!((task.state.status, task.state.tries, task.worker), (Status::Queued, 0, None));
    let quick = TestActions::taking(Duration::ZERO);
    let _second = rig.worker("w2", &quick, WorkerConfig::default());
    assert_eq!(rig.over(id).await.counts.succeeded, 10);
    assert_eq!(quick.runs(id), once_each(3));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_during_the_grace_time_ends_the_task_here() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(5));
    let life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(100).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    life.stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.control(id, Control::Cancel).await;
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.cancelled), (Status::Cancelled, 80));
}

#[tokio::test(start_paused = true)]
async fn a_hard_stop_drops_everything_and_the_lapsed_task_is_taken_over() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(500));
    let first = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(100).await;
    until("some results are recorded", || async { rig.task(id).await.counts.succeeded >= 20 }).await;
    first.hard().cancel();
    until("everything is dropped", || async { actions.in_work() == 0 }).await;
    let recorded = rig.task(id).await.counts.succeeded;
    first.stop();
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    let task = rig.over(id).await;
    assert_eq!((task.counts.succeeded, task.state.attempt.0, task.state.tries), (100, 2, 2));
    let twice = actions.runs(id).into_iter().filter(|runs| *runs == 2).count();
    assert!(twice <= 40, "{twice} items ran twice; {recorded} were recorded");
    assert!(actions.runs(id).into_iter().all(|runs| runs <= 2));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_worker_claims_nothing_and_leaves_the_wake_up_to_others() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::ZERO);
    let first = rig.worker("w1", &actions, WorkerConfig::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.shut_down(Duration::from_secs(10)).await;
    let id = rig.submit(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.task(id).await.state.status, Status::Queued);
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    rig.over(id).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_task_stays_paused_when_its_worker_stops() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(3));
    let life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(100).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    rig.control(id, Control::Pause).await;
    until("the pause is told", || async { rig.events(id).last().unwrap().status == Status::Paused }).await;
    life.shut_down(Duration::from_secs(60)).await;
    let task = rig.task(id).await;
    assert_eq!((task.state.status, task.counts.succeeded, task.worker), (Status::Paused, 20, None));
    assert_eq!(rig.dense_events(id).last().unwrap().status, Status::Paused);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_comes_with_the_stop_is_told_as_the_record_has_it() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(3));
    let life = rig.worker("w1", &actions, deaf(&rig));
    let id = rig.submit(100).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    rig.control(id, Control::Pause).await;
    life.shut_down(Duration::from_secs(60)).await;
    let task = rig.task(id).await;
    assert_eq!((task.state.status, task.counts.succeeded, task.worker), (Status::Paused, 20, None));
    let last = rig.dense_events(id).pop().unwrap();
    assert_eq!((last.kind, last.status, last.current), (EventKind::Paused, Status::Paused, 20));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_comes_with_the_stop_is_obeyed_here() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(3));
    let life = rig.worker("w1", &actions, deaf(&rig));
    let id = rig.submit(100).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    rig.control(id, Control::Cancel).await;
    let began = Instant::now();
    life.shut_down(Duration::from_secs(60)).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let task = rig.task(id).await;
    assert_eq!((task.state.status, task.state.attempt.0), (Status::Cancelled, 1));
    assert_eq!((task.counts.succeeded, task.counts.cancelled), (20, 80));
    let events = rig.dense_events(id);
    assert_eq!(told(&events, 100), vec![1; 100]);
    assert!(events.iter().any(|event| event.kind == EventKind::Cancelling));
    assert_eq!(events.last().unwrap().status, Status::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_ends_with_the_grace_time_whatever_hangs() {
    for is_deaf in [false, true] {
        let rig = Rig::new();
        let config = if is_deaf { deaf(&rig) } else { WorkerConfig::default() };
        let hangs = TestActions::new(|_| Box::pin(std::future::pending()));
        let life = rig.worker("w1", &hangs, WorkerConfig { lanes_per_task: 3, ..config });
        let id = rig.submit(10).await;
        until("items hang", || async { hangs.in_work() == 3 }).await;
        rig.control(id, Control::Cancel).await;
        let began = Instant::now();
        life.shut_down(Duration::from_secs(60)).await;
        assert!(began.elapsed() < Duration::from_secs(21), "{:?}", began.elapsed());
        let task = rig.task(id).await;
        let Counts { failed, cancelled, .. } = task.counts;
        assert_eq!((task.state.status, failed, cancelled), (Status::Cancelled, 3, 7));
        let first = rig.items(id).await.swap_remove(0).result.unwrap();
        assert_eq!(first.outcome.message(), Some("its worker stopped before it was done"));
    }
}

/// Items that heed: they report, and stop half way when told to; the second run of each succeeds.
fn heeding() -> TestActions {
    let again = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    TestActions::heeding(move |index, context| {
        let second = !lock(&again).insert(index);
        Box::pin(async move {
            context.report(Step::doing("half way"));
            if second {
                return CHANGED;
            }
            context.stopping().await;
            Err(ActionError::Stopped { message: "1 of 2 done".into() })
        })
    })
}

#[tokio::test(start_paused = true)]
async fn long_items_that_heed_are_left_at_once_and_gone_on_with_elsewhere() {
    let rig = Rig::new();
    let actions = heeding();
    let first = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(5).await;
    until("their steps are told", || async {
        let events = rig.events(id);
        let steps = events.iter().flat_map(|event| &event.items).filter_map(|item| item.step.as_ref());
        steps.filter(|step| step.doing == "half way").count() >= 5
    })
    .await;
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    let began = Instant::now();
    first.stop();
    let task = rig.over(id).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!((task.state.status, task.counts.succeeded, task.state.tries), (Status::Completed, 5, 1));
    assert_eq!(actions.runs(id), [2; 5]);
}

#[tokio::test(start_paused = true)]
async fn long_items_that_heed_end_with_a_cancel_and_rest_with_a_pause() {
    let rig = Rig::new();
    let actions = heeding();
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(2).await;
    until("items are in flight", || async { actions.in_work() == 2 }).await;
    rig.control(id, Control::Pause).await;
    until("the task is let go", || async { rig.task(id).await.worker.is_none() }).await;
    assert_eq!(rig.task(id).await.counts, Counts::new(2), "a pause ends no item");
    rig.control(id, Control::Resume).await;
    rig.dispatch.notify(id).await.unwrap();
    assert_eq!(rig.over(id).await.counts.succeeded, 2);

    let id = rig.submit(30).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    rig.control(id, Control::Cancel).await;
    let task = rig.over(id).await;
    let counts = (task.counts.succeeded, task.counts.failed, task.counts.cancelled);
    assert_eq!((task.state.status, counts), (Status::Cancelled, (2, 20, 8)), "two had their second run");
    let failed = rig.events(id).into_iter().flat_map(|event| event.items).filter_map(|item| item.error);
    assert!(failed.into_iter().all(|error| error == "1 of 2 done"));
}
