//! What a late joiner sees: the record, brought up to date with what the bus knows.
//!
//! A crowd that comes back together, as after a Redis that forgot everything, waits for its turn here. Otherwise it would take every
//! connection to the record, each read would time out behind the others, and the sockets would be closed only to come back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::bus::{BusError, Feed};
use crate::planted::{self, Bug};
use crate::store::{StoreError, TaskStore};
use crate::task::{Position, Snapshot, TaskId, UserId};

/// Snapshots read at once: half of the connections to the record, as they are by default.
const TURNS: usize = 8;
/// Longest wait for a turn: time for a few thousand sockets.
const TURN_MAX: Duration = Duration::from_secs(30);
/// Longest read. Each call has a deadline of its own; this one bounds how long a turn is held.
const READ_MAX: Duration = Duration::from_secs(10);

/// Why no snapshot could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The stream's head could not be read.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The record could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It took too long, for the reason that is said.
    #[error("{0}")]
    Late(&'static str),
}

/// Reads snapshots, a few at once.
pub(crate) struct Snapshots {
    feed: Arc<dyn Feed>,
    store: Arc<dyn TaskStore>,
    /// Finished tasks of a snapshot.
    recent: u32,
    turns: Semaphore,
}

impl Snapshots {
    /// Of what these ports know, with so many finished tasks at most.
    pub(crate) fn new(feed: Arc<dyn Feed>, store: Arc<dyn TaskStore>, recent: u32) -> Self {
        Self { feed, store, recent, turns: Semaphore::new(TURNS) }
    }

    /// A snapshot and the position it was taken at: replaying from there misses nothing. Bounded in time; cancel-safe.
    pub(crate) async fn read(&self, user: &UserId) -> Result<(Position, Snapshot), SnapshotError> {
        let turn = timeout(TURN_MAX, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| SnapshotError::Late("too many others ask for a snapshot"))?;
        let read = timeout(READ_MAX, self.read_now(user)).await;
        read.map_err(|_| SnapshotError::Late("the snapshot could not be read in time"))?
    }

    /// The head is read first: whatever is appended while the record is read comes again in the replay, and folding is
    /// idempotent.
    async fn read_now(&self, user: &UserId) -> Result<(Position, Snapshot), SnapshotError> {
        let head = self.feed.head(user).await?;
        let recorded = self.store.snapshot(user, self.recent).await?;
        let open: Vec<TaskId> =
            recorded.iter().filter(|task| !task.state.status.is_terminal()).map(|task| task.id).collect();
        let mut snapshot = Snapshot::new(recorded.iter().map(crate::store::Task::view));
        if !open.is_empty() {
            for event in self.feed.live(user, &open).await? {
                snapshot.fold(&event);
            }
        }
        let head = if planted::is(Bug::SnapshotFirst) { self.feed.head(user).await? } else { head };
        Ok((head, snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::MemoryBus;
    use crate::clock::SystemClock;
    use crate::config::BusConfig;
    use crate::faulty::{Fault, Faulty, Plan};
    use crate::store::MemoryStore;

    const CROWD: usize = 20;

    fn snapshots(plan: &Plan) -> Arc<Snapshots> {
        let store: Arc<dyn TaskStore> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let feed = Arc::new(MemoryBus::new(&BusConfig::default()));
        Arc::new(Snapshots::new(feed, Arc::new(Faulty::new(store, plan)), 50))
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_reads_a_few_at_once_and_a_read_that_hangs_gives_its_turn_up() {
        let plan = Plan::new();
        plan.always("store.snapshot", Fault::Hang);
        let snapshots = snapshots(&plan);
        let user = UserId::new("ada").unwrap();
        let reads: Vec<_> = (0..CROWD)
            .map(|_| {
                let (snapshots, user) = (Arc::clone(&snapshots), user.clone());
                tokio::spawn(async move { snapshots.read(&user).await.is_ok() })
            })
            .collect();
        tokio::time::sleep(READ_MAX / 2).await;
        assert_eq!(plan.hung().len(), TURNS);
        plan.clear();
        let mut well = 0;
        for read in reads {
            well += usize::from(read.await.unwrap());
        }
        assert_eq!(well, CROWD - TURNS, "those that hung gave up, and all others had their turn");
    }
}
