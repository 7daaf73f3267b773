//! Which nodes somebody asks for. Pure: a draft as it came in becomes a filter, or every fault of it is named.
//!
//! All parts that are given must hold. Inside a part, `status` and `taint` want every one of their entries, `role` wants
//! one of them.

use serde::{Deserialize, Serialize};

use super::NodeView;
use crate::task::{Fault, Selector};

/// Entries of one part.
const ENTRIES_MAX: usize = 20;
/// Longest text of a part, in bytes.
const LEN_MAX: usize = 1_000;
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const STATUSES: &str = "ready, not-ready, cordoned or schedulable";

/// A filter as a user writes it. What is left out, or empty, asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterDraft {
    /// `ready`, `not-ready`, `cordoned`, `schedulable`; several with commas, all of which must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Roles, with commas; a node needs one of them. `none` for nodes without a role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A label selector as kubectl takes it: `app=web,tier!=gold,zone in (a,b),!old`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `key`, `key=value`, `key:effect` or `key=value:effect`; several with commas, all of which must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taint: Option<String>,
    /// Part of the reason of a cordon, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Part of the name, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A filter that can be applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFilter {
    statuses: Vec<NodeStatus>,
    roles: Vec<String>,
    selector: Option<Selector>,
    taints: Vec<TaintPattern>,
    reason: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeStatus {
    Ready,
    NotReady,
    Cordoned,
    Schedulable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TaintPattern {
    key: String,
    value: Option<String>,
    effect: Option<String>,
}

impl NodeFilter {
    /// Reads a draft.
    ///
    /// # Errors
    /// Every fault, each with its field and what would be right.
    pub fn new(draft: &FilterDraft) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let filter = Self {
            statuses: entries(&mut faults, "status", draft.status.as_deref(), status),
            roles: entries(&mut faults, "role", draft.role.as_deref(), |role| Ok(role.to_owned())),
            selector: given(draft.selector.as_deref())
                .and_then(|text| noted(&mut faults, "selector", Selector::parse(text))),
            taints: entries(&mut faults, "taint", draft.taint.as_deref(), TaintPattern::parse),
            reason: part(&mut faults, "reason", draft.reason.as_deref()),
            name: part(&mut faults, "name", draft.name.as_deref()),
        };
        for (one, other) in [("ready", "not-ready"), ("cordoned", "schedulable")] {
            let both =
                [one, other].map(|word| status(word).is_ok_and(|kind| filter.statuses.contains(&kind)));
            if both == [true, true] {
                faults.push(Fault::new(
                    "status",
                    format!("asks for {one} and {other}, which no node is: give one"),
                ));
            }
        }
        if faults.is_empty() { Ok(filter) } else { Err(faults) }
    }

    /// Whether it lets every node pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a node is asked for.
    #[must_use]
    pub fn matches(&self, node: &NodeView) -> bool {
        let holds = |wanted: &Option<String>, text: &str| {
            wanted.as_ref().is_none_or(|part| text.to_lowercase().contains(part.as_str()))
        };
        self.statuses.iter().all(|status| status.holds(node))
            && (self.roles.is_empty() || self.roles.iter().any(|role| has_role(node, role)))
            && self.selector.as_ref().is_none_or(|selector| selector.matches(&node.labels))
            && self.taints.iter().all(|wanted| node.taints.iter().any(|taint| wanted.matches(taint)))
            && holds(&self.reason, node.cordon_reason.as_deref().unwrap_or_default())
            && holds(&self.name, &node.name)
    }
}

impl NodeStatus {
    fn holds(self, node: &NodeView) -> bool {
        match self {
            Self::Ready => node.ready,
            Self::NotReady => !node.ready,
            Self::Cordoned => node.unschedulable,
            Self::Schedulable => !node.unschedulable,
        }
    }
}

impl TaintPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (rest, effect) = match text.split_once(':') {
            None => (text, None),
            Some((rest, effect)) => (rest, Some(effect)),
        };
        if let Some(effect) = effect.filter(|effect| !EFFECTS.contains(effect)) {
            return Err(format!("has the effect {effect:?}: write {}", EFFECTS.join(", ")));
        }
        let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value)));
        if key.is_empty() {
            return Err(format!(
                "must name a key, as in gpu, gpu=yes or gpu=yes:NoSchedule, and {text:?} does not"
            ));
        }
        Ok(Self { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.map(str::to_owned) })
    }

    /// Whether a taint, as `key=value:effect`, is meant.
    fn matches(&self, taint: &str) -> bool {
        let (rest, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        let is = |wanted: &Option<String>, there: &str| wanted.as_ref().is_none_or(|wanted| wanted == there);
        self.key == key && is(&self.value, value) && is(&self.effect, effect)
    }
}

fn has_role(node: &NodeView, role: &str) -> bool {
    if role == "none" { node.roles.is_empty() } else { node.roles.iter().any(|has| has == role) }
}

fn status(word: &str) -> Result<NodeStatus, String> {
    match word {
        "ready" => Ok(NodeStatus::Ready),
        "not-ready" => Ok(NodeStatus::NotReady),
        "cordoned" => Ok(NodeStatus::Cordoned),
        "schedulable" => Ok(NodeStatus::Schedulable),
        _ => Err(format!("must be {STATUSES}, and {word:?} is none of them")),
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// The value, unless there is a fault to note.
fn noted<T>(faults: &mut Vec<Fault>, field: &str, read: Result<T, String>) -> Option<T> {
    read.map_err(|why| faults.push(Fault::new(field, why))).ok()
}

fn bounded<'a>(faults: &mut Vec<Fault>, field: &str, text: Option<&'a str>) -> Option<&'a str> {
    let fits = |text: &str| match text.len() <= LEN_MAX {
        true => Ok(()),
        false => Err(format!("must have at most {LEN_MAX} bytes")),
    };
    given(text).filter(|text| noted(faults, field, fits(text)).is_some())
}

/// A text to look for, in small letters.
fn part(faults: &mut Vec<Fault>, field: &str, text: Option<&str>) -> Option<String> {
    bounded(faults, field, text).map(str::to_lowercase)
}

/// The entries of a list with commas.
fn entries<T>(
    faults: &mut Vec<Fault>,
    field: &str,
    text: Option<&str>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let Some(text) = bounded(faults, field, text) else { return Vec::new() };
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.len() > ENTRIES_MAX {
        faults.push(Fault::new(field, format!("must have at most {ENTRIES_MAX} entries")));
        return Vec::new();
    }
    words.into_iter().filter_map(|word| noted(faults, field, read(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(set: impl FnOnce(&mut FilterDraft)) -> FilterDraft {
        let mut draft = FilterDraft::default();
        set(&mut draft);
        draft
    }

    #[expect(clippy::unnecessary_wraps, reason = "as parts of a draft are given")]
    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    fn node() -> NodeView {
        NodeView {
            name: "Rack-7-node".into(),
            ready: true,
            unschedulable: true,
            roles: vec!["worker".into(), "gpu".into()],
            cordon_reason: Some("Bad Disk, OPS-7".into()),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            taints: vec!["gpu=yes:NoSchedule".into(), "drain:NoExecute".into()],
            ..NodeView::default()
        }
    }

    fn passes(set: impl FnOnce(&mut FilterDraft)) -> bool {
        NodeFilter::new(&draft(set)).unwrap().matches(&node())
    }

    #[test]
    fn nothing_asked_lets_everything_pass() {
        let filter = NodeFilter::new(&draft(|d| d.name = text("  "))).unwrap();
        assert!(filter.is_empty() && filter.matches(&node()) && filter.matches(&NodeView::default()));
    }

    #[test]
    fn each_part_is_looked_at() {
        for (status, holds) in
            [("ready", true), ("ready, cordoned", true), ("not-ready", false), ("schedulable", false)]
        {
            assert_eq!(passes(|d| d.status = text(status)), holds, "{status}");
        }
        for (role, holds) in [("gpu", true), ("infra,worker", true), ("infra", false), ("none", false)] {
            assert_eq!(passes(|d| d.role = text(role)), holds, "{role}");
        }
        for (selector, holds) in [("zone in (a,b),!old", true), ("zone!=a", false)] {
            assert_eq!(passes(|d| d.selector = text(selector)), holds, "{selector}");
        }
        for (reason, holds) in [("bad disk", true), ("ops-7", true), ("fan", false)] {
            assert_eq!(passes(|d| d.reason = text(reason)), holds, "{reason}");
        }
        for (name, holds) in [("rack-7", true), ("rack-8", false)] {
            assert_eq!(passes(|d| d.name = text(name)), holds, "{name}");
        }
        assert!(!passes(|d| (d.name, d.reason) = (text("rack-7"), text("fan"))), "all parts must hold");
    }

    #[test]
    fn taints_are_meant_by_key_value_and_effect() {
        for taint in [
            "gpu",
            "gpu=yes",
            "gpu:NoSchedule",
            "gpu=yes:NoSchedule",
            "drain",
            "drain=",
            "gpu,drain:NoExecute",
        ] {
            assert!(passes(|d| d.taint = text(taint)), "{taint}");
        }
        for taint in ["gp", "gpu=no", "gpu=", "gpu:NoExecute", "drain=x", "gpu,other"] {
            assert!(!passes(|d| d.taint = text(taint)), "{taint}");
        }
    }

    #[test]
    fn every_fault_is_named_with_its_field_and_the_fix() {
        let long = "x".repeat(LEN_MAX + 1);
        let many = "a,".repeat(ENTRIES_MAX + 1);
        let bad = FilterDraft {
            status: text("ready,Up"),
            role: text(&many),
            selector: text("a in b"),
            taint: text("=x,gpu:Never"),
            reason: text(&long),
            name: None,
        };
        let faults = NodeFilter::new(&bad).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| format!("{} {}", fault.field, fault.reason)).collect();
        assert_eq!(
            told[0],
            "status must be ready, not-ready, cordoned or schedulable, and \"Up\" is none of them"
        );
        assert_eq!(told[1], "role must have at most 20 entries");
        assert!(told[2].starts_with("selector must be a label selector such as "), "{told:?}");
        assert!(told[3].starts_with("taint must name a key"), "{told:?}");
        assert_eq!(told[4], "taint has the effect \"Never\": write NoSchedule, PreferNoSchedule, NoExecute");
        assert_eq!((told[5].as_str(), told.len()), ("reason must have at most 1000 bytes", 6));
        let both = NodeFilter::new(&draft(|d| d.status = text("ready,not-ready"))).unwrap_err();
        assert_eq!(both[0].reason, "asks for ready and not-ready, which no node is: give one");
    }
}
