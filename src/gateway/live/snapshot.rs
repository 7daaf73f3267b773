//! What a late joiner sees: the record, brought up to date with what the bus knows.

use crate::bus::BusError;
use crate::gateway::Parts;
use crate::planted::{self, Bug};
use crate::store::StoreError;
use crate::task::{Position, Snapshot, TaskId, UserId};

/// Why no snapshot could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The stream's head could not be read.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The record could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A snapshot and the position it was taken at: replaying from there misses nothing.
///
/// The head is read first: whatever is appended while the record is read comes again in the replay, and folding is
/// idempotent.
pub(crate) async fn read(parts: &Parts, user: &UserId) -> Result<(Position, Snapshot), SnapshotError> {
    let head = parts.feed.head(user).await?;
    let recorded = parts.store.snapshot(user, parts.live.snapshot_recent).await?;
    let open: Vec<TaskId> =
        recorded.iter().filter(|task| !task.state.status.is_terminal()).map(|task| task.id).collect();
    let mut snapshot = Snapshot::new(recorded.iter().map(crate::store::Task::view));
    if !open.is_empty() {
        for event in parts.feed.live(user, &open).await? {
            snapshot.fold(&event);
        }
    }
    let head = if planted::is(Bug::SnapshotFirst) { parts.feed.head(user).await? } else { head };
    Ok((head, snapshot))
}
