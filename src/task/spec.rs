//! What a user may ask for: a draft as it came in, and the specification it becomes once every rule holds.
//!
//! All faults of a draft are found at once, and each names its field. Label and taint grammar follows the Kubernetes
//! API conventions ("Labels and Selectors", "Taints and Tolerations"). Not here: whether the cluster exists and
//! whether the user may do this (gateway).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClusterName, ItemName};

/// Most items in one task.
pub const ITEMS_MAX: usize = 100_000;
/// Longest reason, in characters.
pub const REASON_LEN_MAX: usize = 500;
/// Most labels or taints in one task.
pub const PARAMETERS_MAX: usize = 32;
/// Most lanes a task may ask for.
pub const CONCURRENCY_MAX: u16 = 1_000;
/// Longest time-out of an item.
pub const ITEM_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most claims a task may ask for.
pub const ATTEMPTS_MAX: u16 = 100;
/// Faults reported of one draft; further ones are counted only.
const FAULTS_MAX: usize = 20;

/// One thing that is wrong with a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The field, such as `items[3]` or `parameters.labels`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// Everything that is wrong with a draft (at least one fault; at most 20 are listed).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The faults found, in the order of the fields.
    pub faults: Vec<Fault>,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            let comma = if i == 0 { "" } else { "; " };
            write!(f, "{comma}{} {}", fault.field, fault.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// Higher is claimed first among the tasks of one user: -100..=100, 0 by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i16);

impl Priority {
    /// The largest distance from 0.
    pub const MAX: i16 = 100;
}

/// A taint as a user names it: identity is key and effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Key, with the grammar of a label key.
    pub key: String,
    /// Value, empty by default.
    #[serde(default)]
    pub value: String,
    /// What it does to pods.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaintEffect {
    /// New pods are not scheduled here.
    NoSchedule,
    /// New pods are scheduled elsewhere if possible.
    PreferNoSchedule,
    /// Running pods are evicted as well.
    NoExecute,
}

impl TaintEffect {
    /// The word the Kubernetes API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// Which taints to remove: all of a key, or the one with this effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaintRef {
    /// Key of the taint.
    pub key: String,
    /// Effect of the taint; every effect when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// What to do to each item. The variant's parameters are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", content = "parameters", rename_all = "snake_case")]
pub enum ActionSpec {
    /// Make a node unschedulable.
    Cordon,
    /// Make a node schedulable.
    Uncordon,
    /// Set labels on a node.
    Label(LabelParameters),
    /// Remove labels from a node.
    Unlabel(UnlabelParameters),
    /// Set taints on a node.
    Taint(TaintParameters),
    /// Remove taints from a node.
    Untaint(UntaintParameters),
    /// Wait, and do nothing else: for demos, load tests and trying Milepost without a cluster.
    Wait(WaitParameters),
}

/// Parameters of `label`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelParameters {
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Whether an existing label with another value may be changed.
    #[serde(default)]
    pub overwrite: bool,
}

/// Parameters of `unlabel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlabelParameters {
    /// Keys of the labels to remove.
    pub keys: Vec<String>,
}

/// Parameters of `taint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaintParameters {
    /// Taints to set.
    pub taints: Vec<Taint>,
    /// Whether an existing taint of the same key and effect may get another value.
    #[serde(default)]
    pub overwrite: bool,
}

/// Parameters of `untaint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UntaintParameters {
    /// Taints to remove.
    pub taints: Vec<TaintRef>,
}

/// Parameters of `wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitParameters {
    /// How long each item takes, in milliseconds; at most an hour.
    #[serde(default)]
    pub duration_ms: u64,
    /// Every n-th item (by its index) fails; 0 for none.
    #[serde(default)]
    pub fail_every: u32,
}

/// Names of all actions, as used in requests.
pub const ACTIONS: [&str; 7] = ["cordon", "uncordon", "label", "unlabel", "taint", "untaint", "wait"];

impl ActionSpec {
    /// The action's name, as used in requests and events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cordon => "cordon",
            Self::Uncordon => "uncordon",
            Self::Label(_) => "label",
            Self::Unlabel(_) => "unlabel",
            Self::Taint(_) => "taint",
            Self::Untaint(_) => "untaint",
            Self::Wait(_) => "wait",
        }
    }

    /// The parameters as a JSON object, for storage; `{}` for an action without any.
    #[must_use]
    pub fn parameters(&self) -> Value {
        let parameters = match self {
            Self::Cordon | Self::Uncordon => Ok(Value::Object(serde_json::Map::new())),
            Self::Label(p) => serde_json::to_value(p),
            Self::Unlabel(p) => serde_json::to_value(p),
            Self::Taint(p) => serde_json::to_value(p),
            Self::Untaint(p) => serde_json::to_value(p),
            Self::Wait(p) => serde_json::to_value(p),
        };
        parameters.expect("parameters are plain maps, lists and texts")
    }

    /// Reads an action from its name and parameters, checking both.
    ///
    /// # Errors
    /// Every fault found; fields are `action` and `parameters...`.
    pub fn parse(name: &str, parameters: &Value) -> Result<Self, SpecError> {
        let mut faults = Faults::default();
        let action = parse_action(name, parameters, &mut faults);
        if let Some(action) = &action {
            check_action(action, &mut faults);
        }
        faults.or(action)
    }
}

fn parse_action(name: &str, parameters: &Value, faults: &mut Faults) -> Option<ActionSpec> {
    match name {
        "cordon" => no_parameters(parameters, faults).map(|()| ActionSpec::Cordon),
        "uncordon" => no_parameters(parameters, faults).map(|()| ActionSpec::Uncordon),
        "label" => read(parameters, faults).map(ActionSpec::Label),
        "unlabel" => read(parameters, faults).map(ActionSpec::Unlabel),
        "taint" => read(parameters, faults).map(ActionSpec::Taint),
        "untaint" => read(parameters, faults).map(ActionSpec::Untaint),
        "wait" => read(parameters, faults).map(ActionSpec::Wait),
        _ => {
            faults.add("action", format!("must be one of {}", ACTIONS.join(", ")));
            None
        }
    }
}

fn no_parameters(parameters: &Value, faults: &mut Faults) -> Option<()> {
    match parameters {
        Value::Null => Some(()),
        Value::Object(map) if map.is_empty() => Some(()),
        _ => {
            faults.add("parameters", "must be left out: this action takes none");
            None
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(parameters: &Value, faults: &mut Faults) -> Option<T> {
    let object =
        if parameters.is_null() { Value::Object(serde_json::Map::new()) } else { parameters.clone() };
    serde_json::from_value(object)
        .map_err(|error| faults.add("parameters", format!("cannot be read: {error}")))
        .ok()
}

fn check_action(action: &ActionSpec, faults: &mut Faults) {
    match action {
        ActionSpec::Cordon | ActionSpec::Uncordon => {}
        ActionSpec::Label(p) => {
            check_size("parameters.labels", p.labels.len(), faults);
            for (key, value) in &p.labels {
                check_label_key(&format!("parameters.labels.{key}"), key, faults);
                check_label_value(&format!("parameters.labels.{key}"), value, faults);
            }
        }
        ActionSpec::Unlabel(p) => {
            check_size("parameters.keys", p.keys.len(), faults);
            for (i, key) in p.keys.iter().enumerate() {
                check_label_key(&format!("parameters.keys[{i}]"), key, faults);
            }
        }
        ActionSpec::Taint(p) => check_taints(p, faults),
        ActionSpec::Untaint(p) => {
            check_size("parameters.taints", p.taints.len(), faults);
            for (i, taint) in p.taints.iter().enumerate() {
                check_label_key(&format!("parameters.taints[{i}].key"), &taint.key, faults);
            }
        }
        ActionSpec::Wait(p) => {
            if p.duration_ms > 3_600_000 {
                faults.add("parameters.duration_ms", "must be at most 3600000");
            }
        }
    }
}

fn check_taints(parameters: &TaintParameters, faults: &mut Faults) {
    check_size("parameters.taints", parameters.taints.len(), faults);
    let mut seen = HashMap::new();
    for (i, taint) in parameters.taints.iter().enumerate() {
        let field = format!("parameters.taints[{i}]");
        check_label_key(&format!("{field}.key"), &taint.key, faults);
        check_label_value(&format!("{field}.value"), &taint.value, faults);
        if let Some(first) = seen.insert((taint.key.as_str(), taint.effect), i) {
            faults.add(field, format!("repeats the key and effect of parameters.taints[{first}]"));
        }
    }
}

fn check_size(field: &str, len: usize, faults: &mut Faults) {
    if !(1..=PARAMETERS_MAX).contains(&len) {
        faults.add(field, format!("must hold 1 to {PARAMETERS_MAX} entries, holds {len}"));
    }
}

/// A label key: an optional DNS subdomain and `/`, then a name of at most 63 characters.
fn check_label_key(field: &str, key: &str, faults: &mut Faults) {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_ok = prefix.is_none_or(is_dns_subdomain);
    if !prefix_ok || name.is_empty() || !is_label_text(name) {
        faults.add(
            field,
            "must be a label key: an optional DNS name and '/', then at most 63 letters, digits, '-', '_' or '.', \
             beginning and ending with a letter or digit",
        );
    }
}

fn check_label_value(field: &str, value: &str, faults: &mut Faults) {
    if !is_label_text(value) {
        faults.add(
            field,
            "must be a label value: empty, or at most 63 letters, digits, '-', '_' or '.', beginning and ending \
             with a letter or digit",
        );
    }
}

fn is_label_text(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|&b| inner(b)) && edge(bytes.first()) && edge(bytes.last())
}

fn is_dns_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
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
        let spec = action.zip(cluster).zip(items).map(|((action, cluster), items)| Self {
            action,
            cluster,
            items,
            reason: draft.reason.filter(|reason| !reason.trim().is_empty()),
            priority: Priority(draft.priority.unwrap_or_default()),
            concurrency: draft.concurrency,
            item_timeout: draft.item_timeout_ms.map(Duration::from_millis),
            max_attempts: draft.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT),
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
            Err(error) => faults.add(format!("items[{i}]"), error.to_string()),
        }
        if let Some(first) = seen.insert(name.as_str(), i) {
            faults.add(format!("items[{i}]"), format!("repeats items[{first}], {name:?}"));
        }
    }
    Some(items)
}

fn check_limits(draft: &Draft, faults: &mut Faults) {
    let reason_len = draft.reason.as_deref().unwrap_or_default().chars().count();
    if reason_len > REASON_LEN_MAX {
        faults.add("reason", format!("must have at most {REASON_LEN_MAX} characters, has {reason_len}"));
    }
    let limit = Priority::MAX;
    if draft.priority.is_some_and(|p| !(-limit..=limit).contains(&p)) {
        faults.add("priority", format!("must be from -{limit} to {limit}"));
    }
    if draft.concurrency.is_some_and(|n| !(1..=CONCURRENCY_MAX).contains(&n)) {
        faults.add("concurrency", format!("must be from 1 to {CONCURRENCY_MAX}"));
    }
    let timeout_max = u64::try_from(ITEM_TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
    if draft.item_timeout_ms.is_some_and(|ms| !(1..=timeout_max).contains(&ms)) {
        faults.add("item_timeout_ms", format!("must be from 1 to {timeout_max}"));
    }
    if draft.max_attempts.is_some_and(|n| !(1..=ATTEMPTS_MAX).contains(&n)) {
        faults.add("max_attempts", format!("must be from 1 to {ATTEMPTS_MAX}"));
    }
}

/// Faults as they are found. Bounded, so that 100,000 bad names do not make a large answer.
#[derive(Default)]
struct Faults {
    listed: Vec<Fault>,
}

impl Faults {
    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        if self.listed.len() < FAULTS_MAX {
            self.listed.push(Fault { field: field.into(), reason: reason.into() });
        }
    }

    fn field<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error.to_string())).ok()
    }

    fn take<T>(&mut self, result: Result<T, SpecError>) -> Option<T> {
        result.map_err(|error| error.faults.into_iter().for_each(|f| self.add(f.field, f.reason))).ok()
    }

    fn or<T>(self, value: Option<T>) -> Result<T, SpecError> {
        match value {
            Some(value) if self.listed.is_empty() => Ok(value),
            _ => Err(SpecError { faults: self.listed }),
        }
    }
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
        ];
        assert_eq!(fields(bad), expected);
    }

    #[test]
    fn the_number_of_items_is_bounded_on_both_sides() {
        let with = |n: usize| Draft { items: (0..n).map(|i| format!("n{i}")).collect(), ..draft() };
        assert_eq!(fields(with(0)), ["items"]);
        assert_eq!(fields(with(ITEMS_MAX + 1)), ["items"]);
        assert!(fields(with(ITEMS_MAX)).is_empty());
    }

    #[test]
    fn the_list_of_faults_is_bounded() {
        let bad = Draft { items: vec!["same".into(); 1_000], ..draft() };
        assert_eq!(fields(bad).len(), FAULTS_MAX);
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
