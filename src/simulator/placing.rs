//! Where new pods go: nodes that are ready, not cordoned and without a taint that keeps pods off. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

/// Nodes that are looked at for each pod; of those the emptiest gets it.
const LOOKED_AT: usize = 8;

/// Nodes that take new pods.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeSet<Arc<str>>);

impl Places {
    pub(super) fn set(&mut self, node: &str, takes_pods: bool) {
        if takes_pods {
            self.0.insert(node.into());
        } else {
            self.0.remove(node);
        }
    }

    pub(super) fn has(&self, node: &str) -> bool {
        self.0.contains(node)
    }

    /// A node for a new pod; `turn` is the number of the choice, so that choices differ but do so the same way in each
    /// run.
    pub(super) fn choose(&self, turn: u64, load: impl Fn(&str) -> usize) -> Option<Arc<str>> {
        let all = u64::try_from(self.0.len()).ok().filter(|all| *all > 0)?;
        let start = usize::try_from(turn.wrapping_mul(0x9E37_79B9) % all).unwrap_or(0);
        let around = self.0.iter().skip(start).chain(self.0.iter().take(start));
        around.take(LOOKED_AT).min_by_key(|node| load(node)).cloned()
    }
}

/// Whether a node takes new pods.
pub(super) fn ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let kept_off = taints.any(|taint| taint["effect"] == "NoSchedule" || taint["effect"] == "NoExecute");
    ready && !kept_off && node["spec"]["unschedulable"] != true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_few_nodes_the_emptiest_is_chosen_and_of_none_nothing() {
        let mut places = Places::default();
        assert_eq!(places.choose(0, |_| 0), None);
        for node in ["a", "b", "c"] {
            places.set(node, true);
        }
        let load = |node: &str| usize::from(node != "b");
        assert!((0..9).all(|turn| places.choose(turn, load).as_deref() == Some("b")));
        places.set("b", false);
        assert!(!places.has("b"));
        let spread: BTreeSet<_> = (0..99).filter_map(|turn| places.choose(turn, |_| 0)).collect();
        assert_eq!(spread.len(), 2);
    }

    #[test]
    fn cordoned_tainted_and_unready_nodes_take_nothing() {
        let node = |spec: Value, status: &str| {
            ready(&json!({"spec": spec, "status": {"conditions": [{"type": "Ready", "status": status}]}}))
        };
        assert!(node(json!({}), "True"));
        assert!(node(json!({"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}), "True"));
        assert!(!node(json!({"taints": [{"key": "a", "effect": "NoSchedule"}]}), "True"));
        assert!(!node(json!({"unschedulable": true}), "True") && !node(json!({}), "Unknown"));
    }
}
