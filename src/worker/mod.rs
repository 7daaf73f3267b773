//! The worker role: claims tasks, runs their items, and reports what happened.
//!
//! ```text
//! tokens -> claimer -> runner -+- lanes -> item        (what is done)
//!              |               +- publisher            (what watchers see)       reporter: where the
//!            lease             +- recorder -> ending   (what stays true)         lanes leave it
//! ```
//!
//! Every write carries the attempt of its claim, and the store and the bus refuse it once another attempt holds the
//! task. So a worker may be slow, cut off or killed at any point: the task goes on elsewhere, and nothing it still
//! says is believed. Not here: what an action does ([`crate::action`]) and upkeep of tasks nobody holds
//! ([`crate::maintenance`]).

mod backoff;
mod claimer;
mod ending;
mod guard;
mod holding;
mod item;
mod lanes;
mod lease;
mod progress;
mod publisher;
mod recorder;
mod reporter;
mod runner;
mod stall;
mod steps;
mod supply;
mod takeover;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::{Actions, Clusters};
use crate::bus::Publisher;
use crate::clock::Clock;
use crate::config::WorkerConfig;
use crate::dispatch::Dispatcher;
use crate::lifecycle::Lifecycle;
use crate::store::ClaimStore;
use crate::task::ReplicaId;
use crate::telemetry::{Metrics, Outage};

use claimer::Claimer;
use lease::Leases;

/// What a worker needs.
pub struct Parts {
    /// The record.
    pub store: Arc<dyn ClaimStore>,
    /// The writing side of the bus.
    pub publisher: Arc<dyn Publisher>,
    /// Wake-ups.
    pub dispatcher: Arc<dyn Dispatcher>,
    /// What can be done to items.
    pub actions: Arc<dyn Actions>,
    /// What is known of nodes.
    pub clusters: Arc<dyn Clusters>,
    /// Time of day, for events and results.
    pub clock: Arc<dyn Clock>,
    /// Where work is counted.
    pub metrics: Metrics,
    /// Settings.
    pub config: WorkerConfig,
    /// This process.
    pub replica: ReplicaId,
}

/// Starts the worker on `life` and returns. It claims until the soft stop; then items in flight have
/// `config.grace` to finish, every task is ended or handed over, and the last task of the worker ends.
pub fn run(parts: Parts, life: &Lifecycle) {
    let worker = Arc::new(Shared::new(parts, life));
    // One wake-up at a time: the listener waits for its answer.
    let (ring, rings) = mpsc::channel(1);
    let idle = CancellationToken::new();
    let leases = Arc::clone(&worker.leases);
    let store = Arc::clone(&worker.parts.store);
    let until = idle.clone();
    let (changes, replica) = (Arc::clone(&worker.leases), worker.parts.replica.clone());
    let (record, end) = (Arc::clone(&store), idle.clone());
    life.spawn("changes", async move { changes.hear(record, replica, end).await });
    life.spawn("leases", async move { leases.run(store, until).await });
    life.spawn("tokens", tokens::run(Arc::clone(&worker), ring));
    let claimer =
        Claimer { worker, life: life.clone(), rings, unanswered: Vec::new(), look_at: Instant::now() };
    life.spawn("claimer", claimer.run(idle));
}

/// What all tasks of a worker share.
struct Shared {
    parts: Parts,
    soft: CancellationToken,
    hard: CancellationToken,
    leases: Arc<Leases>,
    /// Items that may run at once, given out in the order they were asked for.
    lanes: Arc<Semaphore>,
    /// Tasks that may be held at once.
    slots: Arc<Semaphore>,
    slots_max: u32,
    /// Rung when a task left.
    freed: Notify,
    bus: Outage,
    record: Outage,
    dispatch: Outage,
}

impl Shared {
    fn new(parts: Parts, life: &Lifecycle) -> Self {
        let config = &parts.config;
        let slots_max = u32::try_from(config.tasks_max.max(1)).unwrap_or(u32::MAX).min(TASKS_MAX);
        Self {
            leases: Leases::new(config.lease, config.renew_interval, parts.metrics.clone()),
            lanes: Arc::new(Semaphore::new(config.lanes.clamp(1, Semaphore::MAX_PERMITS))),
            slots: Arc::new(Semaphore::new(slots_max as usize)),
            slots_max,
            freed: Notify::new(),
            bus: Outage::of("publishing progress"),
            record: Outage::of("the worker's calls to the store"),
            dispatch: Outage::of("the worker's calls to the dispatch"),
            soft: life.soft().clone(),
            hard: life.hard().clone(),
            parts,
        }
    }
}

/// More tasks than one process can hold with profit, whatever the configuration says.
const TASKS_MAX: u32 = 10_000;
