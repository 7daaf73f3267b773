//! What a user may ask for of a retry: which items of a task that is over to run again, and what to do otherwise this
//! time.
//!
//! Action, parameters and cluster are always those of the task that is retried. Not here: which items those are, and
//! whether that task is over ([`crate::store`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::Faults;
use super::{Draft, Priority, SpecError, TaskSpec, check_limits, check_strategy};
use crate::task::{Capabilities, FailureBudget, ItemState, Strategy, StrategyDraft};

/// Ends that an item can be retried from.
const INCLUDABLE: [ItemState; 3] = [ItemState::Failed, ItemState::Skipped, ItemState::Cancelled];

/// A request for a retry as it came in. What is left out is as it was in the task that is retried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryDraft {
    /// Items that ended in these states; those that failed when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include: Option<Vec<ItemState>>,
    /// Why, for people and audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// See [`Priority`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i16>,
    /// Most items worked on at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u16>,
    /// Time-out of one item, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_timeout_ms: Option<u64>,
    /// Claims before the retry is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// How many items may fail before it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_budget: Option<FailureBudget>,
    /// In which waves, order and windows; an empty one for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyDraft>,
}

/// A request for a retry in which every rule holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Items that ended in these states: some of failed, skipped and cancelled, each once, in that order.
    pub include: Vec<ItemState>,
    reason: Option<String>,
    priority: Option<Priority>,
    concurrency: Option<u16>,
    item_timeout: Option<Duration>,
    max_attempts: Option<u16>,
    budget: Option<FailureBudget>,
    /// Another strategy, which may be none.
    strategy: Option<Option<Strategy>>,
    /// What who retries may on the cluster, whatever who submitted the task might. Nothing of the request itself.
    pub may: Capabilities,
}

impl Retry {
    /// Checks a draft.
    ///
    /// # Errors
    /// Every fault found, each with its field.
    pub fn new(draft: RetryDraft) -> Result<Self, SpecError> {
        let mut faults = Faults::default();
        let asked = draft.include.unwrap_or_else(|| vec![ItemState::Failed]);
        if asked.is_empty() {
            faults.add("include", "must name at least one of failed, skipped and cancelled");
        }
        for (i, state) in asked.iter().enumerate().filter(|(_, state)| !INCLUDABLE.contains(state)) {
            let state = state.as_str();
            faults.add(format!("include[{i}]"), format!("must be failed, skipped or cancelled, is {state}"));
        }
        let limits = Draft {
            reason: draft.reason,
            priority: draft.priority,
            concurrency: draft.concurrency,
            item_timeout_ms: draft.item_timeout_ms,
            max_attempts: draft.max_attempts,
            failure_budget: draft.failure_budget,
            ..Draft::default()
        };
        check_limits(&limits, &mut faults);
        let strategy = draft.strategy.map(|draft| check_strategy(Some(&draft), &mut faults));
        faults.or(Some(Self {
            include: INCLUDABLE.into_iter().filter(|state| asked.contains(state)).collect(),
            reason: limits.reason.filter(|reason| !reason.trim().is_empty()),
            priority: limits.priority.map(Priority),
            concurrency: limits.concurrency,
            item_timeout: limits.item_timeout_ms.map(Duration::from_millis),
            max_attempts: limits.max_attempts,
            budget: limits.failure_budget,
            strategy,
            may: Capabilities::default(),
        }))
    }

    /// The specification of the retry, made of that of the task that is retried with the items that are left.
    #[must_use]
    pub fn of(&self, retried: TaskSpec) -> TaskSpec {
        TaskSpec {
            reason: self.reason.clone().or(retried.reason),
            priority: self.priority.unwrap_or(retried.priority),
            concurrency: self.concurrency.or(retried.concurrency),
            item_timeout: self.item_timeout.or(retried.item_timeout),
            max_attempts: self.max_attempts.unwrap_or(retried.max_attempts),
            budget: self.budget.or(retried.budget),
            strategy: self.strategy.clone().unwrap_or(retried.strategy),
            may: self.may,
            ..retried
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Then;

    fn fields(draft: RetryDraft) -> Vec<String> {
        let faults = Retry::new(draft).err().map(|error| error.faults).unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn what_failed_is_retried_unless_the_user_says_otherwise() {
        assert_eq!(Retry::new(RetryDraft::default()).unwrap().include, [ItemState::Failed]);
        let include = Some(vec![ItemState::Cancelled, ItemState::Failed, ItemState::Cancelled]);
        let retry = Retry::new(RetryDraft { include, ..RetryDraft::default() }).unwrap();
        assert_eq!(retry.include, [ItemState::Failed, ItemState::Cancelled]);
    }

    #[test]
    fn every_fault_of_a_retry_is_named_at_once() {
        let bad = RetryDraft {
            include: Some(vec![ItemState::Failed, ItemState::Succeeded, ItemState::Pending]),
            reason: Some("r".repeat(501)),
            concurrency: Some(0),
            failure_budget: Some(FailureBudget::default()),
            strategy: Some(StrategyDraft { windows: vec!["never".into()], ..StrategyDraft::default() }),
            ..RetryDraft::default()
        };
        let expected =
            ["include[1]", "include[2]", "reason", "concurrency", "failure_budget", "strategy.windows[0]"];
        assert_eq!(fields(bad), expected);
        assert_eq!(fields(RetryDraft { include: Some(Vec::new()), ..RetryDraft::default() }), ["include"]);
    }

    #[test]
    fn what_is_left_out_stays_as_it_was() {
        let budget = FailureBudget { failed: Some(1), then: Then::Abort, ..FailureBudget::default() };
        let retried = TaskSpec::new(Draft {
            action: "cordon".into(),
            cluster: "prod".into(),
            items: vec!["node-1".into()],
            reason: Some("kernel update".into()),
            priority: Some(3),
            concurrency: Some(4),
            item_timeout_ms: Some(5),
            max_attempts: Some(6),
            failure_budget: Some(budget),
            strategy: Some(StrategyDraft { canary: Some(1), ..StrategyDraft::default() }),
            ..Draft::default()
        })
        .unwrap();
        let as_it_was = Retry::new(RetryDraft::default()).unwrap().of(retried.clone());
        assert_eq!(as_it_was, retried);
        let draft = RetryDraft { concurrency: Some(1), reason: Some(" ".into()), ..RetryDraft::default() };
        let changed = Retry::new(draft).unwrap().of(retried.clone());
        assert_eq!(changed, TaskSpec { concurrency: Some(1), ..retried.clone() });
        let draft = RetryDraft { strategy: Some(StrategyDraft::default()), ..RetryDraft::default() };
        let at_once = Retry::new(draft).unwrap().of(retried.clone());
        assert_eq!(at_once, TaskSpec { strategy: None, ..retried });
    }
}
