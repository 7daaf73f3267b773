//! Patches as the Kubernetes API applies them: JSON merge patch (RFC 7396), strategic merge patch, JSON patch
//! (RFC 6902). Pure.
//!
//! A strategic patch depends on the type: which lists merge, and by which key, is the table below. `spec.taints` is
//! not in it, as in the real API: a patch replaces the whole list. Not here: server-side apply.

use serde_json::{Map, Value};

use super::status::Refusal;

/// Which algebra a request body follows, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchKind {
    Merge,
    Strategic,
    Json,
}

impl PatchKind {
    pub(super) fn from_content_type(content_type: &str) -> Result<Self, Refusal> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/json-patch+json" => Ok(Self::Json),
            other => Err(Refusal::unsupported_media(other)),
        }
    }

    /// Applies a patch to a copy of `object`.
    pub(super) fn apply(self, object: &Value, patch: &Value) -> Result<Value, Refusal> {
        let mut patched = object.clone();
        match self {
            Self::Merge => merge(&mut patched, patch),
            Self::Strategic => strategic(&mut patched, patch, "")?,
            Self::Json => json_patch(&mut patched, patch)?,
        }
        Ok(patched)
    }
}

/// RFC 7396: objects merge, `null` removes, everything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        let fields = as_object(target);
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
    as_object(target);
}

/// The object in `value`, made empty first if it is none.
fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object just now")
}

/// Lists of objects that merge, by path, with the field that names an element.
const MERGE_KEYS: [(&str, &str); 3] =
    [(".metadata.ownerReferences", "uid"), (".status.conditions", "type"), (".status.addresses", "type")];

/// Lists of plain values that merge, by path.
const MERGE_SETS: [&str; 2] = [".metadata.finalizers", ".spec.podCIDRs"];

fn strategic(target: &mut Value, patch: &Value, path: &str) -> Result<(), Refusal> {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match fields.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = without_directives(fields);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Refusal::bad_request(format!("unknown patch directive {other:?}"))),
    }
    for (key, value) in fields {
        strategic_field(as_object(target), key, value, path)?;
    }
    as_object(target);
    Ok(())
}

fn strategic_field(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    path: &str,
) -> Result<(), Refusal> {
    if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
        remove_values(target.get_mut(list), value);
        return Ok(());
    }
    if key.starts_with('$') {
        return Ok(()); // `$patch` was read before; `$setElementOrder` only orders, and order means nothing here.
    }
    if value.is_null() {
        target.remove(key);
        return Ok(());
    }
    let path = format!("{path}.{key}");
    let merge_key = MERGE_KEYS.iter().find(|(list, _)| *list == path).map(|(_, key)| *key);
    let slot = target.entry(key.to_owned()).or_insert(Value::Null);
    match (value, merge_key) {
        (Value::Array(items), Some(merge_key)) => merge_list(slot, items, merge_key, &path),
        (Value::Array(items), None) if MERGE_SETS.contains(&path.as_str()) => {
            add_values(slot, items);
            Ok(())
        }
        _ => strategic(slot, value, &path),
    }
}

fn merge_list(slot: &mut Value, items: &[Value], merge_key: &str, path: &str) -> Result<(), Refusal> {
    let mut list = slot.as_array().cloned().unwrap_or_default();
    if items.iter().any(|item| item["$patch"] == "replace") {
        list.clear();
    }
    for item in items.iter().filter(|item| item["$patch"] != "replace") {
        let name = item
            .get(merge_key)
            .ok_or_else(|| Refusal::bad_request(format!("{path}: an element has no {merge_key}")))?;
        let place = list.iter().position(|have| have.get(merge_key) == Some(name));
        match place {
            Some(i) if item["$patch"] == "delete" => drop(list.remove(i)),
            Some(i) => strategic(&mut list[i], item, path)?,
            None if item["$patch"] == "delete" => {}
            None => list.push(item.clone()),
        }
    }
    *slot = Value::Array(list);
    Ok(())
}

fn add_values(slot: &mut Value, items: &[Value]) {
    let mut list = slot.as_array().cloned().unwrap_or_default();
    list.extend(items.iter().filter(|item| !slot.as_array().is_some_and(|l| l.contains(item))).cloned());
    *slot = Value::Array(list);
}

fn remove_values(list: Option<&mut Value>, gone: &Value) {
    if let (Some(Value::Array(list)), Value::Array(gone)) = (list, gone) {
        list.retain(|item| !gone.contains(item));
    }
}

fn without_directives(fields: &Map<String, Value>) -> Value {
    Value::Object(
        fields.iter().filter(|(k, _)| !k.starts_with('$')).map(|(k, v)| (k.clone(), v.clone())).collect(),
    )
}

/// RFC 6902. One operation that cannot be done refuses the whole patch.
fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Refusal> {
    let operations = patch
        .as_array()
        .ok_or_else(|| Refusal::bad_request("error decoding patch: a JSON patch is a list of operations"))?;
    for operation in operations {
        apply_operation(target, operation).ok_or_else(Refusal::unprocessable)?;
    }
    Ok(())
}

fn apply_operation(target: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    match operation["op"].as_str()? {
        "add" => add(target, path, operation.get("value")?.clone()),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            *target.pointer_mut(path)? = operation.get("value")?.clone();
            Some(())
        }
        "move" => {
            let value = remove(target, operation["from"].as_str()?)?;
            add(target, path, value)
        }
        "copy" => {
            let value = target.pointer(operation["from"].as_str()?)?.clone();
            add(target, path, value)
        }
        "test" => (target.pointer(path)? == operation.get("value")?).then_some(()),
        _ => None,
    }
}

/// The container that a pointer ends in, and the last step with its escapes undone.
fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((target.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Object(fields), key) => drop(fields.insert(key, value)),
        (Value::Array(list), step) if step == "-" => list.push(value),
        (Value::Array(list), step) => {
            let i: usize = step.parse().ok().filter(|&i| i <= list.len())?;
            list.insert(i, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(fields), key) => fields.remove(&key),
        (Value::Array(list), step) => {
            let i: usize = step.parse().ok().filter(|&i| i < list.len())?;
            Some(list.remove(i))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn apply(kind: PatchKind, object: &Value, patch: &Value) -> Value {
        kind.apply(object, patch).unwrap()
    }

    #[test]
    fn merge_follows_the_examples_of_its_rfc() {
        let examples = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a"]), json!({"a": "b"}), json!({"a": "b"})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (object, patch, expected) in examples {
            assert_eq!(apply(PatchKind::Merge, &object, &patch), expected, "{object} + {patch}");
        }
    }

    #[test]
    fn a_strategic_patch_replaces_taints_and_merges_conditions() {
        let node = json!({
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}], "unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}]},
        });
        let patch = json!({
            "spec": {"taints": [{"key": "b", "effect": "NoExecute"}], "unschedulable": null},
            "status": {"$setElementOrder/conditions": [{"type": "Ready"}], "conditions": [
                {"type": "Ready", "status": "False"}, {"type": "Disk", "$patch": "delete"}]},
        });
        let patched = apply(PatchKind::Strategic, &node, &patch);
        assert_eq!(patched["spec"], json!({"taints": [{"key": "b", "effect": "NoExecute"}]}));
        assert_eq!(patched["status"], json!({"conditions": [{"type": "Ready", "status": "False"}]}));
    }

    #[test]
    fn strategic_directives_replace_and_delete() {
        let node = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]}});
        let replace = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}});
        assert_eq!(apply(PatchKind::Strategic, &node, &replace)["metadata"]["labels"], json!({"b": "2"}));
        let sets =
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z", "y"]}});
        let mut left = apply(PatchKind::Strategic, &node, &sets)["metadata"]["finalizers"].clone();
        left.as_array_mut().unwrap().sort_by_key(ToString::to_string);
        assert_eq!(left, json!(["y", "z"]));
        let unknown = json!({"metadata": {"$patch": "explode"}});
        assert_eq!(PatchKind::Strategic.apply(&node, &unknown).unwrap_err().code, 400);
    }

    #[test]
    fn a_json_patch_does_all_or_nothing() {
        let node = json!({"metadata": {"labels": {"a/b": "1"}}, "spec": {"taints": [1, 2]}});
        let patch = json!([
            {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
            {"op": "add", "path": "/spec/taints/-", "value": 3},
            {"op": "remove", "path": "/spec/taints/0"},
            {"op": "copy", "from": "/spec/taints", "path": "/spec/copy"},
            {"op": "move", "from": "/spec/taints", "path": "/spec/moved"},
        ]);
        let expected =
            json!({"metadata": {"labels": {"a/b": "2"}}, "spec": {"copy": [2, 3], "moved": [2, 3]}});
        assert_eq!(apply(PatchKind::Json, &node, &patch), expected);
        for bad in [
            json!([{"op": "test", "path": "/spec/taints", "value": []}]),
            json!([{"op": "remove", "path": "/spec/nothing"}]),
            json!([{"op": "add", "path": "/spec/taints/9", "value": 1}]),
            json!([{"op": "explode", "path": "/spec"}]),
        ] {
            assert_eq!(PatchKind::Json.apply(&node, &bad).unwrap_err().code, 422, "{bad}");
        }
    }

    #[test]
    fn unknown_content_types_are_refused() {
        assert_eq!(PatchKind::from_content_type("application/merge-patch+json; a=b"), Ok(PatchKind::Merge));
        assert_eq!(PatchKind::from_content_type("application/apply-patch+yaml").unwrap_err().code, 415);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(object in json_value(), patch in json_value()) {
            for kind in [PatchKind::Merge, PatchKind::Strategic] {
                let once = kind.apply(&object, &patch).unwrap();
                prop_assert_eq!(kind.apply(&once, &patch).unwrap(), once);
            }
        }

        #[test]
        fn merge_patches_of_different_keys_commute(object in json_value(), a in json_value(), b in json_value()) {
            let (a, b) = (json!({"left": a}), json!({"right": b}));
            let apply = |object: &Value, patch| PatchKind::Merge.apply(object, patch).unwrap();
            prop_assert_eq!(apply(&apply(&object, &a), &b), apply(&apply(&object, &b), &a));
        }

        #[test]
        fn no_json_patch_panics(object in json_value(), path in "(/[a-d0-1~-]{0,2}){0,3}", from in "(/[a-d0-1]{0,2}){0,3}", value in json_value()) {
            for op in ["add", "remove", "replace", "move", "copy", "test"] {
                let _ = PatchKind::Json.apply(&object, &json!([{"op": op, "path": path, "from": from, "value": value}]));
            }
        }
    }
}
