//! Which objects a list or a watch is about: label and field selectors. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::object::{Group, Object};
use super::status::Refusal;

/// Both selectors of a request, and its namespace; an object matches when every condition holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Selector {
    namespace: Option<String>,
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

impl Selector {
    /// Reads both texts; `known` are the fields that the resource can be selected by.
    pub(super) fn parse(labels: &str, fields: &str, known: &[&'static str]) -> Result<Self, Refusal> {
        let labels = split(labels).into_iter().map(label_condition);
        let fields = split(fields).into_iter().map(|text| field_condition(text, known));
        Ok(Self { namespace: None, conditions: labels.chain(fields).collect::<Result<_, _>>()? })
    }

    /// The same, for one namespace; an empty one stands for all.
    pub(super) fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty());
        self
    }

    pub(super) fn matches(&self, object: &impl Object) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace())
            && self.conditions.iter().all(|condition| condition.holds(object))
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The group that every match is in, when a condition names one.
    pub(super) fn group(&self) -> Option<Group> {
        self.conditions.iter().find_map(|condition| match condition {
            Condition { place: Place::Field("spec.nodeName"), test: Test::In(values) } => match &values[..] {
                [node] if !node.is_empty() => Some(Group::Node(node.as_str().into())),
                _ => None,
            },
            _ => None,
        })
    }
}

impl Condition {
    fn holds(&self, object: &impl Object) -> bool {
        match &self.place {
            Place::Label(key) => self.test.holds(object.label(key)),
            // A field that is not set counts as empty.
            Place::Field(field) => self.test.holds(Some(&object.field(field).unwrap_or(Cow::Borrowed("")))),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exists(wanted) => value.is_some() == *wanted,
            Self::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
        }
    }
}

/// The selector inside an object, as a budget or a controller has one: `matchLabels` and `matchExpressions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LabelSelector(Vec<(String, Test)>);

impl LabelSelector {
    /// Reads one; `None` when it cannot be understood, in which case it matches nothing.
    pub(super) fn read(selector: &Value) -> Option<Self> {
        let mut conditions = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            conditions.push((key.clone(), Test::In(vec![value.as_str()?.to_owned()])));
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            let values: Vec<_> = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let test = match expression["operator"].as_str()? {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists(true),
                "DoesNotExist" => Test::Exists(false),
                _ => return None,
            };
            conditions.push((expression["key"].as_str()?.to_owned(), test));
        }
        Some(Self(conditions))
    }

    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, test)| test.holds(labels.get(key).map(String::as_str)))
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

fn field_condition(text: &str, known: &[&'static str]) -> Result<Condition, Refusal> {
    let (key, test) = equality(text)
        .ok_or_else(|| Refusal::bad_request(format!("invalid field selector: {text:?}; can't understand")))?;
    let field = known.iter().find(|field| **field == key.trim());
    let field = field.ok_or_else(|| Refusal::bad_request(format!("field label not supported: {key}")))?;
    Ok(Condition { place: Place::Field(field), test })
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

    const KNOWN: [&str; 3] = ["metadata.name", "spec.unschedulable", "spec.nodeName"];

    fn matches(labels: &str, fields: &str) -> bool {
        let node = json!({
            "metadata": {"name": "node-1", "labels": {"zone": "a", "role": "worker", "empty": ""}},
            "spec": {"unschedulable": true},
        });
        Selector::parse(labels, fields, &KNOWN).unwrap().matches(&node)
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
        assert!(matches("", "spec.nodeName="), "what is not set counts as empty");
        assert_eq!(Selector::parse("", "spec.podCIDR=x", &KNOWN).unwrap_err().code, 400);
        assert_eq!(Selector::parse("zone in a", "", &KNOWN).unwrap_err().code, 400);
    }

    #[test]
    fn one_node_is_a_group_and_anything_else_is_not() {
        let group = |fields| Selector::parse("", fields, &KNOWN).unwrap().group();
        assert_eq!(group("spec.nodeName=n,metadata.name=p"), Some(Group::Node("n".into())));
        assert_eq!((group("spec.nodeName!=n"), group("spec.nodeName="), group("")), (None, None, None));
    }

    #[test]
    fn selectors_inside_objects_have_four_operators() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let matches = |selector: Value| LabelSelector::read(&selector).map(|s| s.matches(&labels));
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        assert_eq!(matches(json!({"matchLabels": {"app": "web"}})), Some(true));
        assert_eq!(matches(json!({"matchLabels": {"app": "db"}})), Some(false));
        assert_eq!(matches(expression("app", "In", json!(["db", "web"]))), Some(true));
        assert_eq!(matches(expression("tier", "NotIn", json!(["gold"]))), Some(true));
        assert_eq!(matches(expression("app", "DoesNotExist", Value::Null)), Some(false));
        assert_eq!(matches(expression("app", "Near", Value::Null)), None);
    }
}
