//! Any port with faults in front of it, for tests and for whoever writes a backend or a role.
//!
//! A call has three bad ends: it never arrived, it was done and the reply is lost, it hangs; and a fourth, a panic, that is
//! our own. A caller cannot tell the first two apart, so what a port promises about repeats must hold after both. A [`Plan`] says which call meets which
//! fault; the same plan can ask again, as callers do. Not here: what each port promises (its own page).

mod bus;
mod clusters;
mod dispatch;
pub mod fixtures;
mod plan;
mod store;
mod tickets;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use plan::{Fault, Hung, Plan};

use crate::bus::BusError;
use crate::dispatch::DispatchError;
use crate::store::StoreError;
use crate::tickets::TicketError;

/// What every fault says of itself.
pub const WORDS: &str = "a planned fault";

/// A port with faults in front of it.
pub struct Faulty<S: ?Sized> {
    inner: Arc<S>,
    plan: Plan,
}

impl<S: ?Sized> Faulty<S> {
    /// Puts the faults of `plan` in front of a port.
    #[must_use]
    pub fn new(inner: Arc<S>, plan: &Plan) -> Self {
        Self { inner, plan: plan.clone() }
    }
}

/// What a caller gets of a call that came to a bad end.
pub(crate) trait Away {
    fn away(doing: &'static str) -> Self;
    fn is_away(&self) -> bool;
}

impl Away for StoreError {
    fn away(doing: &'static str) -> Self {
        Self::Unavailable { doing, source: WORDS.into() }
    }

    fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl Away for BusError {
    fn away(doing: &'static str) -> Self {
        Self::Unavailable { doing, source: WORDS.into() }
    }

    fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl Away for DispatchError {
    fn away(doing: &'static str) -> Self {
        Self { doing, source: WORDS.into() }
    }

    fn is_away(&self) -> bool {
        true
    }
}

impl Away for TicketError {
    fn away(doing: &'static str) -> Self {
        Self { doing, source: WORDS.into() }
    }

    fn is_away(&self) -> bool {
        true
    }
}

/// Makes a call under its fault, if it has one, and again if the plan asks again.
macro_rules! pass {
    ($plan:expr, $name:literal, $call:expr) => {{
        let mut asked = 0;
        loop {
            let reply = match $plan.meet($name) {
                None => $call.await,
                Some($crate::faulty::Fault::Before) => Err($crate::faulty::Away::away($name)),
                Some($crate::faulty::Fault::After) => {
                    let _lost = $call.await;
                    Err($crate::faulty::Away::away($name))
                }
                Some($crate::faulty::Fault::Hang) => $plan.hang($name).await,
                Some($crate::faulty::Fault::Panic) => panic!("{}: {}", $crate::faulty::WORDS, $name),
            };
            asked += 1;
            if !$plan.asks_again(asked, &reply) {
                break reply;
            }
        }
    }};
}
pub(crate) use pass;
