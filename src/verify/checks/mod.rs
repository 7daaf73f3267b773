//! The invariants, one function each. The numbers are those of `docs/verify.md`.
//!
//! Reading order: [`tasks`] (ends and submits) · [`items`] (results and executions) · [`delivery`] (what sockets saw) ·
//! [`end`] (numbers at the end).

mod delivery;
mod end;
mod items;
mod tasks;

use super::history::History;
use super::report::Finding;

/// One invariant.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its number.
    pub invariant: &'static str,
    /// What it says.
    pub says: &'static str,
    judge: fn(&History, &mut Finding),
}

impl Check {
    /// Judges a history by it.
    #[must_use]
    pub fn run(&self, history: &History) -> Finding {
        let mut finding = Finding::new(self.invariant, self.says);
        (self.judge)(history, &mut finding);
        finding
    }
}

/// Every invariant, in the order of its number.
pub const ALL: [Check; 16] = [
    check("I1", "every accepted task ends once, and its end never changes", tasks::one_end),
    check("I2", "every socket learns the end of its tasks in time", delivery::ends_arrive),
    check("I3", "events of a task come in order, and counts never fall", delivery::in_order),
    check("I3b", "no number is missing without a resync", delivery::no_silent_gap),
    check("I4", "an event says the same to everybody, and was really made", delivery::nothing_invented),
    check("I5", "every item has one result, which is the one that was told", items::one_result),
    check("I6", "an item runs again only after a fault, and never too often", items::few_executions),
    check("I7", "counts add up, in events, record and rows", tasks::counts_agree),
    check("I8", "the client hands out no event twice", delivery::nothing_twice),
    check("I9", "an idempotency key makes one task", tasks::one_task_per_key),
    check("I10", "no work is left over after healing", end::no_backlog),
    check("I11", "sizes stay under their bounds", end::sizes_bounded),
    check("I12", "no task is shown to another user", delivery::nothing_foreign),
    check("I13", "what was answered well is in the record", tasks::answers_hold),
    check("I14", "nothing leaks", end::no_leaks),
    check("I15", "a poison item is given up, and its task ends", items::poison_is_given_up),
];

const fn check(invariant: &'static str, says: &'static str, judge: fn(&History, &mut Finding)) -> Check {
    Check { invariant, says, judge }
}
