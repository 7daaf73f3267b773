//! Every call of a role ends by a deadline: each port of a worker and of maintenance hangs in turn, and nobody waits for
//! it longer than the role allows itself. Time is paused, so minutes of waiting take none. The gateway's calls are held
//! to the same in `gateway_outage`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use milepost::action::{Action, ActionError, Actions, Context, Done, Target};
use milepost::bus::MemoryBus;
use milepost::clock::{Clock, ManualClock};
use milepost::config::{AuditConfig, BusConfig, MaintenanceConfig, WorkerConfig};
use milepost::dispatch::{Dispatcher, MemoryDispatch};
use milepost::faulty::{Fault, Faulty, Plan};
use milepost::lifecycle::Lifecycle;
use milepost::store::{ClaimRules, ClaimStore, Control, MemoryStore, NewTask, Task, TaskStore};
use milepost::task::{By, Draft, Effect, Origin, ReplicaId, TaskId, TaskSpec, UserId};
use milepost::telemetry::Metrics;
use milepost::{maintenance, worker};
use serde_json::json;

/// More than any deadline of a call that a worker makes.
const WORKER_MAX: Duration = Duration::from_secs(16);
/// More than the deadline of a duty, which bounds every call in it.
const MAINTENANCE_MAX: Duration = Duration::from_secs(31);
/// Time that a role has to run into the call that hangs, and out of it again.
const WHILE: Duration = Duration::from_secs(90);
/// Time to stop in.
const GRACE: Duration = Duration::from_secs(120);

/// Items that take their time and then succeed.
struct Slowly(Duration);

#[async_trait]
impl Actions for Slowly {
    async fn prepare(&self, _: &Task) -> Result<Arc<dyn Action>, ActionError> {
        Ok(Arc::new(Self(self.0)))
    }
}

#[async_trait]
impl Action for Slowly {
    async fn run(&self, _: Target<'_>, _: &Context) -> Result<Done, ActionError> {
        tokio::time::sleep(self.0).await;
        Ok(Done::Succeeded(Effect::Changed))
    }
}

/// Memory backends behind one plan.
struct Rig {
    store: Arc<MemoryStore>,
    bus: Arc<MemoryBus>,
    dispatch: Arc<MemoryDispatch>,
    plan: Plan,
    life: Lifecycle,
}

impl Rig {
    fn new(call: &'static str) -> Self {
        let plan = Plan::new();
        plan.always(call, Fault::Hang);
        Self {
            store: Arc::new(MemoryStore::new(Arc::new(ManualClock::default()))),
            bus: Arc::new(MemoryBus::new(&BusConfig::default())),
            dispatch: Arc::new(MemoryDispatch::new()),
            plan,
            life: Lifecycle::new(),
        }
    }

    /// Records a task for which nobody has rung.
    async fn submit(&self) -> TaskId {
        let spec = TaskSpec::new(Draft {
            action: "wait".into(),
            parameters: json!({"duration_ms": 1, "fail_every": 0}),
            cluster: "prod".into(),
            items: vec!["node-1".into(), "node-2".into()],
            ..Draft::default()
        });
        let (id, owner) = (TaskId::generate(), UserId::new("ada").unwrap());
        let new =
            NewTask { id, owner, spec: spec.unwrap(), key: None, open_max: 100, origin: Origin::default() };
        self.store.create(new).await.unwrap();
        id
    }

    /// The same, with its wake-up.
    async fn submit_and_ring(&self) -> TaskId {
        let id = self.submit().await;
        self.dispatch.notify(id).await.unwrap();
        id
    }

    fn worker(&self, item: Duration) {
        let config = WorkerConfig {
            grace: Duration::from_secs(1),
            item_timeout: Duration::from_secs(3_600),
            ..WorkerConfig::default()
        };
        let parts = worker::Parts {
            store: Arc::new(Faulty::new(Arc::clone(&self.store), &self.plan)),
            publisher: Arc::new(Faulty::new(Arc::clone(&self.bus), &self.plan)),
            dispatcher: Arc::new(Faulty::new(Arc::clone(&self.dispatch), &self.plan)),
            actions: Arc::new(Slowly(item)),
            clusters: crate::support::no_clusters(),
            clock: Arc::new(ManualClock::default()) as Arc<dyn Clock>,
            metrics: Metrics::new(),
            config,
            replica: ReplicaId::generate("worker"),
        };
        worker::run(parts, &self.life);
    }

    fn maintenance(&self) {
        let store = Arc::new(Faulty::new(Arc::clone(&self.store), &self.plan));
        let parts = maintenance::Parts {
            store: Arc::clone(&store) as _,
            leadership: store,
            publisher: Arc::new(Faulty::new(Arc::clone(&self.bus), &self.plan)),
            dispatcher: Arc::new(Faulty::new(Arc::clone(&self.dispatch), &self.plan)),
            metrics: Metrics::new(),
            config: MaintenanceConfig { outbox_age: Duration::ZERO, ..MaintenanceConfig::default() },
            audit: AuditConfig::default(),
            stall_after: Duration::from_secs(1),
            extra: Vec::new(),
        };
        maintenance::run(parts, &self.life);
    }

    /// The role stops in time, and no call of it was waited for longer than `most`.
    async fn ends_within(self, call: &str, most: Duration) {
        self.life.shut_down(GRACE).await;
        // What outlasts the grace time is dropped at the hard stop, once its task is run again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let hung = self.plan.hung();
        assert!(!hung.is_empty(), "void: {call} was never made");
        for hung in hung {
            assert!(hung.given_up, "{call} is still waited for");
            assert!(hung.waited <= most, "{call} was waited for {:?}", hung.waited);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_waits_for_no_call_longer_than_its_deadline() {
    let quick = Duration::from_millis(100);
    // An item that outlasts the run has its task handed over at the stop.
    let slow = Duration::from_secs(600);
    for (call, item) in [
        ("store.claim", quick),
        ("store.renew", slow),
        ("store.record", quick),
        ("store.finish", quick),
        ("store.published", quick),
        ("store.hand_over", slow),
        ("publisher.publish", quick),
        ("dispatcher.receiver", quick),
        ("dispatcher.notify", slow),
        ("tokens.receive", quick),
        ("tokens.ack", quick),
        ("tokens.close", quick),
    ] {
        let rig = Rig::new(call);
        rig.submit_and_ring().await;
        rig.worker(item);
        tokio::time::sleep(WHILE).await;
        rig.ends_within(call, WORKER_MAX).await;
    }
}

/// F01, between receiving and committing: a wake-up is acked after the claim that it led to, never before.
#[tokio::test(start_paused = true)]
async fn a_worker_that_goes_before_its_claim_was_answered_leaves_the_wake_up_to_another() {
    let rig = Rig::new("store.claim");
    let task = rig.submit_and_ring().await;
    rig.worker(Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.life.shut_down(GRACE).await;
    assert!(!rig.plan.hung().is_empty(), "void: nothing was claimed");
    let mut other = rig.dispatch.receiver(&ReplicaId::generate("other")).await.unwrap();
    let tokens = other.receive(10, Duration::from_secs(1)).await.unwrap();
    assert_eq!(tokens.iter().filter_map(|token| token.task_id).collect::<Vec<_>>(), [task]);
}

#[tokio::test(start_paused = true)]
async fn maintenance_waits_for_no_call_longer_than_a_duty_may_take() {
    for call in [
        "store.lead",
        "store.give_up",
        "store.claimable",
        "store.unpublished",
        "store.published",
        "store.prune",
        "store.stalled",
        "store.backlog",
        "publisher.publish",
        "dispatcher.waiting",
        "dispatcher.notify",
    ] {
        let rig = Rig::new(call);
        // One that waits, one whose end nobody has told, one whose worker is gone.
        let lapsed = rig.submit().await;
        let rules = ClaimRules { lease: Duration::ZERO, per_cluster_max: 10 };
        let claim = rig.store.claim(&ReplicaId::generate("gone"), &rules).await.unwrap();
        assert_eq!(claim.map(|claim| claim.task.id), Some(lapsed));
        let ended = rig.submit().await;
        rig.store.control(ended, Control::Cancel, &By::of(UserId::new("ada").unwrap())).await.unwrap();
        rig.submit().await;
        rig.maintenance();
        tokio::time::sleep(WHILE).await;
        rig.ends_within(call, MAINTENANCE_MAX).await;
    }
}
