//! A task as the record knows it, and what follows from it alone: its view, its events, and what a retry of it repeats.

use std::time::Duration;

use jiff::Timestamp;

use crate::task::{
    ActionSpec, Capabilities, ClusterName, Counts, Event, EventKind, FailureBudget, ItemName, Priority,
    ReplicaId, Seq, Status, Strategy, TaskId, TaskSpec, TaskState, TaskView, UserId, WaveMark,
};

/// A task as the record knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Who submitted it.
    pub owner: UserId,
    /// What to do to each item.
    pub action: ActionSpec,
    /// The cluster to act on.
    pub cluster: ClusterName,
    /// Why, in the user's words.
    pub reason: Option<String>,
    /// Higher goes first among the owner's tasks.
    pub priority: Priority,
    /// Most items at once, if the user set it.
    pub concurrency: Option<u16>,
    /// Time-out of one item, if the user set it.
    pub item_timeout: Option<Duration>,
    /// Claims before it is given up.
    pub max_attempts: u16,
    /// How many items may fail before it is stopped, if the user set it.
    pub budget: Option<FailureBudget>,
    /// Failures from before the budget began, which do not count against it. `None` after a resume: the next claim
    /// begins a new one.
    pub failed_before: Option<u32>,
    /// In which waves, order and windows, if the user set any of it.
    pub strategy: Option<Strategy>,
    /// What its submitter may on its cluster, as it was then.
    pub may: Capabilities,
    /// Waves up to this number, from 1, have no gate and no pause before them any more; 0 when none was opened yet.
    pub opened: u32,
    /// Nobody claims it before then while it is queued.
    pub rests_until: Option<Timestamp>,
    /// The task that it retries, if it is a retry. That one may be pruned by now.
    pub parent: Option<TaskId>,
    /// Status, fencing token and used claims.
    pub state: TaskState,
    /// Recorded results by kind.
    pub counts: Counts,
    /// The worker that holds it.
    pub worker: Option<ReplicaId>,
    /// Why its failure budget or its strategy holds it back or calls it off.
    pub message: Option<String>,
    /// Why the task itself failed.
    pub error: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was first claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Task {
    /// The view a watcher gets from the record alone.
    #[must_use]
    pub fn view(&self) -> TaskView {
        TaskView {
            task_id: self.id,
            attempt: self.state.attempt,
            seq: Seq(0),
            status: self.state.status,
            action: self.action.name().to_owned(),
            cluster: self.cluster.clone(),
            current: self.counts.current(),
            counts: self.counts,
            progress: self.counts.percent(),
            current_node: None,
            stalled_since: None,
            wave: self.wave(),
            waits_for: self.waits_for(),
            parent_id: self.parent,
            concurrency: self.concurrency,
            message: self.message.clone().filter(|_| self.waits_for().is_none()),
            reason: self.reason.clone(),
            error: self.error.clone(),
            created_at: Some(self.created_at),
            updated_at: self.updated_at,
        }
    }

    /// Where it stands, of a task that runs in waves.
    #[must_use]
    pub fn wave(&self) -> Option<WaveMark> {
        self.strategy.as_ref()?.cut(self.counts.total).mark(self.counts.current())
    }

    /// Why nobody claims it, while it waits for a time of its strategy.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let rests = self.state.status == Status::Queued && self.rests_until.is_some();
        self.message.clone().filter(|_| rests)
    }

    /// A task as it is accepted.
    #[must_use]
    pub fn accepted(id: TaskId, owner: UserId, spec: &TaskSpec, at: Timestamp) -> Self {
        Self {
            id,
            owner,
            action: spec.action.clone(),
            cluster: spec.cluster.clone(),
            reason: spec.reason.clone(),
            priority: spec.priority,
            concurrency: spec.concurrency,
            item_timeout: spec.item_timeout,
            max_attempts: spec.max_attempts,
            budget: spec.budget,
            failed_before: Some(0),
            strategy: spec.strategy.clone(),
            may: spec.may,
            opened: 0,
            rests_until: None,
            parent: None,
            state: TaskState::new(),
            counts: Counts::new(
                u32::try_from(spec.items.len()).expect("a checked spec has at most 100,000 items"),
            ),
            worker: None,
            message: None,
            error: None,
            created_at: at,
            started_at: None,
            finished_at: None,
            updated_at: at,
        }
    }

    /// What was asked for, of these items.
    #[must_use]
    pub fn spec(&self, items: Vec<ItemName>) -> TaskSpec {
        TaskSpec {
            action: self.action.clone(),
            cluster: self.cluster.clone(),
            items,
            reason: self.reason.clone(),
            priority: self.priority,
            concurrency: self.concurrency,
            item_timeout: self.item_timeout,
            max_attempts: self.max_attempts,
            budget: self.budget,
            strategy: self.strategy.clone(),
            may: self.may,
        }
    }

    /// An event about the task as it is now, under its current attempt.
    #[must_use]
    pub fn event(&self, kind: EventKind, seq: Seq, at: Timestamp) -> Event {
        Event {
            task_id: self.id,
            attempt: self.state.attempt,
            seq,
            kind,
            status: self.state.status,
            action: self.action.name().to_owned(),
            cluster: self.cluster.clone(),
            parent_id: self.parent,
            concurrency: self.concurrency.filter(|_| kind == EventKind::ConcurrencyChanged),
            current: self.counts.current(),
            counts: self.counts,
            progress: self.counts.percent(),
            current_node: None,
            items: Vec::new(),
            stalled_since: None,
            wave: self.wave(),
            waits_for: None,
            message: None,
            error: self.error.clone(),
            timestamp: at,
        }
    }
}
