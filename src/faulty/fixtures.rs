//! Contract suites again, through faults: a backend's own fixture with a [`Plan`] in front of every port that it hands
//! out.
//!
//! A suite runs with a plan [in turn](Plan::in_turn): of every two calls the first comes to a bad end, and its caller asks
//! again. After a call that never arrived every promise must hold. After a lost reply those must hold whose calls are
//! safe to repeat; which those are is listed here, and what becomes of the others is in each port's words.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;

use super::{Fault, Faulty, Plan};
use crate::bus::{Feed, Publisher};
use crate::dispatch::Dispatcher;
use crate::task::UserId;
use crate::tickets::Tickets;
use crate::{bus, dispatch, tickets};

/// Calls that a caller who lost the reply must not simply make again: what becomes of them is in their ports' words.
pub const ONCE: &[&str] = &[
    "store.create",
    "store.control",
    "store.retry",
    "store.claim",
    "store.give_up",
    "store.prune",
    "store.prune_audit",
    "store.note_refusal",
    "publisher.publish",
    "dispatcher.notify",
    "tokens.receive",
    "tokens.ack",
    "tickets.issue",
    "tickets.redeem",
];

/// Calls that say the same again after a lost reply, and change no more than once.
pub const REPEATABLE: &[&str] = &[
    "store.published",
    "store.find",
    "store.list",
    "store.items",
    "store.snapshot",
    "store.retries",
    "store.audited",
    "store.audited_nodes",
    "store.ping",
    "store.next_lapse",
    "store.renew",
    "store.record",
    "store.finish",
    "store.halt",
    "store.keep_order",
    "store.hold_back",
    "store.take_nodes",
    "store.hand_over",
    "store.claimable",
    "store.unpublished",
    "store.stalled",
    "store.backlog",
    "store.lead",
    "publisher.unrecorded",
    "feed.follow",
    "feed.head",
    "feed.replay",
    "feed.live",
    "dispatcher.waiting",
    "dispatcher.receiver",
];

/// Every call of the suites.
pub static ALL: LazyLock<Vec<&'static str>> = LazyLock::new(|| [ONCE, REPEATABLE].concat());

/// The plans under which every promise must hold: any call that never arrives, and lost replies of those that are safe to
/// repeat.
#[must_use]
pub fn plans() -> [(Plan, &'static [&'static str]); 2] {
    let plan = |fault, calls| (Plan::in_turn(fault, calls), calls);
    [plan(Fault::Before, ALL.as_slice()), plan(Fault::After, REPEATABLE)]
}

/// A fixture of a contract suite with faults in front.
pub struct Through<F> {
    inner: F,
    plan: Plan,
}

impl<F> Through<F> {
    /// Puts the faults of `plan` in front of all that a fixture hands out.
    pub fn new(inner: F, plan: &Plan) -> Self {
        Self { inner, plan: plan.clone() }
    }
}

#[async_trait]
impl<F: bus::contract::Fixture> bus::contract::Fixture for Through<F> {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(Faulty::new(self.inner.publisher(), &self.plan))
    }

    fn feed(&self, replica: usize) -> Arc<dyn Feed> {
        Arc::new(Faulty::new(self.inner.feed(replica), &self.plan))
    }

    async fn wipe(&self, user: &UserId) {
        self.inner.wipe(user).await;
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        self.inner.trim(user, keep).await;
    }

    async fn unacked(&self, user: &UserId, replica: usize) -> Option<u64> {
        self.inner.unacked(user, replica).await
    }
}

impl<F: dispatch::contract::Fixture> dispatch::contract::Fixture for Through<F> {
    fn dispatcher(&self, replica: usize) -> Arc<dyn Dispatcher> {
        Arc::new(Faulty::new(self.inner.dispatcher(replica), &self.plan))
    }

    fn redelivers(&self) -> bool {
        self.inner.redelivers()
    }
}

impl<F: tickets::contract::Fixture> tickets::contract::Fixture for Through<F> {
    fn tickets(&self, replica: usize) -> Arc<dyn Tickets> {
        Arc::new(Faulty::new(self.inner.tickets(replica), &self.plan))
    }
}
