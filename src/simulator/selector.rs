//! Which objects a list or a watch is about: label and field selectors. Pure.

use serde_json::Value;

use super::status::Refusal;

/// Both selectors of a request; an object matches when every condition holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Selector {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    place: Place,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Label(String),
    Field(&'static str),
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists(bool),
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Fields of a node that can be selected by, with their JSON pointers.
const FIELDS: [(&str, &str); 2] =
    [("metadata.name", "/metadata/name"), ("spec.unschedulable", "/spec/unschedulable")];

impl Selector {
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, Refusal> {
        let labels = split(labels).into_iter().map(label_condition);
        let fields = split(fields).into_iter().map(field_condition);
        Ok(Self { conditions: labels.chain(fields).collect::<Result<_, _>>()? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.conditions.iter().all(|condition| condition.holds(object))
    }
}

impl Condition {
    fn holds(&self, object: &Value) -> bool {
        let value = match &self.place {
            Place::Label(key) => object["metadata"]["labels"].get(key).and_then(Value::as_str),
            Place::Field("/spec/unschedulable") => {
                Some(if object["spec"]["unschedulable"] == true { "true" } else { "false" })
            }
            Place::Field(pointer) => object.pointer(pointer).and_then(Value::as_str),
        };
        match &self.test {
            Test::Exists(wanted) => value.is_some() == *wanted,
            Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
        }
    }
}

/// Splits at commas that are not inside `(...)`; empty parts are left out.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label_condition(text: &str) -> Result<Condition, Refusal> {
    let (key, test) = if let Some((key, test)) = equality(text) {
        (key, test)
    } else if let Some((key, values)) = text.split_once(" notin ") {
        (key, Test::NotIn(set(values)?))
    } else if let Some((key, values)) = text.split_once(" in ") {
        (key, Test::In(set(values)?))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Exists(false))
    } else {
        (text, Test::Exists(true))
    };
    let key = key.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '(' || c == ')') {
        return Err(Refusal::bad_request(format!("unable to parse requirement: {text:?}")));
    }
    Ok(Condition { place: Place::Label(key.to_owned()), test })
}

fn field_condition(text: &str) -> Result<Condition, Refusal> {
    let (key, test) = equality(text)
        .ok_or_else(|| Refusal::bad_request(format!("invalid field selector: {text:?}; can't understand")))?;
    let known = FIELDS.iter().find(|(name, _)| *name == key.trim());
    let (_, pointer) =
        known.ok_or_else(|| Refusal::bad_request(format!("field label not supported: {key}")))?;
    Ok(Condition { place: Place::Field(pointer), test })
}

fn equality(text: &str) -> Option<(&str, Test)> {
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key, Test::NotIn(vec![value.trim().to_owned()])));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key, Test::In(vec![value.trim().to_owned()])))
}

fn set(text: &str) -> Result<Vec<String>, Refusal> {
    let inner = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let inner = inner.ok_or_else(|| Refusal::bad_request(format!("unable to parse set: {text:?}")))?;
    Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let node = json!({
            "metadata": {"name": "node-1", "labels": {"zone": "a", "role": "worker", "empty": ""}},
            "spec": {"unschedulable": true},
        });
        Selector::parse(labels, fields).unwrap().matches(&node)
    }

    #[test]
    fn labels_are_selected_as_kubernetes_does() {
        for yes in [
            "",
            "zone=a",
            "zone==a,role",
            "zone in (b, a)",
            "zone!=b",
            "!gpu",
            "gpu!=x",
            "empty=",
            "gpu notin (x)",
        ] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in ["zone=b", "zone in (b,c)", "zone notin (a,b)", "!zone", "gpu", "zone=a,role=master"] {
            assert!(!matches(no, ""), "{no}");
        }
    }

    #[test]
    fn fields_are_few_and_others_are_refused() {
        assert!(matches("", "metadata.name=node-1,spec.unschedulable=true"));
        assert!(!matches("", "metadata.name!=node-1"));
        assert_eq!(Selector::parse("", "spec.podCIDR=x").unwrap_err().code, 400);
        assert_eq!(Selector::parse("zone in a", "").unwrap_err().code, 400);
    }
}
