//! Who a request to a cluster is from, as its audit log and the simulator's show it: release, task, attempt and worker in the
//! `User-Agent`. So whoever finds a changed node finds the task, and tests see which attempt acted.

use std::fmt::Display;

use hyper::header::HeaderValue;

use crate::store::Task;
use crate::task::{Attempt, TaskId};

const RELEASE: &str = concat!("milepost/", env!("CARGO_PKG_VERSION"));

/// The sender of requests that belong to no task.
pub(super) fn of_nobody() -> HeaderValue {
    HeaderValue::from_static(RELEASE)
}

/// The sender of a task's requests.
pub(super) fn of_task(task: &Task) -> HeaderValue {
    let worker: &dyn Display = task.worker.as_ref().map_or(&"-" as &dyn Display, |worker| worker);
    let text = format!("{RELEASE} (task {}; attempt {}; worker {worker})", task.id, task.state.attempt);
    HeaderValue::try_from(text).unwrap_or_else(|_| of_nobody())
}

/// What a `User-Agent` says about the task behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Which task.
    pub task: TaskId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// Which worker.
    pub worker: String,
}

impl Sender {
    /// Reads a `User-Agent`; `None` when no task sent the request.
    #[must_use]
    pub fn read(agent: &str) -> Option<Self> {
        let inside = agent.strip_prefix("milepost/")?.split_once(" (")?.1.strip_suffix(')')?;
        let mut words = inside.splitn(3, "; ");
        Some(Self {
            task: words.next()?.strip_prefix("task ")?.parse().ok()?,
            attempt: Attempt(words.next()?.strip_prefix("attempt ")?.parse().ok()?),
            worker: words.next()?.strip_prefix("worker ")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_of_tasks_name_one() {
        let id = TaskId::generate();
        let sender = Sender::read(&format!("milepost/1.2.3 (task {id}; attempt 4; worker w; 1)")).unwrap();
        assert_eq!(sender, Sender { task: id, attempt: Attempt(4), worker: "w; 1".into() });
        for other in ["milepost/1.2.3", "kubectl/1.33 (task 1)", "milepost/1 (task x; attempt 1; worker w)"] {
            assert_eq!(Sender::read(other), None, "{other}");
        }
    }
}
