//! A pod, as far as a drain looks at it.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// Set by the kubelet on pods that it runs from files: the API holds a mirror of them only.
const MIRROR: &str = "kubernetes.io/config.mirror";
const CRITICAL: [&str; 2] = ["system-cluster-critical", "system-node-critical"];
/// From this priority on, a pod is critical to the system.
const CRITICAL_FROM: i32 = 2_000_000_000;

/// What decisions look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Who it is: another pod may get its name.
    pub(super) uid: String,
    /// When it is to be gone by, for one that is terminating.
    pub(super) deleted_at: Option<Timestamp>,
    /// The grace period it was given then, in seconds.
    pub(super) deletion_grace: Option<i64>,
    /// What holds it although it is terminated.
    pub(super) finalizers: Vec<String>,
    /// Whether all its containers have ended for good.
    pub(super) finished: bool,
    pub(super) mirror: bool,
    pub(super) controller: Option<Controller>,
    pub(super) empty_dir: bool,
    pub(super) critical: bool,
}

/// Who makes the pod anew when it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Controller {
    pub(super) kind: String,
    pub(super) name: String,
}

/// The order in which pods go: the next tier only when the one before is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Ordinary,
    /// Of a `DaemonSet` or of the node itself: other pods here may need them until the end.
    Daemon,
    /// Of the system: networks, storage, names.
    Critical,
}

impl PodFacts {
    pub(super) fn daemon_set(&self) -> Option<&str> {
        self.controller.as_ref().filter(|owner| owner.kind == "DaemonSet").map(|owner| owner.name.as_str())
    }

    pub(super) fn tier(&self) -> Tier {
        let daemon = |owner: &Controller| matches!(owner.kind.as_str(), "DaemonSet" | "Node");
        match (self.critical, self.controller.as_ref().is_some_and(daemon)) {
            (true, _) => Tier::Critical,
            (false, true) => Tier::Daemon,
            (false, false) => Tier::Ordinary,
        }
    }
}

impl fmt::Display for PodFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<Pod> for PodFacts {
    fn from(pod: Pod) -> Self {
        let (meta, spec, status) =
            (pod.metadata, pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let owners = meta.owner_references.unwrap_or_default();
        let controller = owners.into_iter().find(|owner| owner.controller == Some(true));
        let class = spec.priority_class_name.as_deref().unwrap_or_default();
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            deleted_at: meta.deletion_timestamp.map(|time| time.0),
            deletion_grace: meta.deletion_grace_period_seconds,
            finalizers: meta.finalizers.unwrap_or_default(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            mirror: meta.annotations.is_some_and(|annotations| annotations.contains_key(MIRROR)),
            controller: controller.map(|owner| Controller { kind: owner.kind, name: owner.name }),
            empty_dir: spec.volumes.iter().flatten().any(|volume| volume.empty_dir.is_some()),
            critical: CRITICAL.contains(&class) || spec.priority.is_some_and(|value| value >= CRITICAL_FROM),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(pod: &Value) -> PodFacts {
        serde_json::from_value::<Pod>(pod.clone()).unwrap().into()
    }

    #[test]
    fn a_pod_is_read_from_what_the_cluster_sends() {
        let pod = facts(&json!({
            "metadata": {
                "namespace": "shop", "name": "web-1", "uid": "u1", "deletionTimestamp": "2026-11-23T08:00:00Z",
                "deletionGracePeriodSeconds": 30, "finalizers": ["example.com/hold"],
                "annotations": {MIRROR: "x"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "1"},
                    {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "2", "controller": true}],
            },
            "spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]},
            "status": {"phase": "Failed"},
        }));
        assert_eq!(pod.to_string(), "shop/web-1");
        assert_eq!((pod.daemon_set(), pod.tier()), (Some("d"), Tier::Daemon));
        assert!(pod.mirror && pod.empty_dir && pod.finished && !pod.critical);
        assert_eq!((pod.deletion_grace, pod.finalizers.len(), pod.uid.as_str()), (Some(30), 1, "u1"));
        assert!(pod.deleted_at.is_some());
    }

    #[test]
    fn an_owner_that_is_no_controller_does_not_manage() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1"});
        let pod = facts(&json!({"metadata": {"ownerReferences": [owner]}}));
        assert_eq!((pod.controller.as_ref(), pod.tier()), (None, Tier::Ordinary));
    }

    #[test]
    fn critical_pods_are_known_by_class_or_number() {
        let with = |spec: Value| facts(&json!({"metadata": {}, "spec": spec})).tier();
        for class in CRITICAL {
            assert_eq!(with(json!({"containers": [], "priorityClassName": class})), Tier::Critical);
        }
        assert_eq!(with(json!({"containers": [], "priority": 2_000_000_000})), Tier::Critical);
        assert_eq!(
            with(json!({"containers": [], "priority": 1_000, "priorityClassName": "high"})),
            Tier::Ordinary
        );
    }
}
