//! The `wait` action: it waits and does nothing else. For demos, load tests, and trying Milepost without a cluster.

use std::time::Duration;

use async_trait::async_trait;

use super::{Action, ActionError, Context, Done, Target};
use crate::task::plan::{NodePlan, Outcome, Survey};
use crate::task::spec::WaitParameters;
use crate::task::{Effect, ItemName};

/// Waits, and fails the items it was told to.
#[derive(Debug, Clone)]
pub struct Wait {
    duration: Duration,
    fail_every: u32,
}

impl Wait {
    /// The action with the parameters of a task.
    #[must_use]
    pub fn new(parameters: &WaitParameters) -> Self {
        Self { duration: Duration::from_millis(parameters.duration_ms), fail_every: parameters.fail_every }
    }

    fn fails(&self, index: u32) -> bool {
        self.fail_every > 0 && (u64::from(index) + 1).is_multiple_of(u64::from(self.fail_every))
    }

    fn failure(&self) -> String {
        format!("failed as asked: fail_every is {}", self.fail_every)
    }

    /// What it would do to these items.
    #[must_use]
    pub fn survey(&self, items: &[ItemName]) -> Survey {
        let node = |(index, name): (u32, &ItemName)| match self.fails(index) {
            true => NodePlan::new(name.as_str(), Outcome::Fail, self.failure()),
            false => NodePlan::new(name.as_str(), Outcome::Change, format!("wait {:?}", self.duration)),
        };
        Survey { nodes: (0..).zip(items).map(node).collect(), ..Survey::default() }
    }
}

#[async_trait]
impl Action for Wait {
    async fn run(&self, target: Target<'_>, _: &Context) -> Result<Done, ActionError> {
        // The timer rounds up to its next tick, and an item that takes no time would take up to a millisecond.
        if !self.duration.is_zero() {
            tokio::time::sleep(self.duration).await;
        }
        if self.fails(target.index) {
            return Err(ActionError::permanent(self.failure()));
        }
        Ok(Done::Succeeded(Effect::Changed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_and_fails_every_nth() {
        let wait = Wait::new(&WaitParameters { duration_ms: 250, fail_every: 3 });
        let name = ItemName::new("item").unwrap();
        let start = Instant::now();
        let mut failed = Vec::new();
        for index in 0..7 {
            if wait.run(Target { index, name: &name }, &Context::alone()).await.is_err() {
                failed.push(index);
            }
        }
        assert_eq!(failed, [2, 5]);
        assert_eq!(start.elapsed(), Duration::from_millis(7 * 250));
    }

    #[test]
    fn none_fails_unless_asked() {
        assert!((0..10).all(|index| !Wait::new(&WaitParameters::default()).fails(index)));
    }
}
