//! One claimed task, from its first event to its end: finished, handed over, let go, or dropped.
//!
//! The first event shuts an older attempt out of the bus before anything is done; what that one told and did not record is
//! recorded ([`super::takeover`]). Then three things run side by side
//! and never wait for each other: lanes work on items, the publisher tells the watchers, the recorder keeps the
//! results. When the lanes are through, what is left is recorded, then told, and only then the task is ended. A cancel
//! that turns up only then is obeyed then. When the task is not ours any more all of it is dropped where it stands. Not
//! here: who claims ([`super::claimer`]).

mod waves;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backoff::full_jitter;
use super::ending::{Ending, Left};
use super::guard::Guard;
use super::holding::{self, Holding};
use super::item::{Tries, crash_message};
use super::lanes::{Lanes, Queue};
use super::lease::{Held, Order, lock};
use super::publisher::Publishing;
use super::recorder::{Recording, abandon, keep_trying};
use super::reporter::Reporter;
use super::supply::Supply;
use super::takeover::Takeover;
use crate::action::{Action, ActionError};
use crate::store::{Claim, Task};
use crate::task::{Counts, ItemOutcome, ItemResult};
use crate::telemetry::metrics::Fenced;

/// A task in hand, with what is left to do.
pub(super) struct Runner {
    worker: Arc<Shared>,
    held: Arc<Held>,
    task: Task,
    reporter: Arc<Reporter>,
    guard: Arc<Guard>,
    queue: Queue,
    left: Queue,
    /// The order in which items start, if one is kept.
    order: Option<Vec<u32>>,
}

impl Runner {
    pub(super) fn new(worker: Arc<Shared>, held: Arc<Held>, claim: Claim) -> Self {
        let reporter = Reporter::new(claim.task.clone(), &worker.parts.config, worker.parts.metrics.clone());
        let (reporter, guard) = (Arc::new(reporter), Arc::new(Guard::new(&claim.task)));
        let queue = Arc::new(Mutex::new(VecDeque::from(claim.pending)));
        let (left, order) = (Arc::default(), claim.order);
        Self { worker, held, task: claim.task, reporter, guard, queue, left, order }
    }

    /// Runs the task as far as it may be run here. Dropped work is taken up by the next attempt.
    pub(super) async fn run(self) {
        let (hard, held) = (self.worker.hard.clone(), Arc::clone(&self.held));
        tokio::select! {
            biased;
            () = hard.cancelled() => {}
            () = held.stopped() => {}
            () = self.drive() => {}
        }
    }

    async fn drive(self) {
        let mut publishing = Publishing::new(&self.worker, &self.held, &self.reporter, &self.task.owner);
        let recorded = self.begin(&mut publishing).await;
        if self.guard.begin(recorded) {
            self.held.give(Order::Halt);
        }
        let (failure, counts) = self.carry(&mut publishing, recorded, self.work()).await;
        let Self { worker, held, reporter, guard, task, .. } = &self;
        let ending = Ending { worker, held, reporter, guard, task };
        if ending.end(counts, failure, &mut publishing).await == Left::Cancelled {
            self.held.give(Order::Cancel);
            self.tell(Order::Cancel);
            let ((), counts) = self.carry(&mut publishing, counts, self.cancel_rest()).await;
            ending.end(counts, None, &mut publishing).await;
        }
    }

    /// Shuts older attempts out and records what they told. Returns the counts of the record after it.
    async fn begin(&self, publishing: &mut Publishing<'_>) -> Counts {
        let Self { worker, held, reporter, task, queue, .. } = self;
        if !Takeover::is_one(task) {
            reporter.inherited(task.counts, 0);
            publishing.open().await;
            return task.counts;
        }
        if publishing.open_with_patience().await {
            return Takeover { worker, held, reporter, task, queue }.run().await;
        }
        tracing::warn!("the bus cannot be reached; the last items of the attempt before run again");
        reporter.inherited(task.counts, 0);
        task.counts
    }

    /// Works while all that comes of it is told and recorded. Returns the recorded counts.
    async fn carry<T>(
        &self,
        publishing: &mut Publishing<'_>,
        counts: Counts,
        work: impl Future<Output = T>,
    ) -> (T, Counts) {
        let recording = Recording::new(&self.worker, &self.held, &self.reporter, counts);
        let worked = CancellationToken::new();
        let work = async {
            let done = work.await;
            worked.cancel();
            done
        };
        let (done, (), counts) = tokio::join!(work, publishing.run(&worked), recording.run(&worked));
        (done, counts)
    }

    /// Brings every item to a result, or stops where the orders or the failure budget say so. Returns why the task itself
    /// failed.
    async fn work(&self) -> Option<String> {
        let through = CancellationToken::new();
        let run = async {
            let failure = self.run_items().await;
            through.cancel();
            failure
        };
        let (failure, ()) = tokio::join!(run, self.halt_when_used_up(&through));
        if self.held.order() == Order::Cancel {
            self.cancel_rest().await;
        }
        failure
    }

    /// Stops the task once its failure budget is used up, also by the last item. Lanes are held already; the record
    /// decides, and the watchers are told what it said.
    async fn halt_when_used_up(&self, through: &CancellationToken) {
        let (then, passed) = tokio::select! {
            biased;
            used_up = self.guard.used_up() => used_up,
            () = through.cancelled() => return,
        };
        let (worker, held, message) = (&*self.worker, &*self.held, passed.to_string());
        let halt = || worker.parts.store.halt(held.fence, then, &message);
        let state = match keep_trying(worker, held, "stopping a task", halt).await {
            Ok(state) => state,
            Err(error) => return abandon(worker, held, &error, Fenced::Halt),
        };
        self.holding().stop(&state, &message);
    }

    fn holding(&self) -> Holding<'_> {
        let Self { worker, held, reporter, guard, .. } = self;
        Holding { worker, held, reporter, guard }
    }

    async fn run_items(&self) -> Option<String> {
        match self.prepare().await {
            Some(Ok(action)) => {
                self.run_waves(&action).await;
                None
            }
            Some(Err(message)) => {
                self.settle(&self.queue, 0, &ItemOutcome::failed(&message)).await;
                Some(message)
            }
            None => {
                self.tell(self.held.order());
                None
            }
        }
    }

    /// Makes the action ready. `None` when an order came first; an error is a sentence for the user.
    async fn prepare(&self) -> Option<Result<Arc<dyn Action>, String>> {
        let mut orders = self.held.orders();
        tokio::select! {
            biased;
            _ = orders.wait_for(|order| *order != Order::Run) => None,
            action = self.prepare_with_retries() => Some(action),
        }
    }

    async fn prepare_with_retries(&self) -> Result<Arc<dyn Action>, String> {
        let config = &self.worker.parts.config;
        let mut failures = 0;
        loop {
            failures += 1;
            let (message, retry_after) = match self.prepare_once().await {
                Ok(action) => return Ok(action),
                Err(ActionError::Permanent { message } | ActionError::Stopped { message }) => {
                    return Err(message);
                }
                Err(ActionError::Transient { message, retry_after }) => (message, retry_after),
                Err(ActionError::Later { message, retry_after }) => (message, Some(retry_after)),
            };
            let jitter = full_jitter(config.retry_base, config.retry_max, failures, rand::random());
            let wait = jitter.max(retry_after.unwrap_or_default());
            if failures >= u32::from(config.item_tries) || wait > config.item_timeout {
                return Err(message);
            }
            sleep(wait).await;
        }
    }

    async fn prepare_once(&self) -> Result<Arc<dyn Action>, ActionError> {
        let prepare = AssertUnwindSafe(self.worker.parts.actions.prepare(&self.task)).catch_unwind();
        match timeout(self.worker.parts.config.item_timeout, prepare).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(panic)) => Err(ActionError::permanent(crash_message(panic.as_ref()))),
            Err(_) => Err(ActionError::transient("the cluster did not answer in time")),
        }
    }

    /// Runs the lanes until all have ended, as many as a user wants, and tells the watchers of orders that come meanwhile.
    /// With `more`, other items follow those in the queue.
    async fn run_lanes(&self, action: &Arc<dyn Action>, more: bool) {
        let lanes = self.lanes(action, more);
        let (mut orders, mut concurrency) = (self.held.orders(), self.held.concurrency());
        let mut running = JoinSet::new();
        lanes.set_number(*concurrency.borrow_and_update(), &mut running);
        let grace = self.grace();
        tokio::pin!(grace);
        self.tell(*orders.borrow_and_update());
        loop {
            tokio::select! {
                ended = running.join_next() => if ended.is_none() { return lanes.supply.close() },
                Ok(()) = orders.changed() => self.tell(*orders.borrow_and_update()),
                Ok(()) = concurrency.changed() => {
                    let wanted = *concurrency.borrow_and_update();
                    lanes.set_number(wanted, &mut running);
                    self.reporter.say_concurrency(wanted);
                }
                () = &mut grace => break,
            }
        }
        tracing::warn!(lanes = running.len(), "dropping the items that outlast the grace time");
        running.shutdown().await;
        lanes.supply.close();
    }

    fn lanes(&self, action: &Arc<dyn Action>, more: bool) -> Arc<Lanes> {
        let Self { worker, held, reporter, guard, task, queue, .. } = self;
        Arc::new(Lanes {
            worker: Arc::clone(&self.worker),
            held: Arc::clone(&self.held),
            reporter: Arc::clone(&self.reporter),
            guard: Arc::clone(&self.guard),
            action: Arc::clone(action),
            tries: Tries::new(
                &self.worker.parts.config,
                self.task.item_timeout.or_else(|| self.task.action.item_timeout()),
            ),
            supply: Supply::new(worker, held, reporter, guard, task, queue),
            more,
            left: Arc::clone(&self.left),
            number: Mutex::default(),
        })
    }

    /// Waits for the soft stop, and then for as long as items in flight may take.
    async fn grace(&self) {
        self.worker.soft.cancelled().await;
        sleep(self.worker.parts.config.grace).await;
    }

    fn tell(&self, order: Order) {
        holding::tell(&self.reporter, &self.guard, order);
    }

    /// Ends the items of a cancelled task that have no result: those that ran have failed, the others are cancelled.
    async fn cancel_rest(&self) {
        self.settle(&self.left, 1, &ItemOutcome::failed("its worker stopped before it was done")).await;
        self.settle(&self.queue, 0, &ItemOutcome::Cancelled).await;
    }

    /// Gives every item of a list the same result, without another run.
    async fn settle(&self, items: &Queue, tries: u16, outcome: &ItemOutcome) {
        let finished_at = self.worker.parts.clock.now();
        loop {
            self.reporter.room().await;
            let Some((index, name)) = lock(items).pop_front() else { return };
            let outcome = outcome.clone();
            self.reporter.finished(ItemResult { index, name, outcome, tries, finished_at });
        }
    }
}
