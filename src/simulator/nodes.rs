//! Virtual nodes: how they look, and what the API accepts of a changed one. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::SimulatorConfig;
use super::object::{Object, time};
use super::status::Refusal;

/// Version of Kubernetes that the simulator says it is.
pub(super) const KUBERNETES_VERSION: &str = "v1.33.4";

const CPUS: [u32; 3] = [8, 16, 32];

/// The nodes of a new cluster, `node-001` and on, all ready. The first ones are the control plane.
pub(super) fn fleet(config: &SimulatorConfig, now: Timestamp) -> impl Iterator<Item = Value> {
    let width = config.nodes.to_string().len().max(3);
    let control_planes = config.control_planes.min(config.nodes / 2);
    let zones = if config.zones.is_empty() { vec!["zone-a".to_owned()] } else { config.zones.clone() };
    (1..=config.nodes).map(move |i| {
        let zone = &zones[(i as usize - 1) % zones.len()];
        let role = if i <= control_planes { "control-plane" } else { "worker" };
        node(i, &format!("node-{i:0width$}"), role, zone, now)
    })
}

fn node(i: u32, name: &str, role: &str, zone: &str, now: Timestamp) -> Value {
    let age = SignedDuration::from_hours(24 * 30) + SignedDuration::from_mins(i64::from(i % 1_000));
    let created = now.checked_sub(age).unwrap_or(Timestamp::UNIX_EPOCH);
    let created = time(created);
    let mut spec = json!({"providerID": format!("simulator:///{zone}/{name}")});
    if role == "control-plane" {
        spec["taints"] = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    }
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name,
            "uid": format!("00000000-0000-4000-8000-{i:012x}"),
            "creationTimestamp": created,
            "labels": labels(name, role, zone),
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
        },
        "spec": spec,
        "status": status(i, name, &created),
    })
}

fn labels(name: &str, role: &str, zone: &str) -> Value {
    json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": "simulated",
        "topology.kubernetes.io/zone": zone,
        "node.kubernetes.io/instance-type": "virtual",
        format!("node-role.kubernetes.io/{role}"): "",
    })
}

fn status(i: u32, name: &str, since: &str) -> Value {
    let cpus = CPUS[i as usize % CPUS.len()];
    let resources = json!({"cpu": cpus.to_string(), "memory": format!("{}Gi", cpus * 4), "pods": "110"});
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "simulated",
            "lastHeartbeatTime": since, "lastTransitionTime": since})
    };
    json!({
        "capacity": resources, "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "addresses": [
            {"type": "InternalIP", "address": format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255)},
            {"type": "Hostname", "address": name},
        ],
        "nodeInfo": {
            "kubeletVersion": KUBERNETES_VERSION, "kubeProxyVersion": KUBERNETES_VERSION,
            "operatingSystem": "linux", "architecture": "amd64", "osImage": "Simulated Linux",
            "kernelVersion": "6.12.0", "containerRuntimeVersion": "simulated://1.0.0",
            "machineID": format!("{i:032x}"), "systemUUID": format!("{i:032x}"), "bootID": format!("{i:032x}"),
        },
    })
}

/// Brings a patched node into the form that the API stores, or refuses it.
pub(super) fn admit(old: &Value, mut new: Value) -> Result<Value, Refusal> {
    let name = old.name();
    for field in ["name", "uid"] {
        if new["metadata"][field] != old["metadata"][field] {
            return Err(Refusal::invalid("Node", name, format!("metadata.{field}: field is immutable")));
        }
    }
    new["metadata"]["creationTimestamp"] = old["metadata"]["creationTimestamp"].clone();
    check_texts(name, &new["metadata"]["labels"], "metadata.labels", 63)?;
    check_texts(name, &new["metadata"]["annotations"], "metadata.annotations", usize::MAX)?;
    check_spec(name, &mut new["spec"])?;
    drop_empty(&mut new["metadata"], &["labels", "annotations"]);
    drop_empty(&mut new["spec"], &["taints", "unschedulable"]);
    Ok(new)
}

fn check_texts(name: &str, map: &Value, field: &str, len_max: usize) -> Result<(), Refusal> {
    let bad = |what: String| Err(Refusal::invalid("Node", name, what));
    let empty = Map::new();
    for (key, value) in map.as_object().unwrap_or(&empty) {
        let Some(text) = value.as_str() else { return bad(format!("{field}.{key}: must be a string")) };
        if !is_qualified(key) {
            return bad(format!(
                "{field}: Invalid value: {key:?}: name part must consist of alphanumeric characters"
            ));
        }
        if text.len() > len_max {
            return bad(format!("{field}: Invalid value: {text:?}: must be no more than {len_max} bytes"));
        }
    }
    Ok(())
}

/// Whether a key is an optional DNS name and `/`, then a name.
fn is_qualified(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let edges = |text: &str| alphanumeric(text.bytes().next()) && alphanumeric(text.bytes().last());
    let dns = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    prefix.is_none_or(|prefix| prefix.split('.').all(edges) && prefix.bytes().all(dns))
        && edges(name)
        && name.len() <= 63
        && name.bytes().all(inner)
}

fn check_spec(name: &str, spec: &mut Value) -> Result<(), Refusal> {
    let bad = |what: String| Err(Refusal::invalid("Node", name, what));
    if !matches!(spec["unschedulable"], Value::Null | Value::Bool(_)) {
        return bad("spec.unschedulable: must be a boolean".into());
    }
    let mut seen = Vec::new();
    for (i, taint) in spec["taints"].as_array_mut().into_iter().flatten().enumerate() {
        let effect = taint["effect"].as_str().unwrap_or_default().to_owned();
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect.as_str()) {
            return bad(format!("spec.taints[{i}].effect: Unsupported value: {effect:?}"));
        }
        let identity = (taint["key"].as_str().unwrap_or_default().to_owned(), effect);
        if identity.0.is_empty() {
            return bad(format!("spec.taints[{i}].key: Required value"));
        }
        if seen.contains(&identity) {
            return bad(format!("spec.taints[{i}]: Duplicate value: {identity:?}"));
        }
        seen.push(identity);
        drop_empty(taint, &["value"]);
    }
    Ok(())
}

/// Leaves out fields at their zero value, as the real API does when it stores an object.
fn drop_empty(object: &mut Value, fields: &[&str]) {
    let Some(object) = object.as_object_mut() else { return };
    for field in fields {
        let empty = match object.get(*field) {
            Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            _ => false,
        };
        if empty {
            object.remove(*field);
        }
    }
}

/// The roles of a node, from its labels.
pub(super) fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let roles =
        labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
    let roles: Vec<_> = roles.collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Value {
        fleet(&SimulatorConfig { nodes: 12, ..SimulatorConfig::default() }, Timestamp::UNIX_EPOCH)
            .last()
            .unwrap()
    }

    #[test]
    fn names_have_one_width_and_zones_take_turns() {
        let config = SimulatorConfig { nodes: 1_200, ..SimulatorConfig::default() };
        let nodes: Vec<_> = fleet(&config, Timestamp::UNIX_EPOCH).collect();
        assert_eq!((nodes[0].name(), nodes[1_199].name()), ("node-0001", "node-1200"));
        assert_eq!(nodes.iter().filter(|node| roles(node) == "control-plane").count(), 3);
        let zone = |i: usize| nodes[i]["metadata"]["labels"]["topology.kubernetes.io/zone"].clone();
        assert_ne!(zone(0), zone(1));
    }

    #[test]
    fn a_virtual_node_is_a_node_to_a_typed_client() {
        let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(one()).unwrap();
        assert_eq!(node.status.unwrap().node_info.unwrap().kubelet_version, KUBERNETES_VERSION);
    }

    #[test]
    fn what_the_api_would_refuse_is_refused() {
        let edits: [(&str, Value); 6] = [
            ("/metadata/name", "other".into()),
            ("/metadata/labels/kubernetes.io~1os", 5.into()),
            ("/metadata/labels/kubernetes.io~1os", "x".repeat(64).into()),
            ("/spec", json!({"taints": [{"key": "a", "effect": "Never"}]})),
            (
                "/spec",
                json!({"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute", "value": "x"}]}),
            ),
            ("/spec", json!({"unschedulable": "yes"})),
        ];
        for (pointer, value) in edits {
            let mut new = one();
            *new.pointer_mut(pointer).unwrap() = value;
            assert_eq!(admit(&one(), new).unwrap_err().code, 422, "{pointer}");
        }
    }

    #[test]
    fn zero_values_are_not_stored() {
        let mut new = one();
        new["spec"]["unschedulable"] = false.into();
        new["spec"]["taints"] = json!([]);
        assert_eq!(admit(&one(), new).unwrap(), one());
    }
}
