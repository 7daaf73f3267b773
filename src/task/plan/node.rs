//! The part of a plan that is about one node.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest value that a plan shows, in characters. Of a longer one it shows the beginning and a hash of the whole.
const SHOWN_MAX: usize = 200;

/// What would become of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// The wave it is in, from 1.
    pub wave: u32,
    /// What it comes to.
    pub outcome: Outcome,
    /// The same in a sentence.
    pub says: String,
    /// Which node it is: a later one of the same name has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// How it is now; left out when it could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<NodeNow>,
    /// What would be written to the node itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// Its pods by what becomes of them; only of a drain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodGroup>,
    /// Disruption budgets that would hold pods back now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetHold>,
    /// What is to be known about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Stands for what would be done to it.
    pub digest: String,
    /// Whose pods would go, one entry per pod; see [`super::seal`].
    #[serde(skip)]
    pub evicts: Vec<String>,
}

impl NodePlan {
    /// An item of which only this is known.
    #[must_use]
    pub fn new(name: &str, outcome: Outcome, says: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            wave: 1,
            outcome,
            says: says.into(),
            uid: None,
            now: None,
            changes: Vec::new(),
            pods: Vec::new(),
            budgets: Vec::new(),
            warnings: Vec::new(),
            digest: String::new(),
            evicts: Vec::new(),
        }
    }

    /// How many of its pods have this fate.
    #[must_use]
    pub fn pods(&self, fate: Fate) -> u32 {
        self.pods.iter().filter(|group| group.fate == fate).map(|group| group.count).sum()
    }
}

/// What an item would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It would be changed.
    Change,
    /// It is as asked for.
    Already,
    /// It would be left alone on purpose.
    Skip,
    /// It would fail.
    Fail,
    /// It does not exist, and would fail.
    Missing,
    /// It could not be looked at.
    Unknown,
}

impl Outcome {
    /// The word used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Already => "already",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// A node as it is, in brief.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNow {
    /// Whether its `Ready` condition is true.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// By whom and why, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<String>,
    /// Its roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Its zone, if it says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl NodeNow {
    /// Whether it is a node of the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.roles.iter().any(|role| role == "control-plane" || role == "master")
    }
}

impl fmt::Display for NodeNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        if self.unschedulable {
            f.write_str(", cordoned")?;
        }
        Ok(())
    }
}

/// What is changed of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// `spec.unschedulable`: `true`, or not set.
    Unschedulable,
    /// A label, by its key.
    Label,
    /// An annotation, by its key.
    Annotation,
    /// A taint, by its key and effect.
    Taint,
}

/// One thing that would be written to a node. A value that is left out is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FieldChange {
    /// What of the node.
    pub field: Field,
    /// Which: the key of a label or an annotation, `key:effect` of a taint; empty for `unschedulable`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The value after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// There is a value after that nobody knows before it is done: the id of the task, the time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_run: bool,
}

impl FieldChange {
    /// A change of a value; `None` when it stays as it is.
    #[must_use]
    pub fn new(field: Field, key: &str, before: Option<&str>, after: Option<&str>) -> Option<Self> {
        let key = key.to_owned();
        let changed = Self { field, key, before: before.map(shown), after: after.map(shown), at_run: false };
        (before != after).then_some(changed)
    }

    /// A change to what is known only when it is done.
    #[must_use]
    pub fn at_run(field: Field, key: &str, before: Option<&str>) -> Self {
        Self { field, key: key.to_owned(), before: before.map(shown), after: None, at_run: true }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.field {
            Field::Unschedulable => {
                return f.write_str(if self.after.is_some() { "cordon" } else { "uncordon" });
            }
            Field::Label => "label",
            Field::Annotation => "annotation",
            Field::Taint => "taint",
        };
        let key = &self.key;
        match (&self.before, &self.after) {
            _ if self.at_run => write!(f, "set {what} {key}"),
            (None, Some(after)) if after.is_empty() => write!(f, "add {what} {key}"),
            (None, Some(after)) => write!(f, "add {what} {key}={after}"),
            (Some(_), None) => write!(f, "remove {what} {key}"),
            (Some(before), Some(after)) => write!(f, "change {what} {key} from {before:?} to {after:?}"),
            (None, None) => write!(f, "leave {what} {key}"),
        }
    }
}

/// A value as it is, or what stands for one that is too long to show. No value that is shown whole looks like the latter.
fn shown(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(SHOWN_MAX) else { return text.to_owned() };
    let hash = super::seal::hex(&Sha256::digest(text)[..8]);
    format!("{}… ({} bytes, sha256 {hash})", &text[..end], text.len())
}

/// What becomes of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// They keep the node from being drained.
    Refuse,
    /// They are evicted.
    Evict,
    /// They stay where they are.
    Leave,
}

/// What pods are, as far as a drain asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodClass {
    /// Their controller makes them anew elsewhere.
    Ordinary,
    /// They have ended.
    Finished,
    /// They are on their way out.
    Terminating,
    /// They have `emptyDir` volumes, whose data is lost.
    EmptyDir,
    /// Nothing makes them anew.
    Unmanaged,
    /// They are of a `DaemonSet`.
    DaemonSet,
    /// Their `DaemonSet` is gone.
    Orphan,
    /// Their `DaemonSet` could not be read.
    Unclear,
    /// The kubelet runs them from files.
    Mirror,
}

impl PodClass {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Ordinary => "come back elsewhere",
            Self::Finished => "finished",
            Self::Terminating => "terminating",
            Self::EmptyDir => "lose emptyDir data",
            Self::Unmanaged => "nothing makes them anew",
            Self::DaemonSet => "of DaemonSets",
            Self::Orphan => "of DaemonSets that are gone",
            Self::Unclear => "of DaemonSets that cannot be read",
            Self::Mirror => "mirrors",
        }
    }
}

/// Pods of one node that share their fate and what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodGroup {
    /// What becomes of them.
    pub fate: Fate,
    /// What they are.
    pub class: PodClass,
    /// How many.
    pub count: u32,
    /// The first of them as `namespace/name`, sorted.
    pub names: Vec<String>,
}

/// A disruption budget that would hold pods of a node back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetHold {
    /// The budget as `namespace/name`; of several that cover the same pod all names, with commas.
    pub budget: String,
    /// Pods of the node that it covers and that would be evicted.
    pub pods: u32,
    /// How many it lets go now.
    pub allowed: u32,
    /// Whether not one of them can go as things are.
    pub blocks: bool,
    /// Why, in a sentence.
    pub why: String,
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_change_is_words_too() {
        let change =
            |field, before, after| FieldChange::new(field, "k", before, after).map(|c| c.to_string());
        assert_eq!(change(Field::Label, None, Some("v")).unwrap(), "add label k=v");
        assert_eq!(change(Field::Taint, None, Some("")).unwrap(), "add taint k");
        assert_eq!(change(Field::Label, Some("a"), Some("b")).unwrap(), r#"change label k from "a" to "b""#);
        assert_eq!(change(Field::Annotation, Some("a"), None).unwrap(), "remove annotation k");
        assert_eq!(change(Field::Label, Some("a"), Some("a")), None);
        assert_eq!(change(Field::Unschedulable, None, Some("true")).unwrap(), "cordon");
        assert_eq!(change(Field::Unschedulable, Some("true"), None).unwrap(), "uncordon");
        assert_eq!(FieldChange::at_run(Field::Annotation, "k", None).to_string(), "set annotation k");
    }

    #[test]
    fn a_long_value_is_shown_in_part_and_told_from_any_other() {
        let long = "x".repeat(1_000);
        let (a, b) = (shown(&format!("{long}a")), shown(&format!("{long}b")));
        assert!(a != b && a.len() < 300, "{a}");
        assert_eq!(shown("short"), "short");
        assert_eq!(shown(&"é".repeat(SHOWN_MAX)), "é".repeat(SHOWN_MAX));
    }
}
