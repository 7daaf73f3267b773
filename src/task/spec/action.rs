//! The actions and their parameters: reading them, and checking them.
//!
//! Label and taint grammar follows the Kubernetes API conventions ("Labels and Selectors", "Taints and Tolerations").
//! Not here: what an action does to an item ([`crate::action`]).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SpecError;
use super::drain::{self, DrainParameters};
use super::fault::Faults;
use crate::task::{ItemName, TaskId};

/// Most labels or taints in one task.
pub const PARAMETERS_MAX: usize = 32;

/// Longest value of an annotation, in bytes: Kubernetes allows all annotations of an object 256 KiB together.
pub const ANNOTATION_BYTES_MAX: usize = 4 * 1024;

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
    Uncordon(UncordonParameters),
    /// Make a node unschedulable and evict its pods.
    Drain(DrainParameters),
    /// Set labels on a node.
    Label(LabelParameters),
    /// Remove labels from a node.
    Unlabel(UnlabelParameters),
    /// Set taints on a node.
    Taint(TaintParameters),
    /// Remove taints from a node.
    Untaint(UntaintParameters),
    /// Copy the taints of one node to others.
    CopyTaints(CopyTaintsParameters),
    /// Set annotations on a node.
    Annotate(AnnotateParameters),
    /// Remove annotations from a node.
    Unannotate(UnannotateParameters),
    /// Wait, and do nothing else: for demos, load tests and trying Milepost without a cluster.
    Wait(WaitParameters),
}

/// Parameters of `uncordon`. What is left out is not stored, so that older workers can read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UncordonParameters {
    /// Whether cordons that Milepost did not make are undone too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// Undo the cordons of this task alone: to roll a batch back.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "task_id")]
    pub of_task: Option<TaskId>,
}

/// Reads a task id with an error that names the field.
fn task_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<TaskId>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let id = text.map(|text| text.parse().map_err(|error| format!("of_task {error}")));
    id.transpose().map_err(serde::de::Error::custom)
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

/// Parameters of `copy_taints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyTaintsParameters {
    /// The node whose taints are copied.
    pub from: ItemName,
    /// Whether an existing taint of the same key and effect may get another value.
    #[serde(default)]
    pub overwrite: bool,
}

/// Parameters of `annotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnotateParameters {
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
    /// Whether an existing annotation with another value may be changed.
    #[serde(default)]
    pub overwrite: bool,
}

/// Parameters of `unannotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnannotateParameters {
    /// Keys of the annotations to remove.
    pub keys: Vec<String>,
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
pub const ACTIONS: [&str; 11] = [
    "cordon",
    "uncordon",
    "drain",
    "label",
    "unlabel",
    "taint",
    "untaint",
    "copy_taints",
    "annotate",
    "unannotate",
    "wait",
];

impl ActionSpec {
    /// The action's name, as used in requests and events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cordon => "cordon",
            Self::Uncordon(_) => "uncordon",
            Self::Drain(_) => "drain",
            Self::Label(_) => "label",
            Self::Unlabel(_) => "unlabel",
            Self::Taint(_) => "taint",
            Self::Untaint(_) => "untaint",
            Self::CopyTaints(_) => "copy_taints",
            Self::Annotate(_) => "annotate",
            Self::Unannotate(_) => "unannotate",
            Self::Wait(_) => "wait",
        }
    }

    /// The parameters as a JSON object, for storage; `{}` for an action without any.
    #[must_use]
    pub fn parameters(&self) -> Value {
        let parameters = match self {
            Self::Cordon => Ok(Value::Object(serde_json::Map::new())),
            Self::Uncordon(p) => serde_json::to_value(p),
            Self::Drain(p) => serde_json::to_value(p),
            Self::Label(p) => serde_json::to_value(p),
            Self::Unlabel(p) => serde_json::to_value(p),
            Self::Taint(p) => serde_json::to_value(p),
            Self::Untaint(p) => serde_json::to_value(p),
            Self::CopyTaints(p) => serde_json::to_value(p),
            Self::Annotate(p) => serde_json::to_value(p),
            Self::Unannotate(p) => serde_json::to_value(p),
            Self::Wait(p) => serde_json::to_value(p),
        };
        parameters.expect("parameters are plain maps, lists and texts")
    }

    /// The time-out of one item, for an action that knows better than the worker's setting for quick ones.
    #[must_use]
    pub fn item_timeout(&self) -> Option<Duration> {
        match self {
            Self::Drain(parameters) => Some(parameters.item_timeout()),
            _ => None,
        }
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
        "uncordon" => read(parameters, faults).map(ActionSpec::Uncordon),
        "drain" => read(parameters, faults).map(ActionSpec::Drain),
        "label" => read(parameters, faults).map(ActionSpec::Label),
        "unlabel" => read(parameters, faults).map(ActionSpec::Unlabel),
        "taint" => read(parameters, faults).map(ActionSpec::Taint),
        "untaint" => read(parameters, faults).map(ActionSpec::Untaint),
        "copy_taints" => read(parameters, faults).map(ActionSpec::CopyTaints),
        "annotate" => read(parameters, faults).map(ActionSpec::Annotate),
        "unannotate" => read(parameters, faults).map(ActionSpec::Unannotate),
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
        ActionSpec::Cordon => {}
        ActionSpec::Uncordon(p) => {
            if p.foreign && p.of_task.is_some() {
                faults.add(
                    "parameters.foreign",
                    "must be left out with of_task: a task's cordons are none of others",
                );
            }
        }
        ActionSpec::Drain(p) => drain::check(p, faults),
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
        ActionSpec::CopyTaints(_) => {}
        ActionSpec::Annotate(p) => check_annotations(&p.annotations, faults),
        ActionSpec::Unannotate(p) => {
            check_size("parameters.keys", p.keys.len(), faults);
            for (i, key) in p.keys.iter().enumerate() {
                check_label_key(&format!("parameters.keys[{i}]"), key, faults);
            }
        }
        ActionSpec::Wait(p) => {
            if p.duration_ms > 3_600_000 {
                faults.add("parameters.duration_ms", "must be at most 3600000");
            }
        }
    }
}

fn check_annotations(annotations: &BTreeMap<String, String>, faults: &mut Faults) {
    check_size("parameters.annotations", annotations.len(), faults);
    for (key, value) in annotations {
        let field = format!("parameters.annotations.{key}");
        check_label_key(&field, key, faults);
        if value.len() > ANNOTATION_BYTES_MAX {
            faults
                .add(&field, format!("must have at most {ANNOTATION_BYTES_MAX} bytes, has {}", value.len()));
        }
        if value.contains('\0') {
            faults.add(field, "must not contain '\\0'");
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
            let other = format!("parameters.taints[{first}]");
            faults.add_about(field, "repeats the key and effect of", other);
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
    if !is_label_key(key) {
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

pub(super) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_text(name)
}

pub(super) fn is_label_text(text: &str) -> bool {
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
