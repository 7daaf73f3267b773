//! Labels, decided. Pure. A patch names only the keys that change, so it commutes with what others write.

use serde_json::{Map, Value, json};

use super::node::Observed;
use super::{Decision, check_not_protected};
use crate::action::ActionError;
use crate::task::spec::{LabelParameters, UnlabelParameters};

/// Prefixes of the labels that the kubelet keeps.
const PROTECTED: [&str; 2] = ["kubernetes.io", "beta.kubernetes.io"];

/// Refuses keys that belong to Kubernetes.
pub(super) fn check_keys<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<(), ActionError> {
    keys.into_iter().try_for_each(|key| check_not_protected("label", key, &PROTECTED))
}

/// Without `overwrite` a label with another value is an error, and the patch carries the version that was read, so that
/// a value which somebody sets meanwhile is not overwritten either.
pub(super) fn label(node: &Observed, wanted: &LabelParameters) -> Result<Decision, ActionError> {
    let mut changed = Map::new();
    for (key, value) in &wanted.labels {
        match node.labels.get(key) {
            Some(have) if have == value => continue,
            Some(have) if !wanted.overwrite => return Err(taken(key, have, value)),
            _ => changed.insert(key.clone(), value.as_str().into()),
        };
    }
    let guard = (!wanted.overwrite).then_some(node.version.as_str());
    Ok(patch(&changed, guard))
}

fn taken(key: &str, have: &str, wanted: &str) -> ActionError {
    ActionError::permanent(format!(
        "label {key} is {have:?} and would become {wanted:?}; set overwrite to change it"
    ))
}

/// Removes the labels that are there.
pub(super) fn unlabel(node: &Observed, unwanted: &UnlabelParameters) -> Decision {
    let there = unwanted.keys.iter().filter(|key| node.labels.contains_key(*key));
    patch(&there.map(|key| (key.clone(), Value::Null)).collect(), None)
}

fn patch(labels: &Map<String, Value>, guard: Option<&str>) -> Decision {
    if labels.is_empty() {
        return Decision::Already;
    }
    let mut patch = json!({"metadata": {"labels": labels}});
    if let Some(version) = guard {
        patch["metadata"]["resourceVersion"] = version.into();
    }
    Decision::Patch(patch)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn node(labels: BTreeMap<String, String>) -> Observed {
        Observed { version: "7".into(), labels, ..Observed::default() }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn set(pairs: &[(&str, &str)], overwrite: bool) -> LabelParameters {
        LabelParameters { labels: labels(pairs), overwrite }
    }

    /// The labels after a decision, as the API would merge them.
    fn after(mut node: Observed, decision: &Decision) -> Observed {
        let Decision::Patch(patch) = decision else { return node };
        for (key, value) in patch["metadata"]["labels"].as_object().unwrap() {
            match value.as_str() {
                Some(value) => node.labels.insert(key.clone(), value.to_owned()),
                None => node.labels.remove(key),
            };
        }
        node
    }

    #[test]
    fn only_what_changes_is_sent() {
        let have = node(labels(&[("a", "1"), ("b", "2")]));
        let expected = json!({"metadata": {"resourceVersion": "7", "labels": {"c": "3"}}});
        assert_eq!(label(&have, &set(&[("a", "1"), ("c", "3")], false)), Ok(Decision::Patch(expected)));
        assert_eq!(label(&have, &set(&[("a", "1")], false)), Ok(Decision::Already));
    }

    #[test]
    fn another_value_needs_overwrite_and_the_refusal_names_both() {
        let have = node(labels(&[("tier", "gold")]));
        let refused = label(&have, &set(&[("tier", "silver")], false)).unwrap_err();
        let sentence = "label tier is \"gold\" and would become \"silver\"; set overwrite to change it";
        assert_eq!(refused, ActionError::permanent(sentence));
        let expected = json!({"metadata": {"labels": {"tier": "silver"}}});
        assert_eq!(label(&have, &set(&[("tier", "silver")], true)), Ok(Decision::Patch(expected)));
    }

    #[test]
    fn labels_of_kubernetes_are_protected_and_roles_are_not() {
        let check = |key: &str| check_keys([&key.to_owned()]);
        assert!(check("kubernetes.io/hostname").is_err() && check("beta.kubernetes.io/arch").is_err());
        assert!(check("node-role.kubernetes.io/worker").is_ok() && check("hostname").is_ok());
    }

    fn some_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-d]", "[x-z]?", 0..4)
    }

    proptest! {
        #[test]
        fn doing_it_again_finds_it_done(have in some_labels(), want in some_labels(), gone in prop::collection::vec("[a-d]", 1..4)) {
            let want = LabelParameters { labels: want, overwrite: true };
            let once = after(node(have), &label(&node(BTreeMap::new()), &want).unwrap());
            prop_assert_eq!(label(&once, &want).unwrap(), Decision::Already);
            let unwanted = UnlabelParameters { keys: gone };
            let without = after(once.clone(), &unlabel(&once, &unwanted));
            prop_assert_eq!(unlabel(&without, &unwanted), Decision::Already);
        }

        #[test]
        fn writers_of_different_keys_commute(have in some_labels(), a in "[x-z]?", b in "[x-z]?") {
            let have = node(have);
            let (one, two) = (set(&[("a", &a)], true), set(&[("b", &b)], true));
            let (one, two) = (label(&have, &one).unwrap(), label(&have, &two).unwrap());
            prop_assert_eq!(after(after(have.clone(), &one), &two), after(after(have, &two), &one));
        }
    }
}
