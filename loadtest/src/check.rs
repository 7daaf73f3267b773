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
    /// Items of the task.
    pub total: u32,
    /// Place of the event in its user's stream.
    pub position: Option<String>,
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
    /// Events of tasks that are not the user's, or that say something else of them than was submitted.
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
#[derive(Debug, Default)]
pub struct Checker {
    last: Option<(u32, u64, u32)>,
    items: HashMap<u32, String>,
    total: u32,
    terminal: bool,
    /// Items that ended in events that stand for several or leave their items out: only the record has those.
    unlisted: u64,
    faults: Faults,
}

/// The verdict on one task at one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What went wrong.
    pub faults: Faults,
    /// Items that were counted and not named.
    pub unlisted: u64,
}

impl Checker {
    /// Judges the next frame. Returns the items that ended in it.
    pub fn frame<'a>(&mut self, event: &'a EventFrame) -> Vec<&'a ItemFrame> {
        self.order(event);
        self.total = event.total;
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
        let before = self.last.unwrap_or_default();
        if (attempt, seq) == (before.0, before.1) {
            self.faults.doubled += 1;
        } else if (attempt, seq) < (before.0, before.1) {
            self.faults.reordered += 1;
        } else {
            let expected = if attempt == before.0 { before.1 } else { 0 };
            let gap = seq - expected;
            self.faults.lost += gap - event.merged.min(gap);
            self.faults.backward += u64::from(attempt == before.0 && current < before.2);
            self.unlisted += self.not_named(event);
        }
        self.last = Some((attempt, seq, current));
    }

    /// Items that ended with this event and that it does not name, if it may leave them out.
    fn not_named(&self, event: &EventFrame) -> u64 {
        let named = event.items.iter().filter(|item| item.done_us.is_some()).count();
        if event.merged == 1 && named > 0 {
            return 0;
        }
        let known = u64::try_from(self.items.len() + named).unwrap_or(u64::MAX) + self.unlisted;
        u64::from(event.current).saturating_sub(known)
    }

    /// Goes on from what a snapshot says: what was missed before is in the record.
    pub fn resync(&mut self, task: &EventFrame) {
        let known = u64::try_from(self.items.len()).unwrap_or(u64::MAX) + self.unlisted;
        self.unlisted += u64::from(task.current).saturating_sub(known);
        self.last = Some((task.attempt, task.seq, task.current));
        self.total = task.total;
        self.terminal |= is_terminal(&task.status);
    }

    /// Whether the task's terminal event has come.
    pub fn is_done(&self) -> bool {
        self.terminal
    }

    /// The verdict, once everything should be there, on a task with so many items.
    pub fn finish(mut self, items: u32) -> Verdict {
        let seen = u64::try_from(self.items.len()).unwrap_or(u64::MAX) + self.unlisted;
        self.faults.lost += u64::from(items).saturating_sub(seen);
        self.faults.lost += u64::from(!self.terminal);
        self.faults.foreign += u64::from(self.total != items);
        Verdict { faults: self.faults, unlisted: self.unlisted }
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
            total: 2,
            position: None,
            merged: 1,
            items: items.iter().map(item).collect(),
        }
    }

    fn judge(events: &[EventFrame]) -> Verdict {
        let mut checker = Checker::default();
        for event in events {
            checker.frame(event);
        }
        checker.finish(2)
    }

    #[test]
    fn a_perfect_run_is_clean() {
        let run = [event(1, 0, &[], "running"), event(2, 1, &[0], "running"), event(3, 2, &[1], "completed")];
        assert_eq!(judge(&run), Verdict { faults: Faults::default(), unlisted: 0 });
    }

    #[test]
    fn every_kind_of_fault_is_seen() {
        let good = [event(1, 1, &[0], "running"), event(2, 2, &[1], "completed")];
        assert_eq!(judge(&good[..1]).faults.lost, 2);
        let gap = [event(1, 0, &[], "running"), event(3, 2, &[0, 1], "completed")];
        assert_eq!(judge(&gap).faults.lost, 1);
        let late = [event(2, 2, &[0, 1], "completed")];
        assert_eq!(judge(&late).faults.lost, 1, "the first event counts too");
        let twice = [good[0].clone(), good[0].clone(), good[1].clone()];
        assert_eq!(judge(&twice).faults.doubled, 2);
        let swapped = [good[1].clone(), good[0].clone()];
        assert_eq!(judge(&swapped).faults.reordered, 1);
        let back = [event(1, 2, &[0, 1], "running"), event(2, 1, &[], "completed")];
        assert_eq!(judge(&back).faults.backward, 1);
        let unnamed = [event(1, 1, &[0], "running"), event(2, 2, &[], "completed")];
        assert_eq!(judge(&unnamed).unlisted, 1, "an event may leave all its items out");
        let half = [event(1, 2, &[0], "completed")];
        assert_eq!(judge(&half).faults.lost, 1, "but not some of them");
        let other = EventFrame { total: 3, ..good[1].clone() };
        assert_eq!(judge(&[good[0].clone(), other]).faults.foreign, 1);
    }

    #[test]
    fn a_frame_that_stands_for_several_events_loses_none() {
        let merged = EventFrame { merged: 2, ..event(3, 2, &[1], "completed") };
        let verdict = judge(&[event(1, 0, &[], "running"), merged]);
        assert_eq!((verdict.faults, verdict.unlisted), (Faults::default(), 1));
    }

    #[test]
    fn after_a_snapshot_the_record_has_what_was_missed() {
        let mut checker = Checker::default();
        checker.frame(&event(1, 0, &[], "running"));
        checker.resync(&event(7, 1, &[], "running"));
        checker.frame(&event(8, 2, &[1], "completed"));
        assert_eq!(checker.finish(2), Verdict { faults: Faults::default(), unlisted: 1 });
    }
}
