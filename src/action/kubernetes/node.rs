//! A node as it was read. Taints stay as the API sent them, so that fields this program does not know survive when the
//! list is written back.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde_json::Value;

use super::annotations::Annotations;
use super::holder::{Holder, Manager};
use crate::action::NodeView;

/// What decisions look at.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Observed {
    pub(super) version: String,
    pub(super) unschedulable: bool,
    pub(super) cordoned_through: Vec<Manager>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) taints: Vec<Value>,
}

impl From<DynamicObject> for Observed {
    fn from(node: DynamicObject) -> Self {
        let spec = &node.data["spec"];
        Self {
            unschedulable: spec["unschedulable"] == true,
            cordoned_through: Manager::of_cordon(&node.metadata),
            taints: spec["taints"].as_array().cloned().unwrap_or_default(),
            version: node.metadata.resource_version.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            annotations: node.metadata.annotations.unwrap_or_default(),
        }
    }
}

/// A node for lists and pickers.
pub(super) fn view(node: DynamicObject, annotations: &Annotations) -> NodeView {
    let status = &node.data["status"];
    let conditions = status["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let version = status["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default().to_owned();
    let name = node.metadata.name.clone().unwrap_or_default();
    let node = Observed::from(node);
    let holder = Holder::of(&node, annotations);
    let of_holder = |part: fn(&Holder) -> Option<&str>| holder.as_ref().and_then(part).map(str::to_owned);
    let role = |key: &String| key.strip_prefix("node-role.kubernetes.io/").map(str::to_owned);
    NodeView {
        name,
        ready,
        unschedulable: node.unschedulable,
        roles: node.labels.keys().filter_map(role).collect(),
        cordon_reason: of_holder(Holder::reason),
        cordoned_by: of_holder(Holder::who),
        cordoned_at: of_holder(Holder::since),
        cordon_task: of_holder(Holder::task),
        taints: node.taints.iter().map(taint_text).collect(),
        labels: node.labels,
        version,
    }
}

/// `key=value:effect`, or `key:effect` for a taint without a value.
fn taint_text(taint: &Value) -> String {
    let text = |field: &str| taint[field].as_str().unwrap_or_default();
    let value = text("value");
    let equals = if value.is_empty() { "" } else { "=" };
    format!("{}{equals}{value}:{}", text("key"), text("effect"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_view_says_what_people_look_for() {
        let node = json!({
            "kind": "Node", "apiVersion": "v1",
            "metadata": {
                "name": "n1",
                "labels": {"node-role.kubernetes.io/worker": "", "zone": "a"},
                "annotations": {
                    "example.com/cordon-task": "t1", "example.com/cordon-reason": "disk",
                    "example.com/cordon-actor": "ada", "example.com/cordon-time": "2026-01-02T03:04:05Z",
                },
            },
            "spec": {"unschedulable": true, "taints": [
                {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoExecute"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.33.4"},
            },
        });
        let view = view(serde_json::from_value(node).unwrap(), &Annotations::new("example.com", &[]));
        assert!(view.ready && view.unschedulable);
        assert_eq!((view.name.as_str(), view.version.as_str()), ("n1", "v1.33.4"));
        assert_eq!((view.roles, view.cordon_reason), (vec!["worker".to_owned()], Some("disk".to_owned())));
        let cordon = [view.cordoned_by, view.cordoned_at, view.cordon_task].map(Option::unwrap);
        assert_eq!(cordon, ["ada", "2026-01-02T03:04:05Z", "t1"]);
        assert_eq!(view.taints, ["a=b:NoSchedule", "c:NoExecute"]);
    }
}
