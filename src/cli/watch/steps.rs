//! What items in work are at, as far as it is worth a line. Pure. How many pods are gone changes too often for lines; events
//! and the dashboard have it.
//!
//! Of a task of few items it is told when the pods of one begin to go, and when something begins or ceases to keep them. Of a
//! larger one only what has kept them for a while, or a hundred nodes would bury what matters.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::task::{Event, ItemChange, ItemName, ItemState, Step, TaskId};

/// Items of a task of which every step is told.
const FEW: u32 = 10;
/// How long something must keep pods of a larger task before that is told.
const LONG: Duration = Duration::from_secs(5);

/// An item in work.
#[derive(Debug)]
struct Known {
    name: ItemName,
    step: Step,
    /// The obstacles that were told.
    told: Vec<String>,
}

/// What was told of each item in work.
#[derive(Debug, Default)]
pub struct Steps {
    known: BTreeMap<(TaskId, u32), Known>,
}

impl Steps {
    /// The lines that an event is worth, each with the name of its item.
    pub fn news(&mut self, event: &Event) -> Vec<String> {
        let few = event.counts.total <= FEW;
        let mut lines = Vec::new();
        for item in &event.items {
            lines.extend(self.take(event, item).filter(|_| few));
        }
        if !few {
            lines = self.long(event.task_id, event.timestamp);
        }
        if event.status.is_terminal() {
            self.known.retain(|(task, _), _| *task != event.task_id);
        }
        lines
    }

    /// Takes in what an item is at. Returns the line for it when it is another than before.
    fn take(&mut self, event: &Event, item: &ItemChange) -> Option<String> {
        let key = (event.task_id, item.index);
        if item.state != ItemState::Running {
            self.known.remove(&key);
            return None;
        }
        let step = item.step.as_ref().filter(|step| step.pods.is_some())?;
        let line = || Some(line(&item.name, step, event.timestamp));
        match self.known.get_mut(&key) {
            Some(known) => {
                let news = obstacles(&known.step) != obstacles(step);
                known.step = step.clone();
                line().filter(|_| news)
            }
            None => {
                let known = Known { name: item.name.clone(), step: step.clone(), told: Vec::new() };
                self.known.insert(key, known);
                line()
            }
        }
    }

    /// What has kept pods of a task for long and was not told.
    fn long(&mut self, task: TaskId, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        for known in self.known.range_mut((task, 0)..=(task, u32::MAX)).map(|(_, known)| known) {
            let long = |since: Timestamp| {
                Duration::try_from(now.duration_since(since)).is_ok_and(|time| time >= LONG)
            };
            let long = known.step.obstacles.iter().filter(|obstacle| long(obstacle.since));
            let mut names: Vec<String> = long.map(|obstacle| obstacle.by.clone()).collect();
            names.sort();
            if names.iter().any(|name| !known.told.contains(name)) {
                lines.push(line(&known.name, &known.step, now));
            }
            known.told = names;
        }
        lines
    }
}

fn line(name: &ItemName, step: &Step, now: Timestamp) -> String {
    format!("{name}: {}", step.sentence(now))
}

fn obstacles(step: &Step) -> Vec<&str> {
    let mut names: Vec<&str> = step.obstacles.iter().map(|obstacle| obstacle.by.as_str()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::snapshot::tests::event;
    use crate::task::{Counts, Obstacle, PodCounts, Status};

    /// An event at second 12 of a task of `total`: a node has `gone` pods less, and `blocked` are kept since this second.
    fn told(steps: &mut Steps, total: u32, blocked: Option<i64>, gone: u32) -> Vec<String> {
        let by = |since| Obstacle {
            by: "budget web".into(),
            pods: 1,
            pod: "shop/a".into(),
            since: Timestamp::from_second(since).unwrap(),
            why: String::new(),
        };
        let pods = Some(PodCounts { total: 9, gone, ..PodCounts::default() });
        let step = Step { pods, obstacles: blocked.map(by).into_iter().collect(), ..Step::doing("evicting") };
        let change = ItemChange {
            index: 3,
            name: ItemName::new("node-4").unwrap(),
            state: ItemState::Running,
            effect: None,
            error: None,
            done_us: None,
            tries: None,
            step: Some(step),
        };
        let mut event = event(1, 2, Status::Running, Counts::new(total));
        (event.items, event.timestamp) = (vec![change], Timestamp::from_second(12).unwrap());
        steps.news(&event)
    }

    #[test]
    fn of_few_items_a_line_comes_when_something_begins_or_ceases_to_keep_pods() {
        let mut steps = Steps::default();
        assert_eq!(told(&mut steps, FEW, None, 1).len(), 1, "its pods begin to go");
        assert_eq!(told(&mut steps, FEW, None, 5), [""; 0]);
        let lines = told(&mut steps, FEW, Some(11), 6);
        assert_eq!(lines, ["node-4: blocked by budget web since 1 s, gone 6 of 9"]);
        assert_eq!(told(&mut steps, FEW, Some(11), 7), [""; 0]);
        assert_eq!(told(&mut steps, FEW, None, 8).len(), 1);
    }

    #[test]
    fn of_many_items_only_what_keeps_pods_for_long_is_told_and_once() {
        let mut steps = Steps::default();
        for blocked in [None, Some(11), None] {
            assert_eq!(told(&mut steps, FEW + 1, blocked, 1), [""; 0]);
        }
        let lines = told(&mut steps, FEW + 1, Some(2), 6);
        assert_eq!(lines, ["node-4: blocked by budget web since 10 s, gone 6 of 9"]);
        assert_eq!(told(&mut steps, FEW + 1, Some(2), 7), [""; 0]);
    }

    #[test]
    fn what_was_told_too_early_is_told_with_a_later_event_of_another_item() {
        let mut steps = Steps::default();
        assert_eq!(told(&mut steps, FEW + 1, Some(9), 1), [""; 0]);
        let mut later = event(1, 3, Status::Running, Counts::new(FEW + 1));
        later.timestamp = Timestamp::from_second(20).unwrap();
        assert_eq!(steps.news(&later), ["node-4: blocked by budget web since 11 s, gone 1 of 9"]);
        assert_eq!(steps.news(&later), [""; 0]);
    }
}
