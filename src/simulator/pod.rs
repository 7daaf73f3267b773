//! Virtual pods: kept small, shown whole. Pure.
//!
//! What pods of one controller have in common is a [`Template`] that they share; a pod by itself is its name, where it
//! runs and how it is. Not here: who may end a pod ([`super::deletion`], [`super::eviction`]), and what happens to it
//! by itself ([`super::controllers`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{Group, Object, time};
use super::status::Refusal;

/// Marks the pods of a kubelet's own, which the API can only show.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// What pods of one controller have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// `ownerReferences` as given.
    pub(super) owners: Vec<Value>,
    pub(super) finalizers: Vec<String>,
    /// The spec without the node.
    pub(super) spec: Value,
}

impl Template {
    /// The owner that controls the pods: kind, name, UID.
    pub(super) fn controller(&self) -> Option<(&str, &str, &str)> {
        let owner = self.owners.iter().find(|owner| owner["controller"] == true)?;
        Some((owner["kind"].as_str()?, owner["name"].as_str()?, owner["uid"].as_str()?))
    }

    /// Seconds that a pod may take to end, unless the request says otherwise.
    pub(super) fn grace_secs(&self) -> i64 {
        self.spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30)
    }
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    fn read(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|p| p.text() == text)
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// That a pod is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deletion {
    /// When it should be gone.
    pub(super) at: Timestamp,
    /// 0 once its containers have ended and only finalizers hold it.
    pub(super) grace_secs: i64,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) version: u64,
    pub(super) template: Arc<Template>,
    /// Empty until it is bound.
    pub(super) node: Option<Arc<str>>,
    pub(super) phase: Phase,
    pub(super) ready: bool,
    pub(super) created: Timestamp,
    /// When `ready` last changed.
    pub(super) since: Timestamp,
    pub(super) deletion: Option<Deletion>,
}

impl Pod {
    /// Reads a pod as it was posted. What it leaves out is filled in: a pod on a node runs and is ready unless its
    /// status says otherwise.
    pub(super) fn read(value: &Value, uid: Arc<str>, now: Timestamp) -> Result<Self, Refusal> {
        let name = value.name();
        if name.is_empty() || value.namespace().is_empty() {
            return Err(Refusal::invalid("Pod", name, "metadata: name and namespace are required"));
        }
        let node = value["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).map(Arc::from);
        let bound = if node.is_some() { Phase::Running } else { Phase::Pending };
        let phase = value["status"]["phase"].as_str().and_then(Phase::read).unwrap_or(bound);
        let said = condition(value, "Ready").map(|status| status == "True");
        Ok(Self {
            name: name.into(),
            uid,
            version: 0,
            template: Arc::new(template(value)?),
            node,
            phase,
            ready: phase == Phase::Running && said.unwrap_or(true),
            created: now,
            since: now,
            deletion: None,
        })
    }

    /// The pod after a patch of how it is shown. What a patch cannot change stays as it was.
    pub(super) fn patched(&self, shown: &Value) -> Result<Self, Refusal> {
        for (field, now, then) in [
            ("metadata.name", shown["metadata"]["name"].as_str(), &*self.name),
            ("metadata.uid", shown["metadata"]["uid"].as_str(), &*self.uid),
            (
                "spec.nodeName",
                shown["spec"]["nodeName"].as_str().or(Some("")),
                self.node.as_deref().unwrap_or(""),
            ),
        ] {
            if now != Some(then) {
                return Err(Refusal::invalid("Pod", &self.name, format!("{field}: field is immutable")));
            }
        }
        let mut new = Self { version: shown.version(), ..self.clone() };
        let template = template(shown)?;
        if template != *self.template {
            new.template = Arc::new(template);
        }
        Ok(new)
    }

    pub(super) fn finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    pub(super) fn mirror(&self) -> bool {
        self.template.annotations.contains_key(MIRROR)
    }

    /// Whether it counts as one of its controller's pods.
    pub(super) fn active(&self) -> bool {
        self.deletion.is_none() && !self.finished()
    }

    /// Whether nothing holds it any more: it ended, and no finalizer is left.
    pub(super) fn over(&self) -> bool {
        self.deletion.is_some_and(|deletion| deletion.grace_secs == 0) && self.template.finalizers.is_empty()
    }

    fn metadata(&self) -> Value {
        let template = &*self.template;
        let mut metadata = json!({
            "name": *self.name, "namespace": template.namespace, "uid": *self.uid,
            "resourceVersion": self.version.to_string(), "creationTimestamp": time(self.created),
        });
        for (field, value) in [
            ("labels", json!(template.labels)),
            ("annotations", json!(template.annotations)),
            ("ownerReferences", json!(template.owners)),
            ("finalizers", json!(template.finalizers)),
        ] {
            if value.as_object().is_none_or(|map| !map.is_empty())
                && value.as_array().is_none_or(|list| !list.is_empty())
            {
                metadata[field] = value;
            }
        }
        if let Some(deletion) = self.deletion {
            metadata["deletionTimestamp"] = time(deletion.at).into();
            metadata["deletionGracePeriodSeconds"] = deletion.grace_secs.into();
        }
        metadata
    }

    fn status(&self) -> Value {
        let condition = |kind: &str, holds: bool| {
            json!({"type": kind, "status": if holds { "True" } else { "False" },
                "lastProbeTime": null, "lastTransitionTime": time(self.since)})
        };
        if self.node.is_none() {
            return json!({"phase": self.phase.text(), "conditions": [condition("PodScheduled", false)]});
        }
        let state = match self.phase {
            Phase::Pending => json!({"waiting": {"reason": "ContainerCreating"}}),
            Phase::Running => json!({"running": {"startedAt": time(self.since)}}),
            Phase::Succeeded => json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            Phase::Failed => json!({"terminated": {"exitCode": 137, "reason": "Error"}}),
        };
        let containers = self.template.spec["containers"].as_array().into_iter().flatten();
        let containers: Vec<_> = containers
            .map(|container| {
                json!({"name": container["name"], "image": container["image"], "imageID": container["image"],
                    "ready": self.ready, "restartCount": 0, "state": state})
            })
            .collect();
        json!({
            "phase": self.phase.text(), "qosClass": "BestEffort", "startTime": time(self.created),
            "conditions": [
                condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", self.ready), condition("Ready", self.ready),
            ],
            "containerStatuses": containers,
        })
    }
}

impl Object for Pod {
    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> &str {
        &self.template.namespace
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn stamp(&mut self, version: u64) {
        self.version = version;
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.template.labels.get(key).map(String::as_str)
    }

    fn field(&self, field: &str) -> Option<Cow<'_, str>> {
        match field {
            "metadata.name" => Some(Cow::Borrowed(&self.name)),
            "metadata.namespace" => Some(Cow::Borrowed(&self.template.namespace)),
            "spec.nodeName" => self.node.as_deref().map(Cow::Borrowed),
            "status.phase" => Some(self.phase.text().into()),
            _ => None,
        }
    }

    fn groups(&self) -> [Option<Group>; 2] {
        let owner = self.template.controller().map(|(.., uid)| Group::Owner(uid.into()));
        [self.node.clone().map(Group::Node), owner]
    }

    fn show(&self) -> Cow<'_, Value> {
        let mut spec = self.template.spec.clone();
        if let Some(node) = &self.node {
            spec["nodeName"] = (**node).into();
        }
        Cow::Owned(json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": self.metadata(), "spec": spec, "status": self.status(),
        }))
    }
}

/// The part of a pod that is the same for all pods like it.
fn template(value: &Value) -> Result<Template, Refusal> {
    let name = value.name();
    let texts = |field: &str| -> Result<BTreeMap<String, String>, Refusal> {
        serde_json::from_value(or(&value["metadata"][field], || json!({})))
            .map_err(|error| Refusal::invalid("Pod", name, format!("metadata.{field}: {error}")))
    };
    let list = |field: &str| value["metadata"][field].as_array().cloned().unwrap_or_default();
    let mut spec = or(&value["spec"], || json!({}));
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("nodeName");
        spec.entry("containers").or_insert_with(|| json!([{"name": "main", "image": "simulated"}]));
        spec.entry("restartPolicy").or_insert_with(|| "Always".into());
        spec.entry("terminationGracePeriodSeconds").or_insert(30.into());
    } else {
        return Err(Refusal::invalid("Pod", name, "spec: must be an object"));
    }
    Ok(Template {
        namespace: value.namespace().to_owned(),
        labels: texts("labels")?,
        annotations: texts("annotations")?,
        owners: list("ownerReferences"),
        finalizers: list("finalizers").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        spec,
    })
}

fn or(value: &Value, default: impl FnOnce() -> Value) -> Value {
    if value.is_null() { default() } else { value.clone() }
}

fn condition<'a>(value: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = value["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: &Value) -> Pod {
        Pod::read(value, "u".into(), Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_virtual_pod_is_a_pod_to_a_typed_client() {
        let given = json!({
            "metadata": {"name": "p", "namespace": "d", "labels": {"app": "web"}, "finalizers": ["f"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o", "controller": true}]},
            "spec": {"nodeName": "n", "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        let mut pod = pod(&given);
        pod.deletion = Some(Deletion { at: Timestamp::UNIX_EPOCH, grace_secs: 5 });
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod.show().into_owned()).unwrap();
        assert_eq!(typed.spec.unwrap().node_name.as_deref(), Some("n"));
        assert_eq!(typed.metadata.owner_references.unwrap()[0].controller, Some(true));
        assert!(typed.metadata.deletion_timestamp.is_some());
        assert_eq!(typed.status.unwrap().phase.as_deref(), Some("Running"));
        assert_eq!(pod.template.controller(), Some(("ReplicaSet", "web", "o")));
        assert_eq!(pod.groups(), [Some(Group::Node("n".into())), Some(Group::Owner("o".into()))]);
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let on = |status: Value| {
            let pod = pod(
                &json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n"}, "status": status}),
            );
            (pod.phase, pod.ready)
        };
        assert_eq!(on(Value::Null), (Phase::Running, true));
        assert_eq!(
            on(json!({"conditions": [{"type": "Ready", "status": "False"}]})),
            (Phase::Running, false)
        );
        assert_eq!(on(json!({"phase": "Succeeded"})), (Phase::Succeeded, false));
        let waiting = pod(&json!({"metadata": {"name": "p", "namespace": "d"}}));
        assert_eq!((waiting.phase, waiting.template.grace_secs()), (Phase::Pending, 30));
        assert_eq!(Pod::read(&json!({}), "u".into(), Timestamp::UNIX_EPOCH).unwrap_err().code, 422);
    }

    #[test]
    fn a_patch_changes_labels_and_finalizers_but_not_the_place() {
        let before = pod(
            &json!({"metadata": {"name": "p", "namespace": "d", "finalizers": ["f"]}, "spec": {"nodeName": "n"}}),
        );
        let mut shown = before.show().into_owned();
        assert_eq!(before.patched(&shown).unwrap(), before);
        shown["metadata"]["finalizers"] = Value::Null;
        assert!(before.patched(&shown).unwrap().template.finalizers.is_empty());
        shown["spec"]["nodeName"] = "m".into();
        assert_eq!(before.patched(&shown).unwrap_err().code, 422);
    }
}
