//! What a change does to a task beyond its state. Pure, and shared by the backends, so that they cannot disagree.
//!
//! Not here: whether the change fits, which is [`crate::task::TaskState::apply`], and how it is made durable.

use jiff::Timestamp;

use super::{Control, HoldBack, StoreError, Task};
use crate::task::{
    Attempt, Change, Event, EventKind, ItemOutcome, ReplicaId, Seq, Status, TaskState, Then, TransitionError,
};

/// An ending that no worker decided.
#[derive(Debug)]
pub(super) struct Ending {
    /// How every item ends that has no result.
    pub(super) pending: ItemOutcome,
    /// The terminal event, the only one of its attempt.
    pub(super) event: Event,
}

/// The change that a claim makes: a task that is held already is taken over.
pub(super) fn claim_of(task: &Task) -> Change {
    if task.state.status.is_held() { Change::TakeOver } else { Change::Claim }
}

/// Gives a task to a worker.
pub(super) fn claim(task: &mut Task, worker: &ReplicaId, at: Timestamp) -> Result<(), StoreError> {
    task.state = next(task, claim_of(task))?;
    task.worker = Some(worker.clone());
    task.started_at = task.started_at.or(Some(at));
    task.failed_before.get_or_insert(task.counts.failed);
    task.rests_until = task.rests_until.filter(|until| *until > at);
    task.message = task.message.take().filter(|_| task.state.aborted);
    task.updated_at = at;
    Ok(())
}

/// Ends a task as its holder says. Every item must have a result by now.
pub(super) fn finish(task: &mut Task, by: Attempt, event: &Event, at: Timestamp) -> Result<(), StoreError> {
    let state = next(task, Change::Finish { by, verdict: event.status })?;
    if task.counts.pending() > 0 {
        return Err(StoreError::Refused { task: task.id, status: task.state.status });
    }
    task.state = state;
    task.error.clone_from(&event.error);
    over(task, at);
    Ok(())
}

/// Does what a user wants.
pub(super) fn control(
    task: &mut Task,
    control: Control,
    at: Timestamp,
) -> Result<Option<Ending>, StoreError> {
    match control {
        Control::Cancel => apply(task, Change::Cancel, at),
        Control::Pause => apply(task, Change::Pause, at),
        Control::Resume => {
            let ending = apply(task, Change::Resume, at)?;
            (task.failed_before, task.message) = (None, None);
            Ok(ending)
        }
        Control::Concurrency(concurrency) => set_concurrency(task, concurrency, at).map(|()| None),
    }
}

fn set_concurrency(task: &mut Task, concurrency: Option<u16>, at: Timestamp) -> Result<(), StoreError> {
    let status = task.state.status;
    if status.is_terminal() {
        return Err(StoreError::Refused { task: task.id, status });
    }
    if task.concurrency != concurrency {
        (task.concurrency, task.updated_at) = (concurrency, at);
    }
    Ok(())
}

/// Stops a task whose failure budget is used up.
pub(super) fn halt(
    task: &mut Task,
    by: Attempt,
    then: Then,
    message: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    let before = task.state;
    apply(task, Change::Halt { by, then }, at)?;
    if task.state != before {
        task.message = Some(message.to_owned());
    }
    Ok(())
}

/// Holds a task back as its strategy says. What a user did first stays, and so does a wave that is open.
pub(super) fn hold_back(
    task: &mut Task,
    by: Attempt,
    hold: &HoldBack,
    at: Timestamp,
) -> Result<(), StoreError> {
    // The fence is checked by the change that changes nothing.
    next(task, Change::Halt { by, then: Then::Pause }).or_else(|error| match error {
        StoreError::Refused { .. } => Ok(task.state),
        other => Err(other),
    })?;
    let is_open = hold.opens.is_some_and(|wave| wave <= task.opened);
    if task.state.status != Status::Running || is_open {
        return Ok(());
    }
    if hold.pause {
        apply(task, Change::Halt { by, then: Then::Pause }, at)?;
    }
    task.opened = hold.opens.unwrap_or(task.opened);
    task.rests_until =
        Some(hold.rest).filter(|rest| !rest.is_zero()).and_then(|rest| at.checked_add(rest).ok());
    (task.message, task.updated_at) = (Some(hold.message.clone()), at);
    Ok(())
}

/// Applies any other change. Returns an ending when this was one; a change that changes nothing leaves the task alone.
pub(super) fn apply(task: &mut Task, change: Change, at: Timestamp) -> Result<Option<Ending>, StoreError> {
    let state = next(task, change)?;
    if matches!(change, Change::HandOver { .. }) || state.status == Status::Queued {
        task.worker = None;
    }
    if state == task.state {
        return Ok(None);
    }
    task.state = state;
    task.updated_at = at;
    Ok(state.status.is_terminal().then(|| end(task, at)))
}

fn next(task: &Task, change: Change) -> Result<TaskState, StoreError> {
    task.state.apply(change).map_err(|error| match error {
        TransitionError::Fenced { by, .. } => StoreError::Fenced { task: task.id, by },
        TransitionError::Refused { status } => StoreError::Refused { task: task.id, status },
    })
}

fn end(task: &mut Task, at: Timestamp) -> Ending {
    let pending = match task.state.status {
        Status::Failed if task.state.aborted => {
            task.error.clone_from(&task.message);
            task.counts.cancelled += task.counts.pending();
            ItemOutcome::Cancelled
        }
        Status::Failed => {
            let error = format!("gave up after {} attempts", task.state.tries);
            task.error = Some(error.clone());
            task.counts.failed += task.counts.pending();
            ItemOutcome::failed(error)
        }
        _ => {
            task.counts.cancelled += task.counts.pending();
            ItemOutcome::Cancelled
        }
    };
    over(task, at);
    Ending { pending, event: task.event(EventKind::terminal(task.state.status), Seq::FIRST, at) }
}

fn over(task: &mut Task, at: Timestamp) {
    task.worker = None;
    task.finished_at = Some(at);
    task.updated_at = at;
}
