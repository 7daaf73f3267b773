//! Claims tasks while this process has room for them, and sees them out when it stops.
//!
//! A claim that found something is followed by another at once; one that found nothing is followed by the next wake-up,
//! the next task that ends here, the next poll, or the moment when the first lease of anybody ends, whichever is first. So
//! the task of a dead worker is taken over when its lease ends, and not at the poll after. Not here: what is run ([`super::runner`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Shared;
use super::backoff::{Backoff, jittered};
use super::lease::Order;
use super::recorder::STORE_DEADLINE;
use super::runner::Runner;
use super::tokens::Ring;
use crate::lifecycle::Lifecycle;
use crate::store::{Claim, ClaimRules, Fence, StoreError};

/// Longest wait for a claim. Statements have shorter deadlines of their own; one cut here waits for its lease to end.
const CLAIM_DEADLINE: Duration = Duration::from_secs(15);
/// After the end of a lease, so that not every idle worker looks in the same moment: up to this.
const LAPSE_SPREAD: Duration = Duration::from_millis(100);
/// Pause while a task is lapsed that cannot be claimed, such as one on a full cluster.
const LAPSED_PAUSE: Duration = Duration::from_millis(250);

/// The claiming loop of one process.
pub(super) struct Claimer {
    pub(super) worker: Arc<Shared>,
    pub(super) life: Lifecycle,
    pub(super) rings: mpsc::Receiver<Ring>,
    /// Wake-ups that no claim has answered yet.
    pub(super) unanswered: Vec<Ring>,
    /// When to look again although nobody rang.
    pub(super) look_at: Instant,
}

impl Claimer {
    /// Claims until the soft stop, then has all tasks finished or handed over; `idle` is cancelled after the last one.
    pub(super) async fn run(mut self, idle: CancellationToken) {
        let mut backoff = Backoff::of_backend();
        while let Some(slot) = self.slot().await {
            self.hear();
            match self.claim(slot).await {
                Ok(found) => {
                    backoff.reset();
                    self.answer(found);
                    if !found {
                        self.wait().await;
                    }
                }
                Err(error) => {
                    self.worker.record.failed(&error);
                    self.pause(backoff.next()).await;
                }
            }
        }
        self.see_out().await;
        idle.cancel();
    }

    /// Waits for room for one more task. `None` at the stop.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.life.soft().cancelled() => None,
            slot = Arc::clone(&self.worker.slots).acquire_owned() => slot.ok(),
        }
    }

    /// Claims and starts one task. Whether there was one. Never cut short: a claim cut is a task nobody works on.
    async fn claim(&self, slot: OwnedSemaphorePermit) -> Result<bool, StoreError> {
        let parts = &self.worker.parts;
        let rules = ClaimRules { lease: parts.config.lease, per_cluster_max: parts.config.per_cluster_max };
        let sent = Instant::now();
        let claimed = timeout(CLAIM_DEADLINE, parts.store.claim(&parts.replica, &rules)).await;
        let late = |late| Err(StoreError::Unavailable { doing: "claiming", source: Box::new(late) });
        let claimed = claimed.unwrap_or_else(late)?;
        self.worker.record.over();
        let found = claimed.is_some();
        if let Some(claim) = claimed {
            self.start(claim, sent, slot);
        }
        Ok(found)
    }

    fn start(&self, claim: Claim, sent: Instant, slot: OwnedSemaphorePermit) {
        let state = claim.task.state;
        let fence = Fence { task: claim.task.id, attempt: state.attempt };
        let span = tracing::info_span!("task", task.id = %fence.task, task.attempt = %fence.attempt);
        tracing::info!(task.id = %fence.task, task.attempt = %fence.attempt, user.id = %claim.task.owner,
            cluster = %claim.task.cluster, items = claim.pending.len(), "claimed a task");
        let hold = self.worker.leases.hold(fence, state.status, sent);
        hold.set_concurrency(claim.task.concurrency);
        let worker = Arc::clone(&self.worker);
        let run = async move {
            Runner::new(Arc::clone(&worker), Arc::clone(&hold), claim).run().await;
            drop(hold);
            drop(slot);
            worker.freed.notify_one();
        };
        self.life.spawn("task", run.instrument(span));
    }

    /// Takes the wake-ups that the next claim answers.
    fn hear(&mut self) {
        while let Ok(ring) = self.rings.try_recv() {
            self.unanswered.push(ring);
        }
    }

    fn answer(&mut self, found: bool) {
        for ring in self.unanswered.drain(..) {
            // The listener may have stopped meanwhile; then its tokens pass on.
            let _ = ring.send(found);
        }
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self) {
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + self.until_look().await;
        }
        tokio::select! {
            () = self.life.soft().cancelled() => {}
            Some(ring) = self.rings.recv() => self.unanswered.push(ring),
            () = self.worker.freed.notified() => {}
            () = sleep_until(self.look_at) => {}
        }
    }

    /// Until the next poll, or until a lease may end. A lease taken while we wait ends after the length of one.
    async fn until_look(&self) -> Duration {
        let parts = &self.worker.parts;
        let poll = jittered(parts.config.poll_interval);
        match timeout(STORE_DEADLINE, parts.store.next_lapse()).await {
            Ok(Ok(Some(Duration::ZERO))) => poll.min(LAPSED_PAUSE),
            Ok(Ok(left)) => poll.min(left.unwrap_or(parts.config.lease) + jittered(LAPSE_SPREAD)),
            Ok(Err(error)) => {
                self.worker.record.failed(&error);
                poll
            }
            Err(_) => poll,
        }
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.life.soft().cancelled() => {}
            () = sleep(pause) => {}
        }
    }

    /// Has every task finished or handed over, and waits for the last one.
    async fn see_out(self) {
        self.worker.leases.give_all(Order::HandOver);
        tokio::select! {
            () = self.life.hard().cancelled() => {}
            _ = self.worker.slots.acquire_many(self.worker.slots_max) => {}
        }
    }
}
