//! What a collection holds: objects with a name, a version and a few places to select by. Pure.
//!
//! Most kinds are few in number and are kept as the JSON they were given. Pods are many and are kept small
//! ([`super::pod`]); both are shown as JSON only when somebody asks.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

/// An object of the API.
pub(super) trait Object: Clone + PartialEq + Send + Sync + 'static {
    fn name(&self) -> &str;
    /// Empty for objects of the whole cluster.
    fn namespace(&self) -> &str;
    /// The version it was stored under; 0 when it names none.
    fn version(&self) -> u64;
    fn stamp(&mut self, version: u64);
    fn label(&self, key: &str) -> Option<&str>;
    /// The value at a field that can be selected by.
    fn field(&self, field: &str) -> Option<Cow<'_, str>>;
    /// The groups that it can be found by without looking at every object.
    fn groups(&self) -> [Option<Group>; 2] {
        [None, None]
    }
    /// The object as the API shows it.
    fn show(&self) -> Cow<'_, Value>;

    fn key(&self) -> String {
        key(self.namespace(), self.name())
    }
}

/// What pods are found by quickly.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// Those bound to a node, by its name.
    Node(Arc<str>),
    /// Those of a controller, by its UID.
    Owner(Arc<str>),
}

/// Under what an object is stored; the order of keys is the order of lists.
pub(super) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// A time as the API writes it.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Object for Value {
    fn name(&self) -> &str {
        self["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    fn version(&self) -> u64 {
        match self["metadata"]["resourceVersion"].as_str() {
            None | Some("") => 0,
            // A version that was never given equals no other.
            Some(text) => text.parse().unwrap_or(u64::MAX),
        }
    }

    fn stamp(&mut self, version: u64) {
        self["metadata"]["resourceVersion"] = version.to_string().into();
    }

    fn label(&self, key: &str) -> Option<&str> {
        self["metadata"]["labels"].get(key).and_then(Value::as_str)
    }

    fn field(&self, field: &str) -> Option<Cow<'_, str>> {
        if field == "spec.unschedulable" {
            return Some((self["spec"]["unschedulable"] == true).to_string().into());
        }
        let value = field.split('.').try_fold(self, |value, step| value.get(step));
        value.and_then(Value::as_str).map(Cow::Borrowed)
    }

    fn show(&self) -> Cow<'_, Value> {
        Cow::Borrowed(self)
    }
}
