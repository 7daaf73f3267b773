//! A fact about a task, as it is appended to its owner's stream and pushed to clients.
//!
//! An event is identified by `(task_id, attempt, seq)`. It carries absolute counts, so a single one heals a client
//! that missed others. Versioned by addition: readers ignore fields they do not know. Not here: positions (a place in
//! a stream is not part of the fact) and frames (`gateway::live::protocol`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Attempt, ClusterName, Counts, Effect, ItemName, ItemOutcome, ItemResult, ItemState, Seq, Status, Step,
    TaskId, WaveMark,
};

/// What an event says. `Complete` and `Error` are terminal; `status` says which end it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The task was accepted.
    Queued,
    /// A worker began an attempt.
    Started,
    /// Items were started or finished.
    Progress,
    /// A user asked for a cancel and the items in flight are finishing.
    Cancelling,
    /// No further item is started until somebody resumes the task.
    Paused,
    /// The task goes on.
    Resumed,
    /// A user changed how many items may be worked on at once: see `concurrency`.
    ConcurrencyChanged,
    /// The holder gave the task back; another attempt follows.
    Requeued,
    /// A wave begins: see `wave`.
    Wave,
    /// No item is started for now: see `waits_for`.
    Waiting,
    /// No item finished for long; `stalled_since` says since when, and `items` which are in work.
    Stalled,
    /// Terminal: completed, or cancelled on request.
    Complete,
    /// Terminal: completed with errors, or failed.
    Error,
    /// A kind that a newer release made. Old readers take its counts and status.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// The terminal kind for a terminal status.
    #[must_use]
    pub fn terminal(status: Status) -> Self {
        match status {
            Status::Failed | Status::CompletedWithErrors => Self::Error,
            _ => Self::Complete,
        }
    }
}

/// An item that changed since the event before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemChange {
    /// Place of the item in the task, from 0.
    pub index: u32,
    /// Its name.
    pub name: ItemName,
    /// Its state now.
    pub state: ItemState,
    /// For one that succeeded: whether it was touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// For one that failed or was skipped: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the item ended, in microseconds since the Unix epoch by the worker's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_us: Option<i64>,
    /// For one that ended: how often it was run in this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u16>,
    /// For one in work: what it is at, when its action says so. The newest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
}

impl ItemChange {
    /// The result that this change tells of; `None` for one that is no end.
    ///
    /// It is the result as it was, but for its time, which is told in microseconds: as fine as any record keeps it.
    #[must_use]
    pub fn result(&self) -> Option<ItemResult> {
        let message = || self.error.clone().unwrap_or_default();
        let outcome = match self.state {
            ItemState::Pending | ItemState::Running => return None,
            ItemState::Succeeded => ItemOutcome::Succeeded { effect: self.effect.unwrap_or(Effect::Changed) },
            ItemState::Failed => ItemOutcome::failed(message()),
            ItemState::Skipped => ItemOutcome::skipped(message()),
            ItemState::Cancelled => ItemOutcome::Cancelled,
        };
        let finished_at = Timestamp::from_microsecond(self.done_us?).ok()?;
        let tries = self.tries.unwrap_or(1);
        Some(ItemResult { index: self.index, name: self.name.clone(), outcome, tries, finished_at })
    }
}

impl From<&ItemResult> for ItemChange {
    fn from(result: &ItemResult) -> Self {
        Self {
            index: result.index,
            name: result.name.clone(),
            state: result.outcome.state(),
            effect: result.outcome.effect(),
            error: result.outcome.message().map(str::to_owned),
            done_us: Some(result.finished_at.as_microsecond()),
            tries: Some(result.tries),
            step: None,
        }
    }
}

/// A fact about a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which task.
    pub task_id: TaskId,
    /// Which attempt said it; 0 before the first claim.
    pub attempt: Attempt,
    /// Its number inside the attempt, dense from 1.
    pub seq: Seq,
    /// What it says.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Status of the task after it.
    pub status: Status,
    /// The action's name, such as `cordon`.
    pub action: String,
    /// The cluster it acts on.
    pub cluster: ClusterName,
    /// The task that it retries, if it is a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    /// In an event that says so: most items at once from here on; left out, as many as the worker allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u16>,
    /// Finished items, redundant with the counts for readers that want one number.
    pub current: u32,
    /// Absolute counts after it.
    #[serde(flatten)]
    pub counts: Counts,
    /// Finished items in whole percent, rounded down.
    pub progress: u8,
    /// The item that changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_node: Option<ItemName>,
    /// Items that changed since the event before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemChange>,
    /// Since when no item has finished, while that is longer than it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_since: Option<Timestamp>,
    /// Where the task stands, of a task that runs in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<WaveMark>,
    /// Why no item is started for now, in a sentence, while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why the task failed, when the task itself did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was made, by its maker's clock.
    pub timestamp: Timestamp,
}

impl Event {
    /// Where the event stands among the events of its task.
    #[must_use]
    pub fn order(&self) -> (Attempt, Seq) {
        (self.attempt, self.seq)
    }

    /// Whether it says that the task is over.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.status.is_terminal()
    }

    /// The results it tells of.
    pub fn results(&self) -> impl Iterator<Item = ItemResult> {
        self.items.iter().filter_map(ItemChange::result)
    }

    /// Whether it tells of any result.
    #[must_use]
    pub fn has_results(&self) -> bool {
        self.items.iter().any(|item| item.done_us.is_some())
    }

    /// Sets the counts and the numbers that follow from them.
    pub fn set_counts(&mut self, counts: Counts) {
        self.counts = counts;
        self.current = counts.current();
        self.progress = counts.percent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_the_same_after_the_way_through_an_event() {
        let outcomes = [
            ItemOutcome::Succeeded { effect: Effect::Already },
            ItemOutcome::failed("x".repeat(crate::task::item::ITEM_MESSAGE_LEN_MAX + 7)),
            ItemOutcome::skipped("a control plane"),
            ItemOutcome::Cancelled,
        ];
        for (index, outcome) in (0..).zip(outcomes) {
            let finished_at = Timestamp::from_microsecond(1_763_884_801_455_123).unwrap();
            let name = ItemName::new(format!("node-{index}")).unwrap();
            let result = ItemResult { index, name, outcome, tries: 3, finished_at };
            let json = serde_json::to_string(&ItemChange::from(&result)).unwrap();
            let read: ItemChange = serde_json::from_str(&json).unwrap();
            assert_eq!(read.result(), Some(result));
        }
    }

    #[test]
    fn unknown_kinds_and_fields_of_a_newer_release_are_read() {
        let json = r#"{"task_id":"0190a000-0000-7000-8000-000000000001","attempt":2,"seq":7,
            "type":"wave_started","status":"running","action":"cordon","cluster":"prod","current":1,
            "total":3,"succeeded":1,"failed":0,"skipped":0,"cancelled":0,"progress":33,
            "timestamp":"2026-11-23T08:00:00Z","wave":{"number":2,"of":3,"soaks":true}}"#;
        let event: Event = serde_json::from_str(json).unwrap();
        assert_eq!(event.kind, EventKind::Unknown);
        assert_eq!(event.wave.map(|wave| wave.number), Some(2));
        assert_eq!(event.order(), (Attempt(2), Seq(7)));
        assert_eq!(event.counts.succeeded, 1);
    }
}
