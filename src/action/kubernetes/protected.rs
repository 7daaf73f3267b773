//! Keys that are not ours to change: labels, taints and annotations that Kubernetes, its cloud and its node provisioners
//! write, and would write again or misunderstand. Pure.
//!
//! Well-known ones are from "Well-Known Labels, Annotations and Taints" of the Kubernetes documentation. Some keys under
//! the same prefixes are meant for people and are left out. A cluster without a cloud may need others, such as zones set
//! by hand: `actions.allowed_keys` names them.

use crate::task::{ActionSpec, Fault};

/// What a key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Label,
    Taint,
    Annotation,
}

/// Labels that the kubelet, the cloud or a provisioner keeps.
const LABELS: [&str; 13] = [
    "kubernetes.io",
    "beta.kubernetes.io",
    "node.kubernetes.io",
    "kubelet.kubernetes.io",
    "topology.kubernetes.io",
    "failure-domain.kubernetes.io",
    "failure-domain.beta.kubernetes.io",
    "cluster.x-k8s.io",
    "node.cluster.x-k8s.io",
    "karpenter.sh",
    "eks.amazonaws.com",
    "cloud.google.com",
    "kubernetes.azure.com",
];

/// Taints that the node, cloud and autoscaling controllers keep.
const TAINTS: [&str; 9] = [
    "node.kubernetes.io",
    "node.cloudprovider.kubernetes.io",
    "startup-taint.cluster-autoscaler.kubernetes.io",
    "node.cluster.x-k8s.io",
    "karpenter.sh",
    "kubernetes.azure.com",
    "node.cilium.io",
    "ebs.csi.aws.com",
    "efs.csi.aws.com",
];

/// Annotations of networks and provisioners, beside everything under `kubernetes.io` and `k8s.io`.
const ANNOTATIONS: [&str; 9] = [
    "projectcalico.org",
    "flannel.alpha.coreos.com",
    "network.cilium.io",
    "k3s.io",
    "rke2.io",
    "karpenter.sh",
    "machine.openshift.io",
    "machineconfiguration.openshift.io",
    "container.googleapis.com",
];

/// Single keys that are kept by somebody, whatever they are of.
const KEYS: [&str; 5] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
];

/// Keys under those prefixes that people are meant to set.
const FOR_PEOPLE: [&str; 5] = [
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "node.kubernetes.io/exclude-disruption",
    "node.kubernetes.io/out-of-service",
    "cluster-autoscaler.kubernetes.io/scale-down-disabled",
    "karpenter.sh/do-not-disrupt",
];

/// What may be changed here.
#[derive(Debug, Clone, Default)]
pub(super) struct Protected {
    /// Keys that the operator allows all the same.
    pub(super) allowed: Vec<String>,
    /// The prefix of our own annotations.
    pub(super) own: String,
}

impl Protected {
    /// What an action would change and may not, each with its field: keys that belong to somebody else. That of a copy is
    /// not refused but left out, once it is known.
    pub(super) fn faults(&self, action: &ActionSpec) -> Vec<Fault> {
        let keys = |kind, keys: &[String]| {
            let named = keys.iter().enumerate().map(|(i, key)| (format!("parameters.keys[{i}]"), key));
            self.held(kind, named)
        };
        match action {
            ActionSpec::Label(wanted) => {
                self.held(Kind::Label, fields("parameters.labels", wanted.labels.keys()))
            }
            ActionSpec::Unlabel(unwanted) => keys(Kind::Label, &unwanted.keys),
            ActionSpec::Taint(wanted) => self.held(Kind::Taint, taints(wanted.taints.iter().map(|t| &t.key))),
            ActionSpec::Untaint(unwanted) => {
                self.held(Kind::Taint, taints(unwanted.taints.iter().map(|t| &t.key)))
            }
            ActionSpec::Annotate(wanted) => {
                self.held(Kind::Annotation, fields("parameters.annotations", wanted.annotations.keys()))
            }
            ActionSpec::Unannotate(unwanted) => keys(Kind::Annotation, &unwanted.keys),
            ActionSpec::Cordon
            | ActionSpec::Uncordon(_)
            | ActionSpec::Drain(_)
            | ActionSpec::CopyTaints(_)
            | ActionSpec::Wait(_) => Vec::new(),
        }
    }

    fn held<'a>(&self, kind: Kind, keys: impl IntoIterator<Item = (String, &'a String)>) -> Vec<Fault> {
        let held = keys.into_iter().filter(|(_, key)| self.holds(kind, key));
        held.map(|(field, key)| Fault::new(field, sentence(kind, key))).collect()
    }

    /// Whether a key belongs to somebody else.
    pub(super) fn holds(&self, kind: Kind, key: &str) -> bool {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        let of_kind = match kind {
            Kind::Label => LABELS.contains(&prefix),
            Kind::Taint => TAINTS.contains(&prefix),
            Kind::Annotation => {
                ANNOTATIONS.contains(&prefix) || is_of_kubernetes(prefix) || prefix == self.own
            }
        };
        (of_kind || KEYS.contains(&key))
            && !FOR_PEOPLE.contains(&key)
            && !self.allowed.iter().any(|allowed| allowed == key)
    }
}

fn fields<'a>(
    map: &'static str,
    keys: impl Iterator<Item = &'a String>,
) -> impl Iterator<Item = (String, &'a String)> {
    keys.map(move |key| (format!("{map}.{key}"), key))
}

fn taints<'a>(keys: impl Iterator<Item = &'a String>) -> impl Iterator<Item = (String, &'a String)> {
    keys.enumerate().map(|(i, key)| (format!("parameters.taints[{i}].key"), key))
}

fn is_of_kubernetes(prefix: &str) -> bool {
    ["kubernetes.io", "k8s.io"].iter().any(|domain| {
        prefix.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '-']))
    })
}

fn sentence(kind: Kind, key: &str) -> String {
    let what = match kind {
        Kind::Label => "label",
        Kind::Taint => "taint",
        Kind::Annotation => "annotation",
    };
    format!(
        "is the {what} {key}, which belongs to Kubernetes or to another program and is not changed; \
         actions.allowed_keys can allow it"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(kind: Kind, key: &str) -> bool {
        Protected { allowed: Vec::new(), own: "milepost.dev".into() }.holds(kind, key)
    }

    #[test]
    fn what_controllers_write_is_protected() {
        for key in [
            "kubernetes.io/hostname",
            "beta.kubernetes.io/arch",
            "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/region",
            "node.kubernetes.io/instance-type",
            "node-role.kubernetes.io/control-plane",
            "karpenter.sh/nodepool",
        ] {
            assert!(holds(Kind::Label, key), "{key}");
        }
        for key in [
            "node.kubernetes.io/unschedulable",
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
            "node.kubernetes.io/memory-pressure",
            "node.cloudprovider.kubernetes.io/uninitialized",
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/master",
            "ToBeDeletedByClusterAutoscaler",
            "karpenter.sh/disrupted",
        ] {
            assert!(holds(Kind::Taint, key), "{key}");
        }
        for key in [
            "node.alpha.kubernetes.io/ttl",
            "volumes.kubernetes.io/controller-managed-attach-detach",
            "csi.volume.kubernetes.io/nodeid",
            "kubeadm.alpha.kubernetes.io/cri-socket",
            "cluster.x-k8s.io/machine",
            "projectcalico.org/IPv4Address",
            "milepost.dev/cordon-task",
        ] {
            assert!(holds(Kind::Annotation, key), "{key}");
        }
    }

    #[test]
    fn what_people_set_is_not() {
        for key in
            ["tier", "example.com/tier", "node-role.kubernetes.io/worker", "node-restriction.kubernetes.io/a"]
        {
            assert!(!holds(Kind::Label, key), "{key}");
        }
        for key in ["dedicated", "node.kubernetes.io/out-of-service", "nvidia.com/gpu"] {
            assert!(!holds(Kind::Taint, key), "{key}");
        }
        for key in [
            "note",
            "ops.example.com/ticket",
            "notkubernetes.io/a",
            "cluster-autoscaler.kubernetes.io/scale-down-disabled",
        ] {
            assert!(!holds(Kind::Annotation, key), "{key}");
        }
    }

    #[test]
    fn an_operator_may_allow_a_key_and_no_more_than_that() {
        let zone = "topology.kubernetes.io/zone".to_owned();
        let protected = Protected { allowed: vec![zone.clone()], own: String::new() };
        assert!(!protected.holds(Kind::Label, &zone));
        assert!(protected.holds(Kind::Label, "topology.kubernetes.io/region"));
    }

    #[test]
    fn each_fault_names_its_field() {
        let protected = Protected { allowed: Vec::new(), own: "milepost.dev".into() };
        let fields = |action: &str, parameters: serde_json::Value| {
            let action = ActionSpec::parse(action, &parameters).unwrap();
            protected.faults(&action).into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        let labels = json!({"labels": {"tier": "a", "kubernetes.io/hostname": "b"}});
        assert_eq!(fields("label", labels), ["parameters.labels.kubernetes.io/hostname"]);
        assert_eq!(fields("unlabel", json!({"keys": ["a", "kubernetes.io/arch"]})), ["parameters.keys[1]"]);
        let taints = json!({"taints": [{"key": "a", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]});
        assert_eq!(fields("taint", taints.clone()), ["parameters.taints[1].key"]);
        assert_eq!(fields("untaint", taints), ["parameters.taints[1].key"]);
        let annotations = json!({"annotations": {"milepost.dev/cordon-task": "x"}});
        assert_eq!(fields("annotate", annotations), ["parameters.annotations.milepost.dev/cordon-task"]);
        assert_eq!(fields("unannotate", json!({"keys": ["k3s.io/a"]})), ["parameters.keys[0]"]);
        assert!(fields("copy_taints", json!({"from": "n1"})).is_empty());
    }
}
