//! The faults F01 to F22 on real processes, one test each.
//!
//! Every test starts gateways, workers, Redis and Postgres of its own, lets users submit and watch, makes one fault, proves
//! that the fault hit something (a run whose fault did not bite is void and fails), and has the whole run judged at its end
//! ([`judge`]). Reading order: [`stage`] (what runs, who submits) · [`watch`] (what sockets see) · [`notes`] (the history) ·
//! [`judge`] · the faults, by whom they hit. Not here: F09 (failover), F19, F20 and F23 to F25, which need other stages.

mod clock;
mod deadlines;
mod gateways;
mod judge;
mod lost_replies;
mod notes;
mod poison;
mod postgres;
mod redis;
mod slow;
mod stage;
mod storm;
mod upgrade;
mod watch;
mod workers;

/// Waits for real time to pass, where the passing of time is what is tested.
async fn pass(time: std::time::Duration) {
    tokio::time::sleep(time).await;
}
