//! How many items of a task ended in which way, and what that says about the task.
//!
//! Counts are absolute and derived from item results; nobody increments them blindly. Not here: the items.

use serde::{Deserialize, Serialize};

use super::{ItemOutcome, Status};

/// Items of one task by how they ended. `current()` never exceeds `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All items, fixed at submit.
    pub total: u32,
    /// Items that ended well, changed or not.
    pub succeeded: u32,
    /// Items that ended in an error.
    pub failed: u32,
    /// Items left alone on purpose.
    pub skipped: u32,
    /// Items not run because the task was cancelled.
    pub cancelled: u32,
}

impl Counts {
    /// The counts of a task that has not begun.
    #[must_use]
    pub fn new(total: u32) -> Self {
        Self { total, ..Self::default() }
    }

    /// Finished items: never counts one that was only started.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.succeeded + self.failed + self.skipped + self.cancelled
    }

    /// Items without a result.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.total.saturating_sub(self.current())
    }

    /// Finished items in whole percent, rounded down: 100 only when every item is finished.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let share = u64::from(self.current()) * 100 / u64::from(self.total.max(1));
        u8::try_from(share).unwrap_or(100)
    }

    /// Adds the result of one item.
    pub fn add(&mut self, outcome: &ItemOutcome) {
        match outcome {
            ItemOutcome::Succeeded { .. } => self.succeeded += 1,
            ItemOutcome::Failed { .. } => self.failed += 1,
            ItemOutcome::Skipped { .. } => self.skipped += 1,
            ItemOutcome::Cancelled => self.cancelled += 1,
        }
    }

    /// The terminal status that follows from these counts, or `None` while items are pending.
    #[must_use]
    pub fn verdict(&self) -> Option<Status> {
        if self.pending() > 0 {
            return None;
        }
        Some(match self {
            Self { cancelled: 1.., .. } => Status::Cancelled,
            Self { failed: 0, .. } => Status::Completed,
            Self { failed, total, .. } if failed == total => Status::Failed,
            _ => Status::CompletedWithErrors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(succeeded: u32, failed: u32, skipped: u32, cancelled: u32) -> Counts {
        Counts { total: 10, succeeded, failed, skipped, cancelled }
    }

    #[test]
    fn the_verdict_follows_from_the_counts() {
        assert_eq!(counts(9, 0, 0, 0).verdict(), None);
        assert_eq!(counts(9, 0, 1, 0).verdict(), Some(Status::Completed));
        assert_eq!(counts(9, 1, 0, 0).verdict(), Some(Status::CompletedWithErrors));
        assert_eq!(counts(0, 10, 0, 0).verdict(), Some(Status::Failed));
        assert_eq!(counts(5, 1, 0, 4).verdict(), Some(Status::Cancelled));
    }

    #[test]
    fn percent_is_100_only_at_the_end() {
        let almost = Counts { total: 1000, succeeded: 999, ..Counts::default() };
        assert_eq!(almost.percent(), 99);
        assert_eq!(counts(10, 0, 0, 0).percent(), 100);
    }
}
