//! A specification in one fixed form, of which a hash stands for its meaning: spelling, the order of fields and the route
//! that it came through make no difference.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::TaskSpec;
use crate::task::{FailureBudget, ItemName, Strategy, StrategyDraft};

#[derive(Serialize)]
struct Canonical<'a> {
    action: &'a str,
    parameters: serde_json::Value,
    cluster: &'a str,
    items: Vec<&'a str>,
    reason: Option<&'a str>,
    priority: i16,
    concurrency: Option<u16>,
    item_timeout_ms: Option<u128>,
    max_attempts: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_budget: Option<FailureBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<StrategyDraft>,
}

impl TaskSpec {
    /// SHA-256 of what is asked for. Kept in the record with idempotency keys, so it must stay the same between releases.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let canonical = Canonical {
            action: self.action.name(),
            parameters: self.action.parameters(),
            cluster: self.cluster.as_str(),
            items: self.items.iter().map(ItemName::as_str).collect(),
            reason: self.reason.as_deref(),
            priority: self.priority.0,
            concurrency: self.concurrency,
            item_timeout_ms: self.item_timeout.map(|timeout| timeout.as_millis()),
            max_attempts: self.max_attempts,
            failure_budget: self.budget,
            strategy: self.strategy.as_ref().map(Strategy::draft),
        };
        let bytes = serde_json::to_vec(&canonical).expect("a specification is plain texts, numbers and JSON");
        Sha256::digest(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(draft: serde_json::Value) -> TaskSpec {
        TaskSpec::new(serde_json::from_value(draft).unwrap()).unwrap()
    }

    #[test]
    fn a_fingerprint_is_of_the_meaning_and_not_of_the_spelling() {
        let a = spec(json!({"action": "label", "cluster": "c", "items": ["n"],
            "parameters": {"labels": {"a": "1", "b": "2"}}}));
        let b =
            spec(json!({"parameters": {"overwrite": false, "labels": {"b": "2", "a": "1"}}, "items": ["n"],
            "cluster": "c", "action": "label", "priority": 0, "reason": " "}));
        assert_eq!(a.fingerprint(), b.fingerprint());
        let c = TaskSpec { max_attempts: 4, ..a.clone() };
        assert_ne!(a.fingerprint(), c.fingerprint());
    }
}
