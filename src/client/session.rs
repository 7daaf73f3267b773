//! What a client knows between connections: its position, the state of the tasks, and what it has seen of each.
//!
//! Pure: frames in, updates out. Events are told apart by `(task, attempt, seq)`; a repeat is dropped, as is an event that is
//! older than a view from the record, which has no number (it knows of fewer finished items), and a number
//! that is missing is a gap, unless the frame says that it stands for the missing ones. Events carry absolute counts,
//! so a gap costs progress ticks and never the truth. Not here: connections ([`super::live`]).

use super::frame::{EventFrame, Frame, SnapshotFrame};
use crate::planted::{self, Bug};
use crate::task::{Attempt, Event, Folded, Seq, Snapshot, TaskView};

/// Finished tasks that are remembered; the oldest are forgotten past twice as many.
const FINISHED_KEPT: usize = 1_000;

/// An event that the client had not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// The event.
    pub event: Event,
    /// How many events it stands for, itself included.
    pub merged: u64,
    /// Events of its task that are missing just before it: skipped, or lost with a stream.
    pub missing: u64,
}

/// Counts of what a session went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events taken in.
    pub events: u64,
    /// Events that stood for older ones, in sum without themselves.
    pub merged: u64,
    /// Events dropped because they had been seen, or say less than a view from the record.
    pub repeats: u64,
    /// Times that events were missing.
    pub gaps: u64,
    /// Snapshots taken in.
    pub snapshots: u64,
    /// Connections that continued without loss.
    pub recoveries: u64,
}

/// What taking in a frame meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// The connection is greeted; `recovered` when nothing was lost since the last position.
    Hello {
        /// Whether nothing was lost.
        recovered: bool,
    },
    /// The state of all tasks was replaced.
    Snapshot,
    /// A new event was folded in.
    Event(Box<Received>),
    /// A repeat, an event that came too late, or a frame of a newer release.
    Nothing,
}

/// What a client knows between connections.
#[derive(Debug, Clone, Default)]
pub struct Session {
    position: Option<String>,
    snapshot: Snapshot,
    parts: Vec<TaskView>,
    stats: Stats,
}

impl Session {
    /// A session that continues at a position of an earlier one.
    #[must_use]
    pub fn resume(position: Option<String>) -> Self {
        Self { position, ..Self::default() }
    }

    /// Where to continue. Opaque text; `None` before the first frame.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// The state of the tasks.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Takes in one frame.
    pub fn take(&mut self, frame: Frame) -> Taken {
        match frame {
            Frame::Hello(hello) => {
                self.parts.clear();
                if hello.recovered {
                    self.stats.recoveries += 1;
                }
                Taken::Hello { recovered: hello.recovered }
            }
            Frame::Snapshot(frame) => self.take_snapshot(frame),
            Frame::Event(frame) => self.take_event(*frame),
            Frame::Unknown => Taken::Nothing,
        }
    }

    /// Nothing counts before the last part: a connection that breaks in between resumes where it was before.
    fn take_snapshot(&mut self, frame: SnapshotFrame) -> Taken {
        self.parts.extend(frame.tasks);
        if frame.more {
            return Taken::Nothing;
        }
        self.stats.snapshots += 1;
        self.position = Some(frame.position);
        let tasks = std::mem::take(&mut self.parts);
        self.snapshot = Snapshot::new(tasks);
        Taken::Snapshot
    }

    fn take_event(&mut self, frame: EventFrame) -> Taken {
        let EventFrame { position, merged, event } = frame;
        let before = self.position.replace(position);
        let seen = self.snapshot.get(event.task_id).map(|view| (view.attempt, view.seq));
        // A view from the record may be ahead of an event that was long on its way, and a task may be over in it.
        let ignored = self.snapshot.fold(&event) == Folded::Ignored;
        let repeated = match planted::is(Bug::DedupeByPosition) {
            false => ignored,
            true => before == self.position,
        };
        if repeated {
            self.stats.repeats += 1;
            return Taken::Nothing;
        }
        let missing = missing(seen, &event, merged);
        self.stats.events += 1;
        self.stats.merged += merged.saturating_sub(1);
        self.stats.gaps += u64::from(missing > 0);
        self.forget_old();
        Taken::Event(Box::new(Received { event, merged, missing }))
    }

    /// Keeps a session bounded that runs for months.
    fn forget_old(&mut self) {
        if self.snapshot.len() <= 2 * FINISHED_KEPT {
            return;
        }
        let finished = self.snapshot.tasks().filter(|view| view.status.is_terminal()).count();
        let mut surplus = finished.saturating_sub(FINISHED_KEPT);
        let mut keep = |view: &TaskView| {
            let forget = surplus > 0 && view.status.is_terminal();
            surplus -= usize::from(forget);
            !forget
        };
        let views = std::mem::take(&mut self.snapshot).into_tasks();
        self.snapshot = Snapshot::new(views.into_iter().filter(|view| keep(view)));
    }
}

/// Events of this attempt that lie between what was seen and what the frame stands for. Of a task that was never
/// seen, nothing can be said to be missing; nor of an attempt that is known from the record alone, which has no numbers.
fn missing(seen: Option<(Attempt, Seq)>, event: &Event, merged: u64) -> u64 {
    let Some((attempt, seq)) = seen else { return 0 };
    if (attempt, seq) == (event.attempt, Seq(0)) {
        return 0;
    }
    let before = if attempt == event.attempt { seq.0 } else { 0 };
    event.seq.0.saturating_sub(merged.max(1)).saturating_sub(before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::frame::Hello;
    use crate::task::snapshot::tests::event;
    use crate::task::{Counts, Status, TaskId};

    fn counts(done: u32) -> Counts {
        Counts { total: 1_000, succeeded: done, ..Counts::default() }
    }

    fn frame(attempt: u32, seq: u64, merged: u64) -> Frame {
        let event = event(attempt, seq, Status::Running, counts(u32::try_from(seq).unwrap()));
        Frame::Event(Box::new(EventFrame { position: format!("e.{attempt}{seq}-0"), merged, event }))
    }

    fn missing_of(taken: &Taken) -> Option<u64> {
        match taken {
            Taken::Event(received) => Some(received.missing),
            _ => None,
        }
    }

    #[test]
    fn repeats_are_dropped_and_gaps_are_counted() {
        let mut session = Session::default();
        let steps = [
            // (attempt, seq, merged) -> events missing, or None for a repeat
            ((0, 1, 1), Some(0)),
            ((1, 1, 1), Some(0)),
            ((1, 2, 1), Some(0)),
            ((1, 2, 1), None),
            ((1, 1, 1), None),
            ((1, 6, 4), Some(0)),
            ((1, 9, 2), Some(1)),
            ((1, 12, 1), Some(2)),
            ((2, 2, 1), Some(1)),
            ((1, 13, 1), None),
            ((2, 5, 3), Some(0)),
        ];
        for ((attempt, seq, merged), expected) in steps {
            let taken = session.take(frame(attempt, seq, merged));
            assert_eq!(missing_of(&taken), expected, "({attempt}, {seq}) of {merged}");
        }
        let stats = session.stats();
        assert_eq!((stats.events, stats.repeats, stats.gaps, stats.merged), (8, 3, 3, 6));
        assert_eq!(session.position(), Some("e.25-0"));
    }

    #[test]
    fn a_task_first_seen_in_the_middle_misses_nothing() {
        let mut session = Session::default();
        assert_eq!(missing_of(&session.take(frame(3, 40, 1))), Some(0));
    }

    #[test]
    fn a_snapshot_replaces_everything_and_events_it_contains_are_repeats() {
        let mut session = Session::default();
        session.take(frame(1, 7, 1));
        let view = crate::task::TaskView::of(&event(2, 5, Status::Running, counts(5)));
        let hello = session.take(Frame::Hello(Hello { recovered: false, position: None }));
        assert_eq!(hello, Taken::Hello { recovered: false });
        let snapshot = SnapshotFrame { position: "f.1-0".into(), tasks: vec![view.clone()], more: false };
        assert_eq!(session.take(Frame::Snapshot(snapshot)), Taken::Snapshot);
        assert_eq!(session.position(), Some("f.1-0"));
        assert_eq!(session.snapshot().get(view.task_id), Some(&view));
        assert_eq!(session.take(frame(2, 5, 1)), Taken::Nothing);
        assert_eq!(missing_of(&session.take(frame(2, 6, 1))), Some(0));
    }

    #[test]
    fn a_snapshot_in_parts_counts_with_its_last_part_only() {
        let mut session = Session::default();
        session.take(frame(1, 7, 1));
        let part = |id: u128, more| {
            let mut view = crate::task::TaskView::of(&event(1, 1, Status::Running, counts(1)));
            view.task_id = TaskId::from_uuid(uuid::Uuid::from_u128(id));
            Frame::Snapshot(SnapshotFrame { position: "f.1-0".into(), tasks: vec![view], more })
        };
        assert_eq!(session.take(part(100, true)), Taken::Nothing);
        assert_eq!(session.position(), Some("e.17-0"));
        session.take(Frame::Hello(Hello { recovered: false, position: None }));
        assert_eq!(session.take(part(101, true)), Taken::Nothing);
        assert_eq!(session.take(part(102, false)), Taken::Snapshot);
        assert_eq!(session.position(), Some("f.1-0"));
        assert_eq!(session.snapshot().tasks().count(), 2, "the part of the broken connection is gone");
    }

    #[test]
    fn a_view_from_the_record_says_nothing_about_numbers() {
        let mut session = Session::default();
        let mut view = crate::task::TaskView::of(&event(2, 5, Status::Running, counts(3)));
        view.seq = Seq(0);
        session.take(Frame::Snapshot(SnapshotFrame {
            position: "f.1-0".into(),
            tasks: vec![view],
            more: false,
        }));
        assert_eq!(missing_of(&session.take(frame(2, 9, 1))), Some(0));
    }

    #[test]
    fn an_event_that_knows_less_than_the_record_came_late() {
        let mut session = Session::default();
        let mut view = crate::task::TaskView::of(&event(1, 0, Status::Running, counts(3)));
        view.seq = Seq(0);
        let snapshot = SnapshotFrame { position: "f.1-0".into(), tasks: vec![view.clone()], more: false };
        session.take(Frame::Snapshot(snapshot));
        assert_eq!(session.take(frame(1, 2, 1)), Taken::Nothing);
        assert_eq!(session.snapshot().get(view.task_id), Some(&view));
        assert_eq!((session.stats().repeats, session.position()), (1, Some("e.12-0")));
        assert_eq!(missing_of(&session.take(frame(1, 3, 1))), Some(0));
    }

    #[test]
    fn an_attempt_that_was_over_when_the_record_was_read_says_nothing_new() {
        let mut session = Session::default();
        let mut view = crate::task::TaskView::of(&event(2, 0, Status::Running, counts(1)));
        view.seq = Seq(0);
        let snapshot = SnapshotFrame { position: "f.1-0".into(), tasks: vec![view], more: false };
        session.take(Frame::Snapshot(snapshot));
        assert_eq!(session.take(frame(1, 7, 1)), Taken::Nothing);
        assert_eq!(missing_of(&session.take(frame(2, 1, 1))), Some(0));
        assert_eq!(session.position(), Some("e.21-0"));
    }

    #[test]
    fn what_comes_of_a_task_after_its_end_is_a_repeat() {
        let mut session = Session::default();
        let mut view = crate::task::TaskView::of(&event(1, 9, Status::Completed, counts(9)));
        view.seq = Seq(0);
        let snapshot = SnapshotFrame { position: "f.1-0".into(), tasks: vec![view], more: false };
        session.take(Frame::Snapshot(snapshot));
        assert_eq!(session.take(frame(1, 2, 1)), Taken::Nothing);
        assert_eq!((session.stats().repeats, session.position()), (1, Some("e.12-0")));
    }

    #[test]
    fn finished_tasks_are_forgotten_in_the_end_and_others_never() {
        let mut session = Session::default();
        for i in 0..=2 * FINISHED_KEPT {
            let status = if i == 0 { Status::Running } else { Status::Completed };
            let mut event = event(1, 1, status, counts(1_000));
            event.task_id = TaskId::from_uuid(uuid::Uuid::from_u128(i as u128));
            let position = format!("e.{i}-0");
            session.take(Frame::Event(Box::new(EventFrame { position, merged: 1, event })));
        }
        assert_eq!(session.snapshot().tasks().count(), FINISHED_KEPT + 1);
        assert_eq!(session.snapshot().tasks().next().unwrap().status, Status::Running);
    }

    proptest! {
        #[test]
        fn cut_anywhere_and_resumed_with_repeats_the_result_is_the_same(
            len in 1_u64..60,
            cuts in prop::collection::vec((0_u64..60, 0_u64..10), 0..6),
        ) {
            let mut smooth = Session::default();
            for seq in 1..=len {
                smooth.take(frame(1, seq, 1));
            }
            let mut rough = Session::default();
            for seq in 1..=len {
                rough.take(frame(1, seq, 1));
                for &(_, back) in cuts.iter().filter(|(at, _)| *at == seq) {
                    for again in seq.saturating_sub(back).max(1)..=seq {
                        prop_assert_eq!(rough.take(frame(1, again, 1)), Taken::Nothing);
                    }
                }
            }
            prop_assert_eq!(rough.snapshot(), smooth.snapshot());
            prop_assert_eq!(rough.position(), smooth.position());
            prop_assert_eq!((rough.stats().events, rough.stats().gaps), (len, 0));
        }

        #[test]
        fn every_event_is_counted_once_as_seen_merged_or_missing(
            steps in prop::collection::vec((1_u64..5, 1_u64..5), 1..40),
        ) {
            let (mut session, mut seq, mut missed) = (Session::default(), 1, 0);
            session.take(frame(1, 1, 1));
            for (step, merged) in steps {
                seq += step;
                let merged = merged.min(step);
                missed += missing_of(&session.take(frame(1, seq, merged))).unwrap();
            }
            prop_assert_eq!(session.stats().events + session.stats().merged + missed, seq);
        }
    }
}
