//! Ports of a gateway that fail on demand, for what a real server cannot be made to do at the right moment.
//!
//! Each passes every call on to a real backend, unless a fault is set for the call by its name, such as
//! `store.create`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use milepost::BoxError;
use milepost::action::{ClusterError, Clusters, NodeView};
use milepost::bus::{BusError, Feed, Following, Health, Inbox, Loss, Published, Publisher, Replay};
use milepost::dispatch::{DispatchError, Dispatcher, TokenSource};
use milepost::gateway::Parts;
use milepost::store::{
    Control, Controlled, Created, ItemQuery, NewRetry, NewTask, Outbox, OutboxId, OutboxRow, Retries,
    StoreError, Task, TaskQuery, TaskStore, Watched,
};
use milepost::task::{
    Attempt, ClusterName, Event, Item, ItemResult, Position, ReplicaId, Seq, TaskId, UserId,
};
use milepost::tickets::{TicketError, TicketHash, Tickets};

/// What must never reach a caller.
pub const SECRET: &str = "planted-words-of-a-backend";

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails at once.
    Fails,
    /// It never answers.
    Hangs,
    /// It is a mistake of ours.
    Panics,
    /// For a replay: the position cannot be continued.
    Loses,
}

/// The faults that are set now.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    set: HashMap<&'static str, Fault>,
    met: HashSet<&'static str>,
}

impl Faults {
    /// From now on the call goes wrong.
    pub fn set(&self, call: &'static str, fault: Fault) {
        self.0.lock().unwrap().set.insert(call, fault);
    }

    /// From now on all is well.
    pub fn clear(&self) {
        *self.0.lock().unwrap() = State::default();
    }

    /// Whether the call went wrong since its fault was set.
    pub fn met(&self, call: &str) -> bool {
        self.0.lock().unwrap().met.contains(call)
    }

    /// Puts these faults in front of every port of a gateway.
    pub fn wrap(&self, parts: &mut Parts) {
        let faults = self.clone();
        parts.store = Arc::new(Faulty { faults: faults.clone(), inner: Arc::clone(&parts.store) });
        parts.feed = Arc::new(Faulty { faults: faults.clone(), inner: Arc::clone(&parts.feed) });
        parts.publisher = Arc::new(Faulty { faults: faults.clone(), inner: Arc::clone(&parts.publisher) });
        parts.dispatcher = Arc::new(Faulty { faults: faults.clone(), inner: Arc::clone(&parts.dispatcher) });
        parts.tickets = Arc::new(Faulty { faults: faults.clone(), inner: Arc::clone(&parts.tickets) });
        parts.clusters = Arc::new(Faulty { faults, inner: Arc::clone(&parts.clusters) });
    }

    fn is(&self, call: &str, fault: Fault) -> bool {
        self.0.lock().unwrap().set.get(call) == Some(&fault)
    }

    async fn pass(&self, call: &'static str) -> Result<(), BoxError> {
        let fault = {
            let mut state = self.0.lock().unwrap();
            let fault = state.set.get(call).copied();
            state.met.extend(fault.map(|_| call));
            fault
        };
        match fault {
            None | Some(Fault::Loses) => Ok(()),
            Some(Fault::Fails) => Err(SECRET.into()),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Panics) => panic!("{SECRET}: ordered by a test"),
        }
    }
}

/// A port with faults in front.
struct Faulty<T: ?Sized> {
    faults: Faults,
    inner: Arc<T>,
}

impl<T: ?Sized> Faulty<T> {
    async fn store(&self, call: &'static str) -> Result<(), StoreError> {
        self.faults.pass(call).await.map_err(|source| StoreError::Unavailable { doing: call, source })
    }

    async fn bus(&self, call: &'static str) -> Result<(), BusError> {
        self.faults.pass(call).await.map_err(|source| BusError::Unavailable { doing: call, source })
    }

    async fn tickets(&self, call: &'static str) -> Result<(), TicketError> {
        self.faults.pass(call).await.map_err(|source| TicketError { doing: call, source })
    }
}

#[async_trait]
impl Outbox for Faulty<dyn TaskStore> {
    async fn published(&self, rows: &[OutboxId]) -> Result<(), StoreError> {
        self.store("store.published").await?;
        self.inner.published(rows).await
    }
}

#[async_trait]
impl TaskStore for Faulty<dyn TaskStore> {
    async fn create(&self, new: NewTask) -> Result<Created, StoreError> {
        self.store("store.create").await?;
        self.inner.create(new).await
    }

    async fn find(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.store("store.find").await?;
        self.inner.find(id).await
    }

    async fn list(&self, query: &TaskQuery) -> Result<Vec<Task>, StoreError> {
        self.store("store.list").await?;
        self.inner.list(query).await
    }

    async fn items(&self, task: TaskId, query: &ItemQuery) -> Result<Vec<Item>, StoreError> {
        self.store("store.items").await?;
        self.inner.items(task, query).await
    }

    async fn snapshot(&self, owner: &UserId, recent: u32) -> Result<Vec<Task>, StoreError> {
        self.store("store.snapshot").await?;
        self.inner.snapshot(owner, recent).await
    }

    async fn ended(&self, tasks: &[TaskId], age: Duration) -> Result<Vec<OutboxRow>, StoreError> {
        self.store("store.ended").await?;
        self.inner.ended(tasks, age).await
    }

    async fn watched(&self, owners: &[UserId], recent: Duration) -> Result<Vec<Watched>, StoreError> {
        self.store("store.watched").await?;
        self.inner.watched(owners, recent).await
    }

    async fn control(&self, id: TaskId, control: Control) -> Result<Option<Controlled>, StoreError> {
        self.store("store.control").await?;
        self.inner.control(id, control).await
    }

    async fn retry(&self, new: NewRetry) -> Result<Option<Created>, StoreError> {
        self.store("store.retry").await?;
        self.inner.retry(new).await
    }

    async fn retries(&self, id: TaskId) -> Result<Retries, StoreError> {
        self.store("store.retries").await?;
        self.inner.retries(id).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
}

#[async_trait]
impl Feed for Faulty<dyn Feed> {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        self.bus("feed.follow").await?;
        self.inner.follow(user, inbox).await
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        self.bus("feed.head").await?;
        self.inner.head(user).await
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        self.bus("feed.replay").await?;
        if self.faults.is("feed.replay", Fault::Loses) {
            return Ok(Replay::Lost(Loss::Epoch));
        }
        self.inner.replay(user, after, limit).await
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        self.bus("feed.live").await?;
        self.inner.live(user, tasks).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

#[async_trait]
impl Publisher for Faulty<dyn Publisher> {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        self.bus("publisher.publish").await?;
        self.inner.report(user, event, recorded).await
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        self.bus("publisher.unrecorded").await?;
        self.inner.unrecorded(user, task, attempt).await
    }
}

#[async_trait]
impl Dispatcher for Faulty<dyn Dispatcher> {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        let call = "dispatcher.notify";
        self.faults.pass(call).await.map_err(|source| DispatchError { doing: call, source })?;
        self.inner.notify(task).await
    }

    async fn waiting(&self) -> Result<u64, DispatchError> {
        self.inner.waiting().await
    }

    async fn receiver(&self, worker: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
        self.inner.receiver(worker).await
    }
}

#[async_trait]
impl Tickets for Faulty<dyn Tickets> {
    async fn issue(&self, ticket: TicketHash, grant: String, ttl: Duration) -> Result<(), TicketError> {
        self.tickets("tickets.issue").await?;
        self.inner.issue(ticket, grant, ttl).await
    }

    async fn redeem(&self, ticket: TicketHash) -> Result<Option<String>, TicketError> {
        self.tickets("tickets.redeem").await?;
        self.inner.redeem(ticket).await
    }
}

#[async_trait]
impl Clusters for Faulty<dyn Clusters> {
    fn names(&self) -> Vec<ClusterName> {
        self.inner.names()
    }

    async fn nodes(&self, cluster: &ClusterName) -> Result<Vec<NodeView>, ClusterError> {
        let unavailable = |source| ClusterError::Unavailable { cluster: cluster.clone(), source };
        self.faults.pass("clusters.nodes").await.map_err(unavailable)?;
        self.inner.nodes(cluster).await
    }
}
