//! Labels, decided. Pure. A patch names only the keys that change, so it commutes with what others write.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Decision;
use super::node::Observed;
use crate::action::ActionError;
use crate::task::spec::{LabelParameters, UnlabelParameters};

/// A map of texts in an object's metadata.
pub(super) struct Texts {
    /// Its field.
    pub(super) field: &'static str,
    /// What one entry is called.
    pub(super) one: &'static str,
}

const LABELS: Texts = Texts { field: "labels", one: "label" };

/// Without `overwrite` a label with another value is an error, and the patch carries the version that was read, so that
/// a value which somebody sets meanwhile is not overwritten either.
pub(super) fn label(node: &Observed, wanted: &LabelParameters) -> Result<Decision, ActionError> {
    set(node, &LABELS, &node.labels, &wanted.labels, wanted.overwrite)
}

/// Removes the labels that are there.
pub(super) fn unlabel(node: &Observed, unwanted: &UnlabelParameters) -> Decision {
    unset(&LABELS, &node.labels, &unwanted.keys)
}

/// Sets entries of a map of texts.
pub(super) fn set(
    node: &Observed,
    texts: &Texts,
    there: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    overwrite: bool,
) -> Result<Decision, ActionError> {
    let mut changed = Map::new();
    for (key, value) in wanted {
        match there.get(key) {
            Some(have) if have == value => continue,
            Some(have) if !overwrite => return Err(taken(texts.one, key, have, value)),
            _ => changed.insert(key.clone(), value.as_str().into()),
        };
    }
    let guard = (!overwrite).then_some(node.version.as_str());
    Ok(patch(texts, &changed, guard))
}

fn taken(one: &str, key: &str, have: &str, wanted: &str) -> ActionError {
    ActionError::permanent(format!(
        "{one} {key} is {have:?} and would become {wanted:?}; set overwrite to change it"
    ))
}

/// Removes the entries that are there.
pub(super) fn unset(texts: &Texts, there: &BTreeMap<String, String>, unwanted: &[String]) -> Decision {
    let there = unwanted.iter().filter(|key| there.contains_key(*key));
    patch(texts, &there.map(|key| (key.clone(), Value::Null)).collect(), None)
}

fn patch(texts: &Texts, changed: &Map<String, Value>, guard: Option<&str>) -> Decision {
    if changed.is_empty() {
        return Decision::Already;
    }
    let mut metadata = json!({texts.field: changed});
    if let Some(version) = guard {
        metadata["resourceVersion"] = version.into();
    }
    Decision::Patch(json!({"metadata": metadata}))
}

#[cfg(test)]
mod tests {
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
