//! A worker dies with results that were told and not recorded. Its successor must run none of their items again.

use super::*;
use crate::store::UpkeepStore;

/// A worker that tells at once and records almost never.
fn forgetful() -> WorkerConfig {
    let never = Duration::from_secs(3_600);
    WorkerConfig { lanes_per_task: 5, record_interval: never, record_batch: 5_000, ..WorkerConfig::default() }
}

/// Runs part of a task in a worker that is then cut off in the middle, and returns the items it had in flight.
async fn cut_off(rig: &Rig, id: TaskId, actions: &TestActions, life: &Lifecycle) -> u32 {
    until("some results are told", || async {
        rig.events(id).last().is_some_and(|event| event.current >= 50)
    })
    .await;
    life.hard().cancel();
    let in_flight = actions.in_work();
    life.stop();
    until("everything is dropped", || async { actions.in_work() == 0 }).await;
    assert_eq!(rig.task(id).await.counts.current(), 0, "nothing was recorded: the fault bit");
    in_flight
}

fn ran_twice(actions: &TestActions, id: TaskId) -> usize {
    let runs = actions.runs(id);
    assert!(runs.iter().all(|runs| *runs <= 2));
    runs.into_iter().filter(|runs| *runs == 2).count()
}

#[tokio::test(start_paused = true)]
async fn what_was_told_is_not_run_again() {
    for ms in [1, 3, 7, 20, 100] {
        let rig = Rig::new();
        let actions = TestActions::taking(Duration::from_millis(ms));
        let first = rig.worker("w1", &actions, forgetful());
        let id = rig.submit(300).await;
        cut_off(&rig, id, &actions, &first).await;
        let _second = rig.worker("w2", &actions, forgetful());
        let task = rig.over(id).await;
        assert_eq!((task.counts.succeeded, task.state.attempt.0), (300, 2));
        let twice = ran_twice(&actions, id);
        assert!(twice <= 5, "{twice} items ran twice in five lanes, each taking {ms} ms");
        assert!(rig.metrics.results_inherited.get() >= 45);
        let events = rig.dense_events(id);
        let second = events.iter().find(|event| event.order() == (crate::task::Attempt(2), Seq(2))).unwrap();
        assert!(second.message.as_ref().unwrap().contains("results of the attempt before"), "{second:?}");
        assert!(second.current >= 45, "{second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_told_is_recorded_as_it_was() {
    let rig = Rig::new();
    let actions = TestActions::new(|index| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            match index % 3 {
                0 => Err(ActionError::permanent(format!("no node {index}"))),
                1 => Ok(Done::Skipped("a control plane".into())),
                _ => CHANGED,
            }
        })
    });
    let first = rig.worker("w1", &actions, forgetful());
    let id = rig.submit(100).await;
    cut_off(&rig, id, &actions, &first).await;
    let told: Vec<_> = rig.events(id).iter().flat_map(|event| event.results().collect::<Vec<_>>()).collect();
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    rig.over(id).await;
    let items = rig.items(id).await;
    for result in told {
        assert_eq!(items[result.index as usize].result.as_ref(), Some(&result), "told and recorded differ");
    }
    let counts = rig.task(id).await.counts;
    assert_eq!((counts.failed, counts.skipped, counts.succeeded), (34, 33, 33));
}

#[tokio::test(start_paused = true)]
async fn what_two_attempts_left_is_found_by_the_third() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(20));
    let first = rig.worker("w1", &actions, forgetful());
    let id = rig.submit(200).await;
    cut_off(&rig, id, &actions, &first).await;
    // The second is cut off after its first event, and before it has recorded what the first one left.
    rig.store.away.store(true, Ordering::SeqCst);
    until("the lease lapses", || async {
        !UpkeepStore::claimable(&rig.store.store, 1).await.unwrap().is_empty()
    })
    .await;
    let rules = ClaimRules { lease: Duration::ZERO, per_cluster_max: 32 };
    let claim = rig.store.store.claim(&ReplicaId::new("w2").unwrap(), &rules).await.unwrap().unwrap();
    let started = claim.task.event(crate::task::EventKind::Started, Seq::FIRST, Timestamp::UNIX_EPOCH);
    rig.bus.report(&claim.task.owner, &started, None).await.unwrap();
    rig.store.away.store(false, Ordering::SeqCst);
    let _third = rig.worker("w3", &actions, WorkerConfig::default());
    let task = rig.over(id).await;
    assert_eq!((task.counts.succeeded, task.state.attempt.0), (200, 3));
    assert!(ran_twice(&actions, id) <= 5);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_items_were_all_told_is_only_ended() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(10));
    let first = rig.worker("w1", &actions, forgetful());
    let id = rig.submit(40).await;
    rig.has_status(id, Status::Running).await;
    rig.store.away.store(true, Ordering::SeqCst);
    until("all is told", || async { rig.events(id).last().is_some_and(|event| event.current == 40) }).await;
    first.hard().cancel();
    first.stop();
    rig.store.away.store(false, Ordering::SeqCst);
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    let task = rig.over(id).await;
    assert_eq!((task.state.status, task.counts.succeeded, task.state.attempt.0), (Status::Completed, 40, 2));
    assert_eq!(actions.runs(id), once_each(40));
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_has_lost_runs_again() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(20));
    let first = rig.worker("w1", &actions, forgetful());
    let id = rig.submit(100).await;
    cut_off(&rig, id, &actions, &first).await;
    rig.bus.bus.wipe(&UserId::new("ada").unwrap());
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    let task = rig.over(id).await;
    assert_eq!((task.counts.succeeded, rig.metrics.results_inherited.get()), (100, 0));
    assert!(ran_twice(&actions, id) >= 45);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_without_a_bus_runs_all_that_is_not_recorded() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(20));
    let first = rig.worker("w1", &actions, forgetful());
    let id = rig.submit(100).await;
    cut_off(&rig, id, &actions, &first).await;
    rig.bus.away.store(true, Ordering::SeqCst);
    let _second = rig.worker("w2", &actions, WorkerConfig::default());
    until("it ends in the record", || async { rig.task(id).await.counts.succeeded == 100 }).await;
    assert!(ran_twice(&actions, id) >= 45);
}

#[tokio::test(start_paused = true)]
async fn results_that_are_recorded_do_not_pile_up_on_the_bus() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(5));
    let _life = rig.worker("w1", &actions, WorkerConfig { lanes_per_task: 5, ..WorkerConfig::default() });
    let id = rig.submit(3_000).await;
    let (ada, mut most) = (UserId::new("ada").unwrap(), 0);
    while rig.task(id).await.state.status != Status::Completed {
        let kept = rig.bus.unrecorded(&ada, id, crate::task::Attempt(2)).await.unwrap().len();
        most = most.max(kept);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // 1,000 items a second, recorded every quarter of a second.
    assert!((50..=600).contains(&most), "{most} results were kept at once");
}
