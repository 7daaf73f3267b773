//! What Milepost writes beside a cordon, so that people see who cordoned a node, when and why. Written in the patch of
//! the cordon and removed in the patch of the uncordon.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::store::Task;
use crate::task::{TaskId, UserId};

/// The keys, with the configured prefix.
#[derive(Debug, Clone)]
pub(super) struct Annotations {
    reason: String,
    actor: String,
    task: String,
    time: String,
    previous: String,
}

/// Who cordons, and why.
#[derive(Debug, Clone)]
pub(super) struct Note {
    reason: Option<String>,
    actor: UserId,
    task: TaskId,
}

impl From<&Task> for Note {
    fn from(task: &Task) -> Self {
        Self { reason: task.reason.clone(), actor: task.owner.clone(), task: task.id }
    }
}

impl Annotations {
    /// Whether a text can be the prefix of a key: a DNS name, as Kubernetes asks.
    pub(super) fn is_prefix(text: &str) -> bool {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let label = |part: &[u8]| part.iter().all(|&b| inner(b)) && edge(part.first()) && edge(part.last());
        text.len() <= 253 && text.as_bytes().split(|b| *b == b'.').all(label)
    }

    pub(super) fn new(prefix: &str) -> Self {
        let key = |name: &str| format!("{prefix}/cordon-{name}");
        Self {
            reason: key("reason"),
            actor: key("actor"),
            task: key("task"),
            time: key("time"),
            previous: key("previous"),
        }
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

    /// The reason among a node's annotations.
    pub(super) fn reason(&self, there: &BTreeMap<String, String>) -> Option<String> {
        there.get(&self.reason).cloned()
    }
}

#[cfg(test)]
pub(super) fn note(reason: Option<&str>) -> Note {
    let task = "018f0000-0000-7000-8000-000000000001".parse().unwrap();
    Note { reason: reason.map(str::to_owned), actor: UserId::new("ada").unwrap(), task }
}
