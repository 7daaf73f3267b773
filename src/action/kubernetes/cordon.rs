//! Cordon and uncordon, decided. Pure.

use jiff::Timestamp;
use serde_json::json;

use super::Decision;
use super::annotations::{Annotations, Note};
use super::node::Observed;

/// A node that is cordoned is left alone: the annotations of whoever cordoned it stay true.
///
/// The patch carries no version, since no other writer can make it wrong.
pub(super) fn cordon(node: &Observed, annotations: &Annotations, note: &Note, now: Timestamp) -> Decision {
    if node.unschedulable {
        return Decision::Already;
    }
    Decision::Patch(json!({
        "metadata": {"annotations": annotations.set(note, now)},
        "spec": {"unschedulable": true},
    }))
}

/// Takes our annotations along, also where another tool has made the node schedulable and left them. The patch carries
/// the version that was read: a cordon that somebody else makes meanwhile is seen before it is undone.
pub(super) fn uncordon(node: &Observed, annotations: &Annotations) -> Decision {
    let stale = annotations.clear(&node.annotations);
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

#[cfg(test)]
mod tests {
    use super::super::annotations::note;
    use super::*;

    fn ours() -> Annotations {
        Annotations::new("milepost.dev")
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

    #[test]
    fn what_is_as_asked_is_left_alone() {
        let cordoned = node(true, &[("other.example/cordon-reason", "theirs")]);
        assert_eq!(cordon(&cordoned, &ours(), &note(Some("disk")), Timestamp::UNIX_EPOCH), Decision::Already);
        assert_eq!(
            uncordon(&node(false, &[("other.example/cordon-reason", "theirs")]), &ours()),
            Decision::Already
        );
    }

    #[test]
    fn an_uncordon_takes_only_our_annotations_and_is_guarded() {
        let cordoned = node(true, &[("milepost.dev/cordon-reason", "disk"), ("other.example/x", "theirs")]);
        let expected = json!({
            "metadata": {"resourceVersion": "7", "annotations": {"milepost.dev/cordon-reason": null}},
            "spec": {"unschedulable": null},
        });
        assert_eq!(uncordon(&cordoned, &ours()), Decision::Patch(expected));
        let stale = node(false, &[("milepost.dev/cordon-reason", "disk")]);
        let expected = json!({"metadata": {"resourceVersion": "7", "annotations": {"milepost.dev/cordon-reason": null}}});
        assert_eq!(uncordon(&stale, &ours()), Decision::Patch(expected));
    }
}
