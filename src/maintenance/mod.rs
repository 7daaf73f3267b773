//! The maintenance role: what must happen to tasks that no worker holds.
//!
//! Every replica with this role runs it; one leads and does the duties, the others wait. Each duty is idempotent, takes
//! no input, and reports a count, so a lost lead, a crash or two leaders for a moment do no harm. Lapsed tasks need no
//! rescue of their own: they are claimable as they are, and the reconciler rings for them.
//!
//! Reading order: [`driver`] (when) · `rescuer` · `relay` · `reconciler` · `pruner` · `stalls` · `gauges` (what).

pub mod driver;
mod gauges;
mod pruner;
mod reconciler;
mod relay;
mod rescuer;
mod stalls;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::bus::Publisher;
use crate::config::{AuditConfig, MaintenanceConfig};
use crate::dispatch::Dispatcher;
use crate::lifecycle::Lifecycle;
use crate::store::{Leadership, UpkeepStore};
use crate::telemetry::Metrics;

use driver::{Driver, Duty};
use gauges::Gauges;
use pruner::{AuditPruner, Pruner};
use reconciler::Reconciler;
use relay::Relay;
use rescuer::Rescuer;
use stalls::Stalls;

/// What maintenance needs.
pub struct Parts {
    /// The record.
    pub store: Arc<dyn UpkeepStore>,
    /// Picks the one replica that works.
    pub leadership: Arc<dyn Leadership>,
    /// The writing side of the bus.
    pub publisher: Arc<dyn Publisher>,
    /// Wake-ups.
    pub dispatcher: Arc<dyn Dispatcher>,
    /// Where work is counted.
    pub metrics: Metrics,
    /// Settings.
    pub config: MaintenanceConfig,
    /// How long the audit is kept.
    pub audit: AuditConfig,
    /// Time without a result after which a held task counts as stalled; zero for never. The workers' own setting.
    pub stall_after: Duration,
    /// Duties of the backends in use, such as the reaper of dead readers.
    pub extra: Vec<Box<dyn Duty>>,
}

/// Starts maintenance on `life` and returns. It works until the soft stop, then gives the lead back.
pub fn run(parts: Parts, life: &Lifecycle) {
    let Parts { store, leadership, publisher, dispatcher, metrics, config, audit, stall_after, extra } =
        parts;
    let mut duties: Vec<Box<dyn Duty>> = vec![
        Box::new(Rescuer { store: Arc::clone(&store), metrics: metrics.clone(), interval: config.interval }),
        Box::new(Relay {
            store: Arc::clone(&store),
            publisher,
            age: config.outbox_age,
            interval: config.interval,
        }),
        Box::new(Reconciler::new(Arc::clone(&store), dispatcher, config.interval)),
        Box::new(Pruner {
            store: Arc::clone(&store),
            age: config.retention,
            interval: config.prune_interval,
        }),
        Box::new(AuditPruner {
            store: Arc::clone(&store),
            age: audit.retention,
            interval: config.prune_interval,
        }),
        Box::new(Stalls {
            store: Arc::clone(&store),
            metrics: metrics.clone(),
            after: stall_after,
            interval: config.interval.max(stalls::INTERVAL_MIN),
            known: std::sync::Mutex::default(),
        }),
        Box::new(Gauges {
            store,
            metrics: metrics.clone(),
            interval: config.interval.max(gauges::INTERVAL_MIN),
        }),
    ];
    duties.extend(extra);
    let driver = Driver::new(leadership, duties, metrics);
    let soft = life.soft().clone();
    life.spawn("maintenance", driver.run(soft));
}
