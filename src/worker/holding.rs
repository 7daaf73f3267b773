//! Holding a task back as its strategy says: the record decides, then the watchers are told and the lanes obey.
//!
//! Not here: when a task is held back ([`super::runner`] between waves and at windows, [`super::supply`] for want of room).

use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use super::guard::{Guard, Stopped};
use super::lease::{Held, Order};
use super::recorder::{abandon, keep_trying};
use super::reporter::Reporter;
use crate::store::HoldBack;
use crate::task::{EventKind, Status, TaskState};
use crate::telemetry::metrics::Fenced;

/// A task rests in our hands for so long; for longer it rests in the record, where it is in nobody's way.
const REST_HERE_MAX: Duration = Duration::from_secs(10);

/// A task in hand that is being held back.
pub(super) struct Holding<'a> {
    pub(super) worker: &'a Shared,
    pub(super) held: &'a Held,
    pub(super) reporter: &'a Reporter,
    pub(super) guard: &'a Guard,
}

impl Holding<'_> {
    /// Holds the task back in the record. Whether it is still ours to run, after it has rested.
    pub(super) async fn back(&self, hold: &HoldBack) -> bool {
        let call = || self.worker.parts.store.hold_back(self.held.fence, hold);
        let state = match keep_trying(self.worker, self.held, "holding a task back", call).await {
            Ok(state) => state,
            Err(error) => {
                abandon(self.worker, self.held, &error, Fenced::Halt);
                return false;
            }
        };
        if state.status == Status::Running {
            tracing::info!(status = %state.status, "{}", hold.message);
            return true;
        }
        self.stop(&state, &hold.message);
        false
    }

    /// Holds the task back in the record, and lets it rest for as long as that says. Whether it goes on here.
    pub(super) async fn back_and_rest(&self, hold: &HoldBack) -> bool {
        self.back(hold).await && self.rest(hold.rest, &hold.message).await
    }

    /// Has the lanes stop because the record says that the task does not go on, and tells the watchers.
    pub(super) fn stop(&self, state: &TaskState, message: &str) {
        tracing::info!(status = %state.status, "{message}");
        let message = Some(message.to_owned());
        self.guard.stop(Stopped { aborted: state.aborted, message, rests: false });
        let order = if state.status == Status::Cancelling { Order::Cancel } else { Order::LetGo };
        self.held.give(order);
        tell(self.reporter, self.guard, self.held.order());
    }

    /// Lets a task rest that the record lets rest: here for a moment, else in the record. Whether it goes on here.
    pub(super) async fn rest(&self, rest: Duration, message: &str) -> bool {
        if rest > REST_HERE_MAX {
            self.give_back(message);
            return false;
        }
        self.reporter.say_waiting(Some(message));
        let goes_on = self.pause(rest).await;
        if goes_on {
            self.reporter.say_waiting(None);
        }
        goes_on
    }

    /// Has the task given back to rest in the record, after the items in flight.
    pub(super) fn give_back(&self, message: &str) {
        self.guard.stop(Stopped { aborted: false, message: Some(message.to_owned()), rests: true });
        self.held.give(Order::HandOver);
    }

    /// Waits, unless an order comes first. Whether the task goes on.
    pub(super) async fn pause(&self, pause: Duration) -> bool {
        let mut orders = self.held.orders();
        tokio::select! {
            biased;
            _ = orders.wait_for(|order| *order != Order::Run) => false,
            () = sleep(pause) => true,
        }
    }
}

/// Tells the watchers what a user asked for, the failure budget or the strategy; once.
pub(super) fn tell(reporter: &Reporter, guard: &Guard, order: Order) {
    let (kind, status) = match order {
        Order::LetGo => (EventKind::Paused, Status::Paused),
        Order::Cancel => (EventKind::Cancelling, Status::Cancelling),
        Order::Run | Order::Halt | Order::HandOver | Order::Stop => return,
    };
    if reporter.status() != status {
        reporter.wait_for(None);
        reporter.say(kind, status, guard.stopped().message);
    }
}
