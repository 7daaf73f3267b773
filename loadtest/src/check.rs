//! The exact-delivery check: did one socket get every event of its task, once, in order, and nothing else?
//!
//! It judges raw frames and forgives nothing; a client that removes repeats would hide them. Pure.

use std::collections::HashMap;

use serde::Deserialize;

/// An event frame, as far as the check looks at it.
#[derive(Debug, Clone, Deserialize)]
pub struct EventFrame {
    /// Task of the event.
    pub task_id: String,
    /// Attempt of the event.
    pub attempt: u32,
    /// Number of the event.
    pub seq: u64,
    /// Status after it.
    pub status: String,
    /// Finished items.
    pub current: u32,
    /// How many events the frame stands for.
    #[serde(default = "one")]
    pub merged: u64,
    /// Items that changed.
    #[serde(default)]
    pub items: Vec<ItemFrame>,
}

/// An item in an event frame.
#[derive(Debug, Clone, Deserialize)]
pub struct ItemFrame {
    /// Place of the item.
    pub index: u32,
    /// Its state.
    pub state: String,
    /// When it ended, in microseconds since the Unix epoch.
    pub done_us: Option<i64>,
}

fn one() -> u64 {
    1
}

/// What went wrong, by kind. All zero is the only good answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// Events or item results that never came.
    pub lost: u64,
    /// Events or item results that came twice.
    pub doubled: u64,
    /// Events that came before an earlier one.
    pub reordered: u64,
    /// Events that counted fewer finished items than one before, in the same attempt.
    pub backward: u64,
    /// Events of tasks that are not the user's.
    pub foreign: u64,
}

impl Faults {
    /// Whether everything arrived exactly once and in order.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another socket's faults.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.backward += other.backward;
        self.foreign += other.foreign;
    }
}

/// Judges what one socket received about one task.
#[derive(Debug)]
pub struct Checker {
    task: String,
    total: u32,
    last: Option<(u32, u64, u32)>,
    items: HashMap<u32, String>,
    terminal: bool,
    faults: Faults,
}

impl Checker {
    /// A check of the task `task` with `total` items.
    pub fn new(task: String, total: u32) -> Self {
        Self { task, total, last: None, items: HashMap::new(), terminal: false, faults: Faults::default() }
    }

    /// Judges the next frame. Returns the items that ended in it.
    pub fn frame<'a>(&mut self, event: &'a EventFrame) -> Vec<&'a ItemFrame> {
        if event.task_id != self.task {
            self.faults.foreign += 1;
            return Vec::new();
        }
        self.order(event);
        self.terminal |= is_terminal(&event.status);
        let ended: Vec<&ItemFrame> = event.items.iter().filter(|item| item.done_us.is_some()).collect();
        for item in &ended {
            if self.items.insert(item.index, item.state.clone()).is_some() {
                self.faults.doubled += 1;
            }
        }
        ended
    }

    fn order(&mut self, event: &EventFrame) {
        let (attempt, seq, current) = (event.attempt, event.seq, event.current);
        if let Some((last_attempt, last_seq, last_current)) = self.last {
            if (attempt, seq) == (last_attempt, last_seq) {
                self.faults.doubled += 1;
            } else if (attempt, seq) < (last_attempt, last_seq) {
                self.faults.reordered += 1;
            } else if attempt == last_attempt {
                self.faults.lost += seq - last_seq - event.merged.min(seq - last_seq);
                self.faults.backward += u64::from(current < last_current);
            } else {
                self.faults.lost += seq - event.merged.min(seq);
            }
        } else {
            self.faults.lost += seq - event.merged.min(seq);
        }
        self.last = Some((attempt, seq, current));
    }

    /// Whether the task's terminal event has come.
    pub fn is_done(&self) -> bool {
        self.terminal
    }

    /// The verdict, once everything should be there.
    pub fn finish(mut self) -> Faults {
        let seen = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.faults.lost += u64::from(self.total.saturating_sub(seen));
        self.faults.lost += u64::from(!self.terminal);
        self.faults
    }
}

fn is_terminal(status: &str) -> bool {
    matches!(status, "completed" | "completed_with_errors" | "failed" | "cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, current: u32, items: &[u32], status: &str) -> EventFrame {
        let item = |&index: &u32| ItemFrame { index, state: "succeeded".into(), done_us: Some(1) };
        EventFrame {
            task_id: "t".into(),
            attempt: 1,
            seq,
            status: status.into(),
            current,
            merged: 1,
            items: items.iter().map(item).collect(),
        }
    }

    fn judge(events: &[EventFrame]) -> Faults {
        let mut checker = Checker::new("t".into(), 2);
        for event in events {
            checker.frame(event);
        }
        checker.finish()
    }

    #[test]
    fn a_perfect_run_is_clean() {
        let run = [event(1, 0, &[], "running"), event(2, 1, &[0], "running"), event(3, 2, &[1], "completed")];
        assert!(judge(&run).is_clean());
    }

    #[test]
    fn every_kind_of_fault_is_seen() {
        let good = [event(1, 1, &[0], "running"), event(2, 2, &[1], "completed")];
        assert_eq!(judge(&good[..1]).lost, 2);
        let gap = [event(1, 0, &[], "running"), event(3, 2, &[0, 1], "completed")];
        assert_eq!(judge(&gap).lost, 1);
        let twice = [good[0].clone(), good[0].clone(), good[1].clone()];
        assert_eq!(judge(&twice).doubled, 2);
        let swapped = [good[1].clone(), good[0].clone()];
        assert_eq!(judge(&swapped).reordered, 1);
        let back = [event(1, 2, &[0, 1], "running"), event(2, 1, &[], "completed")];
        assert_eq!(judge(&back).backward, 1);
        let foreign = EventFrame { task_id: "other".into(), ..good[0].clone() };
        assert_eq!(judge(&[good[0].clone(), foreign, good[1].clone()]).foreign, 1);
    }

    #[test]
    fn a_frame_that_stands_for_several_events_loses_none() {
        let mut merged = event(3, 2, &[0, 1], "completed");
        merged.merged = 2;
        assert!(judge(&[event(1, 0, &[], "running"), merged]).is_clean());
    }
}
