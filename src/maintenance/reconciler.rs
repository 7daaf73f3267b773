//! Rings for tasks that may be claimed and whose own wake-up may be lost: lapsed ones, which nobody rang for, and those
//! that wait although somebody did.
//!
//! A task is rung for when it is first seen, then after ever longer pauses while it goes on waiting: with every worker
//! full a queue does not turn into a pile of wake-ups. With no worker at all it does not either: there are never more
//! wake-ups than tasks to claim. What was rung is remembered here only; a new leader rings for all once more, which does
//! no harm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
        let due = self.waiting().due(&claimable);
        if due.is_empty() {
            return Ok(0);
        }
        let rung = usize::try_from(self.dispatcher.waiting().await?).unwrap_or(usize::MAX);
        let missing = claimable.len().saturating_sub(rung).min(due.len());
        for task in &due[..missing] {
            self.dispatcher.notify(*task).await?;
            self.waiting().rung(*task);
        }
        Ok(missing as u64)
    }
}

impl Reconciler {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks that wait. Never more than one batch.
#[derive(Debug, Default)]
struct Waiting(HashMap<TaskId, Pace>);

/// When a task is rung for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Runs until it is due; one that is due stays so until it was rung for.
    left: u32,
    /// Runs after that.
    pause: u32,
}

impl Waiting {
    /// The tasks to ring for now. Forgets those that wait no more.
    fn due(&mut self, claimable: &[TaskId]) -> Vec<TaskId> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for task in claimable {
            let Pace { left, pause } = before.remove(task).unwrap_or(Pace { left: 0, pause: 1 });
            if left == 0 {
                due.push(*task);
            }
            self.0.insert(*task, Pace { left: left.saturating_sub(1), pause });
        }
        due
    }

    fn rung(&mut self, task: TaskId) {
        if let Some(pace) = self.0.get_mut(&task) {
            *pace = Pace { left: pace.pause, pause: (pace.pause * 2).min(PAUSE_MAX) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::clock::SystemClock;
    use crate::dispatch::{DispatchError, TokenSource};
    use crate::store::{MemoryStore, NewTask, TaskStore};
    use crate::task::{Draft, Origin, ReplicaId, TaskSpec, UserId};

    /// Looks and rings for all that is due.
    fn look(waiting: &mut Waiting, claimable: &[TaskId]) -> Vec<TaskId> {
        let due = waiting.due(claimable);
        due.iter().for_each(|task| waiting.rung(*task));
        due
    }

    #[test]
    fn a_task_that_goes_on_waiting_is_rung_for_ever_more_rarely() {
        let task = TaskId::generate();
        let mut waiting = Waiting::default();
        let rung: Vec<usize> = (0..300).filter(|_| !look(&mut waiting, &[task]).is_empty()).collect();
        assert_eq!(rung, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
    }

    #[test]
    fn a_task_that_was_claimed_and_lapsed_is_rung_for_at_once() {
        let task = TaskId::generate();
        let mut waiting = Waiting::default();
        assert_eq!(look(&mut waiting, &[task]), [task]);
        assert_eq!(look(&mut waiting, &[]), []);
        assert!(waiting.0.is_empty(), "nothing is kept of a task that waits no more");
        assert_eq!(look(&mut waiting, &[task]), [task]);
    }

    /// Counts what was rung; nobody listens.
    #[derive(Default)]
    struct Bells {
        rung: AtomicU64,
        away: AtomicBool,
    }

    #[async_trait]
    impl Dispatcher for Bells {
        async fn notify(&self, _: TaskId) -> Result<(), DispatchError> {
            if self.away.load(Ordering::SeqCst) {
                return Err(DispatchError { doing: "ringing", source: "cut".into() });
            }
            self.rung.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        async fn waiting(&self) -> Result<u64, DispatchError> {
            Ok(self.rung.load(Ordering::SeqCst))
        }

        async fn receiver(&self, _: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
            Err(DispatchError { doing: "listening", source: "nobody listens".into() })
        }
    }

    async fn reconciler(tasks: u32) -> (Reconciler, Arc<Bells>) {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        for _ in 0..tasks {
            let items = vec!["node-1".into()];
            let draft = Draft { action: "cordon".into(), cluster: "prod".into(), items, ..Draft::default() };
            let (owner, spec) = (UserId::new("ada").unwrap(), TaskSpec::new(draft).unwrap());
            let new = NewTask {
                id: TaskId::generate(),
                owner,
                spec,
                key: None,
                open_max: 1_000,
                origin: Origin::default(),
            };
            store.create(new).await.unwrap();
        }
        let bells = Arc::<Bells>::default();
        (Reconciler::new(store, bells.clone(), Duration::from_secs(1)), bells)
    }

    #[tokio::test]
    async fn there_are_never_more_wake_ups_than_tasks_to_claim() {
        let (reconciler, bells) = reconciler(10).await;
        bells.rung.store(4, Ordering::SeqCst);
        for _ in 0..1_000 {
            reconciler.run().await.unwrap();
        }
        assert_eq!(bells.rung.load(Ordering::SeqCst), 10);
        bells.rung.store(9, Ordering::SeqCst);
        assert_eq!(reconciler.run().await.unwrap(), 1, "one was taken, and its task still waits");
    }

    #[tokio::test]
    async fn a_wake_up_that_could_not_be_sent_is_sent_as_soon_as_it_can_be() {
        let (reconciler, bells) = reconciler(1).await;
        bells.away.store(true, Ordering::SeqCst);
        for _ in 0..100 {
            reconciler.run().await.unwrap_err();
        }
        bells.away.store(false, Ordering::SeqCst);
        assert_eq!(reconciler.run().await.unwrap(), 1);
    }
}
