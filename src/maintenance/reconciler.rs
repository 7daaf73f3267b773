//! Rings for tasks that may be claimed and whose own wake-up may be lost: lapsed ones, which nobody rang for, and those
//! that wait although somebody did.
//!
//! A task is rung for when it is first seen, then after ever longer pauses while it goes on waiting: with every worker
//! full a queue does not turn into a pile of wake-ups. What was rung is remembered here only; a new leader rings for
//! all once more, which does no harm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::driver::Duty;
use crate::BoxError;
use crate::dispatch::Dispatcher;
use crate::store::UpkeepStore;
use crate::task::TaskId;

/// Tasks looked at in one run: the oldest. Each wake-up makes a worker claim until nothing is left.
const BATCH: u32 = 100;
/// Longest pause between two wake-ups for one task, in runs.
const PAUSE_MAX: u32 = 64;

pub(super) struct Reconciler {
    store: Arc<dyn UpkeepStore>,
    dispatcher: Arc<dyn Dispatcher>,
    interval: Duration,
    waiting: Mutex<Waiting>,
}

impl Reconciler {
    pub(super) fn new(
        store: Arc<dyn UpkeepStore>,
        dispatcher: Arc<dyn Dispatcher>,
        interval: Duration,
    ) -> Self {
        Self { store, dispatcher, interval, waiting: Mutex::default() }
    }
}

#[async_trait]
impl Duty for Reconciler {
    fn name(&self) -> &'static str {
        "reconciler"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) -> Result<u64, BoxError> {
        let claimable = self.store.claimable(BATCH).await?;
        let due = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).due(&claimable);
        for task in &due {
            self.dispatcher.notify(*task).await?;
        }
        Ok(due.len() as u64)
    }
}

/// For each task that waits: runs until its next wake-up, and the pause after that one. Never more than one batch.
#[derive(Debug, Default)]
struct Waiting(HashMap<TaskId, (u32, u32)>);

impl Waiting {
    /// The tasks to ring for now. Forgets those that wait no more.
    fn due(&mut self, claimable: &[TaskId]) -> Vec<TaskId> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for task in claimable {
            let (left, pause) = before.remove(task).unwrap_or((0, 1));
            let next = if left == 0 {
                due.push(*task);
                (pause, (pause * 2).min(PAUSE_MAX))
            } else {
                (left - 1, pause)
            };
            self.0.insert(*task, next);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_goes_on_waiting_is_rung_for_ever_more_rarely() {
        let task = TaskId::generate();
        let mut waiting = Waiting::default();
        let rung: Vec<usize> = (0..300).filter(|_| !waiting.due(&[task]).is_empty()).collect();
        assert_eq!(rung, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
    }

    #[test]
    fn a_task_that_was_claimed_and_lapsed_is_rung_for_at_once() {
        let task = TaskId::generate();
        let mut waiting = Waiting::default();
        assert_eq!(waiting.due(&[task]), [task]);
        assert_eq!(waiting.due(&[]), []);
        assert!(waiting.0.is_empty(), "nothing is kept of a task that waits no more");
        assert_eq!(waiting.due(&[task]), [task]);
    }
}
