//! Whose cordon a node has, and why: so that nobody's cordon is undone, or claimed, by mistake. Pure.
//!
//! Annotations can outlive the cordon that they were written for: another tool makes the node schedulable, leaves them,
//! and cordons again. The API server notes which manager set `spec.unschedulable`, so annotations of ours count only
//! while nobody else is noted for it.

use std::fmt;

use jiff::Timestamp;
use kube::core::ObjectMeta;

use super::annotations::Annotations;
use super::cluster::FIELD_MANAGER;
use super::node::Observed;
use crate::task::TaskId;

/// Longest part of a foreign reason that goes into a sentence, in characters.
const REASON_SHOWN_MAX: usize = 200;

/// Who set a field, as the API server noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) time: Option<Timestamp>,
}

impl Manager {
    /// Those who are noted for `spec.unschedulable`; more than one only after a server-side apply.
    pub(super) fn of_cordon(metadata: &ObjectMeta) -> Vec<Self> {
        let entries = metadata.managed_fields.iter().flatten();
        let cordons = entries.filter(|entry| {
            entry.fields_v1.as_ref().is_some_and(|fields| !fields.0["f:spec"]["f:unschedulable"].is_null())
        });
        cordons
            .map(|entry| Self {
                name: entry.manager.clone().unwrap_or_default(),
                time: entry.time.as_ref().map(|time| time.0),
            })
            .collect()
    }
}

/// Whose cordon it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// A task of this Milepost.
    Task { task: String, actor: Option<String>, reason: Option<String>, time: Option<String> },
    /// Somebody else, as far as that is known.
    Other { manager: Option<String>, reason: Option<String>, time: Option<String> },
}

impl Holder {
    /// The holder of a node's cordon; `None` when it has none.
    pub(super) fn of(node: &Observed, annotations: &Annotations) -> Option<Self> {
        if !node.unschedulable {
            return None;
        }
        let noted = &node.cordoned_through;
        let ours = noted.is_empty() || noted.iter().any(|manager| manager.name == FIELD_MANAGER);
        let claim = annotations.read(&node.annotations).filter(|_| ours);
        Some(claim.unwrap_or_else(|| Self::Other {
            manager: noted.first().map(|manager| manager.name.clone()).filter(|name| !name.is_empty()),
            reason: annotations.foreign_reason(&node.annotations).map(str::to_owned),
            time: noted.first().and_then(|manager| manager.time).map(|time| time.to_string()),
        }))
    }

    /// Whether it is the cordon of this task.
    pub(super) fn is_task(&self, id: TaskId) -> bool {
        matches!(self, Self::Task { task, .. } if task.parse() == Ok(id))
    }

    /// Why, if they said so.
    pub(super) fn reason(&self) -> Option<&str> {
        let (Self::Task { reason, .. } | Self::Other { reason, .. }) = self;
        reason.as_deref()
    }

    /// Who: the person behind a task, otherwise the program.
    pub(super) fn who(&self) -> Option<&str> {
        match self {
            Self::Task { actor, .. } => actor.as_deref(),
            Self::Other { manager, .. } => manager.as_deref(),
        }
    }

    /// Since when, as they wrote it.
    pub(super) fn since(&self) -> Option<&str> {
        let (Self::Task { time, .. } | Self::Other { time, .. }) = self;
        time.as_deref()
    }

    /// The task, when Milepost made the cordon.
    pub(super) fn task(&self) -> Option<&str> {
        match self {
            Self::Task { task, .. } => Some(task),
            Self::Other { .. } => None,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { task, actor, .. } => {
                write!(f, "{} (task {task})", actor.as_deref().unwrap_or("Milepost"))?;
            }
            Self::Other { manager: Some(manager), .. } => f.write_str(manager)?,
            Self::Other { manager: None, .. } => f.write_str("somebody else")?,
        }
        match self.reason() {
            Some(reason) if reason.chars().count() > REASON_SHOWN_MAX => {
                write!(f, ": {}…", reason.chars().take(REASON_SHOWN_MAX).collect::<String>())
            }
            Some(reason) => write!(f, ": {reason}"),
            None => f.write_str(", who left no reason"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    const TASK: &str = "018f0000-0000-7000-8000-000000000001";

    fn marks() -> Annotations {
        Annotations::new("milepost.dev", &["ops.example.com/why".into(), "old.example.com".into()])
    }

    fn cordoned(annotations: &[(&str, &str)], through: &[&str]) -> Observed {
        let annotations: BTreeMap<_, _> =
            annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let manager = |name: &&str| Manager { name: (*name).to_owned(), time: None };
        let cordoned_through = through.iter().map(manager).collect();
        Observed { unschedulable: true, annotations, cordoned_through, ..Observed::default() }
    }

    fn holder(annotations: &[(&str, &str)], through: &[&str]) -> Holder {
        Holder::of(&cordoned(annotations, through), &marks()).unwrap()
    }

    const OURS: [(&str, &str); 3] = [
        ("milepost.dev/cordon-task", TASK),
        ("milepost.dev/cordon-actor", "ada"),
        ("milepost.dev/cordon-reason", "disk"),
    ];

    #[test]
    fn a_schedulable_node_has_no_holder_whatever_was_left_on_it() {
        let node = Observed { unschedulable: false, ..cordoned(&OURS, &["milepost"]) };
        assert_eq!(Holder::of(&node, &marks()), None);
    }

    #[test]
    fn a_cordon_of_a_task_is_known_by_its_annotations() {
        for through in [&[][..], &["milepost"], &["gitops", "milepost"]] {
            let holder = holder(&OURS, through);
            assert!(holder.is_task(TASK.parse().unwrap()) && !holder.is_task(TaskId::generate()));
            assert_eq!(holder.to_string(), format!("ada (task {TASK}): disk"));
        }
    }

    #[test]
    fn annotations_that_outlived_their_cordon_claim_nothing() {
        let theirs = holder(&OURS, &["kubectl-cordon"]);
        assert_eq!(theirs.task(), None);
        assert_eq!(theirs.to_string(), "kubectl-cordon, who left no reason");
    }

    #[test]
    fn reasons_of_others_are_read_by_key_and_by_prefix() {
        for (key, shown) in [
            ("ops.example.com/why", "somebody else: bad memory"),
            ("old.example.com/cordon-reason", "somebody else: bad memory"),
            ("old.example.com/reason-code", "somebody else, who left no reason"),
            ("other.example.com/reason", "somebody else, who left no reason"),
        ] {
            assert_eq!(holder(&[(key, "bad memory")], &[]).to_string(), shown, "{key}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_where_one_can_see_it() {
        let text = holder(&[("ops.example.com/why", &"é".repeat(300))], &[]).to_string();
        assert!(text.ends_with("é…") && text.chars().count() < 230, "{text}");
    }

    #[test]
    fn the_api_server_says_who_cordoned() {
        let metadata: ObjectMeta = serde_json::from_value(json!({"managedFields": [
            {"manager": "kubelet", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
            {"manager": "kubectl-cordon", "time": "2026-01-02T03:04:05Z",
                "fieldsV1": {"f:spec": {"f:unschedulable": {}}}},
        ]}))
        .unwrap();
        let time = "2026-01-02T03:04:05Z".parse().ok();
        assert_eq!(Manager::of_cordon(&metadata), [Manager { name: "kubectl-cordon".into(), time }]);
    }
}
