//! What items in work are at, as far as it is worth a line: when their pods begin to go, and when something begins or
//! ceases to keep them. Pure. How many pods are gone changes too often for lines; events and the dashboard have it.

use std::collections::HashMap;

use super::view::title;
use crate::task::{Event, ItemChange, ItemState, TaskId, TaskView};

/// What was told of each item in work: the obstacles.
#[derive(Debug, Default)]
pub struct Steps {
    told: HashMap<(TaskId, u32), Vec<String>>,
}

impl Steps {
    /// The lines that an event is worth.
    pub fn news(&mut self, event: &Event) -> Vec<String> {
        let news = event.items.iter().filter(|item| self.is_news(event.task_id, item));
        let steps: Vec<_> = news.filter_map(|item| Some((&item.name, item.step.as_ref()?))).collect();
        if steps.is_empty() {
            return Vec::new();
        }
        let title = title(&TaskView::of(event));
        let line = |(name, step): (_, &crate::task::Step)| {
            format!("{title} {name}: {}", step.sentence(event.timestamp))
        };
        steps.into_iter().map(line).collect()
    }

    fn is_news(&mut self, task: TaskId, item: &ItemChange) -> bool {
        let key = (task, item.index);
        if item.state != ItemState::Running {
            self.told.remove(&key);
            return false;
        }
        let Some(step) = item.step.as_ref().filter(|step| step.pods.is_some()) else { return false };
        let mut obstacles: Vec<String> = step.obstacles.iter().map(|obstacle| obstacle.by.clone()).collect();
        obstacles.sort();
        match self.told.insert(key, obstacles) {
            Some(before) => before != self.told[&key],
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::task::snapshot::tests::event;
    use crate::task::{Counts, ItemName, Obstacle, PodCounts, Status, Step};

    fn told(steps: &mut Steps, blocked: u32, gone: u32) -> Vec<String> {
        let by = |_| Obstacle {
            by: "budget web".into(),
            pods: blocked,
            pod: "shop/a".into(),
            since: Timestamp::UNIX_EPOCH,
            why: String::new(),
        };
        let pods = Some(PodCounts { total: 9, blocked, gone, ..PodCounts::default() });
        let step = Step { pods, obstacles: (0..blocked.min(1)).map(by).collect(), ..Step::doing("evicting") };
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
        let mut event = event(1, 2, Status::Running, Counts::new(9));
        (event.items, event.timestamp) = (vec![change], Timestamp::from_second(12).unwrap());
        steps.news(&event)
    }

    #[test]
    fn a_line_comes_when_something_begins_or_ceases_to_keep_pods() {
        let mut steps = Steps::default();
        assert_eq!(told(&mut steps, 0, 1).len(), 1, "its pods begin to go");
        assert_eq!(told(&mut steps, 0, 5), [""; 0]);
        let lines = told(&mut steps, 1, 6);
        assert!(lines[0].ends_with("node-4: blocked by budget web since 12 s, gone 6 of 9"), "{lines:?}");
        assert_eq!(told(&mut steps, 2, 7), [""; 0]);
        assert_eq!(told(&mut steps, 0, 8).len(), 1);
    }
}
