//! Ends that the bus has lost: found in the record, and told.
//!
//! A lost event shows itself by the next one. The last event of a task has none: when a server that had taken it forgets
//! it, as in a failover, everybody is level with the stream and a client waits for ever. So this replica remembers which
//! tasks its users may believe to be running, and asks the record about those that have been silent, in one statement
//! for many. An end found there is published again: that mends the stream for everybody, and adds nothing where the
//! event still is. When it does not arrive even then, the user's sockets get a snapshot.
//!
//! Not here: ends that were never published, which the relay publishes (it may also be us who are first).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::hub::Fanout;
use crate::bus::{BusError, Inbox, Loss, Published};
use crate::store::{OutboxRow, StoreError};
use crate::task::{TaskId, UserId};
use crate::telemetry::Outage;
use crate::telemetry::metrics::Kind;

/// Pause between looks. Two looks and the silence before them are less than the 5 s in which an end must be told.
const LOOK_INTERVAL: Duration = Duration::from_millis(1_500);
/// How long a task must be silent, and its end recorded, before it is asked for: publishing takes far less.
const SILENCE: Duration = Duration::from_secs(1);
/// An end as old as this may have been missed by a client that connected since the last look.
const RECENT: Duration = Duration::from_secs(60);
/// Tasks and users in one statement.
const TASKS_MAX: usize = 2_000;
const USERS_MAX: usize = 500;
/// Tasks remembered for one user, and ends, so that what the record said a moment ago does not bring back a task that
/// has ended since.
const OPEN_MAX: usize = 5_000;
const OVER_MAX: usize = 256;
/// Longest wait for the bus and the record.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(3);
const STORE_DEADLINE: Duration = Duration::from_secs(5);

/// What one user's sockets here may believe to be running.
#[derive(Debug, Default)]
pub(super) struct OpenTasks {
    open: HashMap<TaskId, Open>,
    over: VecDeque<TaskId>,
    /// Whether the record was asked since the last socket joined.
    asked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    heard: Instant,
    /// Whether a client here was certainly told that it runs, or will be. Of others the end may have been told.
    believed: bool,
    /// Whether the end was published again, and is awaited.
    told_again: bool,
}

impl OpenTasks {
    /// An event of a task is on its way to the sockets.
    pub(super) fn heard(&mut self, task: TaskId, terminal: bool, now: Instant) {
        if !terminal {
            self.expect(task, true, now);
            return;
        }
        self.open.remove(&task);
        self.over.push_back(task);
        if self.over.len() > OVER_MAX {
            self.over.pop_front();
        }
    }

    fn expect(&mut self, task: TaskId, believed: bool, heard: Instant) {
        if self.open.len() < OPEN_MAX || self.open.contains_key(&task) {
            let open = self.open.entry(task).or_insert(Open { heard, believed, told_again: false });
            open.heard = heard;
            open.believed |= believed;
        }
    }

    /// The record knows of a task that somebody here may be watching.
    fn recorded(&mut self, task: TaskId, over: bool, now: Instant) {
        if !self.over.contains(&task) && !self.open.contains_key(&task) {
            let long_ago = now.checked_sub(SILENCE).unwrap_or(now);
            self.expect(task, !over, long_ago);
        }
    }

    /// A socket joined: its client may know of tasks that were never told of here.
    pub(super) fn joined(&mut self) {
        self.asked = false;
    }

    fn silent(&self, now: Instant) -> impl Iterator<Item = TaskId> {
        let silent = move |open: &Open| now.duration_since(open.heard) >= SILENCE;
        self.open.iter().filter(move |(_, open)| silent(open)).map(|(task, _)| *task)
    }

    /// The end of a task is in the stream, and has not arrived here. Whether it never will.
    fn is_lost(&mut self, task: TaskId) -> bool {
        let Some(open) = self.open.get_mut(&task) else { return false };
        let lost = open.told_again && open.believed;
        if lost || !open.believed {
            self.open.remove(&task);
        } else {
            open.told_again = true;
        }
        lost
    }
}

/// Looks until told to stop.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let look = async {
        let outage = Outage::of("looking for lost ends");
        loop {
            sleep(LOOK_INTERVAL.mul_f64(rand::random_range(0.8..1.0))).await;
            match look(&shared).await {
                Ok(()) => outage.over(),
                Err(error) => outage.failed(error.as_ref()),
            }
        }
    };
    stop.run_until_cancelled(look).await;
}

async fn look(shared: &Shared) -> Result<(), crate::BoxError> {
    let users = shared.hub.fanouts();
    ask_for_newcomers(shared, &users).await?;
    let now = Instant::now();
    let mut silent = HashMap::new();
    for (_, fanout) in &users {
        silent.extend(fanout.open().silent(now).map(|task| (task, fanout)));
    }
    let tasks: Vec<TaskId> = silent.keys().copied().collect();
    for tasks in tasks.chunks(TASKS_MAX) {
        for row in in_time(shared.parts.store.ended(tasks, SILENCE)).await? {
            if let Some(fanout) = silent.get(&row.event.task_id) {
                tell(shared, fanout, &row).await?;
            }
        }
    }
    Ok(())
}

/// Learns which tasks the clients that have joined may believe to be running.
async fn ask_for_newcomers(shared: &Shared, users: &[(UserId, Arc<Fanout>)]) -> Result<(), crate::BoxError> {
    let new: HashMap<UserId, &Arc<Fanout>> = users
        .iter()
        .filter(|(_, fanout)| !std::mem::replace(&mut fanout.open().asked, true))
        .map(|(user, fanout)| (user.clone(), fanout))
        .collect();
    let owners: Vec<UserId> = new.keys().cloned().collect();
    for owners in owners.chunks(USERS_MAX) {
        let watched = match in_time(shared.parts.store.watched(owners, RECENT)).await {
            Ok(watched) => watched,
            Err(error) => {
                new.values().for_each(|fanout| fanout.open().asked = false);
                return Err(error);
            }
        };
        for task in watched {
            if let Some(fanout) = new.get(&task.owner) {
                fanout.open().recorded(task.task, task.over, Instant::now());
            }
        }
    }
    Ok(())
}

/// Publishes an end again, and sends a snapshot when that does not help.
async fn tell(shared: &Shared, fanout: &Fanout, row: &OutboxRow) -> Result<(), crate::BoxError> {
    let published = timeout(PUBLISH_DEADLINE, shared.parts.publisher.publish(&row.owner, &row.event)).await?;
    let lost = |kind| {
        shared.parts.metrics.lost_ends.get_or_create(&Kind { kind }).inc();
        tracing::warn!(task.id = %row.event.task_id, kind, "the bus had lost the end of a task");
    };
    match published {
        Ok(Published::Appended(_)) => {
            lost("published");
            fanout.open().is_lost(row.event.task_id);
        }
        Ok(Published::Repeat) | Err(BusError::Fenced { .. } | BusError::Taken { .. }) => {
            if fanout.open().is_lost(row.event.task_id) {
                lost("resync");
                fanout.lost(&row.owner, Loss::Ahead);
            }
        }
        Err(error @ BusError::Unavailable { .. }) => return Err(error.into()),
    }
    Ok(())
}

async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, crate::BoxError> {
    Ok(timeout(STORE_DEADLINE, call).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(tasks: &OpenTasks) -> Vec<TaskId> {
        tasks.silent(Instant::now() + SILENCE).collect()
    }

    #[test]
    fn only_silent_tasks_without_an_end_are_asked_for() {
        let (mut tasks, now) = (OpenTasks::default(), Instant::now());
        let (one, two) = (TaskId::generate(), TaskId::generate());
        tasks.heard(one, false, now);
        tasks.heard(two, false, now);
        assert_eq!(tasks.silent(now).count(), 0, "an event came just now");
        tasks.heard(two, true, now);
        assert_eq!(silent(&tasks), [one]);
        tasks.recorded(two, false, now);
        assert_eq!(silent(&tasks), [one], "the record was read before the end");
    }

    #[test]
    fn an_end_that_does_not_arrive_although_it_was_told_again_is_lost() {
        let (mut tasks, task) = (OpenTasks::default(), TaskId::generate());
        tasks.heard(task, false, Instant::now());
        assert!(!tasks.is_lost(task), "it may be on its way");
        assert!(tasks.is_lost(task));
        assert!(!tasks.is_lost(task), "a snapshot is enough");
    }

    #[test]
    fn an_end_from_before_the_client_came_is_told_again_once_and_awaited_by_nobody() {
        let (mut tasks, task) = (OpenTasks::default(), TaskId::generate());
        tasks.recorded(task, true, Instant::now());
        assert_eq!(silent(&tasks), [task]);
        assert!(!tasks.is_lost(task));
        assert!(silent(&tasks).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut tasks, now) = (OpenTasks::default(), Instant::now());
        (0..=OPEN_MAX).for_each(|_| tasks.heard(TaskId::generate(), false, now));
        (0..=OVER_MAX).for_each(|_| tasks.heard(TaskId::generate(), true, now));
        assert_eq!((tasks.open.len(), tasks.over.len()), (OPEN_MAX, OVER_MAX));
    }
}
