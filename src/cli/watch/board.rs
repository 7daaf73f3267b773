//! What a watcher has seen of the tasks it watches. Pure: views and events in, news out.
//!
//! Events may be merged or skipped, so what is gathered from them (failures, effects) may be incomplete; the counts of
//! the views never are. Not here: how news is shown ([`super::view`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::task::{Effect, Event, ItemChange, ItemState, Snapshot, TaskId, TaskView};

/// Which tasks to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These.
    Tasks(Vec<TaskId>),
    /// All of the user's that are not over, and those that come meanwhile.
    Mine,
}

/// One watched task.
#[derive(Debug)]
pub struct Watched {
    /// Its newest state.
    pub view: TaskView,
    effects: HashMap<u32, Effect>,
    failed: HashSet<u32>,
}

impl Watched {
    fn new(view: TaskView) -> Self {
        Self { view, effects: HashMap::new(), failed: HashSet::new() }
    }

    /// How many of the succeeded items were not touched; `None` when not all of their events were seen.
    #[must_use]
    pub fn already(&self) -> Option<u32> {
        let seen = u32::try_from(self.effects.len()).ok()?;
        let already = self.effects.values().filter(|effect| **effect == Effect::Already).count();
        if seen == self.view.counts.succeeded { u32::try_from(already).ok() } else { None }
    }

    /// Notes a failure; `false` when it was noted before.
    pub fn note_failure(&mut self, index: u32) -> bool {
        self.failed.insert(index)
    }

    fn take(&mut self, items: &[ItemChange]) -> Vec<ItemChange> {
        let mut failures = Vec::new();
        for item in items {
            if let Some(effect) = item.effect {
                self.effects.insert(item.index, effect);
            }
            if item.state == ItemState::Failed && self.note_failure(item.index) {
                failures.push(item.clone());
            }
        }
        failures
    }
}

/// The watched tasks, oldest first.
#[derive(Debug)]
pub struct Board {
    wanted: Option<BTreeSet<TaskId>>,
    tasks: BTreeMap<TaskId, Watched>,
}

impl Board {
    /// An empty board.
    #[must_use]
    pub fn new(wanted: &Wanted) -> Self {
        let wanted = match wanted {
            Wanted::Tasks(ids) => Some(ids.iter().copied().collect()),
            Wanted::Mine => None,
        };
        Self { wanted, tasks: BTreeMap::new() }
    }

    /// Takes in a state of all tasks. Returns the watched ones whose state changed.
    pub fn take_snapshot(&mut self, snapshot: &Snapshot) -> Vec<TaskId> {
        snapshot.tasks().filter(|view| self.take_view(view)).map(|view| view.task_id).collect()
    }

    /// Takes in a state of one task. Returns whether it is watched and changed. A state from the record may be older
    /// than what was seen live, and then changes nothing.
    pub fn take_view(&mut self, view: &TaskView) -> bool {
        if let Some(task) = self.tasks.get_mut(&view.task_id) {
            let newer = view.status.is_terminal() || view.current >= task.view.current;
            let changed = newer && !task.view.status.is_terminal() && task.view != *view;
            if changed {
                task.view = view.clone();
            }
            return changed;
        }
        let wants = match &self.wanted {
            Some(wanted) => wanted.contains(&view.task_id),
            None => !view.status.is_terminal(),
        };
        if wants {
            self.tasks.insert(view.task_id, Watched::new(view.clone()));
        }
        wants
    }

    /// Takes in an event that was folded into `view`. Returns the failures it brought, or `None` when its task is not
    /// watched.
    pub fn take_event(&mut self, event: &Event, view: &TaskView) -> Option<Vec<ItemChange>> {
        self.take_view(view);
        self.tasks.get_mut(&event.task_id).map(|task| task.take(&event.items))
    }

    /// The watched tasks, oldest first.
    pub fn tasks(&self) -> impl Iterator<Item = &Watched> {
        self.tasks.values()
    }

    /// The watched tasks, to note failures that were read from the record.
    pub fn tasks_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.tasks.values_mut()
    }

    /// One watched task.
    #[must_use]
    pub fn get(&self, id: TaskId) -> Option<&Watched> {
        self.tasks.get(&id)
    }

    /// Tasks that were asked for and of which nothing live is heard: the live state does not hold them because they
    /// belong to somebody else, or are over for long.
    #[must_use]
    pub fn unheard(&self, snapshot: &Snapshot) -> Vec<TaskId> {
        let open = |id: &TaskId| self.get(*id).is_none_or(|task| !task.view.status.is_terminal());
        let wanted = self.wanted.iter().flatten();
        wanted.filter(|id| snapshot.get(**id).is_none() && open(id)).copied().collect()
    }

    /// Whether everything that is watched is over. Call it after the first snapshot.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let all_there = self.wanted.as_ref().is_none_or(|wanted| wanted.len() == self.tasks.len());
        all_there && self.tasks.values().all(|task| task.view.status.is_terminal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::snapshot::tests::event;
    use crate::task::{Counts, ItemName, Status};

    fn counts(succeeded: u32, failed: u32) -> Counts {
        Counts { total: 4, succeeded, failed, ..Counts::default() }
    }

    fn change(index: u32, failed: bool) -> ItemChange {
        ItemChange {
            index,
            name: ItemName::new(format!("n{index}")).unwrap(),
            state: if failed { ItemState::Failed } else { ItemState::Succeeded },
            effect: (!failed).then_some(if index == 0 { Effect::Already } else { Effect::Changed }),
            error: failed.then(|| "no".to_owned()),
            done_us: None,
            tries: None,
            step: None,
        }
    }

    fn step(
        board: &mut Board,
        seq: u64,
        status: Status,
        counts: Counts,
        items: Vec<ItemChange>,
    ) -> Option<usize> {
        let mut event = event(1, seq, status, counts);
        event.items = items;
        board.take_event(&event, &TaskView::of(&event)).map(|failures| failures.len())
    }

    #[test]
    fn a_watched_task_runs_to_its_end() {
        let first = event(1, 1, Status::Running, counts(0, 0));
        let mut board = Board::new(&Wanted::Tasks(vec![first.task_id]));
        assert!(!board.is_over());
        assert_eq!(board.unheard(&Snapshot::default()), [first.task_id]);
        assert_eq!(board.take_snapshot(&Snapshot::new([TaskView::of(&first)])), [first.task_id]);
        assert_eq!(step(&mut board, 2, Status::Running, counts(1, 0), vec![change(0, false)]), Some(0));
        assert_eq!(step(&mut board, 3, Status::Running, counts(1, 1), vec![change(1, true)]), Some(1));
        assert_eq!(step(&mut board, 4, Status::Running, counts(1, 1), vec![change(1, true)]), Some(0));
        assert_eq!(board.get(first.task_id).unwrap().already(), Some(1));
        assert!(!board.is_over());
        step(&mut board, 5, Status::CompletedWithErrors, counts(3, 1), Vec::new());
        assert!(board.is_over());
        assert_eq!(board.get(first.task_id).unwrap().already(), None, "two effects were never seen");
        let late = TaskView::of(&event(1, 4, Status::Running, counts(1, 1)));
        assert!(!board.take_view(&late), "terminal states are never left");
    }

    #[test]
    fn an_older_state_from_the_record_does_not_step_back() {
        let now = event(1, 9, Status::Running, counts(3, 0));
        let mut board = Board::new(&Wanted::Mine);
        assert!(board.take_view(&TaskView::of(&now)));
        assert!(!board.take_view(&TaskView::of(&event(1, 5, Status::Running, counts(1, 0)))));
        assert_eq!(board.get(now.task_id).unwrap().view.current, 3);
    }

    #[test]
    fn mine_are_those_that_are_not_over_and_those_that_come() {
        let mut board = Board::new(&Wanted::Mine);
        let done = TaskView::of(&event(1, 9, Status::Completed, counts(4, 0)));
        assert!(board.take_snapshot(&Snapshot::new([done])).is_empty());
        assert!(board.is_over());
        let mut new = event(0, 1, Status::Queued, counts(0, 0));
        new.task_id = TaskId::generate();
        assert!(board.take_event(&new, &TaskView::of(&new)).is_some());
        assert!(!board.is_over());
    }

    #[test]
    fn other_tasks_are_none_of_its_business() {
        let mut board = Board::new(&Wanted::Tasks(vec![TaskId::generate()]));
        assert_eq!(step(&mut board, 2, Status::Running, counts(1, 0), vec![change(1, true)]), None);
        assert_eq!(board.tasks().count(), 0);
    }
}
