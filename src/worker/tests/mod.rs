//! The worker as a whole, over the memory backends, with faults put between. Time is paused: a wait costs nothing.

mod clusters;
mod faults;
mod halting;
mod orders;
mod running;
mod stopping;
mod strategies;
mod takeover;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use self::clusters::TestClusters;
use super::lease::lock;
use super::{Parts, run};
use crate::action::{Action, ActionError, Actions, Clusters, Context, Done, Target};
use crate::bus::{BusError, MemoryBus, Published, Publisher};
use crate::clock::Clock;
use crate::config::{BusConfig, WorkerConfig};
use crate::dispatch::{Dispatcher, MemoryDispatch};
use crate::lifecycle::Lifecycle;
use crate::store::{
    Claim, ClaimRules, ClaimStore, Control, Created, Fence, HoldBack, ItemQuery, MemoryStore, NewTask,
    NodeHeld, Outbox, OutboxId, Renewal, StoreError, Task, TaskStore,
};
use crate::task::{
    Attempt, By, Counts, Draft, Effect, Event, Item, ItemName, ItemResult, ItemState, Origin, ReplicaId, Seq,
    Status, TaskId, TaskSpec, TaskState, Then, UserId,
};
use crate::telemetry::Metrics;

pub(super) const CHANGED: Result<Done, ActionError> = Ok(Done::Succeeded(Effect::Changed));

/// Wall time that follows paused time.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

/// A bus that can fail before or after it acts, and remembers what it appended.
pub(super) struct TestBus {
    bus: MemoryBus,
    pub(super) fail_before: AtomicU32,
    pub(super) fail_after: AtomicU32,
    pub(super) away: AtomicBool,
    pub(super) slow: Mutex<Duration>,
    appended: Mutex<Vec<Event>>,
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[async_trait]
impl Publisher for TestBus {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        let away = || BusError::Unavailable { doing: "publishing", source: "cut".into() };
        let slow = *lock(&self.slow);
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        if self.away.load(Ordering::SeqCst) || take_one(&self.fail_before) {
            return Err(away());
        }
        let published = self.bus.report(user, event, recorded).await?;
        if let Published::Appended(_) = published {
            lock(&self.appended).push(event.clone());
        }
        if take_one(&self.fail_after) { Err(away()) } else { Ok(published) }
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable { doing: "reading results", source: "cut".into() });
        }
        self.bus.unrecorded(user, task, attempt).await
    }
}

/// A store that can be away for all calls or for renewals alone, and remembers what it was asked.
pub(super) struct TestStore {
    pub(super) store: MemoryStore,
    pub(super) away: AtomicBool,
    pub(super) no_renewals: AtomicBool,
    /// Whether changes by users are told by renewals alone.
    pub(super) deaf: AtomicBool,
    pub(super) lose_replies: AtomicU32,
    pub(super) records: AtomicU32,
    pub(super) claims: AtomicU32,
    pub(super) takes: AtomicU32,
    /// The call right before which another worker takes the task over, once.
    pub(super) stolen_at: Mutex<Option<&'static str>>,
}

impl TestStore {
    async fn steal(&self, doing: &'static str, fence: Fence) {
        if lock(&self.stolen_at).take_if(|at| *at == doing).is_some() {
            self.store.renew(&[fence], Duration::ZERO).await.unwrap();
            let rules = ClaimRules { lease: Duration::from_secs(3600), per_cluster_max: 32 };
            let thief = ReplicaId::new("thief").unwrap();
            assert!(self.store.claim(&thief, &rules).await.unwrap().is_some());
        }
    }

    fn up(&self, doing: &'static str) -> Result<(), StoreError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(StoreError::Unavailable { doing, source: "cut".into() }) } else { Ok(()) }
    }

    fn reply<T>(&self, reply: T) -> Result<T, StoreError> {
        let lost = StoreError::Unavailable { doing: "answering", source: "cut".into() };
        if take_one(&self.lose_replies) { Err(lost) } else { Ok(reply) }
    }
}

#[async_trait]
impl Outbox for TestStore {
    async fn published(&self, rows: &[OutboxId]) -> Result<(), StoreError> {
        self.up("marking")?;
        self.store.published(rows).await
    }
}

#[async_trait]
impl ClaimStore for TestStore {
    async fn claim(&self, worker: &ReplicaId, rules: &ClaimRules) -> Result<Option<Claim>, StoreError> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        self.up("claiming")?;
        self.store.claim(worker, rules).await
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        self.up("looking for the next lapse")?;
        self.store.next_lapse().await
    }

    async fn renew(&self, held: &[Fence], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        if self.no_renewals.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        self.up("renewing")?;
        self.steal("renewing", held[0]).await;
        self.store.renew(held, lease).await
    }

    async fn hear(&self, worker: &ReplicaId, ring: &(dyn Fn() + Send + Sync)) {
        match self.deaf.load(Ordering::SeqCst) {
            true => std::future::pending().await,
            false => self.store.hear(worker, ring).await,
        }
    }

    async fn record(&self, fence: Fence, results: &[ItemResult]) -> Result<Counts, StoreError> {
        self.records.fetch_add(1, Ordering::SeqCst);
        self.up("recording")?;
        self.steal("recording", fence).await;
        let counts = self.store.record(fence, results).await?;
        self.reply(counts)
    }

    async fn finish(&self, fence: Fence, event: &Event) -> Result<OutboxId, StoreError> {
        self.up("ending")?;
        self.steal("ending", fence).await;
        let row = self.store.finish(fence, event).await?;
        self.reply(row)
    }

    async fn halt(&self, fence: Fence, then: Then, message: &str) -> Result<TaskState, StoreError> {
        self.up("stopping")?;
        self.steal("stopping", fence).await;
        let status = self.store.halt(fence, then, message).await?;
        self.reply(status)
    }

    async fn keep_order(&self, fence: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError> {
        self.up("keeping an order")?;
        self.store.keep_order(fence, order).await
    }

    async fn hold_back(&self, fence: Fence, hold: &HoldBack) -> Result<TaskState, StoreError> {
        self.up("holding back")?;
        self.steal("holding back", fence).await;
        let state = self.store.hold_back(fence, hold).await?;
        self.reply(state)
    }

    async fn take_nodes(&self, fence: Fence, nodes: &[(u32, ItemName)]) -> Result<Vec<NodeHeld>, StoreError> {
        self.takes.fetch_add(1, Ordering::SeqCst);
        self.up("taking nodes")?;
        self.store.take_nodes(fence, nodes).await
    }

    async fn hand_over(&self, fence: Fence) -> Result<Status, StoreError> {
        self.up("handing over")?;
        self.steal("handing over", fence).await;
        self.store.hand_over(fence).await
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Done, ActionError>> + Send>>;
type Act = dyn Fn(u32, Context) -> Running + Send + Sync;

/// An action made of a closure over the index of the item; counts the runs.
#[derive(Clone)]
pub(super) struct TestActions {
    act: Arc<Act>,
    prepare: Arc<dyn Fn() -> Result<(), ActionError> + Send + Sync>,
    runs: Arc<Mutex<BTreeMap<(TaskId, u32), u32>>>,
    now: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

struct TestAction {
    actions: TestActions,
    task: TaskId,
}

#[async_trait]
impl Actions for TestActions {
    async fn prepare(&self, task: &Task) -> Result<Arc<dyn Action>, ActionError> {
        (self.prepare)()?;
        Ok(Arc::new(TestAction { actions: self.clone(), task: task.id }))
    }
}

/// Counts down when the run ends, also when it is dropped.
struct InWork(Arc<AtomicU32>);

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Action for TestAction {
    async fn run(&self, target: Target<'_>, context: &Context) -> Result<Done, ActionError> {
        *lock(&self.actions.runs).entry((self.task, target.index)).or_default() += 1;
        let now = self.actions.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.actions.most.fetch_max(now, Ordering::SeqCst);
        let _in_work = InWork(Arc::clone(&self.actions.now));
        (self.actions.act)(target.index, context.clone()).await
    }
}

impl TestActions {
    pub(super) fn new(act: impl Fn(u32) -> Running + Send + Sync + 'static) -> Self {
        Self::heeding(move |index, _| act(index))
    }

    /// As [`Self::new`], for items that heed and report.
    pub(super) fn heeding(act: impl Fn(u32, Context) -> Running + Send + Sync + 'static) -> Self {
        Self {
            act: Arc::new(act),
            prepare: Arc::new(|| Ok(())),
            runs: Arc::default(),
            now: Arc::default(),
            most: Arc::default(),
        }
    }

    /// Every item takes so long and succeeds.
    pub(super) fn taking(time: Duration) -> Self {
        Self::new(move |_| {
            Box::pin(async move {
                if !time.is_zero() {
                    tokio::time::sleep(time).await;
                }
                CHANGED
            })
        })
    }

    pub(super) fn prepared_by(
        mut self,
        prepare: impl Fn() -> Result<(), ActionError> + Send + Sync + 'static,
    ) -> Self {
        self.prepare = Arc::new(prepare);
        self
    }

    /// Runs of each item of a task, in order of index.
    pub(super) fn runs(&self, task: TaskId) -> Vec<u32> {
        lock(&self.runs).range((task, 0)..=(task, u32::MAX)).map(|(_, runs)| *runs).collect()
    }

    /// Items in work at this moment.
    pub(super) fn in_work(&self) -> u32 {
        self.now.load(Ordering::SeqCst)
    }

    /// The most items in work at once so far.
    pub(super) fn most_in_work(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }
}

/// Backends that outlive workers.
pub(super) struct Rig {
    pub(super) store: Arc<TestStore>,
    pub(super) bus: Arc<TestBus>,
    pub(super) dispatch: MemoryDispatch,
    pub(super) nodes: Arc<TestClusters>,
    pub(super) metrics: Metrics,
    clock: Arc<TestClock>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let clock = Arc::new(TestClock(Instant::now()));
        let store = TestStore {
            store: MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>),
            away: AtomicBool::new(false),
            no_renewals: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            lose_replies: AtomicU32::new(0),
            records: AtomicU32::new(0),
            claims: AtomicU32::new(0),
            takes: AtomicU32::new(0),
            stolen_at: Mutex::default(),
        };
        let bus = TestBus {
            bus: MemoryBus::new(&BusConfig::default()),
            fail_before: AtomicU32::new(0),
            fail_after: AtomicU32::new(0),
            away: AtomicBool::new(false),
            slow: Mutex::default(),
            appended: Mutex::default(),
        };
        let (store, bus) = (Arc::new(store), Arc::new(bus));
        let (dispatch, nodes) = (MemoryDispatch::new(), Arc::default());
        Self { store, bus, dispatch, nodes, metrics: Metrics::new(), clock }
    }

    /// Starts a worker.
    pub(super) fn worker(&self, name: &str, actions: &TestActions, config: WorkerConfig) -> Lifecycle {
        self.worker_on(Arc::new(self.dispatch.clone()), name, actions, config)
    }

    /// Starts a worker that is woken by another dispatch.
    pub(super) fn worker_on(
        &self,
        dispatcher: Arc<dyn Dispatcher>,
        name: &str,
        actions: &TestActions,
        config: WorkerConfig,
    ) -> Lifecycle {
        let life = Lifecycle::new();
        let parts = Parts {
            store: Arc::clone(&self.store) as Arc<dyn ClaimStore>,
            publisher: Arc::clone(&self.bus) as Arc<dyn Publisher>,
            dispatcher,
            actions: Arc::new(actions.clone()),
            clusters: Arc::clone(&self.nodes) as Arc<dyn Clusters>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            metrics: self.metrics.clone(),
            config,
            replica: ReplicaId::new(name).unwrap(),
        };
        run(parts, &life);
        life
    }

    pub(super) async fn submit(&self, items: u32) -> TaskId {
        self.submit_as("ada", items).await
    }

    pub(super) async fn submit_as(&self, owner: &str, items: u32) -> TaskId {
        let items = (0..items).map(|index| format!("node-{index}")).collect();
        // No nodes: tasks of one test have items of the same names.
        let draft = Draft { action: "wait".into(), cluster: "prod".into(), items, ..Draft::default() };
        self.submit_draft(owner, draft).await
    }

    pub(super) async fn submit_draft(&self, owner: &str, draft: Draft) -> TaskId {
        let spec = TaskSpec::new(draft).unwrap();
        let new = NewTask {
            id: TaskId::generate(),
            owner: UserId::new(owner).unwrap(),
            spec,
            key: None,
            open_max: 1_000,
            origin: Origin::default(),
        };
        let Ok(Created::New(task)) = self.store.store.create(new).await else { panic!("not created") };
        self.dispatch.notify(task.id).await.unwrap();
        task.id
    }

    pub(super) async fn control(&self, task: TaskId, control: Control) {
        self.store.store.control(task, control, &By::of(UserId::new("ada").unwrap())).await.unwrap().unwrap();
    }

    pub(super) async fn task(&self, id: TaskId) -> Task {
        self.store.store.find(id).await.unwrap().unwrap()
    }

    pub(super) async fn items(&self, id: TaskId) -> Vec<Item> {
        let query = ItemQuery { limit: u32::MAX, ..ItemQuery::default() };
        self.store.store.items(id, &query).await.unwrap()
    }

    /// Waits until the task is over and the bus has its terminal event.
    pub(super) async fn over(&self, id: TaskId) -> Task {
        until("the task is over and told", || async {
            let told = self.events(id).last().is_some_and(Event::is_terminal);
            told && self.task(id).await.state.status.is_terminal()
        })
        .await;
        self.task(id).await
    }

    pub(super) async fn has_status(&self, id: TaskId, status: Status) {
        until(status.as_str(), || async { self.task(id).await.state.status == status }).await;
    }

    /// What the bus appended for a task, in order, checked for what holds of every stream.
    pub(super) fn events(&self, id: TaskId) -> Vec<Event> {
        let events: Vec<_> = lock(&self.bus.appended).iter().filter(|e| e.task_id == id).cloned().collect();
        let mut last: HashMap<_, (Seq, u32)> = HashMap::new();
        for pair in events.windows(2) {
            assert!(pair[0].order() < pair[1].order(), "out of order: {pair:?}");
        }
        for event in &events {
            let (seq, current) = last.entry(event.attempt).or_insert((Seq(0), 0));
            assert!(event.current >= *current, "counts fell: {event:?}");
            (*seq, *current) = (event.seq, event.current);
        }
        events
    }

    /// The same, and every number is there.
    pub(super) fn dense_events(&self, id: TaskId) -> Vec<Event> {
        let events = self.events(id);
        let mut next: HashMap<_, Seq> = HashMap::new();
        for event in &events {
            let expected = next.entry(event.attempt).or_insert(Seq::FIRST);
            assert_eq!(event.seq, *expected, "a number is missing: {event:?}");
            *expected = expected.next();
        }
        events
    }
}

/// A worker that hears of users' wishes so rarely that a stop comes first.
pub(super) fn deaf(rig: &Rig) -> WorkerConfig {
    rig.store.deaf.store(true, Ordering::SeqCst);
    let (lease, renew_interval) = (Duration::from_secs(600), Duration::from_secs(200));
    WorkerConfig { lease, renew_interval, ..WorkerConfig::default() }
}

/// Times the end of each item was told, in order of index.
pub(super) fn told(events: &[Event], items: u32) -> Vec<usize> {
    let mut told = vec![0; items as usize];
    let changes = events.iter().flat_map(|event| &event.items);
    for change in changes.filter(|change| change.state != ItemState::Running) {
        told[change.index as usize] += 1;
    }
    told
}

pub(super) fn once_each(items: u32) -> Vec<u32> {
    vec![1; items as usize]
}

/// Waits for a condition, for a long time at most.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
