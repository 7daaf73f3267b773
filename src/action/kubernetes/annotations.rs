//! What Milepost writes beside a cordon, so that people see who cordoned a node, when and why. Written in the patch of
//! the cordon and removed in the patch of the uncordon.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::holder::Holder;
use crate::store::Task;
use crate::task::{TaskId, UserId};

/// The keys, with the configured prefix, and where others write the reasons of their cordons.
#[derive(Debug, Clone)]
pub(super) struct Annotations {
    reason: String,
    actor: String,
    task: String,
    time: String,
    previous: String,
    foreign: Vec<String>,
}

/// Who cordons, and why.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) reason: Option<String>,
    pub(super) actor: UserId,
    pub(super) task: TaskId,
}

impl From<&Task> for Note {
    fn from(task: &Task) -> Self {
        Self { reason: task.reason.clone(), actor: task.owner.clone(), task: task.id }
    }
}

impl Annotations {
    /// Whether a text is a DNS name, as Kubernetes asks of the prefixes of keys and of the names of nodes.
    pub(super) fn is_dns_name(text: &str) -> bool {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let label = |part: &[u8]| part.iter().all(|&b| inner(b)) && edge(part.first()) && edge(part.last());
        text.len() <= 253 && text.as_bytes().split(|b| *b == b'.').all(label)
    }

    /// `foreign` holds keys of other tools, and prefixes: under a prefix every key that ends with `reason`.
    pub(super) fn new(prefix: &str, foreign: &[String]) -> Self {
        let key = |name: &str| format!("{prefix}/cordon-{name}");
        Self {
            reason: key("reason"),
            actor: key("actor"),
            task: key("task"),
            time: key("time"),
            previous: key("previous"),
            foreign: foreign.to_vec(),
        }
    }

    /// Whether the value of a key is known only when a task writes it: which task it is, and when.
    pub(super) fn is_of_run(&self, key: &str) -> bool {
        key == self.task || key == self.time
    }

    /// Whether a text names the reasons of others: a prefix, or a prefix and a name.
    pub(super) fn is_foreign(text: &str) -> bool {
        let (prefix, name) = text.split_once('/').map_or((text, None), |(prefix, name)| (prefix, Some(name)));
        Self::is_dns_name(prefix) && name.is_none_or(|name| (1..=63).contains(&name.len()))
    }

    /// The annotations of a cordon of a node that could be scheduled before. A reason that an earlier cordon left is
    /// removed when this one has none.
    pub(super) fn set(&self, note: &Note, now: Timestamp) -> Map<String, Value> {
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let pairs = [
            (&self.reason, note.reason.clone().map_or(Value::Null, Value::from)),
            (&self.actor, note.actor.as_str().into()),
            (&self.task, note.task.to_string().into()),
            (&self.time, time.into()),
            (&self.previous, "schedulable".into()),
        ];
        pairs.into_iter().map(|(key, value)| (key.clone(), value)).collect()
    }

    /// Removes those that a node with these annotations has.
    pub(super) fn clear(&self, there: &BTreeMap<String, String>) -> Map<String, Value> {
        let keys = [&self.reason, &self.actor, &self.task, &self.time, &self.previous];
        keys.into_iter()
            .filter(|key| there.contains_key(*key))
            .map(|key| (key.clone(), Value::Null))
            .collect()
    }

    /// Removes the reasons that others left, for when their cordon is undone on request.
    pub(super) fn clear_foreign(&self, there: &BTreeMap<String, String>) -> Map<String, Value> {
        there.keys().filter(|key| self.is_of_others(key)).map(|key| (key.clone(), Value::Null)).collect()
    }

    /// Those that people are told of: ours, and the reasons that others left.
    pub(super) fn told(&self, there: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
        let ours = [&self.reason, &self.actor, &self.task, &self.time, &self.previous];
        let told =
            there.into_iter().flatten().filter(|(key, _)| ours.contains(key) || self.is_of_others(key));
        told.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The task that these annotations claim a cordon for.
    pub(super) fn read(&self, there: &BTreeMap<String, String>) -> Option<Holder> {
        let text = |key: &String| there.get(key).cloned();
        let task = text(&self.task)?;
        Some(Holder::Task {
            task,
            actor: text(&self.actor),
            reason: text(&self.reason),
            time: text(&self.time),
        })
    }

    /// The reason that somebody else left.
    pub(super) fn foreign_reason<'a>(&self, there: &'a BTreeMap<String, String>) -> Option<&'a str> {
        there.iter().find(|(key, _)| self.is_of_others(key)).map(|(_, reason)| reason.as_str())
    }

    fn is_of_others(&self, key: &str) -> bool {
        self.foreign.iter().any(|named| match named.contains('/') {
            true => key == named,
            false => key
                .strip_prefix(named.as_str())
                .is_some_and(|rest| rest.starts_with('/') && rest.ends_with("reason")),
        })
    }
}

/// A note of the user ada.
#[cfg(test)]
pub(super) fn note(reason: Option<&str>) -> Note {
    let task = "018f0000-0000-7000-8000-000000000001".parse().unwrap();
    Note { reason: reason.map(str::to_owned), actor: UserId::new("ada").unwrap(), task }
}
