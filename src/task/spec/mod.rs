//! What a user may ask for: a draft as it came in, and the specification it becomes once every rule holds.
//!
//! All faults of a draft are found at once, and each names its field ([`fault`]). What to do and with which parameters
//! is in [`action`], what a retry may ask for in [`retry`]. Not here: whether the cluster exists and whether the user may do this (gateway).

mod action;
mod canonical;
mod drain;
mod fault;
mod retry;
mod selector;

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use action::{
    ACTIONS, ANNOTATION_BYTES_MAX, ActionSpec, AnnotateParameters, CopyTaintsParameters, LabelParameters,
    PARAMETERS_MAX, Taint, TaintEffect, TaintParameters, TaintRef, UnannotateParameters, UncordonParameters,
    UnlabelParameters, UntaintParameters, WaitParameters,
};
pub use drain::{DRAIN_TIMEOUT_DEFAULT, DrainParameters};
pub use fault::{Fault, SpecError};
pub use retry::{Retry, RetryDraft};
pub use selector::Selector;

use self::fault::Faults;
use super::{Capabilities, ClusterName, FailureBudget, ItemName, PlanHash, Strategy, StrategyDraft};

/// Most items in one task.
pub const ITEMS_MAX: usize = 100_000;
/// Longest reason, in characters.
pub const REASON_LEN_MAX: usize = 500;
/// Most lanes a task may ask for.
pub const CONCURRENCY_MAX: u16 = 1_000;
/// Longest time-out of an item.
pub const ITEM_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most claims a task may ask for.
pub const ATTEMPTS_MAX: u16 = 100;

/// Higher is claimed first among the tasks of one user: -100..=100, 0 by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i16);

impl Priority {
    /// The largest distance from 0.
    pub const MAX: i16 = 100;
}

/// A request as it came in: shapes are right, rules are not checked yet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// The action's name.
    pub action: String,
    /// The cluster to act on.
    pub cluster: String,
    /// Names of the items, in the order they should be started.
    pub items: Vec<String>,
    /// Parameters of the action.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
    /// Why, for people and audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// See [`Priority`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i16>,
    /// Most items worked on at once; the worker's own limit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u16>,
    /// Time-out of one item, in milliseconds; the worker's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_timeout_ms: Option<u64>,
    /// Claims before the task is given up; 3 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// How many items may fail before the task is stopped; any number when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_budget: Option<FailureBudget>,
    /// In which waves, order and windows; all at once, as given and at any time when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyDraft>,
    /// The hash of the plan that somebody agreed to. No part of what is asked for: a condition of asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
}

/// A request in which every rule holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// What to do to each item.
    pub action: ActionSpec,
    /// The cluster to act on.
    pub cluster: ClusterName,
    /// The frozen membership: 1..=100,000 unique names.
    pub items: Vec<ItemName>,
    /// Why, for people and audit.
    pub reason: Option<String>,
    /// Higher goes first among one user's tasks.
    pub priority: Priority,
    /// Most items worked on at once, if the user set it.
    pub concurrency: Option<u16>,
    /// Time-out of one item, if the user set it.
    pub item_timeout: Option<Duration>,
    /// Claims before the task is given up.
    pub max_attempts: u16,
    /// How many items may fail before the task is stopped, if the user set it.
    pub budget: Option<FailureBudget>,
    /// In which waves, order and windows, if the user set any of it.
    pub strategy: Option<Strategy>,
    /// What its submitter may on its cluster, as it was when they submitted it. Nothing of the request itself.
    pub may: Capabilities,
}

/// Claims before a task is given up, when the user does not say.
pub const MAX_ATTEMPTS_DEFAULT: u16 = 3;

impl TaskSpec {
    /// Checks a draft.
    ///
    /// # Errors
    /// Every fault found, each with its field.
    pub fn new(draft: Draft) -> Result<Self, SpecError> {
        let mut faults = Faults::default();
        let action = faults.take(ActionSpec::parse(&draft.action, &draft.parameters));
        let cluster = faults.field("cluster", ClusterName::new(&draft.cluster));
        let items = check_items(&draft.items, &mut faults);
        check_limits(&draft, &mut faults);
        if draft.item_timeout_ms.is_some() && action.as_ref().is_some_and(|a| a.item_timeout().is_some()) {
            let own = "must be left out: a drain has timeout_seconds of its own";
            faults.add("item_timeout_ms", own);
        }
        let strategy = check_strategy(draft.strategy.as_ref(), &mut faults);
        let spec = action.zip(cluster).zip(items).map(|((action, cluster), items)| Self {
            action,
            cluster,
            items,
            reason: draft.reason.filter(|reason| !reason.trim().is_empty()),
            priority: Priority(draft.priority.unwrap_or_default()),
            concurrency: draft.concurrency,
            item_timeout: draft.item_timeout_ms.map(Duration::from_millis),
            max_attempts: draft.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT),
            budget: draft.failure_budget,
            strategy,
            may: Capabilities::default(),
        });
        faults.or(spec)
    }
}

fn check_items(names: &[String], faults: &mut Faults) -> Option<Vec<ItemName>> {
    if !(1..=ITEMS_MAX).contains(&names.len()) {
        faults.add("items", format!("must hold 1 to {ITEMS_MAX} names, holds {}", names.len()));
        return None;
    }
    let mut seen = HashMap::with_capacity(names.len());
    let mut items = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        match ItemName::new(name) {
            Ok(item) => items.push(item),
            // Without looking for repeats: a name that breaks the rules may be of any length, and is not echoed.
            Err(error) => {
                faults.add(format!("items[{i}]"), error.to_string());
                continue;
            }
        }
        if let Some(first) = seen.insert(name.as_str(), i) {
            let (field, other) = (format!("items[{i}]"), format!("items[{first}]"));
            faults.add_about(field, format!("repeats {name:?} of"), other);
        }
    }
    Some(items)
}

/// Whether a number of items at once is one that a user may ask for.
#[must_use]
pub fn is_concurrency(n: u16) -> bool {
    (1..=CONCURRENCY_MAX).contains(&n)
}

fn check_limits(draft: &Draft, faults: &mut Faults) {
    let reason_len = draft.reason.as_deref().unwrap_or_default().chars().count();
    if reason_len > REASON_LEN_MAX {
        faults.add("reason", format!("must have at most {REASON_LEN_MAX} characters, has {reason_len}"));
    }
    if draft.reason.as_deref().is_some_and(|reason| reason.contains('\0')) {
        faults.add("reason", "must not hold the character U+0000: it cannot be stored");
    }
    let limit = Priority::MAX;
    if draft.priority.is_some_and(|p| !(-limit..=limit).contains(&p)) {
        faults.add("priority", format!("must be from -{limit} to {limit}"));
    }
    if draft.concurrency.is_some_and(|n| !is_concurrency(n)) {
        faults.add("concurrency", format!("must be from 1 to {CONCURRENCY_MAX}"));
    }
    let timeout_max = u64::try_from(ITEM_TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
    if draft.item_timeout_ms.is_some_and(|ms| !(1..=timeout_max).contains(&ms)) {
        faults.add("item_timeout_ms", format!("must be from 1 to {timeout_max}"));
    }
    if draft.max_attempts.is_some_and(|n| !(1..=ATTEMPTS_MAX).contains(&n)) {
        faults.add("max_attempts", format!("must be from 1 to {ATTEMPTS_MAX}"));
    }
    if let Some(Err(why)) = draft.plan_hash.as_deref().map(str::parse::<PlanHash>) {
        faults.add("plan_hash", why);
    }
    for (field, reason) in draft.failure_budget.iter().flat_map(FailureBudget::faults) {
        faults.add(format!("failure_budget{field}"), reason);
    }
}

fn check_strategy(draft: Option<&StrategyDraft>, faults: &mut Faults) -> Option<Strategy> {
    let parsed = draft.map_or(Ok(None), Strategy::parse);
    parsed.unwrap_or_else(|found| {
        found.into_iter().for_each(|(field, reason)| faults.add(format!("strategy{field}"), reason));
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn draft() -> Draft {
        Draft {
            action: "cordon".into(),
            cluster: "prod".into(),
            items: vec!["node-1".into(), "node-2".into()],
            ..Draft::default()
        }
    }

    fn fields(draft: Draft) -> Vec<String> {
        let faults = TaskSpec::new(draft).err().map(|error| error.faults).unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn a_good_draft_becomes_a_spec() {
        let spec = TaskSpec::new(draft()).unwrap();
        assert_eq!((spec.action, spec.items.len(), spec.max_attempts), (ActionSpec::Cordon, 2, 3));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let bad = Draft {
            action: "reboot".into(),
            cluster: "a/b".into(),
            items: vec!["x".into(), String::new(), "x".into()],
            reason: Some("r".repeat(501)),
            priority: Some(101),
            concurrency: Some(0),
            item_timeout_ms: Some(0),
            max_attempts: Some(0),
            failure_budget: Some(FailureBudget { percent: Some(100), ..FailureBudget::default() }),
            strategy: Some(StrategyDraft { canary: Some(0), ..StrategyDraft::default() }),
            plan_hash: Some("x".into()),
            ..Draft::default()
        };
        let expected = [
            "action",
            "cluster",
            "items[1]",
            "items[2]",
            "reason",
            "priority",
            "concurrency",
            "item_timeout_ms",
            "max_attempts",
            "plan_hash",
            "failure_budget.percent",
            "strategy.canary",
        ];
        assert_eq!(fields(bad), expected);
    }

    #[test]
    fn a_fault_between_two_fields_names_both_and_keeps_them_apart_from_its_words() {
        let items = vec!["items[1]".into(), "x".into(), "items[1]".into()];
        let fault = TaskSpec::new(Draft { items, ..draft() }).unwrap_err().faults.remove(0);
        assert_eq!(fault.words(), "repeats \"items[1]\" of items[0]");
        let renamed = fault.renamed(|field| field.replace("items", "node_names"));
        assert_eq!(renamed.field, "node_names[2]");
        assert_eq!(renamed.words(), "repeats \"items[1]\" of node_names[0]");
    }

    #[test]
    fn a_reason_that_cannot_be_stored_is_refused_and_not_changed() {
        assert_eq!(fields(Draft { reason: Some("a\0b".into()), ..draft() }), ["reason"]);
    }

    #[test]
    fn names_that_break_the_rules_are_not_echoed() {
        let items = vec!["x".repeat(1_000_000); 2];
        let error = TaskSpec::new(Draft { items, ..draft() }).unwrap_err();
        assert!(error.faults.len() == 2 && error.to_string().len() < 1_000);
    }

    #[test]
    fn the_number_of_items_is_bounded_on_both_sides() {
        let with = |n: usize| Draft { items: (0..n).map(|i| format!("n{i}")).collect(), ..draft() };
        assert_eq!(fields(with(0)), ["items"]);
        assert_eq!(fields(with(ITEMS_MAX + 1)), ["items"]);
        assert!(fields(with(ITEMS_MAX)).is_empty());
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        let with = |change: fn(&mut Draft)| {
            let mut draft = draft();
            change(&mut draft);
            fields(draft)
        };
        let at_the_edge = |draft: &mut Draft| {
            draft.reason = Some("é".repeat(REASON_LEN_MAX));
            draft.priority = Some(-Priority::MAX);
            draft.concurrency = Some(CONCURRENCY_MAX);
            draft.item_timeout_ms = Some(86_400_000);
            draft.max_attempts = Some(ATTEMPTS_MAX);
            draft.items = vec!["n".repeat(253)];
        };
        assert!(with(at_the_edge).is_empty());
        assert_eq!(with(|d| d.priority = Some(-101)), ["priority"]);
        assert_eq!(with(|d| d.concurrency = Some(1_001)), ["concurrency"]);
        assert_eq!(with(|d| d.item_timeout_ms = Some(86_400_001)), ["item_timeout_ms"]);
        assert_eq!(with(|d| d.max_attempts = Some(101)), ["max_attempts"]);
        assert_eq!(with(|d| d.items = vec!["n".repeat(254)]), ["items[0]"]);
    }

    #[test]
    fn parameters_are_bounded() {
        let labels = |n: usize| {
            let labels: serde_json::Map<_, _> = (0..n).map(|i| (format!("l{i}"), json!("v"))).collect();
            ActionSpec::parse("label", &json!({"labels": labels})).is_ok()
        };
        assert_eq!((labels(PARAMETERS_MAX), labels(PARAMETERS_MAX + 1)), (true, false));
        let value = |n: usize| ActionSpec::parse("label", &json!({"labels": {"a": "v".repeat(n)}})).is_ok();
        assert_eq!((value(63), value(64)), (true, false));
        let wait = |ms: u64| ActionSpec::parse("wait", &json!({"duration_ms": ms})).is_ok();
        assert_eq!((wait(3_600_000), wait(3_600_001)), (true, false));
        assert!(ActionSpec::parse("reboot", &json!({})).is_err());
    }

    #[test]
    fn the_list_of_faults_is_bounded() {
        let bad = Draft { items: vec!["same".into(); 1_000], ..draft() };
        assert_eq!(fields(bad).len(), fault::FAULTS_MAX);
    }

    #[test]
    fn parameters_follow_the_kubernetes_grammar() {
        let parse = |name: &str, parameters: Value| {
            ActionSpec::parse(name, &parameters).map_err(|e| e.faults[0].field.clone())
        };
        assert!(parse("label", json!({"labels": {"example.com/tier": "gold", "empty": ""}})).is_ok());
        assert_eq!(parse("label", json!({"labels": {}})), Err("parameters.labels".into()));
        assert_eq!(parse("label", json!({"labels": {"-a": "x"}})), Err("parameters.labels.-a".into()));
        assert_eq!(parse("label", json!({"labels": {"a": "x y"}})), Err("parameters.labels.a".into()));
        assert_eq!(parse("label", json!({"lables": {"a": "b"}})), Err("parameters".into()));
        assert_eq!(parse("cordon", json!({"force": true})), Err("parameters".into()));
        let twice = json!({"taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]});
        assert_eq!(parse("taint", twice), Err("parameters.taints[1]".into()));
        assert!(parse("untaint", json!({"taints": [{"key": "a"}]})).is_ok());
    }

    #[test]
    fn annotations_hold_any_text_up_to_a_bound() {
        let parse = |key: &str, value: String| {
            ActionSpec::parse("annotate", &json!({"annotations": {key: value}}))
                .map_err(|e| e.faults[0].field.clone())
        };
        assert!(parse("example.com/note", "free text: é, \"quotes\"".into()).is_ok());
        assert!(parse("note", "x".repeat(ANNOTATION_BYTES_MAX)).is_ok());
        assert_eq!(
            parse("note", "x".repeat(ANNOTATION_BYTES_MAX + 1)),
            Err("parameters.annotations.note".into())
        );
        assert_eq!(parse("a b", String::new()), Err("parameters.annotations.a b".into()));
        assert!(ActionSpec::parse("copy_taints", &json!({"from": "node-1"})).is_ok());
        assert!(ActionSpec::parse("copy_taints", &json!({"from": ""})).is_err());
    }

    #[test]
    fn an_uncordon_is_of_one_task_or_of_everybody() {
        let id = crate::task::TaskId::generate();
        let parse = |parameters: Value| ActionSpec::parse("uncordon", &parameters);
        assert_eq!(parse(json!({})).unwrap().parameters(), json!({}));
        assert_eq!(parse(json!({"foreign": true})).unwrap().parameters(), json!({"foreign": true}));
        let of_task = parse(json!({"of_task": id, "foreign": false})).unwrap();
        assert_eq!(of_task.parameters(), json!({"of_task": id}));
        let both = parse(json!({"of_task": id, "foreign": true})).unwrap_err();
        assert_eq!(both.faults[0].field, "parameters.foreign");
        let bad = parse(json!({"of_task": "7"})).unwrap_err().to_string();
        assert!(bad.contains("of_task is not a task id"), "{bad}");
    }

    #[test]
    fn an_action_survives_storage() {
        let parameters =
            json!({"taints": [{"key": "a", "value": "b", "effect": "NoExecute"}], "overwrite": true});
        let action = ActionSpec::parse("taint", &parameters).unwrap();
        assert_eq!(ActionSpec::parse(action.name(), &action.parameters()), Ok(action));
    }

    proptest! {
        #[test]
        fn no_draft_panics(action in "\\PC{0,12}", cluster in "\\PC{0,70}", items in prop::collection::vec("\\PC{0,8}", 0..20)) {
            let spec = TaskSpec::new(Draft { action, cluster, items: items.clone(), ..Draft::default() });
            if let Ok(spec) = spec {
                prop_assert_eq!(spec.items.len(), items.len());
            }
        }
    }
}
