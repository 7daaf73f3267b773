//! Finds tasks that are held and in which nothing was recorded for long, whatever their worker says of it.
//!
//! Watchers are told by the worker that holds the task, on the task's own stream: the numbers of its events are that
//! worker's. This is for operators, and sees what no worker can say: that the worker is cut off from the bus, or that a
//! task whose worker died waits for another one. Each is logged once, and all are in a metric of the leader.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::driver::Duty;
use crate::BoxError;
use crate::store::{StalledTask, UpkeepStore};
use crate::task::TaskId;
use crate::telemetry::Metrics;

/// Stalled tasks looked at: those that stand still for longest.
const LIMIT: u32 = 1_000;
/// A stall is slow to come and slow to go; looking costs the store a scan of what is held.
pub(super) const INTERVAL_MIN: Duration = Duration::from_secs(5);

pub(super) struct Stalls {
    pub(super) store: Arc<dyn UpkeepStore>,
    pub(super) metrics: Metrics,
    /// Zero for never.
    pub(super) after: Duration,
    pub(super) interval: Duration,
    /// Logged, and still stalled.
    pub(super) known: Mutex<HashSet<TaskId>>,
}

#[async_trait]
impl Duty for Stalls {
    fn name(&self) -> &'static str {
        "stall_detector"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        if self.after.is_zero() {
            return Ok(0);
        }
        let stalled = self.store.stalled(self.after, LIMIT).await?;
        self.metrics.tasks_stalled.set(i64::try_from(stalled.len()).unwrap_or(i64::MAX));
        let fresh = self.note(&stalled);
        for StalledTask { id, worker, quiet } in &fresh {
            let worker = worker.as_ref().map_or("", |worker| worker.as_str());
            tracing::warn!(task.id = %id, worker, quiet_s = quiet.as_secs(), "a held task does not get on");
        }
        Ok(fresh.len() as u64)
    }

    fn rest(&self) {
        self.metrics.tasks_stalled.set(0);
        self.known().clear();
    }
}

impl Stalls {
    /// Those that were not known; forgets those that get on again.
    fn note<'a>(&self, stalled: &'a [StalledTask]) -> Vec<&'a StalledTask> {
        let mut known = self.known();
        let fresh = stalled.iter().filter(|task| !known.contains(&task.id)).collect();
        *known = stalled.iter().map(|task| task.id).collect();
        fresh
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<TaskId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
