//! The state of a user's tasks at a position: what a late joiner gets.
//!
//! A snapshot is a fold of events. Folding is idempotent and ignores what is late, so a reader may apply an event
//! twice, or one that the snapshot already contains. Not here: reading the record ([`crate::store`]).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Attempt, ClusterName, Counts, Event, EventKind, ItemName, Seq, Status, TaskId, WaveMark};

/// A task as a watcher needs it: everything but its items, which are read in pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Which task.
    pub task_id: TaskId,
    /// The attempt of the newest event folded in.
    pub attempt: Attempt,
    /// The number of the newest event folded in; 0 when the view is from the record.
    #[serde(default)]
    pub seq: Seq,
    /// Its status.
    pub status: Status,
    /// The action's name.
    pub action: String,
    /// The cluster it acts on.
    pub cluster: ClusterName,
    /// Finished items.
    pub current: u32,
    /// Absolute counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Finished items in whole percent, rounded down.
    pub progress: u8,
    /// The item that changed last, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_node: Option<ItemName>,
    /// Since when no item has finished, while that is longer than it should be. Only ever seen live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_since: Option<Timestamp>,
    /// Where it stands, of a task that runs in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<WaveMark>,
    /// Why no item is started for now, in a sentence, while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The task that it retries, if it is a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    /// Most items at once, if a user set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u16>,
    /// Why it is paused or being called off, when its failure budget or its strategy did that: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why the task was submitted, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the task itself failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was accepted; unknown when only events were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What folding an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    /// The view shows the event now.
    Changed,
    /// The event was a repeat or late, and nothing changed.
    Ignored,
}

impl TaskView {
    /// The view of a task of which only this event is known.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            task_id: event.task_id,
            attempt: event.attempt,
            seq: event.seq,
            status: event.status,
            action: event.action.clone(),
            cluster: event.cluster.clone(),
            current: event.counts.current(),
            counts: event.counts,
            progress: event.counts.percent(),
            current_node: event.current_node.clone(),
            stalled_since: event.stalled_since,
            wave: event.wave,
            waits_for: event.waits_for.clone(),
            parent_id: event.parent_id,
            concurrency: event.concurrency,
            message: event.message.clone().filter(|_| is_about_status(event.kind)),
            reason: None,
            error: event.error.clone(),
            created_at: None,
            updated_at: event.timestamp,
        }
    }

    /// Folds an event of this task in. Repeats, late events, and anything after a terminal state change nothing.
    ///
    /// A view from the record has no number. Counts of an attempt only grow, so an event with fewer items done is older
    /// than that view: what a bus that lost its newest events still knows, or one that was long on its way.
    pub fn fold(&mut self, event: &Event) -> Folded {
        let older = event.attempt == self.attempt && event.counts.current() < self.current;
        if self.status.is_terminal() || event.order() <= (self.attempt, self.seq) || older {
            return Folded::Ignored;
        }
        let before = std::mem::replace(self, Self::of(event));
        let same_status = before.status == self.status;
        self.current_node = self.current_node.take().or(before.current_node);
        self.message = self.message.take().or(before.message.filter(|_| same_status));
        self.wave = self.wave.or(before.wave);
        self.parent_id = self.parent_id.or(before.parent_id);
        if event.kind != EventKind::ConcurrencyChanged {
            self.concurrency = before.concurrency;
        }
        (self.reason, self.created_at) = (before.reason, before.created_at);
        Folded::Changed
    }
}

/// Whether the sentence of such an event says why the task has its status.
fn is_about_status(kind: EventKind) -> bool {
    matches!(kind, EventKind::Paused | EventKind::Cancelling)
}

/// The tasks of one user, folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    tasks: BTreeMap<TaskId, TaskView>,
}

impl Snapshot {
    /// A snapshot that starts from recorded views.
    #[must_use]
    pub fn new(views: impl IntoIterator<Item = TaskView>) -> Self {
        Self { tasks: views.into_iter().map(|view| (view.task_id, view)).collect() }
    }

    /// Folds one event in.
    pub fn fold(&mut self, event: &Event) -> Folded {
        match self.tasks.get_mut(&event.task_id) {
            Some(view) => view.fold(event),
            None => {
                self.tasks.insert(event.task_id, TaskView::of(event));
                Folded::Changed
            }
        }
    }

    /// One task.
    #[must_use]
    pub fn get(&self, task: TaskId) -> Option<&TaskView> {
        self.tasks.get(&task)
    }

    /// How many tasks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// All tasks, oldest first.
    pub fn tasks(&self) -> impl DoubleEndedIterator<Item = &TaskView> {
        self.tasks.values()
    }

    /// All tasks by value, oldest first.
    #[must_use]
    pub fn into_tasks(self) -> Vec<TaskView> {
        self.tasks.into_values().collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::ItemOutcome;

    pub(crate) fn event(attempt: u32, seq: u64, status: Status, counts: Counts) -> Event {
        let mut event = Event {
            task_id: TaskId::from_uuid(uuid::Uuid::from_u128(7)),
            attempt: Attempt(attempt),
            seq: Seq(seq),
            kind: if status.is_terminal() { EventKind::terminal(status) } else { EventKind::Progress },
            status,
            action: "cordon".into(),
            cluster: ClusterName::new("prod").unwrap(),
            parent_id: None,
            concurrency: None,
            current: 0,
            counts: Counts::default(),
            progress: 0,
            current_node: None,
            items: Vec::new(),
            stalled_since: None,
            wave: None,
            waits_for: None,
            message: None,
            error: None,
            timestamp: Timestamp::UNIX_EPOCH,
        };
        event.set_counts(counts);
        event
    }

    /// A whole run in which the attempts die at random and the last one finishes.
    fn any_run() -> impl Strategy<Value = Vec<Event>> {
        let outcome = proptest::sample::select(vec![
            ItemOutcome::Succeeded { effect: crate::task::Effect::Changed },
            ItemOutcome::failed("no"),
            ItemOutcome::skipped("no"),
        ]);
        (prop::collection::vec(outcome, 1..20), prop::collection::vec(1_usize..6, 0..4)).prop_map(
            |(outcomes, deaths)| {
                let total = u32::try_from(outcomes.len()).unwrap();
                let mut counts = Counts::new(total);
                let mut run = vec![event(0, 1, Status::Queued, counts)];
                let (mut attempt, mut seq) = (1, 1);
                let mut deaths = deaths.into_iter();
                let mut left = deaths.next();
                for outcome in &outcomes {
                    if left == Some(0) {
                        (attempt, seq, left) = (attempt + 1, 1, deaths.next());
                    }
                    left = left.map(|n| n - 1);
                    counts.add(outcome);
                    run.push(event(attempt, seq, Status::Running, counts));
                    seq += 1;
                }
                run.push(event(attempt, seq, counts.verdict().unwrap(), counts));
                run
            },
        )
    }

    #[test]
    fn a_view_from_the_record_does_not_step_back_to_what_a_bus_still_knows() {
        let done = |succeeded| Counts { succeeded, ..Counts::new(9) };
        let mut recorded = TaskView { seq: Seq(0), ..TaskView::of(&event(1, 1, Status::Running, done(5))) };
        assert_eq!(recorded.fold(&event(1, 3, Status::Running, done(2))), Folded::Ignored);
        assert_eq!((recorded.current, recorded.seq), (5, Seq(0)));
        assert_eq!(recorded.fold(&event(1, 8, Status::Running, done(6))), Folded::Changed);
        assert_eq!((recorded.current, recorded.seq), (6, Seq(8)));
        let new_attempt = event(2, 1, Status::Running, done(4));
        assert_eq!(recorded.fold(&new_attempt), Folded::Changed, "it counts anew");
    }

    #[test]
    fn a_view_keeps_what_later_events_do_not_repeat() {
        let counts = Counts::new(4);
        let parent_id = Some(TaskId::from_uuid(uuid::Uuid::from_u128(6)));
        let mut view = TaskView::of(&Event { parent_id, ..event(1, 1, Status::Running, counts) });
        let kind = EventKind::ConcurrencyChanged;
        view.fold(&Event { kind, concurrency: Some(7), ..event(1, 2, Status::Running, counts) });
        let message = Some("the failure budget is used up".to_owned());
        let kind = EventKind::Paused;
        view.fold(&Event { kind, message: message.clone(), ..event(1, 3, Status::Paused, counts) });
        view.fold(&event(1, 4, Status::Paused, counts));
        assert_eq!((view.parent_id, view.concurrency, &view.message), (parent_id, Some(7), &message));
        view.fold(&event(2, 1, Status::Running, counts));
        assert_eq!((view.concurrency, &view.message), (Some(7), &None), "it goes on: the reason is over");
        view.fold(&Event { kind: EventKind::ConcurrencyChanged, ..event(2, 2, Status::Running, counts) });
        assert_eq!((view.parent_id, view.concurrency), (parent_id, None));
    }

    proptest! {
        #[test]
        fn repeats_and_late_events_change_nothing(
            run in any_run(),
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
        ) {
            let mut noisy: Vec<(usize, Event)> = run.iter().cloned().enumerate().map(|(i, e)| (i * 2, e)).collect();
            for (what, after) in noise {
                let what = what.index(run.len());
                let after = what + after.index(run.len() - what);
                noisy.push((after * 2 + 1, run[what].clone()));
            }
            noisy.sort_by_key(|(place, _)| *place);
            let fold = |events: Vec<Event>| {
                let mut snapshot = Snapshot::default();
                for event in &events {
                    snapshot.fold(event);
                }
                snapshot
            };
            prop_assert_eq!(fold(run), fold(noisy.into_iter().map(|(_, e)| e).collect()));
        }

        #[test]
        fn counts_add_up_and_never_fall(run in any_run()) {
            let mut snapshot = Snapshot::default();
            let mut before = 0;
            for event in &run {
                snapshot.fold(event);
                let view = snapshot.get(event.task_id).unwrap();
                prop_assert!(view.current >= before);
                prop_assert_eq!(view.counts.current() + view.counts.pending(), view.counts.total);
                before = view.current;
            }
            prop_assert!(snapshot.tasks().all(|view| view.status.is_terminal() && view.progress == 100));
        }
    }
}
