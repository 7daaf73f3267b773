//! What users want of a task that is running.

use super::*;
use crate::task::EventKind;

#[tokio::test(start_paused = true)]
async fn a_cancel_lets_items_in_flight_finish_and_starts_no_other() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(3));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(1_000).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    rig.control(id, Control::Cancel).await;
    let task = rig.over(id).await;
    assert_eq!(task.state.status, Status::Cancelled);
    assert_eq!((task.counts.succeeded, task.counts.cancelled), (20, 980));
    assert_eq!(actions.runs(id), once_each(20));
    let events = rig.dense_events(id);
    assert!(events.iter().any(|event| event.kind == EventKind::Cancelling && event.current == 0));
    assert_eq!(told(&events, 1_000), vec![1; 1_000]);
    assert_eq!(events.last().unwrap().status, Status::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_wait_for_a_cluster() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::ZERO).prepared_by(|| {
        let retry_after = Some(Duration::from_secs(50));
        Err(ActionError::Transient { message: "busy".into(), retry_after })
    });
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(10).await;
    rig.has_status(id, Status::Running).await;
    let began = Instant::now();
    rig.control(id, Control::Cancel).await;
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.cancelled), (Status::Cancelled, 10));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_pause_finishes_what_is_in_flight_and_a_resume_runs_the_rest() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(2));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(50).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    rig.control(id, Control::Pause).await;
    until("the task is let go", || async { rig.task(id).await.worker.is_none() }).await;
    let paused = rig.task(id).await;
    assert_eq!((paused.state.status, paused.counts.succeeded, paused.state.tries), (Status::Paused, 20, 0));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(actions.runs(id), once_each(20), "nothing starts while it is paused");
    assert_eq!(rig.events(id).last().unwrap().status, Status::Paused);
    rig.control(id, Control::Resume).await;
    rig.dispatch.notify(id).await.unwrap();
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.succeeded), (Status::Completed, 50));
    assert_eq!(actions.runs(id), once_each(50));
    assert_eq!(told(&rig.dense_events(id), 50), vec![1; 50]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_comes_with_the_last_results_lets_the_task_rest_with_all_told() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(2));
    let _life = rig.worker("w1", &actions, deaf(&rig));
    let id = rig.submit(5).await;
    until("all items are in flight", || async { actions.in_work() == 5 }).await;
    rig.control(id, Control::Pause).await;
    until("the task is let go", || async { rig.task(id).await.worker.is_none() }).await;
    until("the pause is told", || async { rig.events(id).last().unwrap().kind == EventKind::Paused }).await;
    assert_eq!(told(&rig.dense_events(id), 5), [1; 5]);
    rig.control(id, Control::Resume).await;
    rig.dispatch.notify(id).await.unwrap();
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.succeeded), (Status::Completed, 5));
    assert_eq!(actions.runs(id), once_each(5));
}

#[tokio::test(start_paused = true)]
async fn what_an_action_logs_is_said_of_its_task() {
    let _logs = tracing::subscriber::set_default(tracing_subscriber::registry());
    let rig = Rig::new();
    let actions = TestActions::new(|_| {
        Box::pin(async {
            let span = tracing::Span::current();
            let name = span.metadata().map_or("none", |metadata| metadata.name());
            Err(ActionError::permanent(name))
        })
    });
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(1).await;
    rig.over(id).await;
    let result = rig.items(id).await.swap_remove(0).result.unwrap();
    assert_eq!(result.outcome.message(), Some("task"));
}
