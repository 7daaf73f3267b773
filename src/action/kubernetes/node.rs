//! A node as it was read. Taints stay as the API sent them, so that fields this program does not know survive when the
//! list is written back.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde_json::Value;

use super::annotations::Annotations;
use super::holder::{Holder, Manager};
use crate::action::NodeView;
use crate::action::nodes::{NodeAddress, NodeCondition, NodeMore};
use crate::task::safety::{Node, Rules, keeps_pods_off};

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

/// What the rules of safety look at.
pub(super) fn facts(node: &NodeView, rules: &Rules) -> Node {
    let named = node.labels.iter().filter(|(key, _)| rules.names(key));
    Node {
        name: node.name.clone(),
        ready: node.ready,
        cordoned: node.unschedulable,
        control_plane: node.is_control_plane(),
        tainted: node.taints.iter().any(|taint| keeps_off(taint)),
        labels: named.map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

/// Whether a taint keeps pods off that do not tolerate it; as [`taint_text`] writes it.
fn keeps_off(taint: &str) -> bool {
    let (what, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
    let key = what.split_once('=').map_or(what, |(key, _)| key);
    keeps_pods_off(key, effect)
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// A node for people: what lists show, and the rest.
pub(super) fn known(node: DynamicObject, annotations: &Annotations) -> (NodeView, NodeMore) {
    let more = more(&node, annotations);
    (view(node, annotations), more)
}

/// A node for lists and pickers.
pub(super) fn view(node: DynamicObject, annotations: &Annotations) -> NodeView {
    let status = &node.data["status"];
    let holds = |condition: &&Value| condition["status"] == "True";
    let conditions = || status["conditions"].as_array().into_iter().flatten();
    let ready = is_ready(status);
    let problems = conditions().filter(holds).map(|condition| text(&condition["type"]));
    let problems = problems.filter(|name| name != "Ready").collect();
    let version = text(&status["nodeInfo"]["kubeletVersion"]);
    let (name, uid) = (node.metadata.name.clone(), node.metadata.uid.clone());
    let created_at = node.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let node = Observed::from(node);
    let holder = Holder::of(&node, annotations);
    let of_holder = |part: fn(&Holder) -> Option<&str>| holder.as_ref().and_then(part).map(str::to_owned);
    let role = |key: &String| key.strip_prefix("node-role.kubernetes.io/").map(str::to_owned);
    NodeView {
        name: name.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        created_at,
        ready,
        unschedulable: node.unschedulable,
        roles: node.labels.keys().filter_map(role).collect(),
        problems,
        cordon_reason: of_holder(Holder::reason),
        cordoned_by: of_holder(Holder::who),
        cordoned_at: of_holder(Holder::since),
        cordon_task: of_holder(Holder::task),
        taints: node.taints.iter().map(taint_text).collect(),
        labels: node.labels,
        version,
    }
}

/// Without the times of heartbeats, which would make every node another one every few seconds.
fn more(node: &DynamicObject, annotations: &Annotations) -> NodeMore {
    let status = &node.data["status"];
    let list = |field: &str| status[field].as_array().into_iter().flatten();
    let condition = |condition: &Value| NodeCondition {
        name: text(&condition["type"]),
        status: text(&condition["status"]),
        reason: text(&condition["reason"]),
        message: text(&condition["message"]),
        since: condition["lastTransitionTime"].as_str().map(str::to_owned),
    };
    let mut conditions: Vec<_> = list("conditions").map(condition).collect();
    conditions.sort_by_key(|condition| condition.name != "Ready");
    let address =
        |address: &Value| NodeAddress { kind: text(&address["type"]), address: text(&address["address"]) };
    NodeMore {
        conditions,
        addresses: list("addresses").map(address).collect(),
        capacity: texts(&status["capacity"]),
        allocatable: texts(&status["allocatable"]),
        annotations: annotations.told(node.metadata.annotations.as_ref()),
        system: SYSTEM
            .iter()
            .map(|name| ((*name).to_owned(), text(&status["nodeInfo"][*name])))
            .filter(|(_, value)| !value.is_empty())
            .collect(),
        seen: node.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// What people are told of the system of a node, as Kubernetes calls it.
const SYSTEM: [&str; 6] = [
    "architecture",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeletVersion",
    "operatingSystem",
    "osImage",
];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(object: &Value) -> BTreeMap<String, String> {
    let pairs = object.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), text(value))).collect()
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
                    "other.example/secret": "x",
                },
                "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"unschedulable": true, "taints": [
                {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoExecute"}]},
            "status": {
                "conditions": [
                    {"type": "DiskPressure", "status": "True", "reason": "Full", "lastHeartbeatTime": "x",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "PIDPressure", "status": "False"},
                    {"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "capacity": {"cpu": "8"}, "allocatable": {"cpu": "7500m"},
                "nodeInfo": {"kubeletVersion": "v1.33.4", "osImage": "Debian", "machineID": "secret"},
            },
        });
        let (view, more) =
            known(serde_json::from_value(node).unwrap(), &Annotations::new("example.com", &[]));
        assert_eq!((view.uid.as_str(), view.created_at.as_deref()), ("u-1", Some("2026-01-01T00:00:00Z")));
        assert_eq!(view.problems, ["DiskPressure"]);
        let conditions: Vec<_> =
            more.conditions.iter().map(|c| (c.name.as_str(), c.reason.as_str())).collect();
        assert_eq!(conditions, [("Ready", ""), ("DiskPressure", "Full"), ("PIDPressure", "")]);
        assert_eq!(more.conditions[1].since.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!((more.addresses[0].address.as_str(), more.capacity["cpu"].as_str()), ("10.0.0.1", "8"));
        assert_eq!((more.annotations.len(), more.system.len()), (4, 2), "{more:?}");
        assert!(view.ready && view.unschedulable);
        assert_eq!((view.name.as_str(), view.version.as_str()), ("n1", "v1.33.4"));
        assert_eq!((view.roles, view.cordon_reason), (vec!["worker".to_owned()], Some("disk".to_owned())));
        let cordon = [view.cordoned_by, view.cordoned_at, view.cordon_task].map(Option::unwrap);
        assert_eq!(cordon, ["ada", "2026-01-02T03:04:05Z", "t1"]);
        assert_eq!(view.taints, ["a=b:NoSchedule", "c:NoExecute"]);
    }
}
