//! Annotations, decided as labels are: a patch names only the keys that change, so it commutes with what others write. Pure.

use super::Decision;
use super::label::{self, Texts};
use super::node::Observed;
use crate::action::ActionError;
use crate::task::spec::{AnnotateParameters, UnannotateParameters};

const ANNOTATIONS: Texts = Texts { field: "annotations", one: "annotation" };

/// Without `overwrite` an annotation with another value is an error, and the patch carries the version that was read.
pub(super) fn annotate(node: &Observed, wanted: &AnnotateParameters) -> Result<Decision, ActionError> {
    label::set(node, &ANNOTATIONS, &node.annotations, &wanted.annotations, wanted.overwrite)
}

/// Removes the annotations that are there.
pub(super) fn unannotate(node: &Observed, unwanted: &UnannotateParameters) -> Decision {
    label::unset(&ANNOTATIONS, &node.annotations, &unwanted.keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Observed {
        let annotations = [("note".to_owned(), "a".to_owned())].into();
        Observed { version: "7".into(), annotations, ..Observed::default() }
    }

    fn set(value: &str, overwrite: bool) -> AnnotateParameters {
        AnnotateParameters { annotations: [("note".to_owned(), value.to_owned())].into(), overwrite }
    }

    #[test]
    fn annotations_are_set_and_removed_by_key() {
        assert_eq!(annotate(&node(), &set("a", false)), Ok(Decision::Already));
        let patch = json!({"metadata": {"annotations": {"note": "b"}}});
        assert_eq!(annotate(&node(), &set("b", true)), Ok(Decision::Patch(patch)));
        let unwanted = UnannotateParameters { keys: vec!["note".into(), "absent".into()] };
        let patch = json!({"metadata": {"annotations": {"note": null}}});
        assert_eq!(unannotate(&node(), &unwanted), Decision::Patch(patch));
    }

    #[test]
    fn another_value_needs_overwrite() {
        let refused = annotate(&node(), &set("b", false)).unwrap_err();
        let sentence = "annotation note is \"a\" and would become \"b\"; set overwrite to change it";
        assert_eq!(refused, ActionError::permanent(sentence));
    }
}
