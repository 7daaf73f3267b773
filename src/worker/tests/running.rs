//! Tasks that run to their end without trouble from outside.

use super::*;
use crate::task::{EventKind, ItemOutcome};

#[tokio::test(start_paused = true)]
async fn every_item_runs_once_and_is_recorded_and_told_once() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(5));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(1_000).await;
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.succeeded), (Status::Completed, 1_000));
    assert_eq!(actions.runs(id), once_each(1_000));
    assert_eq!(actions.most_in_work(), 20);
    let events = rig.dense_events(id);
    assert_eq!(told(&events, 1_000), vec![1; 1_000]);
    let kinds = (events[0].kind, events.last().unwrap().kind);
    assert_eq!(kinds, (EventKind::Started, EventKind::Complete));
    assert_eq!(events.last().unwrap().message.as_deref(), Some("1000 of 1000 succeeded"));
    assert!(rig.items(id).await.iter().all(|item| item.state() == ItemState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn items_that_end_together_share_an_event_and_are_told_at_once() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(5));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(1_000).await;
    rig.over(id).await;
    let mut late: Vec<i64> = Vec::new();
    for event in rig.dense_events(id) {
        late.extend(
            event.items.iter().filter_map(|i| i.done_us).map(|us| event.timestamp.as_microsecond() - us),
        );
    }
    late.sort_unstable();
    assert!(late[late.len() / 2] <= 1_000, "half of the items waited {} us or longer", late[late.len() / 2]);
    assert!(late.last().is_some_and(|us| *us <= 12_000), "one waited {:?} us", late.last());
}

#[tokio::test]
async fn items_that_take_no_time_are_merged_into_few_events() {
    let rig = Rig::new();
    let _life = rig.worker("w1", &TestActions::taking(Duration::ZERO), WorkerConfig::default());
    let id = rig.submit(10_000).await;
    let task = rig.over(id).await;
    assert_eq!(task.counts.succeeded, 10_000);
    let events = rig.dense_events(id);
    assert!(events.len() < 1_000, "{} events", events.len());
    assert_eq!(told(&events, 10_000), vec![1; 10_000]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_an_error_cost_their_item_and_nothing_else() {
    let rig = Rig::new();
    let actions = TestActions::new(|index| {
        Box::pin(async move {
            match index {
                3 => panic!("on purpose"),
                4 => Err(ActionError::permanent("no such node")),
                5 => Ok(Done::Skipped("a control plane".into())),
                _ => CHANGED,
            }
        })
    });
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(10).await;
    let task = rig.over(id).await;
    assert_eq!(task.state.status, Status::CompletedWithErrors);
    let Counts { succeeded, failed, skipped, .. } = task.counts;
    assert_eq!((succeeded, failed, skipped), (7, 2, 1));
    let items = rig.items(id).await;
    let message = |index: usize| items[index].result.as_ref().unwrap().outcome.message().map(str::to_owned);
    assert_eq!(message(3).as_deref(), Some("the action crashed: on purpose"));
    assert_eq!(message(4).as_deref(), Some("no such node"));
    assert_eq!(rig.events(id).last().unwrap().kind, EventKind::Error);
    let next = rig.submit(1).await;
    assert_eq!(rig.over(next).await.state.status, Status::Completed, "the worker goes on");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_cannot_be_reached_fails_every_item_with_its_reason() {
    let rig = Rig::new();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let actions = TestActions::taking(Duration::ZERO).prepared_by(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Err(ActionError::transient("no route to prod"))
    });
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(12_000).await;
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.failed), (Status::Failed, 12_000));
    assert_eq!(task.error.as_deref(), Some("no route to prod"));
    assert_eq!(tries.load(Ordering::SeqCst), u32::from(WorkerConfig::default().item_tries));
    assert!(actions.runs(id).is_empty());
    let first = rig.items(id).await.swap_remove(0).result.unwrap();
    assert_eq!((first.outcome, first.tries), (ItemOutcome::failed("no route to prod"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_may_ask_for_fewer_lanes_and_less_time() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(5));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let draft = Draft {
        action: "cordon".into(),
        cluster: "prod".into(),
        items: (0..6).map(|index| format!("node-{index}")).collect(),
        concurrency: Some(2),
        item_timeout_ms: Some(1_000),
        ..Draft::default()
    };
    let id = rig.submit_draft("ada", draft).await;
    assert_eq!(rig.over(id).await.counts.failed, 6);
    assert_eq!(actions.most_in_work(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_large_task_does_not_keep_a_small_one_waiting() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(50));
    let config = WorkerConfig { lanes: 20, ..WorkerConfig::default() };
    let _life = rig.worker("w1", &actions, config);
    let large = rig.submit_as("ada", 20_000).await;
    until("the large task runs", || async { actions.in_work() == 20 }).await;
    let began = Instant::now();
    let small = rig.submit_as("bob", 20).await;
    rig.over(small).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!rig.task(large).await.state.status.is_terminal());
    assert_eq!(actions.most_in_work(), 20);
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_are_held_than_allowed_and_the_next_follows_at_once() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(1));
    let config = WorkerConfig { tasks_max: 2, ..WorkerConfig::default() };
    let began = Instant::now();
    let _life = rig.worker("w1", &actions, config);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(rig.submit(1).await);
    }
    for id in ids {
        rig.over(id).await;
    }
    assert_eq!(actions.most_in_work(), 2);
    assert!(began.elapsed() < Duration::from_millis(3_500), "{:?}", began.elapsed());
    until("all are let go", || async { rig.metrics.tasks_held.get() == 0 }).await;
}

#[tokio::test(start_paused = true)]
async fn an_item_that_takes_long_is_told_of_as_running() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(2));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let id = rig.submit(3).await;
    rig.over(id).await;
    let events = rig.dense_events(id);
    let running = events[1].items.iter().filter(|item| item.state == ItemState::Running).count();
    assert_eq!((events[1].kind, running, events[1].current), (EventKind::Progress, 3, 0));
    assert_eq!(told(&events, 3), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_wake_ups_costs_the_store_little() {
    let rig = Rig::new();
    let _life = rig.worker("w1", &TestActions::taking(Duration::ZERO), WorkerConfig::default());
    for _ in 0..10_000 {
        rig.dispatch.notify(TaskId::generate()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let claims = rig.store.claims.load(Ordering::SeqCst);
    assert!(claims < 200, "{claims} claims");
    let began = Instant::now();
    let id = rig.submit(1).await;
    rig.over(id).await;
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_wake_up_was_lost_is_found_by_the_poll() {
    let rig = Rig::new();
    let _life = rig.worker("w1", &TestActions::taking(Duration::ZERO), WorkerConfig::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let id = rig.submit(1).await;
    let mut thief = rig.dispatch.receiver(&ReplicaId::new("thief").unwrap()).await.unwrap();
    let _ = thief.receive(1, Duration::ZERO).await.unwrap();
    let began = Instant::now();
    rig.over(id).await;
    assert!(began.elapsed() <= Duration::from_millis(5_100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_get_on_is_told_of_as_stalled_until_an_item_finishes() {
    let rig = Rig::new();
    let actions = TestActions::new(|index| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(if index == 2 { 55 } else { 10 })).await;
            CHANGED
        })
    });
    let config = WorkerConfig { lanes_per_task: 3, ..WorkerConfig::default() };
    let _life = rig.worker("w1", &actions, config);
    let id = rig.submit(4).await;
    rig.over(id).await;
    let events = rig.dense_events(id);
    let at: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Stalled).collect();
    let [stalled] = at[..] else { panic!("told once: {at:?}") };
    assert_eq!(
        (stalled.timestamp.as_second(), stalled.stalled_since.map(Timestamp::as_second)),
        (50, Some(20))
    );
    assert_eq!((stalled.current, stalled.items.len(), stalled.items[0].index), (3, 1, 2));
    assert_eq!(stalled.message.as_deref(), Some("no item finished for 30 s; in work: node-2"));
    assert!(
        events.iter().filter(|event| event.seq != stalled.seq).all(|event| event.stalled_since.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_paused_or_may_not_stall_is_not_told_of_as_stalled() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(50));
    let config = WorkerConfig { grace: Duration::from_secs(600), ..WorkerConfig::default() };
    let _life = rig.worker("w1", &actions, config);
    let id = rig.submit(1).await;
    rig.has_status(id, Status::Running).await;
    rig.control(id, Control::Pause).await;
    until("its last item is done", || async { rig.task(id).await.counts.succeeded == 1 }).await;
    assert!(rig.dense_events(id).iter().all(|event| event.kind != EventKind::Stalled));

    let quiet = Rig::new();
    let never = WorkerConfig { stall_after: Duration::ZERO, ..WorkerConfig::default() };
    let _life = quiet.worker("w1", &actions, never);
    let id = quiet.submit(1).await;
    quiet.over(id).await;
    assert!(quiet.dense_events(id).iter().all(|event| event.kind != EventKind::Stalled));
}
