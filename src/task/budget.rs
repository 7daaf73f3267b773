//! How many items of a task may fail before the rest of it is held back or called off.
//!
//! Each limit is what is tolerated: one failure more passes it. Pure: who counts and who acts on it is the worker
//! (`worker::guard`), and the status changes through [`super::TaskState::apply`] like any other.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ItemOutcome;
use super::spec::ITEMS_MAX;

/// What a task's failures may amount to. At least one limit is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureBudget {
    /// Most items that may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
    /// The same in percent of all items of the task, 0..=99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Most items that may fail one right after the other, in the order in which items end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive: Option<u32>,
    /// What becomes of the task when a limit is passed.
    #[serde(default)]
    pub then: Then,
}

/// What becomes of a task whose failure budget is used up. Items in flight finish either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It is paused. A resume begins a new budget.
    #[default]
    Pause,
    /// Its other items are cancelled, and it ends as failed.
    Abort,
}

/// The failures that count against a budget, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    total: u32,
    /// Failures from before the budget began: they do not count.
    before: u32,
    failed: u32,
    in_a_row: u32,
}

/// A limit that was passed; as text, a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    limit: Limit,
    tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Failed(u32),
    Percent(u8),
    Consecutive(u32),
}

impl Tally {
    /// The tally of a task of `total` items of which `failed` have failed so far, `before` of them before the budget
    /// began.
    #[must_use]
    pub fn new(total: u32, failed: u32, before: u32) -> Self {
        Self { total, before, failed: failed.saturating_sub(before), in_a_row: 0 }
    }

    /// Counts an item that ended. Call it in the order in which items end.
    pub fn add(&mut self, outcome: &ItemOutcome) {
        match outcome {
            ItemOutcome::Failed { .. } => {
                self.failed += 1;
                self.in_a_row += 1;
            }
            ItemOutcome::Succeeded { .. } | ItemOutcome::Skipped { .. } => self.in_a_row = 0,
            ItemOutcome::Cancelled => {}
        }
    }
}

impl FailureBudget {
    /// The first limit that the failures have passed, or `None` while all of them hold.
    #[must_use]
    pub fn passed(&self, tally: &Tally) -> Option<Passed> {
        let share = |percent: u8| u64::from(percent) * u64::from(tally.total);
        let failed = self.failed.filter(|most| tally.failed > *most).map(Limit::Failed);
        let percent = self.percent.filter(|most| u64::from(tally.failed) * 100 > share(*most));
        let consecutive = self.consecutive.filter(|most| tally.in_a_row > *most);
        let limit = failed.or(percent.map(Limit::Percent)).or(consecutive.map(Limit::Consecutive))?;
        Some(Passed { limit, tally: *tally })
    }

    /// What is wrong with it: a field below the budget's own (empty for the budget as a whole), and why.
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let most = u32::try_from(ITEMS_MAX).unwrap_or(u32::MAX);
        let mut faults = Vec::new();
        if (self.failed, self.percent, self.consecutive) == (None, None, None) {
            faults.push(("", "must set at least one of failed, percent and consecutive".to_owned()));
        }
        if self.failed.is_some_and(|n| n > most) {
            faults.push((".failed", format!("must be from 0 to {most}")));
        }
        if self.percent.is_some_and(|n| n > 99) {
            faults.push((".percent", "must be from 0 to 99".to_owned()));
        }
        if self.consecutive.is_some_and(|n| n > most) {
            faults.push((".consecutive", format!("must be from 0 to {most}")));
        }
        faults
    }
}

impl fmt::Display for FailureBudget {
    /// For people: `at most 5 or 10 % or 3 in a row may fail, then pause`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = [
            self.failed.map(|most| most.to_string()),
            self.percent.map(|most| format!("{most} %")),
            self.consecutive.map(|most| format!("{most} in a row")),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        let then = match self.then {
            Then::Pause => "pause",
            Then::Abort => "abort",
        };
        write!(f, "at most {} may fail, then {then}", limits.join(" or "))
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { total, before, failed, in_a_row } = self.tally;
        let more = if before > 0 { " more" } else { "" };
        f.write_str("the failure budget is used up: ")?;
        match self.limit {
            Limit::Failed(most) => write!(f, "{failed}{more} failed, and {most} may"),
            Limit::Percent(most) => {
                write!(f, "{failed}{more} of {total} failed, and {most} % may")
            }
            Limit::Consecutive(most) => write!(f, "{in_a_row} failed in a row, and {most} may"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::Effect;

    const NONE: FailureBudget =
        FailureBudget { failed: None, percent: None, consecutive: None, then: Then::Pause };

    fn run(budget: FailureBudget, mut tally: Tally, word: &str) -> Option<(usize, String)> {
        for (n, letter) in word.chars().enumerate() {
            tally.add(&match letter {
                'f' => ItemOutcome::failed("no"),
                's' => ItemOutcome::skipped("no need"),
                'c' => ItemOutcome::Cancelled,
                _ => ItemOutcome::Succeeded { effect: Effect::Changed },
            });
            if let Some(passed) = budget.passed(&tally) {
                return Some((n + 1, passed.to_string()));
            }
        }
        None
    }

    #[test]
    fn a_limit_is_what_is_tolerated_and_one_more_passes_it() {
        let fresh = Tally::new(10, 0, 0);
        let two = FailureBudget { failed: Some(2), ..NONE };
        assert_eq!(run(two, fresh, "ffoooooooo"), None);
        let said = "the failure budget is used up: 3 failed, and 2 may";
        assert_eq!(run(two, fresh, "fofoof"), Some((6, said.into())));
        let none = FailureBudget { failed: Some(0), ..NONE };
        assert_eq!(run(none, fresh, "of").map(|(n, _)| n), Some(2));
        assert_eq!(run(NONE, fresh, "ffffffffff"), None);
    }

    #[test]
    fn percent_is_of_all_items_of_the_task() {
        let fifth = FailureBudget { percent: Some(20), ..NONE };
        let said = "the failure budget is used up: 3 of 10 failed, and 20 % may";
        assert_eq!(run(fifth, Tally::new(10, 0, 0), "fff"), Some((3, said.into())));
        assert_eq!(run(fifth, Tally::new(15, 0, 0), "fff"), None, "3 of 15 are 20 %");
        assert_eq!(
            run(fifth, Tally::new(14, 0, 0), "fff").map(|(n, _)| n),
            Some(3),
            "and of 14 they are more"
        );
        let none = FailureBudget { percent: Some(0), ..NONE };
        assert_eq!(run(none, Tally::new(100_000, 0, 0), "of").map(|(n, _)| n), Some(2));
    }

    #[test]
    fn in_a_row_is_in_the_order_of_ending_and_what_was_not_run_does_not_count() {
        let row = FailureBudget { consecutive: Some(2), ..NONE };
        let said = "the failure budget is used up: 3 failed in a row, and 2 may";
        assert_eq!(run(row, Tally::new(10, 0, 0), "ffoffsffcf"), Some((10, said.into())));
        assert_eq!(run(row, Tally::new(10, 9, 0), "ff"), None, "a row begins with the attempt");
    }

    #[test]
    fn earlier_attempts_count_and_what_was_before_the_budget_does_not() {
        let two = FailureBudget { failed: Some(2), ..NONE };
        assert!(two.passed(&Tally::new(10, 3, 0)).is_some(), "known at the claim already");
        let resumed = Tally::new(10, 3, 3);
        assert_eq!(two.passed(&resumed), None);
        let said = "the failure budget is used up: 3 more failed, and 2 may";
        assert_eq!(run(two, resumed, "fff"), Some((3, said.into())));
    }

    #[test]
    fn a_budget_is_checked_at_its_edges() {
        let fields = |budget: FailureBudget| -> Vec<_> {
            budget.faults().into_iter().map(|(field, _)| field).collect()
        };
        assert_eq!(fields(NONE), [""]);
        let most = FailureBudget { failed: Some(100_000), percent: Some(99), consecutive: Some(0), ..NONE };
        assert!(fields(most).is_empty());
        assert_eq!(most.to_string(), "at most 100000 or 99 % or 0 in a row may fail, then pause");
        let bad =
            FailureBudget { failed: Some(100_001), percent: Some(100), consecutive: Some(100_001), ..NONE };
        assert_eq!(fields(bad), [".failed", ".percent", ".consecutive"]);
    }

    proptest! {
        #[test]
        fn nothing_is_passed_before_the_first_failure_and_all_is_after_enough(
            failed in 0_u32..50, percent in 0_u8..100, consecutive in 0_u32..50, total in 1_u32..200,
        ) {
            let all = FailureBudget {
                failed: Some(failed), percent: Some(percent), consecutive: Some(consecutive), ..NONE
            };
            let mut tally = Tally::new(total, 0, 0);
            prop_assert_eq!(all.passed(&tally), None);
            let least = failed.min(consecutive).min(u32::from(percent) * total / 100);
            for n in 1..=least + 1 {
                tally.add(&ItemOutcome::failed("no"));
                prop_assert_eq!(all.passed(&tally).is_some(), n > least);
            }
        }
    }
}
