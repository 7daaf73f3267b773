//! The bus, the store or the lease goes away. Each test also shows that the fault bit.

use super::*;
use crate::dispatch::{DispatchError, Token, TokenSource};
use crate::telemetry::metrics::Fenced;

fn fenced(rig: &Rig) -> u64 {
    Fenced::ALL.into_iter().map(|write| rig.metrics.fenced(write)).sum()
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_fails_now_and_then_loses_no_change_and_no_end() {
    for seed in 0..8_u32 {
        let rig = Rig::new();
        let actions = TestActions::taking(Duration::from_millis(20));
        let _life = rig.worker("w1", &actions, WorkerConfig::default());
        rig.bus.fail_before.store(seed % 4, Ordering::SeqCst);
        rig.bus.fail_after.store(seed / 2, Ordering::SeqCst);
        let id = rig.submit(500).await;
        rig.over(id).await;
        let events = rig.dense_events(id);
        assert_eq!(told(&events, 500), vec![1; 500], "seed {seed}");
        assert_eq!(rig.metrics.publish_errors.get(), u64::from(seed % 4 + seed / 2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_bus_holds_up_neither_items_nor_the_record() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(100));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    rig.bus.away.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let id = rig.submit(1_000).await;
    until("half is recorded", || async { rig.task(id).await.counts.succeeded >= 500 }).await;
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    assert!(rig.events(id).is_empty());
    rig.bus.away.store(false, Ordering::SeqCst);
    rig.over(id).await;
    assert_eq!(told(&rig.dense_events(id), 1_000), vec![1; 1_000]);
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_in_the_record_even_if_the_bus_stays_away() {
    let rig = Rig::new();
    let _life = rig.worker("w1", &TestActions::taking(Duration::ZERO), WorkerConfig::default());
    rig.bus.away.store(true, Ordering::SeqCst);
    let id = rig.submit(100).await;
    rig.has_status(id, Status::Completed).await;
    until("it is let go", || async { rig.metrics.tasks_held.get() == 0 }).await;
    let rows = crate::store::UpkeepStore::unpublished(&rig.store.store, Duration::ZERO, 10).await.unwrap();
    assert_eq!(rows.len(), 1, "the relay has the terminal event to publish");
    assert!(rows[0].event.is_terminal() && rows[0].event.current == 100);
}

#[tokio::test(start_paused = true)]
async fn a_slow_bus_gets_fewer_and_fuller_events() {
    let rig = Rig::new();
    *lock(&rig.bus.slow) = Duration::from_millis(200);
    let actions = TestActions::taking(Duration::from_millis(5));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    let began = Instant::now();
    let id = rig.submit(4_000).await;
    rig.over(id).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let events = rig.dense_events(id);
    assert!(events.len() < 20, "{} events", events.len());
    assert_eq!(told(&events, 4_000), vec![1; 4_000]);
}

#[tokio::test(start_paused = true)]
async fn results_wait_for_an_absent_store_and_hold_back_the_lanes() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(1));
    let config = WorkerConfig { lease: Duration::from_secs(60), ..WorkerConfig::default() };
    let _life = rig.worker("w1", &actions, config);
    let id = rig.submit(9_000).await;
    rig.has_status(id, Status::Running).await;
    rig.store.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let done = actions.runs(id).len();
    assert!((5_000..9_000).contains(&done), "{done} items ran against an absent store");
    rig.store.away.store(false, Ordering::SeqCst);
    let task = rig.over(id).await;
    assert_eq!((task.counts.succeeded, task.state.attempt.0), (9_000, 1));
    assert_eq!(actions.runs(id), once_each(9_000));
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_lost_double_nothing() {
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_millis(50));
    let _life = rig.worker("w1", &actions, WorkerConfig::default());
    rig.store.lose_replies.store(3, Ordering::SeqCst);
    let id = rig.submit(10).await;
    let task = rig.over(id).await;
    assert_eq!(rig.store.lose_replies.load(Ordering::SeqCst), 0);
    assert_eq!((task.state.status, task.counts.succeeded), (Status::Completed, 10));
    assert_eq!(rig.dense_events(id).iter().filter(|event| event.is_terminal()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_renew_stops_before_another_one_may_begin() {
    let rig = Rig::new();
    let slow = TestActions::taking(Duration::from_secs(100));
    let old = rig.worker("w1", &slow, WorkerConfig { item_timeout: Duration::from_secs(200), ..quiet() });
    rig.submit(5).await;
    until("items are in flight", || async { slow.in_work() == 5 }).await;
    rig.store.no_renewals.store(true, Ordering::SeqCst);
    until("the worker stopped itself", || async { slow.in_work() == 0 }).await;
    // Else it claims the task itself when the lease is over.
    old.stop();
    let rules = ClaimRules { lease: Duration::from_secs(5), per_cluster_max: 32 };
    let thief = ReplicaId::new("thief").unwrap();
    let early = rig.store.store.claim(&thief, &rules).await.unwrap();
    assert!(early.is_none(), "the lease still holds when the worker has stopped");
    let records = rig.store.records.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let claim = rig.store.store.claim(&thief, &rules).await.unwrap().unwrap();
    assert_eq!((claim.task.state.attempt.0, claim.pending.len()), (2, 5));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(rig.store.records.load(Ordering::SeqCst), records, "it writes nothing more");
}

/// A worker that neither polls nor is woken after its first task.
fn quiet() -> WorkerConfig {
    WorkerConfig { tasks_max: 1, poll_interval: Duration::from_secs(100_000), ..WorkerConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn a_zombie_is_refused_by_the_store_and_the_bus_and_stops() {
    // The zombie's own lease is long, so that only the fences can stop it: the store is told another one.
    let rig = Rig::new();
    let actions = TestActions::taking(Duration::from_secs(30));
    let config =
        WorkerConfig { lease: Duration::from_secs(600), renew_interval: Duration::from_secs(200), ..quiet() };
    let _zombie = rig.worker("w1", &actions, config);
    let id = rig.submit(40).await;
    until("items are in flight", || async { actions.in_work() == 20 }).await;
    let fence = Fence { task: id, attempt: rig.task(id).await.state.attempt };
    rig.store.store.renew(&[fence], Duration::ZERO).await.unwrap();
    let rules = ClaimRules { lease: Duration::from_secs(3600), per_cluster_max: 32 };
    let claim = rig.store.store.claim(&ReplicaId::new("thief").unwrap(), &rules).await.unwrap().unwrap();
    assert_eq!(claim.task.state.attempt.0, 2);
    let began = Instant::now();
    until("the zombie is fenced and let go", || async {
        fenced(&rig) == 1 && rig.metrics.tasks_held.get() == 0
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(31), "at its first write: {:?}", began.elapsed());
    assert_eq!(actions.in_work(), 0, "what it had started since is dropped");
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(rig.task(id).await.counts.current(), 0, "nothing of it was recorded");
    assert!(actions.runs(id).iter().all(|runs| *runs == 1) && actions.runs(id).len() <= 40);
}

#[tokio::test(start_paused = true)]
async fn the_first_event_of_a_takeover_shuts_the_zombie_out_of_the_bus() {
    let rig = Rig::new();
    let zombies = TestActions::taking(Duration::from_millis(700));
    let _zombie = rig.worker("w1", &zombies, WorkerConfig { lease: Duration::from_secs(600), ..quiet() });
    let id = rig.submit(60).await;
    until("items are in flight", || async { zombies.in_work() == 20 }).await;
    let mut event =
        rig.task(id).await.event(crate::task::EventKind::Started, Seq::FIRST, Timestamp::UNIX_EPOCH);
    event.attempt = event.attempt.next();
    rig.bus.publish(&UserId::new("ada").unwrap(), &event).await.unwrap();
    until("the zombie is fenced", || async { fenced(&rig) == 1 }).await;
    until("it let go", || async { rig.metrics.tasks_held.get() == 0 }).await;
    assert_eq!(zombies.runs(id).len(), 20);
    assert_eq!(rig.events(id).last().unwrap().attempt.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_to_the_record_is_counted_by_its_kind_and_stops_the_task() {
    let kinds = [
        ("recording", Fenced::Result),
        ("ending", Fenced::Terminal),
        ("handing over", Fenced::HandOver),
        ("renewing", Fenced::Renewal),
    ];
    for (call, write) in kinds {
        let rig = Rig::new();
        let actions = TestActions::taking(Duration::from_millis(1_500));
        let life = rig.worker("w1", &actions, WorkerConfig { lanes_per_task: 1, ..quiet() });
        let id = rig.submit(if write == Fenced::Terminal { 1 } else { 9 }).await;
        until("an item is in flight", || async { actions.in_work() == 1 }).await;
        *lock(&rig.store.stolen_at) = Some(call);
        if write == Fenced::HandOver {
            life.stop();
        }
        until("the write is refused", || async { rig.metrics.fenced(write) == 1 }).await;
        until("the task is let go", || async { rig.metrics.tasks_held.get() == 0 }).await;
        assert_eq!(fenced(&rig), 1, "{call}");
        let task = rig.task(id).await;
        assert_eq!((task.state.status, task.state.attempt.0), (Status::Running, 2), "{call}");
    }
}

/// A dispatch whose tokens have always passed to somebody else by the time they are acked.
struct Slippery(MemoryDispatch);

struct SlipperyTokens(Box<dyn TokenSource>);

#[async_trait]
impl Dispatcher for Slippery {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        self.0.notify(task).await
    }

    async fn waiting(&self) -> Result<u64, DispatchError> {
        self.0.waiting().await
    }

    async fn receiver(&self, worker: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
        Ok(Box::new(SlipperyTokens(self.0.receiver(worker).await?)))
    }
}

#[async_trait]
impl TokenSource for SlipperyTokens {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, DispatchError> {
        self.0.receive(max, wait).await
    }

    async fn ack(&mut self, token: Token) -> Result<bool, DispatchError> {
        self.0.ack(token).await.map(|_| false)
    }

    async fn close(self: Box<Self>) -> Result<(), DispatchError> {
        self.0.close().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_ack_is_counted_and_costs_nothing() {
    let rig = Rig::new();
    let dispatch = Arc::new(Slippery(rig.dispatch.clone()));
    let actions = TestActions::taking(Duration::ZERO);
    let _life = rig.worker_on(dispatch, "w1", &actions, WorkerConfig::default());
    let id = rig.submit(3).await;
    assert_eq!(rig.over(id).await.counts.succeeded, 3);
    until("the ack is refused", || async { rig.metrics.fenced(Fenced::Ack) == 1 }).await;
}
