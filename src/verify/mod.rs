//! The checker: does a recorded run keep what Milepost promises?
//!
//! A run is noted line by line: calls, what sockets received, what was run, which faults were made, and the record at
//! its end. The checks know nothing of how Milepost works inside; they judge what its users saw. Pure: lines in, a
//! report out. Reading order: [`record`] (the lines) · [`read`] · [`history`] (lines, sorted) · [`checks`] (one function
//! per invariant) · [`report`] · [`log`] (the one part that writes: notes a run into a file). The command is
//! `milepost verify`; `docs/verify.md` is for its users.

pub mod checks;
pub mod history;
pub mod log;
pub mod read;
pub mod record;
pub mod report;
mod summary;

#[cfg(test)]
mod tests;

pub use history::History;
pub use log::HistoryLog;
pub use read::{LineError, Place};
pub use record::Record;
pub use report::{Finding, Report, Totals, Verdict, Violation};

/// Judges a history by every invariant.
#[must_use]
pub fn check(history: &History) -> Report {
    let findings: Vec<Finding> = checks::ALL.iter().map(|check| check.run(history)).collect();
    let void = summary::void(history);
    let verdict = if findings.iter().any(|finding| finding.violations > 0) {
        Verdict::Failed
    } else if void.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Void
    };
    Report { verdict, findings, void, faults: summary::faults(history), totals: summary::totals(history) }
}
