//! The taints of one node, copied to others: added to what they have, by key and effect.
//!
//! The node that is copied from is read once for an attempt, when its first item needs it. What controllers keep there
//! (unschedulable, not ready, unreachable, control plane, ...) says something about that node alone and is left out.

use serde_json::Value;
use tokio::sync::OnceCell;

use super::protected::{Kind, Protected};
use crate::action::ActionError;
use crate::task::spec::{CopyTaintsParameters, Taint, TaintEffect, TaintParameters};

/// A copy, with what was found once it was read.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) asked: CopyTaintsParameters,
    pub(super) protected: Protected,
    pub(super) found: OnceCell<TaintParameters>,
}

impl Copy {
    pub(super) fn new(asked: CopyTaintsParameters, protected: Protected) -> Self {
        Self { asked, protected, found: OnceCell::new() }
    }

    /// What the others get of these taints.
    ///
    /// # Errors
    /// Permanent when nothing is left to copy.
    pub(super) fn of(&self, taints: &[Value]) -> Result<TaintParameters, ActionError> {
        let from = &self.asked.from;
        let copied: Vec<Taint> = taints.iter().filter_map(|taint| self.copied(taint)).collect();
        if copied.is_empty() {
            return Err(ActionError::permanent(format!("node {from} has no taints that can be copied")));
        }
        Ok(TaintParameters { taints: copied, overwrite: self.asked.overwrite })
    }

    fn copied(&self, taint: &Value) -> Option<Taint> {
        let key = taint["key"].as_str().filter(|key| !self.protected.holds(Kind::Taint, key))?;
        let effect: TaintEffect = serde_json::from_value(taint["effect"].clone()).ok()?;
        Some(Taint { key: key.into(), value: taint["value"].as_str().unwrap_or_default().into(), effect })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn copy(overwrite: bool) -> Copy {
        let from = crate::task::ItemName::new("n1").unwrap();
        Copy::new(CopyTaintsParameters { from, overwrite }, Protected::default())
    }

    #[test]
    fn what_controllers_keep_stays_where_it_is() {
        let have = [
            json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}),
            json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}),
            json!({"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}),
        ];
        let none = copy(false).of(&have).unwrap_err();
        assert_eq!(none, ActionError::permanent("node n1 has no taints that can be copied"));
        let theirs =
            json!({"key": "gpu", "value": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let found = copy(true).of(&[have.as_slice(), &[theirs]].concat()).unwrap();
        let taint = Taint { key: "gpu".into(), value: "a".into(), effect: TaintEffect::NoExecute };
        assert_eq!(found, TaintParameters { taints: vec![taint], overwrite: true });
    }
}
