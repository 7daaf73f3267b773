//! What the checks came to.

use serde::{Serialize, Serializer};

use super::read::Place;
use crate::task::TaskId;

/// Violations of one invariant that are kept; all are counted.
const KEPT_MAX: usize = 100;

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.file, self.line))
    }
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Number of the invariant, such as `I3`.
    pub invariant: &'static str,
    /// The line that shows it, as `file:line`.
    pub place: Place,
    /// Which task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Which item, by index or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Which socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// What is wrong.
    pub what: String,
}

/// What one invariant came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its number.
    pub invariant: &'static str,
    /// What it says.
    pub says: &'static str,
    /// How many things were looked at. Zero: the history says nothing about it.
    pub checked: u64,
    /// How many violations there are.
    pub violations: u64,
    /// The first of them.
    pub first: Vec<Violation>,
}

impl Finding {
    pub(super) fn new(invariant: &'static str, says: &'static str) -> Self {
        Self { invariant, says, checked: 0, violations: 0, first: Vec::new() }
    }

    /// Notes a violation and gives it back to be completed, if it is one of those that are kept.
    pub(super) fn add(&mut self, place: Place, what: String) -> Option<&mut Violation> {
        self.violations += 1;
        if self.first.len() == KEPT_MAX {
            return None;
        }
        let invariant = self.invariant;
        self.first.push(Violation { invariant, place, task: None, item: None, socket: None, what });
        self.first.last_mut()
    }

    /// Notes a violation of a task.
    pub(super) fn of_task(&mut self, place: Place, task: TaskId, what: String) {
        if let Some(violation) = self.add(place, what) {
            violation.task = Some(task);
        }
    }

    /// Notes a violation of an item.
    pub(super) fn of_item(
        &mut self,
        place: Place,
        task: TaskId,
        item: &(impl ToString + ?Sized),
        what: String,
    ) {
        if let Some(violation) = self.add(place, what) {
            violation.task = Some(task);
            violation.item = Some(item.to_string());
        }
    }

    /// Notes a violation that a socket saw.
    pub(super) fn of_socket(&mut self, place: Place, task: TaskId, socket: &str, what: String) {
        if let Some(violation) = self.add(place, what) {
            violation.task = Some(task);
            violation.socket = Some(socket.to_owned());
        }
    }
}

/// All faults of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultSummary {
    /// The kind.
    pub fault: String,
    /// How often it was made.
    pub injected: u64,
    /// How often it provably hit something.
    pub bit: u64,
    /// The longest time from its making, or its healing if that was noted, until everything worked again.
    pub worst_recovery_ms: Option<u64>,
}

/// How much a history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Lines read.
    pub lines: u64,
    /// Lines of kinds that this release does not know.
    pub unknown: u64,
    /// Tasks whose submit was answered well.
    pub accepted: u64,
    /// Sockets.
    pub sockets: u64,
    /// Connects after the first, of all sockets.
    pub reconnects: u64,
    /// Snapshots received after a socket's first.
    pub resyncs: u64,
    /// Events received, repeats included.
    pub events: u64,
    /// Events that a client had seen, or that came raw a second time.
    pub repeats: u64,
    /// Items that were acted on.
    pub executed: u64,
    /// Items that were acted on by more than one attempt.
    pub executed_again: u64,
}

/// How a history is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every invariant holds.
    Passed,
    /// Nothing is violated, but the run proves nothing.
    Void,
    /// Something is violated.
    Failed,
}

/// What the checks came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How the history is judged.
    pub verdict: Verdict,
    /// Every invariant.
    pub findings: Vec<Finding>,
    /// Why the run proves nothing.
    pub void: Vec<String>,
    /// Faults by kind.
    pub faults: Vec<FaultSummary>,
    /// How much it holds.
    pub totals: Totals,
}

impl Report {
    /// All kept violations.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.findings.iter().flat_map(|finding| &finding.first)
    }

    /// What one invariant came to.
    #[must_use]
    pub fn finding(&self, invariant: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.invariant == invariant)
    }
}
