//! Listens for wake-ups, hands each to the claimer, and acks it after the claim it led to.
//!
//! A token is never acked before a claim was answered, so a worker that dies leaves it to another one. A full worker
//! takes no tokens. Wake-ups that find nothing are answered ever more slowly, so that a storm of them costs the store
//! little. Not here: claiming ([`super::claimer`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backoff::Backoff;
use crate::dispatch::{DispatchError, Token, TokenSource};
use crate::planted::{self, Bug};
use crate::telemetry::metrics::Fenced;

/// Longest wait for tokens in one call, so that a stop is noticed in time.
const RECEIVE_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for an answer of the dispatch, beyond the wait that was asked for.
const DISPATCH_DEADLINE: Duration = Duration::from_secs(5);
/// Tokens taken at once.
const TOKENS_MAX: usize = 64;
/// Pause after wake-ups that found nothing: the first, and the longest.
const EMPTY_PAUSE: Duration = Duration::from_millis(2);
const EMPTY_PAUSE_MAX: Duration = Duration::from_millis(100);

/// A wake-up for the claimer. Answered with whether a claim found something.
pub(super) type Ring = oneshot::Sender<bool>;

/// Receives until the soft stop, across outages.
pub(super) async fn run(worker: Arc<Shared>, rings: mpsc::Sender<Ring>) {
    let soft = worker.soft.clone();
    let mut backoff = Backoff::of_backend();
    while !soft.is_cancelled() {
        let opened =
            timeout(DISPATCH_DEADLINE, worker.parts.dispatcher.receiver(&worker.parts.replica)).await;
        let error = match opened.unwrap_or_else(|late| Err(too_late("opening", late))) {
            Ok(source) => {
                let mut listener =
                    Listener { worker: &worker, source, rings: &rings, backoff: backoff.clone() };
                listener.listen(&soft).await;
                return listener.close().await;
            }
            Err(error) => error,
        };
        worker.dispatch.failed(&error);
        pause(backoff.next(), &soft).await;
    }
}

struct Listener<'a> {
    worker: &'a Shared,
    source: Box<dyn TokenSource>,
    rings: &'a mpsc::Sender<Ring>,
    backoff: Backoff,
}

impl Listener<'_> {
    async fn listen(&mut self, soft: &CancellationToken) {
        let mut empty_pause = Duration::ZERO;
        while let Some(free) = self.free_slots(soft).await {
            let tokens = self.receive(free.min(TOKENS_MAX), soft).await;
            if tokens.is_empty() || soft.is_cancelled() {
                continue;
            }
            if planted::is(Bug::AckBeforeClaim) {
                self.ack(tokens.clone()).await;
            }
            let Some(found) = self.ring(soft).await else { return };
            self.ack(tokens).await;
            empty_pause = if found { Duration::ZERO } else { longer(empty_pause) };
            pause(empty_pause, soft).await;
        }
    }

    /// Waits until another task could be held. `None` at the stop.
    async fn free_slots(&mut self, soft: &CancellationToken) -> Option<usize> {
        tokio::select! {
            biased;
            () = soft.cancelled() => None,
            free = self.worker.slots.acquire() => {
                drop(free.ok()?);
                Some(self.worker.slots.available_permits().max(1))
            }
        }
    }

    /// The next tokens; none after a quiet wait or a failure. Let return even at a stop: it is not cancel-safe.
    async fn receive(&mut self, max: usize, soft: &CancellationToken) -> Vec<Token> {
        let received =
            timeout(RECEIVE_WAIT + DISPATCH_DEADLINE, self.source.receive(max, RECEIVE_WAIT)).await;
        match received.unwrap_or_else(|late| Err(too_late("receiving", late))) {
            Ok(tokens) => {
                self.worker.dispatch.over();
                self.backoff.reset();
                tokens
            }
            Err(error) => {
                self.worker.dispatch.failed(&error);
                pause(self.backoff.next(), soft).await;
                Vec::new()
            }
        }
    }

    /// Wakes the claimer and waits for a claim. `None` at the stop: the tokens stay unacked and pass on.
    async fn ring(&mut self, soft: &CancellationToken) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.rings.send(answer).await.ok()?;
        tokio::select! {
            found = answered => found.ok(),
            () = soft.cancelled() => None,
        }
    }

    /// A token whose ack is lost comes again and finds nothing.
    async fn ack(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            let acked = timeout(DISPATCH_DEADLINE, self.source.ack(token)).await;
            match acked.unwrap_or_else(|late| Err(too_late("acking", late))) {
                Ok(true) => {}
                Ok(false) => self.worker.parts.metrics.count_fenced(Fenced::Ack),
                Err(error) => {
                    self.worker.dispatch.failed(&error);
                    return;
                }
            }
        }
    }

    async fn close(self) {
        if let Ok(Err(error)) = timeout(DISPATCH_DEADLINE, self.source.close()).await {
            self.worker.dispatch.failed(&error);
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(EMPTY_PAUSE, EMPTY_PAUSE_MAX)
}

fn too_late(doing: &'static str, late: tokio::time::error::Elapsed) -> DispatchError {
    DispatchError { doing, source: late.into() }
}

async fn pause(pause: Duration, soft: &CancellationToken) {
    tokio::select! {
        () = sleep(pause) => {}
        () = soft.cancelled() => {}
    }
}
