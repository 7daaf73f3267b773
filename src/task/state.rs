//! Where a task is in its life, and the one function through which that changes.
//!
//! Every backend of the store decides through [`TaskState::apply`]; SQL only carries the answer. Terminal states are
//! never left. Not here: when a change is due (worker, maintenance) and how it is made durable ([`crate::store`]).

use serde::{Deserialize, Serialize};

use super::{Attempt, Counts, IdError, Then};

/// Status of a task, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody holds it. Left by the worker that claims it, or by a cancel or pause.
    Queued,
    /// A worker holds it under a lease. Left by that worker, or by the next claim once the lease lapsed.
    Running,
    /// Nobody starts items until somebody resumes it.
    Paused,
    /// A worker holds it and finishes the items in flight; no other is started.
    Cancelling,
    /// Terminal: every item succeeded or was skipped.
    Completed,
    /// Terminal: some items failed, others did not.
    CompletedWithErrors,
    /// Terminal: every item failed, or the task ran out of attempts.
    Failed,
    /// Terminal: cancelled before every item was run.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a task's life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Paused,
        Self::Cancelling,
        Self::Completed,
        Self::CompletedWithErrors,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether the task is over.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::CompletedWithErrors | Self::Failed | Self::Cancelled)
    }

    /// Whether a worker holds the task.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Self::Running | Self::Cancelling)
    }

    /// The word used on the wire and in storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::CompletedWithErrors => "completed_with_errors",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Status {
    type Err = IdError;

    fn from_str(word: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().find(|status| status.as_str() == word).ok_or(IdError::Malformed("task status"))
    }
}

/// What decides who may do what with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskState {
    /// Where the task is in its life.
    pub status: Status,
    /// The fencing token: grows with each claim and with each ending that no worker decided.
    pub attempt: Attempt,
    /// Claims that count against `max_attempts`. A hand-over gives its claim back.
    pub tries: u16,
    /// Whether its failure budget calls it off: it is cancelling, or has ended, and its end is a failure.
    pub aborted: bool,
}

/// Something that happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A worker claims a queued task.
    Claim,
    /// A worker claims a task whose holder let the lease lapse. A cancel asked for meanwhile stays asked for.
    TakeOver,
    /// Its holder gives it back unfinished, without using up a try. Of something that nobody holds by now, such as
    /// after a pause, it is accepted and changes nothing.
    HandOver {
        /// The attempt of the holder.
        by: Attempt,
    },
    /// Its holder ends it.
    Finish {
        /// The attempt of the holder.
        by: Attempt,
        /// The terminal status, from [`super::Counts::verdict`].
        verdict: Status,
    },
    /// Its holder found its failure budget used up. Of something that a user paused or cancelled meanwhile, it is
    /// accepted and changes nothing.
    Halt {
        /// The attempt of the holder.
        by: Attempt,
        /// What the budget says is to become of it.
        then: Then,
    },
    /// A user wants it to end early.
    Cancel,
    /// A user wants no further item started. The holder's claim does not count as a try: pausing often must not use
    /// a task up.
    Pause,
    /// A user wants it to go on.
    Resume,
    /// Maintenance ends it because it used up its tries.
    GiveUp,
}

/// Why a change was refused. The state is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The change came from an attempt that no longer holds the task.
    #[error("attempt {by} no longer holds the task; attempt {current} does")]
    Fenced {
        /// Who asked.
        by: Attempt,
        /// Who may.
        current: Attempt,
    },
    /// The change does not fit the status.
    #[error("a task that is {status} cannot take this change")]
    Refused {
        /// The status of the task.
        status: Status,
    },
}

impl TaskState {
    /// A task just accepted.
    #[must_use]
    pub fn new() -> Self {
        Self { status: Status::Queued, attempt: Attempt::NONE, tries: 0, aborted: false }
    }

    /// The only way a task changes.
    ///
    /// A cancel or pause of something already cancelled or paused is accepted and changes nothing. An ending that no
    /// worker decided takes a new attempt, so that a worker that still believes in its lease is shut out.
    ///
    /// # Errors
    /// [`TransitionError::Fenced`] for a stale holder, [`TransitionError::Refused`] for a change that does not fit.
    pub fn apply(self, change: Change) -> Result<Self, TransitionError> {
        use Status::{Cancelled, Cancelling, Failed, Paused, Queued, Running};
        self.check_fence(change)?;
        match (self.status, change) {
            (Queued, Change::Claim) => Ok(self.claimed(Running)),
            (Running, Change::TakeOver) => Ok(self.claimed(Running)),
            (Cancelling, Change::TakeOver) => Ok(self.claimed(Cancelling)),
            (Running, Change::HandOver { .. }) => Ok(self.given_back(Queued)),
            (Queued | Paused, Change::HandOver { .. }) => Ok(self),
            (Running | Cancelling, Change::Finish { verdict, .. }) if verdict.is_terminal() => {
                Ok(self.to(verdict))
            }
            (Running, Change::Halt { then: Then::Pause, .. }) => Ok(self.given_back(Paused)),
            (Running, Change::Halt { then: Then::Abort, .. }) => {
                Ok(Self { aborted: true, ..self.to(Cancelling) })
            }
            (Queued | Paused | Cancelling, Change::Halt { .. }) => Ok(self),
            (Queued | Paused, Change::Cancel) => Ok(self.ended(Cancelled)),
            (Running, Change::Cancel) => Ok(self.to(Cancelling)),
            (Cancelling | Cancelled, Change::Cancel) | (Paused, Change::Pause) => Ok(self),
            (Queued, Change::Pause) => Ok(self.to(Paused)),
            (Running, Change::Pause) => Ok(self.given_back(Paused)),
            (Paused, Change::Resume) => Ok(self.to(Queued)),
            (Queued | Running, Change::GiveUp) => Ok(self.ended(Failed)),
            (Cancelling, Change::GiveUp) => Ok(self.ended(if self.aborted { Failed } else { Cancelled })),
            (status, _) => Err(TransitionError::Refused { status }),
        }
    }

    /// The terminal status of the task once every item has a result, or `None` while items are pending.
    #[must_use]
    pub fn verdict(self, counts: &Counts) -> Option<Status> {
        counts.verdict().map(|verdict| if self.aborted { Status::Failed } else { verdict })
    }

    fn check_fence(self, change: Change) -> Result<(), TransitionError> {
        match change {
            Change::HandOver { by } | Change::Finish { by, .. } | Change::Halt { by, .. }
                if by != self.attempt =>
            {
                Err(TransitionError::Fenced { by, current: self.attempt })
            }
            _ => Ok(()),
        }
    }

    fn to(self, status: Status) -> Self {
        Self { status, ..self }
    }

    fn claimed(self, status: Status) -> Self {
        Self { status, attempt: self.attempt.next(), tries: self.tries.saturating_add(1), ..self }
    }

    fn given_back(self, status: Status) -> Self {
        Self { status, tries: self.tries.saturating_sub(1), ..self }
    }

    fn ended(self, status: Status) -> Self {
        Self { status, attempt: self.attempt.next(), ..self }
    }
}

impl Default for TaskState {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_status() -> impl Strategy<Value = Status> {
        proptest::sample::select(&Status::ALL[..])
    }

    fn any_then() -> impl Strategy<Value = Then> {
        proptest::sample::select(&[Then::Pause, Then::Abort][..])
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            Just(Change::Claim),
            Just(Change::TakeOver),
            (0_u32..4).prop_map(|by| Change::HandOver { by: Attempt(by) }),
            (0_u32..4, any_status()).prop_map(|(by, verdict)| Change::Finish { by: Attempt(by), verdict }),
            (0_u32..4, any_then()).prop_map(|(by, then)| Change::Halt { by: Attempt(by), then }),
            Just(Change::Cancel),
            Just(Change::Pause),
            Just(Change::Resume),
            Just(Change::GiveUp),
        ]
    }

    proptest! {
        #[test]
        fn terminal_states_are_never_left(changes in prop::collection::vec(any_change(), 1..40)) {
            let mut state = TaskState::new();
            let mut ended = None;
            for change in changes {
                if let Ok(next) = state.apply(change) {
                    state = next;
                }
                if let Some(status) = ended {
                    prop_assert_eq!(state.status, status);
                } else if state.status.is_terminal() {
                    ended = Some(state.status);
                }
            }
        }

        #[test]
        fn the_attempt_only_grows(changes in prop::collection::vec(any_change(), 1..40)) {
            let mut state = TaskState::new();
            for change in changes {
                let next = state.apply(change).unwrap_or(state);
                prop_assert!(next.attempt >= state.attempt);
                state = next;
            }
        }

        #[test]
        fn a_stale_holder_changes_nothing(verdict in any_status(), stale in 0_u32..3) {
            let state = TaskState { status: Status::Running, attempt: Attempt(3), tries: 3, aborted: false };
            let by = Attempt(stale);
            let fenced = Err(TransitionError::Fenced { by, current: Attempt(3) });
            prop_assert_eq!(state.apply(Change::Finish { by, verdict }), fenced);
            prop_assert_eq!(state.apply(Change::HandOver { by }), fenced);
            prop_assert_eq!(state.apply(Change::Halt { by, then: Then::Abort }), fenced);
        }
    }

    #[test]
    fn a_hand_over_uses_up_no_try_but_keeps_the_fence() {
        let held = TaskState::new().apply(Change::Claim).unwrap();
        let queued = held.apply(Change::HandOver { by: held.attempt }).unwrap();
        assert_eq!((queued.tries, queued.attempt), (0, Attempt(1)));
        assert_eq!(queued.apply(Change::Claim).unwrap().attempt, Attempt(2));
    }

    #[test]
    fn pausing_often_uses_up_no_tries() {
        let mut state = TaskState::new();
        for _ in 0..9 {
            let held = state.apply(Change::Claim).unwrap();
            let paused = held.apply(Change::Pause).unwrap();
            assert_eq!(paused.apply(Change::HandOver { by: held.attempt }), Ok(paused));
            state = paused.apply(Change::Resume).unwrap();
        }
        assert_eq!((state.tries, state.attempt), (0, Attempt(9)));
    }

    #[test]
    fn a_used_up_budget_pauses_without_using_up_a_try() {
        let held = TaskState::new().apply(Change::Claim).unwrap();
        let halt = Change::Halt { by: held.attempt, then: Then::Pause };
        let paused = held.apply(halt).unwrap();
        assert_eq!((paused.status, paused.tries, paused.aborted), (Status::Paused, 0, false));
        assert_eq!(paused.apply(halt), Ok(paused), "asking again changes nothing");
        let resumed = paused.apply(Change::Resume).unwrap();
        assert_eq!(resumed.apply(halt), Ok(resumed), "a user was quicker");
    }

    #[test]
    fn what_a_budget_calls_off_ends_as_failed_whoever_ends_it() {
        let held = TaskState::new().apply(Change::Claim).unwrap();
        let halt = Change::Halt { by: held.attempt, then: Then::Abort };
        let aborted = held.apply(halt).unwrap();
        assert_eq!((aborted.status, aborted.aborted), (Status::Cancelling, true));
        let ended = Counts { failed: 1, cancelled: 1, ..Counts::new(2) };
        assert_eq!(aborted.verdict(&ended), Some(Status::Failed));
        assert_eq!(aborted.verdict(&Counts { failed: 1, ..Counts::new(2) }), None);
        let next = aborted.apply(Change::TakeOver).unwrap();
        assert_eq!((next.status, next.verdict(&ended)), (Status::Cancelling, Some(Status::Failed)));
        assert_eq!(next.apply(Change::GiveUp).unwrap().status, Status::Failed);
        let cancelled = held.apply(Change::Cancel).unwrap();
        assert_eq!(cancelled.apply(halt), Ok(cancelled), "a user's cancel stays a cancel");
        assert_eq!(cancelled.verdict(&ended), Some(Status::Cancelled));
    }

    #[test]
    fn a_cancel_of_a_queued_task_ends_it_under_a_new_attempt() {
        let ended = TaskState::new().apply(Change::Cancel).unwrap();
        assert_eq!((ended.status, ended.attempt), (Status::Cancelled, Attempt(1)));
        assert_eq!(ended.apply(Change::Cancel), Ok(ended));
    }
}
