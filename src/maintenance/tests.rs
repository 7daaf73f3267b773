//! The duties over the memory backends. Time is paused, and the wall clock follows it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::*;
use crate::bus::{BusError, Feed, MemoryBus, Published, Replay};
use crate::clock::Clock;
use crate::config::BusConfig;
use crate::dispatch::{MemoryDispatch, TokenSource};
use crate::store::{ClaimRules, ClaimStore, Fence, MemoryStore, NewTask, TaskStore};
use crate::task::{
    Attempt, Draft, Effect, Event, EventKind, ItemOutcome, ItemResult, Origin, ReplicaId, Seq, Status,
    TaskId, TaskSpec, UserId,
};
use crate::telemetry::metrics::{Kind, Outcome};

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

/// A bus that is away for so many publishes, takes nothing for one user, and remembers in which order it was asked.
struct TestBus {
    bus: MemoryBus,
    away: AtomicU32,
    refused: Mutex<Option<UserId>>,
    taken: Mutex<Option<UserId>>,
    asked: Mutex<Vec<TaskId>>,
}

#[async_trait]
impl Publisher for TestBus {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        self.asked.lock().unwrap().push(event.task_id);
        let away = self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if away || self.refused.lock().unwrap().as_ref() == Some(user) {
            return Err(BusError::Unavailable { doing: "publishing", source: "cut".into() });
        }
        if self.taken.lock().unwrap().as_ref() == Some(user) {
            return Err(BusError::Taken { doing: "publishing", source: "a key of another type".into() });
        }
        self.bus.report(user, event, recorded).await
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        self.bus.unrecorded(user, task, attempt).await
    }
}

struct Rig {
    store: Arc<MemoryStore>,
    bus: Arc<TestBus>,
    dispatch: MemoryDispatch,
    metrics: Metrics,
    life: Lifecycle,
}

const STALL_AFTER: Duration = Duration::from_secs(30);

const RULES: ClaimRules = ClaimRules { lease: Duration::from_secs(5), per_cluster_max: 100 };

fn ada() -> UserId {
    UserId::new("ada").unwrap()
}

impl Rig {
    /// Backends with maintenance running.
    fn new() -> Self {
        Self::with(MaintenanceConfig::default())
    }

    fn with(config: MaintenanceConfig) -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(TestClock(Instant::now()))));
        let bus = MemoryBus::new(&BusConfig::default());
        let (away, refused, asked) = (AtomicU32::new(0), Mutex::default(), Mutex::default());
        let bus = Arc::new(TestBus { bus, away, refused, taken: Mutex::default(), asked });
        let rig = Self {
            store,
            bus,
            dispatch: MemoryDispatch::new(),
            metrics: Metrics::new(),
            life: Lifecycle::new(),
        };
        let parts = Parts {
            store: Arc::clone(&rig.store) as Arc<dyn UpkeepStore>,
            leadership: Arc::clone(&rig.store) as Arc<dyn Leadership>,
            publisher: Arc::clone(&rig.bus) as Arc<dyn Publisher>,
            dispatcher: Arc::new(rig.dispatch.clone()),
            metrics: rig.metrics.clone(),
            config,
            audit: AuditConfig::default(),
            stall_after: STALL_AFTER,
            extra: Vec::new(),
        };
        run(parts, &rig.life);
        rig
    }

    async fn submit(&self, max_attempts: u16) -> TaskId {
        self.submit_as(ada(), max_attempts).await
    }

    async fn submit_as(&self, owner: UserId, max_attempts: u16) -> TaskId {
        let draft = Draft {
            action: "cordon".into(),
            cluster: "prod".into(),
            items: vec!["node-1".into()],
            max_attempts: Some(max_attempts),
            ..Draft::default()
        };
        let spec = TaskSpec::new(draft).unwrap();
        let new = NewTask {
            id: TaskId::generate(),
            owner,
            spec,
            key: None,
            open_max: 1_000,
            origin: Origin::default(),
        };
        let id = new.id;
        self.store.create(new).await.unwrap();
        id
    }

    async fn claim(&self) -> Fence {
        let claim = self.store.claim(&ReplicaId::new("w1").unwrap(), &RULES).await.unwrap().unwrap();
        Fence { task: claim.task.id, attempt: claim.task.state.attempt }
    }

    /// Ends a task in the record and tells nobody, as a worker does that dies in between.
    async fn finish_silently(&self, fence: Fence) {
        let result = ItemResult {
            index: 0,
            name: "node-1".parse().unwrap(),
            outcome: ItemOutcome::Succeeded { effect: Effect::Changed },
            tries: 1,
            finished_at: Timestamp::UNIX_EPOCH,
        };
        let counts = self.store.record(fence, &[result]).await.unwrap();
        let mut task = self.store.find(fence.task).await.unwrap().unwrap();
        task.state.status = counts.verdict().unwrap();
        let event = task.event(EventKind::terminal(task.state.status), Seq(2), Timestamp::UNIX_EPOCH);
        self.store.finish(fence, &event).await.unwrap();
    }

    /// Terminal events in ada's stream, oldest first.
    async fn told(&self) -> Vec<Event> {
        let mut start = self.bus.bus.head(&ada()).await.unwrap();
        start.id = crate::task::EntryId::START;
        let Replay::Page { entries, .. } = self.bus.bus.replay(&ada(), &start, 1_000).await.unwrap() else {
            panic!("nothing was trimmed");
        };
        entries
            .iter()
            .filter(|entry| entry.terminal)
            .map(|e| serde_json::from_slice(&e.body).unwrap())
            .collect()
    }

    async fn tokens(&self, for_so_long: Duration) -> usize {
        let mut source: Box<dyn TokenSource> =
            self.dispatch.receiver(&ReplicaId::new("w1").unwrap()).await.unwrap();
        tokio::time::sleep(for_so_long).await;
        let tokens = source.receive(1_000, Duration::ZERO).await.unwrap();
        let n = tokens.len();
        for token in tokens {
            source.ack(token).await.unwrap();
        }
        n
    }

    fn done(&self, kind: &'static str) -> u64 {
        self.metrics.upkeep.get_or_create(&Kind { kind }).get()
    }
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_committed_and_not_told_is_told_once() {
    let rig = Rig::new();
    let id = rig.submit(3).await;
    rig.finish_silently(rig.claim().await).await;
    seconds(10).await;
    let told = rig.told().await;
    assert_eq!((told.len(), told[0].task_id, told[0].status), (1, id, Status::Completed));
    assert_eq!((rig.bus.asked.lock().unwrap().len(), rig.done("relay")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_absent_bus_delays_ends_and_keeps_their_order() {
    let rig = Rig::new();
    rig.bus.away.store(5, Ordering::SeqCst);
    for _ in 0..3 {
        rig.submit(3).await;
    }
    let mut ended = Vec::new();
    for _ in 0..3 {
        let fence = rig.claim().await;
        rig.finish_silently(fence).await;
        ended.push(fence.task);
    }
    seconds(30).await;
    let order: Vec<_> = rig.told().await.iter().map(|event| event.task_id).collect();
    assert_eq!(order, ended);
    let asked = rig.bus.asked.lock().unwrap().clone();
    assert_eq!(asked[..5], [ended[0]; 5], "nothing overtakes what could not be published");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_nothing_holds_up_nobody_else() {
    let rig = Rig::new();
    let bob = UserId::new("bob").unwrap();
    *rig.bus.refused.lock().unwrap() = Some(bob.clone());
    for owner in [&bob, &bob, &ada()] {
        rig.submit_as(owner.clone(), 3).await;
    }
    for _ in 0..3 {
        rig.finish_silently(rig.claim().await).await;
    }
    seconds(10).await;
    assert_eq!(rig.told().await.len(), 1);
    let left = rig.store.unpublished(Duration::ZERO, 10).await.unwrap();
    assert_eq!(left.iter().map(|row| &row.owner).collect::<Vec<_>>(), [&bob, &bob]);
    *rig.bus.refused.lock().unwrap() = None;
    seconds(60).await;
    assert!(rig.store.unpublished(Duration::ZERO, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_a_newer_attempt_shut_out_is_done_with() {
    let rig = Rig::new();
    let id = rig.submit(3).await;
    let fence = rig.claim().await;
    let mut newer =
        rig.store.find(id).await.unwrap().unwrap().event(EventKind::Started, Seq(1), Timestamp::UNIX_EPOCH);
    newer.attempt = fence.attempt.next();
    rig.bus.publish(&ada(), &newer).await.unwrap();
    rig.finish_silently(fence).await;
    seconds(10).await;
    assert!(rig.told().await.is_empty());
    assert!(rig.store.unpublished(Duration::ZERO, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_task_is_rung_for_soon_after_its_lease_and_only_then() {
    let rig = Rig::new();
    rig.submit(3).await;
    rig.claim().await;
    assert_eq!(rig.tokens(Duration::from_secs(4)).await, 0);
    assert_eq!(rig.tokens(Duration::from_millis(2_200)).await, 1, "within a round after 5 s");
    assert_eq!(rig.claim().await.attempt.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_works_on_does_not_become_a_pile_of_wake_ups() {
    let rig = Rig::new();
    for _ in 0..10 {
        rig.submit(3).await;
    }
    let tokens = rig.tokens(Duration::from_secs(600)).await;
    assert_eq!(tokens, 10, "for 10 tasks in 10 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_outlasts_every_worker_is_ended_and_told() {
    let rig = Rig::new();
    let id = rig.submit(2).await;
    for _ in 0..2 {
        assert_eq!(rig.claim().await.task, id);
        seconds(6).await;
    }
    seconds(10).await;
    let task = rig.store.find(id).await.unwrap().unwrap();
    assert_eq!((task.state.status, task.counts.failed), (Status::Failed, 1));
    let told = rig.told().await;
    assert_eq!((told.len(), told[0].status), (1, Status::Failed));
    assert_eq!(rig.done("rescuer"), 1);
    assert_eq!(rig.metrics.tasks_finished.get_or_create(&Outcome { status: "failed" }).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_ended_long_ago_are_deleted() {
    let hour = Duration::from_secs(3600);
    let rig =
        Rig::with(MaintenanceConfig { interval: hour, prune_interval: hour, ..MaintenanceConfig::default() });
    let id = rig.submit(3).await;
    let waiting = rig.submit(3).await;
    rig.finish_silently(rig.claim().await).await;
    tokio::time::sleep(hour * 24 * 6).await;
    assert!(rig.store.find(id).await.unwrap().is_some());
    tokio::time::sleep(hour * 24 * 2).await;
    assert!(rig.store.find(id).await.unwrap().is_none());
    assert!(rig.store.find(waiting).await.unwrap().is_some(), "what is not over is kept");
    assert_eq!(rig.done("pruner"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_backlog_shows_in_the_metrics() {
    let rig = Rig::new();
    rig.submit(3).await;
    rig.submit(3).await;
    rig.claim().await;
    seconds(60).await;
    // One waits from the start; the other one's lease lapsed, which is not the same as waiting.
    assert_eq!(rig.metrics.queue_depth.get(), 1);
    assert!((50..=60).contains(&rig.metrics.queue_oldest_seconds.get()));
}

#[tokio::test(start_paused = true)]
async fn a_held_task_without_a_result_for_long_shows_until_it_gets_on() {
    let rig = Rig::new();
    rig.submit(3).await;
    let waiting = rig.submit(3).await;
    let fence = rig.claim().await;
    seconds(29).await;
    assert_eq!(rig.metrics.tasks_stalled.get(), 0);
    seconds(20).await;
    assert_eq!(rig.metrics.tasks_stalled.get(), 1, "its worker is silent, and nobody took it over");
    seconds(60).await;
    assert_eq!((rig.metrics.tasks_stalled.get(), rig.done("stall_detector")), (1, 1), "told once");
    rig.finish_silently(fence).await;
    seconds(10).await;
    assert_eq!(rig.metrics.tasks_stalled.get(), 0);
    assert_eq!(
        rig.store.find(waiting).await.unwrap().unwrap().state.status,
        Status::Queued,
        "waiting is no stall"
    );
}
