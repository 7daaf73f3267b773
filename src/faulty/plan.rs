//! Which call meets which fault, and what came of those that hung.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Away;

/// How often one call is made when its caller asks again.
const ASKED_MAX: u32 = 200;

/// How a call comes to a bad end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It never arrives; nothing happened.
    Before,
    /// It is done, and its reply is lost.
    After,
    /// It never answers.
    Hang,
    /// It is a mistake of ours: a panic.
    Panic,
}

/// A call that hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hung {
    /// Which.
    pub call: &'static str,
    /// How long its caller has waited, or did before it gave up.
    pub waited: Duration,
    /// Whether the caller gave up.
    pub given_up: bool,
}

/// Which call meets which fault. Clones are one plan. Calls are named after port and method, such as `store.record`.
#[derive(Debug, Clone, Default)]
pub struct Plan(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    always: HashMap<&'static str, Fault>,
    /// Every other call of these meets the fault, so that a caller that asks again gets through.
    in_turn: Option<(Fault, &'static [&'static str])>,
    asks_again: bool,
    calls: HashMap<&'static str, u64>,
    met: HashMap<&'static str, u64>,
    hung: Vec<(Instant, Hung)>,
}

impl Plan {
    /// Without any fault.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every first of two calls to each of `calls` meets `fault`, and callers ask again.
    #[must_use]
    pub fn in_turn(fault: Fault, calls: &'static [&'static str]) -> Self {
        let state = State { in_turn: Some((fault, calls)), asks_again: true, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// From now on the call meets `fault` every time.
    pub fn always(&self, call: &'static str, fault: Fault) {
        self.lock().always.insert(call, fault);
    }

    /// From now on all is well.
    pub fn clear(&self) {
        let mut state = self.lock();
        (state.always, state.in_turn) = (HashMap::new(), None);
    }

    /// How many faults a call has met.
    #[must_use]
    pub fn met(&self, call: &str) -> u64 {
        self.lock().met.get(call).copied().unwrap_or(0)
    }

    /// Every call that hung, in the order of their beginning.
    #[must_use]
    pub fn hung(&self) -> Vec<Hung> {
        let waited = |(began, hung): &(Instant, Hung)| match hung.given_up {
            true => *hung,
            false => Hung { waited: began.elapsed(), ..*hung },
        };
        self.lock().hung.iter().map(waited).collect()
    }

    /// The fault that this call meets.
    pub(super) fn meet(&self, call: &'static str) -> Option<Fault> {
        let mut state = self.lock();
        let turn = state.calls.entry(call).or_default();
        *turn += 1;
        let odd = *turn % 2 == 1;
        let in_turn = state.in_turn.filter(|(_, calls)| odd && calls.contains(&call)).map(|(fault, _)| fault);
        let fault = state.always.get(call).copied().or(in_turn);
        if fault.is_some() {
            *state.met.entry(call).or_default() += 1;
        }
        fault
    }

    /// Waits for ever, and notes how long the caller did.
    pub(super) async fn hang<T>(&self, call: &'static str) -> T {
        let _waiting = Waiting::new(self, call);
        std::future::pending().await
    }

    pub(super) fn asks_again<T, E: Away>(&self, asked: u32, reply: &Result<T, E>) -> bool {
        let away = matches!(reply, Err(error) if error.is_away());
        away && asked < ASKED_MAX && self.lock().asks_again
    }

    /// No code panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that hangs. Dropped by its caller when it gives up.
struct Waiting<'a> {
    plan: &'a Plan,
    number: usize,
}

impl<'a> Waiting<'a> {
    fn new(plan: &'a Plan, call: &'static str) -> Self {
        let mut state = plan.lock();
        state.hung.push((Instant::now(), Hung { call, waited: Duration::ZERO, given_up: false }));
        Self { plan, number: state.hung.len() - 1 }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (began, hung) = &mut self.plan.lock().hung[self.number];
        (hung.waited, hung.given_up) = (began.elapsed(), true);
    }
}
