//! What a patch changes of a node, value by value. Pure: it is the same patch that would be sent.

use serde_json::Value;

use super::super::annotations::Annotations;
use super::super::node::Observed;
use crate::task::plan::{Field, FieldChange};

/// Every value that a patch changes, in a fixed order.
pub(super) fn changes(node: &Observed, patch: &Value, annotations: &Annotations) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    changes.extend(patch["spec"].get("unschedulable").and_then(|after| unschedulable(node, after)));
    for (key, after) in patch["metadata"]["labels"].as_object().into_iter().flatten() {
        let before = node.labels.get(key).map(String::as_str);
        changes.extend(FieldChange::new(Field::Label, key, before, after.as_str()));
    }
    for (key, after) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
        let before = node.annotations.get(key).map(String::as_str);
        changes.extend(match annotations.is_of_run(key) && !after.is_null() {
            true => Some(FieldChange::at_run(Field::Annotation, key, before)),
            false => FieldChange::new(Field::Annotation, key, before, after.as_str()),
        });
    }
    if let Some(after) = patch["spec"]["taints"].as_array() {
        changes.extend(taints(&node.taints, after));
    }
    changes.sort();
    changes
}

fn unschedulable(node: &Observed, after: &Value) -> Option<FieldChange> {
    let value = |is: bool| is.then_some("true");
    FieldChange::new(Field::Unschedulable, "", value(node.unschedulable), value(*after == true))
}

/// Taints by key and effect; what else there is of a taint, such as its time, follows from those.
fn taints(before: &[Value], after: &[Value]) -> Vec<FieldChange> {
    let mut keys: Vec<String> = before.iter().chain(after).map(identity).collect();
    keys.sort();
    keys.dedup();
    let change = |key: &String| FieldChange::new(Field::Taint, key, value(before, key), value(after, key));
    keys.iter().filter_map(change).collect()
}

fn identity(taint: &Value) -> String {
    let text = |field: &str| taint[field].as_str().unwrap_or_default();
    format!("{}:{}", text("key"), text("effect"))
}

fn value<'a>(taints: &'a [Value], key: &str) -> Option<&'a str> {
    let taint = taints.iter().find(|taint| identity(taint) == key)?;
    Some(taint["value"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_read_value_by_value() {
        let node = Observed {
            labels: [("tier".to_owned(), "a".to_owned()), ("same".to_owned(), "x".to_owned())].into(),
            taints: vec![
                json!({"key": "old", "effect": "NoSchedule"}),
                json!({"key": "stays", "effect": "NoExecute"}),
            ],
            ..Observed::default()
        };
        let patch = json!({
            "metadata": {
                "resourceVersion": "7",
                "labels": {"tier": "b", "same": "x", "gone": null},
                "annotations": {"milepost.dev/cordon-task": "1", "milepost.dev/cordon-actor": "ada",
                    "milepost.dev/cordon-reason": null},
            },
            "spec": {"unschedulable": true, "taints": [
                {"key": "stays", "effect": "NoExecute"}, {"key": "new", "value": "v", "effect": "NoSchedule"}]},
        });
        let changes = changes(&node, &patch, &Annotations::new("milepost.dev", &[]));
        let words: Vec<_> = changes.iter().map(ToString::to_string).collect();
        let expected = [
            "cordon",
            r#"change label tier from "a" to "b""#,
            "add annotation milepost.dev/cordon-actor=ada",
            "set annotation milepost.dev/cordon-task",
            "add taint new:NoSchedule=v",
            "remove taint old:NoSchedule",
        ];
        assert_eq!(words, expected);
    }
}
