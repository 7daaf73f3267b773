//! Watches the failures of one task, and says when its failure budget is used up.
//!
//! What earlier attempts recorded counts; failures in a row are those of this attempt, in the order in which its items end.
//! Whoever learns of it holds the lanes at once; the record is then told ([`super::runner`]), and only after that the
//! watchers. Not here: what a budget tolerates ([`crate::task::budget`]).

use std::sync::Mutex;

use tokio::sync::watch;

use super::lease::lock;
use crate::store::Task;
use crate::task::{Counts, FailureBudget, ItemOutcome, Passed, Tally, Then};

/// The failure budget of one attempt.
pub(super) struct Guard {
    budget: Option<FailureBudget>,
    /// Failures from before the budget began.
    before: u32,
    tally: Mutex<Tally>,
    passed: watch::Sender<Option<Passed>>,
    stopped: Mutex<Stopped>,
}

/// What the record made of a budget that was used up.
#[derive(Debug, Clone, Default)]
pub(super) struct Stopped {
    /// Whether the task is called off, so that its end is a failure.
    pub(super) aborted: bool,
    /// Why it was stopped, in a sentence.
    pub(super) message: Option<String>,
    /// Whether it is given back to rest, so that nobody goes on at once.
    pub(super) rests: bool,
}

impl Guard {
    /// The guard of a task just claimed. One that is called off already needs none.
    pub(super) fn new(task: &Task) -> Self {
        let before = task.failed_before.unwrap_or(task.counts.failed);
        let stopped = Stopped {
            aborted: task.state.aborted,
            message: task.message.clone().filter(|_| task.state.aborted),
            rests: false,
        };
        Self {
            budget: task.budget.filter(|_| !task.state.aborted),
            before,
            tally: Mutex::new(Tally::new(task.counts.total, task.counts.failed, before)),
            passed: watch::Sender::default(),
            stopped: Mutex::new(stopped),
        }
    }

    /// What earlier attempts came to is known now. Whether that uses up the budget.
    pub(super) fn begin(&self, recorded: Counts) -> bool {
        let mut tally = lock(&self.tally);
        *tally = Tally::new(recorded.total, recorded.failed, self.before);
        self.check(&tally, recorded.pending() > 0)
    }

    /// An item ended; `more` are left to start. Whether this uses up the budget. Call it in the order of ending.
    pub(super) fn count(&self, outcome: &ItemOutcome, more: bool) -> bool {
        let mut tally = lock(&self.tally);
        tally.add(outcome);
        self.check(&tally, more)
    }

    /// A pause that would hold nothing back is none.
    fn check(&self, tally: &Tally, more: bool) -> bool {
        let Some(budget) = self.budget.filter(|budget| more || budget.then == Then::Abort) else {
            return false;
        };
        let passed = budget.passed(tally).filter(|_| self.passed.borrow().is_none());
        if passed.is_some() {
            self.passed.send_replace(passed);
        }
        passed.is_some()
    }

    /// Waits until the budget is used up, and says what is to be done about it.
    pub(super) async fn used_up(&self) -> (Then, Passed) {
        let mut passed = self.passed.subscribe();
        loop {
            let seen = *passed.borrow_and_update();
            if let (Some(passed), Some(budget)) = (seen, self.budget) {
                return (budget.then, passed);
            }
            // The sender lives in `self`, so the wait cannot fail.
            let _ = passed.changed().await;
        }
    }

    /// The record was told.
    pub(super) fn stop(&self, stopped: Stopped) {
        *lock(&self.stopped) = stopped;
    }

    /// What the record made of it.
    pub(super) fn stopped(&self) -> Stopped {
        lock(&self.stopped).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::tests::task;
    use super::*;

    fn guard(budget: FailureBudget, failed: u32) -> Guard {
        let mut task = task(10);
        (task.budget, task.counts.failed) = (Some(budget), failed);
        Guard::new(&task)
    }

    const ONE: FailureBudget =
        FailureBudget { failed: Some(1), percent: None, consecutive: None, then: Then::Pause };

    #[tokio::test]
    async fn it_is_said_once_and_to_whoever_asks_later_too() {
        let guard = guard(ONE, 0);
        let no = ItemOutcome::failed("no");
        assert_eq!([(); 4].map(|()| guard.count(&no, true)), [false, true, false, false]);
        let (then, passed) = guard.used_up().await;
        assert_eq!(then, Then::Pause);
        assert!(passed.to_string().contains("2 failed, and 1 may"), "{passed}");
    }

    #[test]
    fn what_earlier_attempts_recorded_counts_at_once() {
        let two = Counts { failed: 2, ..Counts::new(10) };
        assert!(guard(ONE, 2).begin(two));
        assert!(!guard(ONE, 1).begin(Counts { failed: 1, ..two }));
        let mut resumed = task(10);
        (resumed.budget, resumed.counts, resumed.failed_before) = (Some(ONE), two, Some(2));
        let resumed = Guard::new(&resumed);
        assert!(!resumed.begin(two));
        assert!(!resumed.count(&ItemOutcome::failed("no"), true));
        assert!(resumed.count(&ItemOutcome::failed("no"), true));
    }

    #[test]
    fn a_pause_that_would_hold_nothing_back_is_none_and_an_abort_is_one() {
        let no = ItemOutcome::failed("no");
        let pausing = guard(ONE, 1);
        assert!(!pausing.count(&no, false));
        assert!(pausing.count(&no, true), "an item was given back to the queue meanwhile");
        assert!(guard(FailureBudget { then: Then::Abort, ..ONE }, 1).count(&no, false));
    }
}
