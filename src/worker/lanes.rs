//! The lanes of one task: a bounded number of items at once, fair to the other tasks of the process.
//!
//! A lane takes one item after the other from the shared queue; a task has as many lanes as items it may work on at
//! once, never one per item. When a user wants fewer, as many lanes as are too many end, each after the item it has in
//! hand. Each run needs one of the process's own lanes too, which are given out in the order they were asked for, so that
//! a task of 100,000 items does not keep a task of ten waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Shared;
use super::guard::Guard;
use super::item::{ItemRunner, Ran, Tries};
use super::lease::{Held, Order, lock};
use super::reporter::Reporter;
use super::supply::{Next, Supply};
use crate::action::{Action, Target};
use crate::task::{ItemName, ItemOutcome, ItemResult};

/// Items that wait, in order.
pub(super) type Queue = Arc<Mutex<VecDeque<(u32, ItemName)>>>;

/// What the lanes of one task share.
pub(super) struct Lanes {
    pub(super) worker: Arc<Shared>,
    pub(super) held: Arc<Held>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) guard: Arc<Guard>,
    pub(super) action: Arc<dyn Action>,
    pub(super) tries: Tries,
    /// Items that no lane has taken yet.
    pub(super) supply: Supply,
    /// Whether other items follow those.
    pub(super) more: bool,
    /// Items that were begun here and will not be ended here.
    pub(super) left: Queue,
    pub(super) number: Mutex<Number>,
}

/// How many lanes there are, and how many there should be.
#[derive(Debug, Default)]
pub(super) struct Number {
    open: usize,
    wanted: usize,
}

/// A lane that counts as open until it is dropped or gives way.
struct Lane<'a> {
    lanes: &'a Lanes,
    counts: bool,
}

impl Lane<'_> {
    /// Whether this lane is one too many, and ends. No two lanes end for the same one.
    fn gives_way(&mut self) -> bool {
        let mut number = lock(&self.lanes.number);
        let gives_way = self.counts && number.open > number.wanted;
        if gives_way {
            self.counts = false;
            self.lanes.one_less(&mut number);
        }
        gives_way
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if self.counts {
            self.lanes.one_less(&mut lock(&self.lanes.number));
        }
    }
}

/// An item in a lane. Dropped without a result it is among those left.
struct Taken<'a> {
    lanes: &'a Lanes,
    index: u32,
    name: ItemName,
    ended: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.lanes.supply.ended(&self.name);
        if !self.ended {
            lock(&self.lanes.left).push_back((self.index, self.name.clone()));
        }
    }
}

impl Lanes {
    /// Sets how many items a user wants to be worked on at once, within what the process allows, and starts lanes that are
    /// missing. A lane ends when the queue is empty, when the order is not to go on, or when it is one too many.
    pub(super) fn set_number(self: &Arc<Self>, wanted: Option<u16>, running: &mut JoinSet<()>) {
        let most = self.worker.parts.config.lanes_per_task.max(1);
        let wanted = wanted.map_or(most, |wanted| usize::from(wanted).clamp(1, most));
        let waiting = self.supply.len();
        let mut number = lock(&self.number);
        number.wanted = wanted;
        let missing = wanted.saturating_sub(number.open).min(waiting);
        number.open += missing;
        self.reporter.lanes(number.open);
        drop(number);
        for _ in 0..missing {
            running.spawn(Arc::clone(self).lane().in_current_span());
        }
    }

    fn one_less(&self, number: &mut Number) {
        number.open -= 1;
        self.reporter.lanes(number.open);
    }

    fn runner(&self) -> ItemRunner {
        let reporter = Arc::clone(&self.reporter);
        ItemRunner {
            action: Arc::clone(&self.action),
            tries: self.tries.clone(),
            lanes: Arc::clone(&self.worker.lanes),
            orders: self.held.orders(),
            stopping: self.held.stopping(),
            steps: Arc::new(move |index, step| reporter.step(index, step)),
        }
    }

    async fn lane(self: Arc<Self>) {
        let mut lane = Lane { lanes: &self, counts: true };
        let mut runner = self.runner();
        while let Some((next, permit)) = self.turn(&mut lane, &mut runner).await {
            let Next { index, name, refused } = next;
            self.reporter.started(index, &name);
            let mut taken = Taken { lanes: &self, index, name: name.clone(), ended: false };
            let ran = match refused {
                None => runner.run(Target { index, name: &name }, permit).await,
                Some(why) => Ran { outcome: Some(ItemOutcome::failed(why)), tries: 0 },
            };
            // The time is taken before anything else, so that what follows shows up as latency.
            let finished_at = self.worker.parts.clock.now();
            if let Some(outcome) = ran.outcome {
                taken.ended = true;
                if self.guard.count(&outcome, self.more || !self.supply.is_empty()) {
                    self.held.give(Order::Halt);
                }
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
    async fn turn(
        &self,
        lane: &mut Lane<'_>,
        runner: &mut ItemRunner,
    ) -> Option<(Next, OwnedSemaphorePermit)> {
        if self.supply.is_empty() || lane.gives_way() {
            return None;
        }
        let turn = async {
            loop {
                self.reporter.room().await;
                let wanted = lock(&self.number).wanted;
                self.supply.ready(wanted).await?;
                let permit = Arc::clone(&self.worker.lanes).acquire_owned().await.ok()?;
                // Somebody may have wanted fewer while it waited.
                if lane.gives_way() {
                    return None;
                }
                // Another lane may have been quicker.
                if let Some(next) = self.supply.take() {
                    return Some((next, permit));
                }
            }
        };
        tokio::select! {
            biased;
            _ = runner.orders.wait_for(|order| *order != Order::Run) => None,
            next = turn => next,
        }
    }
}
