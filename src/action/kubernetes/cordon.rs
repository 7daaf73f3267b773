//! Cordon and uncordon, decided. Pure.

use jiff::Timestamp;
use serde_json::json;

use super::Decision;
use super::annotations::{Annotations, Note};
use super::holder::Holder;
use super::node::Observed;
use crate::task::spec::UncordonParameters;

/// A node that is cordoned is left alone: the annotations of whoever cordoned it stay true. It is done already when this
/// task did it, or the same user for the same reason; any other holder is named.
///
/// The patch carries no version, since no other writer can make it wrong.
pub(super) fn cordon(node: &Observed, annotations: &Annotations, note: &Note, now: Timestamp) -> Decision {
    match Holder::of(node, annotations) {
        None => Decision::Patch(json!({
            "metadata": {"annotations": annotations.set(note, now)},
            "spec": {"unschedulable": true},
        })),
        Some(holder) if is_by(&holder, note) => Decision::Already,
        Some(holder) => Decision::Skip(format!("it was cordoned before by {holder}")),
    }
}

fn is_by(holder: &Holder, note: &Note) -> bool {
    let same = holder.who() == Some(note.actor.as_str()) && holder.reason() == note.reason.as_deref();
    holder.is_task(note.task) || (same && holder.task().is_some())
}

/// Undoes cordons that Milepost made: those of one task when asked so, and those of others only when asked so. Takes our
/// annotations along, also where another tool has made the node schedulable and left them.
///
/// The patch carries the version that was read: a cordon that somebody else makes meanwhile is seen before it is undone.
pub(super) fn uncordon(node: &Observed, annotations: &Annotations, asked: &UncordonParameters) -> Decision {
    let holder = Holder::of(node, annotations);
    if let Some(kept) = holder.as_ref().and_then(|holder| kept(holder, asked)) {
        return Decision::Skip(kept);
    }
    let mut stale = annotations.clear(&node.annotations);
    if holder.is_some_and(|holder| holder.task().is_none()) {
        stale.extend(annotations.clear_foreign(&node.annotations));
    }
    if !node.unschedulable && stale.is_empty() {
        return Decision::Already;
    }
    let mut patch = json!({"metadata": {"resourceVersion": node.version}});
    if !stale.is_empty() {
        patch["metadata"]["annotations"] = stale.into();
    }
    if node.unschedulable {
        patch["spec"] = json!({"unschedulable": null});
    }
    Decision::Patch(patch)
}

/// Why a cordon is kept, if it is.
fn kept(holder: &Holder, asked: &UncordonParameters) -> Option<String> {
    match (asked.of_task, holder.task()) {
        (Some(id), _) if holder.is_task(id) => None,
        (Some(_), _) => Some(format!("it stays cordoned: not that task's cordon but that of {holder}")),
        (None, None) if !asked.foreign => {
            Some(format!("it stays cordoned: set foreign to undo the cordon of {holder}"))
        }
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::annotations::note;
    use super::*;
    use crate::task::TaskId;

    fn ours() -> Annotations {
        Annotations::new("milepost.dev", &["other.example".into()])
    }

    fn node(unschedulable: bool, annotations: &[(&str, &str)]) -> Observed {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Observed { version: "7".into(), unschedulable, annotations, ..Observed::default() }
    }

    #[test]
    fn a_cordon_says_who_when_and_why_in_the_same_patch() {
        let decision = cordon(&node(false, &[]), &ours(), &note(Some("disk")), Timestamp::UNIX_EPOCH);
        let expected = json!({
            "metadata": {"annotations": {
                "milepost.dev/cordon-reason": "disk",
                "milepost.dev/cordon-actor": "ada",
                "milepost.dev/cordon-task": "018f0000-0000-7000-8000-000000000001",
                "milepost.dev/cordon-time": "1970-01-01T00:00:00Z",
                "milepost.dev/cordon-previous": "schedulable",
            }},
            "spec": {"unschedulable": true},
        });
        assert_eq!(decision, Decision::Patch(expected));
    }

    #[test]
    fn an_old_reason_does_not_outlive_a_cordon_without_one() {
        let Decision::Patch(patch) = cordon(&node(false, &[]), &ours(), &note(None), Timestamp::UNIX_EPOCH)
        else {
            panic!("a patch was due")
        };
        assert!(
            patch["metadata"]["annotations"].as_object().unwrap()["milepost.dev/cordon-reason"].is_null()
        );
    }

    const TASK: &str = "018f0000-0000-7000-8000-000000000001";
    const OURS: [(&str, &str); 3] = [
        ("milepost.dev/cordon-task", TASK),
        ("milepost.dev/cordon-actor", "ada"),
        ("milepost.dev/cordon-reason", "disk"),
    ];
    const THEIRS: [(&str, &str); 1] = [("other.example/cordon-reason", "theirs")];

    fn any() -> UncordonParameters {
        UncordonParameters::default()
    }

    fn skipped(decision: Decision) -> String {
        let Decision::Skip(why) = decision else { panic!("{decision:?}") };
        why
    }

    #[test]
    fn a_cordon_again_is_done_and_that_of_somebody_else_is_named() {
        let again =
            |annotations, note: Note| cordon(&node(true, annotations), &ours(), &note, Timestamp::UNIX_EPOCH);
        assert_eq!(again(&OURS, note(Some("disk"))), Decision::Already);
        assert_eq!(again(&OURS, note(Some("another try of this task"))), Decision::Already);
        let other = |reason| Note { task: TaskId::generate(), ..note(reason) };
        assert_eq!(again(&OURS, other(Some("disk"))), Decision::Already);
        let sentence = format!("it was cordoned before by ada (task {TASK}): disk");
        assert_eq!(skipped(again(&OURS, other(Some("fan")))), sentence);
        let sentence = "it was cordoned before by somebody else: theirs";
        assert_eq!(skipped(again(&THEIRS, note(Some("disk")))), sentence);
    }

    #[test]
    fn an_uncordon_takes_only_our_annotations_and_is_guarded() {
        let cordoned = node(true, &[OURS[0], ("other.example/x", "theirs")]);
        let expected = json!({
            "metadata": {"resourceVersion": "7", "annotations": {"milepost.dev/cordon-task": null}},
            "spec": {"unschedulable": null},
        });
        assert_eq!(uncordon(&cordoned, &ours(), &any()), Decision::Patch(expected));
    }

    #[test]
    fn annotations_that_outlived_their_cordon_are_cleared() {
        let expected =
            json!({"metadata": {"resourceVersion": "7", "annotations": {"milepost.dev/cordon-task": null}}});
        assert_eq!(uncordon(&node(false, &OURS[..1]), &ours(), &any()), Decision::Patch(expected));
        assert_eq!(uncordon(&node(false, &THEIRS), &ours(), &any()), Decision::Already);
    }

    #[test]
    fn the_cordon_of_somebody_else_is_undone_on_request_alone_and_with_its_reason() {
        let theirs = node(true, &THEIRS);
        let sentence = "it stays cordoned: set foreign to undo the cordon of somebody else: theirs";
        assert_eq!(skipped(uncordon(&theirs, &ours(), &any())), sentence);
        let expected = json!({
            "metadata": {"resourceVersion": "7", "annotations": {"other.example/cordon-reason": null}},
            "spec": {"unschedulable": null},
        });
        let asked = UncordonParameters { foreign: true, of_task: None };
        assert_eq!(uncordon(&theirs, &ours(), &asked), Decision::Patch(expected));
    }

    #[test]
    fn a_roll_back_undoes_the_cordons_of_its_task_alone() {
        let of = |id| UncordonParameters { foreign: false, of_task: Some(id) };
        let own = uncordon(&node(true, &OURS), &ours(), &of(TASK.parse().unwrap()));
        assert!(matches!(own, Decision::Patch(_)));
        for held in [&OURS[..], &THEIRS] {
            let why = skipped(uncordon(&node(true, held), &ours(), &of(TaskId::generate())));
            assert!(why.starts_with("it stays cordoned: not that task's cordon but that of "), "{why}");
        }
        assert_eq!(uncordon(&node(false, &[]), &ours(), &of(TaskId::generate())), Decision::Already);
    }
}
