//! The lanes of one task: a bounded number of items at once, fair to the other tasks of the process.
//!
//! A lane takes one item after the other from the shared queue; a task has as many lanes as items it may work on at
//! once, never one per item. Each run needs one of the process's own lanes too, which are given out in the order they
//! were asked for, so that a task of 100,000 items does not keep a task of ten waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Shared;
use super::item::{ItemRunner, Tries};
use super::lease::{Held, Order, lock};
use super::reporter::Reporter;
use crate::action::{Action, Target};
use crate::store::Task;
use crate::task::{ItemName, ItemResult};

/// Items that wait, in order.
pub(super) type Queue = Arc<Mutex<VecDeque<(u32, ItemName)>>>;

/// What the lanes of one task share.
pub(super) struct Lanes {
    pub(super) worker: Arc<Shared>,
    pub(super) held: Arc<Held>,
    pub(super) reporter: Arc<Reporter>,
    /// Items that no lane has taken yet.
    pub(super) queue: Queue,
    /// Items that were begun here and will not be ended here.
    pub(super) left: Queue,
}

/// An item in a lane. Dropped without a result it is among those left.
struct Taken<'a> {
    lanes: &'a Lanes,
    item: Option<(u32, ItemName)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        lock(&self.lanes.left).extend(self.item.take());
    }
}

impl Lanes {
    /// Starts the lanes of a task. They end when the queue is empty or the order is not to go on.
    pub(super) fn start(self, task: &Task, action: &Arc<dyn Action>) -> JoinSet<()> {
        let config = &self.worker.parts.config;
        let wanted = task.concurrency.map_or(config.lanes_per_task, usize::from);
        let lanes = wanted.min(config.lanes_per_task).min(lock(&self.queue).len()).max(1);
        let tries = Tries::new(config, task.item_timeout);
        let shared = Arc::new(self);
        let mut running = JoinSet::new();
        for _ in 0..lanes {
            let runner = shared.runner(Arc::clone(action), tries.clone());
            running.spawn(Arc::clone(&shared).lane(runner).in_current_span());
        }
        running
    }

    fn runner(&self, action: Arc<dyn Action>, tries: Tries) -> ItemRunner {
        ItemRunner { action, tries, lanes: Arc::clone(&self.worker.lanes), orders: self.held.orders() }
    }

    async fn lane(self: Arc<Self>, mut runner: ItemRunner) {
        while let Some(permit) = self.turn(&mut runner).await {
            let Some((index, name)) = self.take() else { return };
            self.reporter.started(index, &name);
            let mut taken = Taken { lanes: &self, item: Some((index, name.clone())) };
            let ran = runner.run(Target { index, name: &name }, permit).await;
            // The time is taken before anything else, so that what follows shows up as latency.
            let finished_at = self.worker.parts.clock.now();
            if let Some(outcome) = ran.outcome {
                taken.item = None;
                let result = ItemResult { index, name, outcome, tries: ran.tries, finished_at };
                let number = self.reporter.finished(result);
                self.reporter.safe(number, self.worker.parts.config.record_interval).await;
            }
            drop(taken);
            // Items that never wait would otherwise keep the publisher and the leases from their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the right to start another item; `None` when there is none to start.
    async fn turn(&self, runner: &mut ItemRunner) -> Option<OwnedSemaphorePermit> {
        if lock(&self.queue).is_empty() {
            return None;
        }
        let turn = async {
            self.reporter.room().await;
            Arc::clone(&self.worker.lanes).acquire_owned().await.ok()
        };
        tokio::select! {
            biased;
            _ = runner.orders.wait_for(|order| *order != Order::Run) => None,
            permit = turn => permit,
        }
    }

    fn take(&self) -> Option<(u32, ItemName)> {
        lock(&self.queue).pop_front()
    }
}
