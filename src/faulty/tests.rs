//! The contract suites again through faults, over the memory backends; and what becomes of calls that are not safe to
//! repeat, in the words of their ports. Time is paused: a wait costs nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::fixtures::{ALL, Through, plans};
use super::{Fault, Faulty, Plan};
use crate::bus::contract::{progress, user};
use crate::bus::{BusError, Feed, MemoryBus, Published, Publisher, Replay};
use crate::clock::SystemClock;
use crate::config::BusConfig;
use crate::dispatch::{Dispatcher, MemoryDispatch};
use crate::store::contract::AnyStore;
use crate::store::{
    ClaimRules, ClaimStore, Control, Created, IdempotencyKey, MemoryStore, NewTask, Store, StoreError,
    TaskStore, UpkeepStore,
};
use crate::task::{Attempt, By, Draft, Origin, ReplicaId, Status, TaskId, TaskSpec, UserId};
use crate::tickets::{MemoryTickets, Tickets};
use crate::{bus, dispatch, store, tickets};

/// In memory; each suite has its own.
struct Memory {
    bus: MemoryBus,
    dispatch: MemoryDispatch,
    tickets: Arc<MemoryTickets>,
}

impl Memory {
    fn new() -> Self {
        let bus = MemoryBus::new(&BusConfig::default());
        Self { bus, dispatch: MemoryDispatch::new(), tickets: Arc::new(MemoryTickets::default()) }
    }
}

#[async_trait]
impl bus::contract::Fixture for Memory {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.bus.clone())
    }

    fn feed(&self, _: usize) -> Arc<dyn Feed> {
        Arc::new(self.bus.clone())
    }

    async fn wipe(&self, user: &UserId) {
        self.bus.wipe(user);
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        self.bus.trim(user, keep);
    }
}

impl dispatch::contract::Fixture for Memory {
    fn dispatcher(&self, _: usize) -> Arc<dyn Dispatcher> {
        Arc::new(self.dispatch.clone())
    }

    fn redelivers(&self) -> bool {
        true
    }
}

impl tickets::contract::Fixture for Memory {
    fn tickets(&self, _: usize) -> Arc<dyn Tickets> {
        Arc::clone(&self.tickets) as Arc<dyn Tickets>
    }
}

/// Whether each of the port's calls that the plan names came to its bad end; a run without faults shows nothing.
fn assert_bit(plan: &Plan, calls: &[&str], port: &str) {
    // The store's suite asks neither for a ping nor for stalled tasks of other replicas.
    let asked = calls.iter().filter(|call| call.starts_with(port) && **call != "store.ping");
    asked.for_each(|call| assert!(plan.met(call) > 0, "{call} met no fault"));
}

#[tokio::test]
async fn a_store_keeps_its_promises_to_callers_that_ask_again() {
    for (plan, calls) in plans() {
        let fresh = async || {
            let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
            Arc::new(Faulty::new(memory, &plan)) as AnyStore
        };
        store::contract::holds(fresh).await;
        assert_bit(&plan, calls, "store.");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_keeps_its_promises_to_callers_that_ask_again() {
    for (plan, calls) in plans() {
        bus::contract::holds(&Through::new(Memory::new(), &plan)).await;
        assert_bit(&plan, calls, "feed.");
        assert_bit(&plan, calls, "publisher.");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dispatch_keeps_its_promises_to_callers_that_ask_again() {
    for (plan, calls) in plans() {
        dispatch::contract::holds(&Through::new(Memory::new(), &plan)).await;
        assert_bit(&plan, calls, "dispatcher.");
        assert_bit(&plan, calls, "tokens.");
    }
}

#[tokio::test(start_paused = true)]
async fn tickets_keep_their_promises_to_callers_that_ask_again() {
    let plan = Plan::in_turn(Fault::Before, &ALL);
    tickets::contract::holds(&Through::new(Memory::new(), &plan)).await;
    assert_bit(&plan, &ALL, "tickets.");
}

// What is not safe to repeat, and what becomes of it.

fn new_task(key: Option<&str>) -> NewTask {
    let draft = Draft {
        action: "wait".into(),
        parameters: json!({"duration_ms": 1, "fail_every": 0}),
        cluster: "prod".into(),
        items: vec!["node-1".into()],
        ..Draft::default()
    };
    let key = key.map(|key| IdempotencyKey { key: key.into(), fingerprint: [7; 32] });
    let (id, owner) = (TaskId::generate(), UserId::new("ada").unwrap());
    NewTask { id, owner, spec: TaskSpec::new(draft).unwrap(), key, open_max: 10, origin: Origin::default() }
}

/// A store whose `call` loses its reply from now on, until the plan is cleared.
fn losing(call: &'static str) -> (Arc<MemoryStore>, Faulty<MemoryStore>, Plan) {
    let (memory, plan) = (Arc::new(MemoryStore::new(Arc::new(SystemClock))), Plan::new());
    let faulty = Faulty::new(Arc::clone(&memory), &plan);
    plan.always(call, Fault::After);
    (memory, faulty, plan)
}

fn is_away<T>(reply: &Result<T, StoreError>) -> bool {
    matches!(reply, Err(StoreError::Unavailable { .. }))
}

const RULES: ClaimRules = ClaimRules { lease: Duration::from_secs(5), per_cluster_max: 10 };

#[tokio::test]
async fn a_submit_whose_reply_was_lost_is_one_task_with_a_key_and_two_without() {
    for (key, tasks) in [(Some("k"), 1), (None, 2)] {
        let (memory, faulty, plan) = losing("store.create");
        let first = new_task(key);
        assert!(is_away(&faulty.create(first.clone()).await));
        plan.clear();
        let again = faulty.create(new_task(key)).await.unwrap();
        assert_eq!(matches!(again, Created::Existing(task) if task.id == first.id), key.is_some());
        assert_eq!(memory.snapshot(&first.owner, 10).await.unwrap().len(), tasks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_reply_was_lost_holds_the_task_until_its_lease_ends() {
    let (memory, faulty, plan) = losing("store.claim");
    let worker = ReplicaId::generate("worker");
    memory.create(new_task(None)).await.unwrap();
    assert!(is_away(&faulty.claim(&worker, &RULES).await));
    plan.clear();
    assert!(faulty.claim(&worker, &RULES).await.unwrap().is_none(), "it is held, and nobody knows");
    tokio::time::advance(RULES.lease).await;
    let claim = faulty.claim(&worker, &RULES).await.unwrap().expect("the lease has ended");
    assert_eq!(
        (claim.task.state.attempt, claim.task.state.tries),
        (Attempt(2), 2),
        "it cost one of its tries"
    );
}

#[tokio::test]
async fn a_cancel_whose_reply_was_lost_leaves_its_event_to_the_relay() {
    let (memory, faulty, plan) = losing("store.control");
    let new = new_task(None);
    memory.create(new.clone()).await.unwrap();
    assert!(is_away(&faulty.control(new.id, Control::Cancel, &By::of(new.owner.clone())).await));
    plan.clear();
    let again = faulty
        .control(new.id, Control::Cancel, &By::of(new.owner.clone()))
        .await
        .unwrap()
        .expect("it is there");
    assert_eq!(
        (again.task.state.status, again.outbox),
        (Status::Cancelled, None),
        "asking again changes nothing"
    );
    let rows = memory.unpublished(Duration::ZERO, 10).await.unwrap();
    assert_eq!((rows.len(), rows[0].event.status), (1, Status::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_giving_up_whose_reply_was_lost_leaves_its_events_to_the_relay() {
    let (memory, faulty, plan) = losing("store.give_up");
    memory.create(new_task(None)).await.unwrap();
    for _ in 0..3 {
        memory.claim(&ReplicaId::generate("worker"), &RULES).await.unwrap().expect("a try is left");
        tokio::time::advance(RULES.lease).await;
    }
    assert!(is_away(&faulty.give_up(10).await));
    plan.clear();
    assert_eq!(faulty.give_up(10).await.unwrap(), [], "it was done");
    assert_eq!(memory.unpublished(Duration::ZERO, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_pruning_whose_reply_was_lost_is_done_and_not_counted() {
    let (memory, faulty, plan) = losing("store.prune");
    let new = new_task(None);
    memory.create(new.clone()).await.unwrap();
    memory.control(new.id, Control::Cancel, &By::of(new.owner.clone())).await.unwrap();
    assert!(is_away(&faulty.prune(Duration::ZERO, 10).await));
    plan.clear();
    assert_eq!(faulty.prune(Duration::ZERO, 10).await.unwrap(), 0);
    assert_eq!(memory.find(new.id).await.unwrap(), None);
}

#[tokio::test]
async fn an_event_whose_reply_was_lost_is_a_repeat_and_in_the_stream_once() {
    let (bus, plan, user) = (MemoryBus::new(&BusConfig::default()), Plan::new(), user("lost"));
    let faulty = Faulty::new(Arc::new(bus.clone()), &plan);
    let (start, event) = (bus.head(&user).await.unwrap(), progress(TaskId::generate(), 1, 1));
    plan.always("publisher.publish", Fault::After);
    assert!(matches!(faulty.publish(&user, &event).await, Err(BusError::Unavailable { .. })));
    plan.clear();
    assert_eq!(faulty.publish(&user, &event).await.unwrap(), Published::Repeat);
    let Replay::Page { entries, .. } = bus.replay(&user, &start, 10).await.unwrap() else { panic!("lost") };
    assert_eq!(entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_whose_reply_was_lost_come_again_when_their_receiver_ends() {
    let (dispatch, plan) = (MemoryDispatch::new(), Plan::new());
    let faulty = Faulty::new(Arc::new(dispatch.clone()), &plan);
    let task = TaskId::generate();
    dispatch.notify(task).await.unwrap();
    let mut first = faulty.receiver(&ReplicaId::generate("first")).await.unwrap();
    plan.always("tokens.receive", Fault::After);
    first.receive(1, Duration::ZERO).await.unwrap_err();
    plan.clear();
    assert!(first.receive(1, Duration::ZERO).await.unwrap().is_empty(), "it was given out");
    first.close().await.unwrap();
    let mut second = dispatch.receiver(&ReplicaId::generate("second")).await.unwrap();
    let tokens = second.receive(1, Duration::ZERO).await.unwrap();
    assert_eq!(tokens.first().and_then(|token| token.task_id), Some(task));
}

#[tokio::test]
async fn a_ring_whose_reply_was_lost_rings_twice_when_repeated() {
    let (dispatch, plan) = (MemoryDispatch::new(), Plan::new());
    let faulty = Faulty::new(Arc::new(dispatch.clone()), &plan);
    let task = TaskId::generate();
    plan.always("dispatcher.notify", Fault::After);
    faulty.notify(task).await.unwrap_err();
    plan.clear();
    faulty.notify(task).await.unwrap();
    assert_eq!(dispatch.waiting().await.unwrap(), 2, "at least once: the second finds nothing to claim");
}

#[tokio::test]
async fn an_ack_whose_reply_was_lost_is_done_and_when_repeated_not_ours() {
    let (dispatch, plan) = (MemoryDispatch::new(), Plan::new());
    let faulty = Faulty::new(Arc::new(dispatch.clone()), &plan);
    dispatch.notify(TaskId::generate()).await.unwrap();
    let mut first = faulty.receiver(&ReplicaId::generate("first")).await.unwrap();
    let token = first.receive(1, Duration::ZERO).await.unwrap().remove(0);
    plan.always("tokens.ack", Fault::After);
    first.ack(token.clone()).await.unwrap_err();
    plan.clear();
    assert!(!first.ack(token).await.unwrap());
    first.close().await.unwrap();
    let mut second = dispatch.receiver(&ReplicaId::generate("second")).await.unwrap();
    assert!(second.receive(1, Duration::ZERO).await.unwrap().is_empty(), "it was acked");
}

#[tokio::test]
async fn a_ticket_whose_reply_was_lost_is_used_up() {
    let (memory, plan) = (Arc::new(MemoryTickets::default()), Plan::new());
    let faulty = Faulty::new(Arc::clone(&memory), &plan);
    memory.issue([1; 32], "grant".into(), Duration::from_secs(60)).await.unwrap();
    plan.always("tickets.redeem", Fault::After);
    faulty.redeem([1; 32]).await.unwrap_err();
    plan.clear();
    assert_eq!(faulty.redeem([1; 32]).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_known_with_how_long_its_caller_waited() {
    let (memory, plan) = (Arc::new(MemoryTickets::default()), Plan::new());
    let faulty = Faulty::new(memory, &plan);
    plan.always("tickets.redeem", Fault::Hang);
    let waited = Duration::from_secs(3);
    tokio::time::timeout(waited, faulty.redeem([1; 32])).await.unwrap_err();
    assert_eq!(plan.hung(), [super::Hung { call: "tickets.redeem", waited, given_up: true }]);
}
