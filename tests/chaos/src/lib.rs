//! Chaos: a whole Milepost of real processes under a random mix of faults, with users at work all along, judged by what
//! they saw.
//!
//! A seed decides which faults come, when, to whom, and what users do; how processes interleave it cannot decide.
//! Everything is noted into a history, which [`milepost::verify`] judges. Reading order: [`plan`] · [`faults`] · [`users`]
//! and [`watchers`] · [`run`]. [`guarantees`] measures the figures of `docs/guarantees.md`. Not here: one fault at a
//! time with its exact consequences (`tests/it`).

pub mod dice;
pub mod faults;
pub mod figures;
mod finish;
pub mod guarantees;
pub mod plan;
pub mod run;
pub mod users;
pub mod watchers;
pub mod world;

pub use plan::Kind;
pub use run::{Settings, run};
