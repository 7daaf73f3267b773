//! What kubelets and controllers do to a cluster, one act at a time; when they do it is [`super::controllers`]'s.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::collection::Outcome;
use super::journal::PodChange;
use super::nodes;
use super::object::{Object, time};
use super::pod::{Deletion, Phase, Pod, Template};
use super::seed::suffix;
use super::status::Refusal;

/// The taint that follows a cordon.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether a node has the taint of a cordon.
pub(super) fn tainted(node: &Value) -> bool {
    node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["key"] == UNSCHEDULABLE)
}

impl Cluster {
    /// Has a pod run and be ready.
    pub(super) fn start_pod(&self, key: &str, uid: &str) {
        let now = self.clock.now();
        let started = self.pods.update(key, false, |pod| {
            let starts = *pod.uid == *uid && pod.phase == Phase::Pending && pod.deletion.is_none();
            if !starts {
                return Ok(pod.clone());
            }
            Ok(Pod { phase: Phase::Running, ready: true, since: now, ..pod.clone() })
        });
        if let Some(pod) = started.ok().filter(|pod| *pod.uid == *uid && pod.ready) {
            self.journal.note(PodChange::Ready, &pod);
        }
    }

    pub(super) fn bind_pod(&self, key: &str, node: &Arc<str>) {
        // A pod that is gone by now needs no place.
        let _ = self.pods.update(key, false, |pod| {
            let mut bound = pod.clone();
            bound.node.get_or_insert_with(|| Arc::clone(node));
            Ok(bound)
        });
    }

    /// Takes a pod away as its kubelet does when it has ended, or as the collector of pods without a node.
    pub(super) fn finish_pod(&self, key: &str, uid: &str) {
        let now = self.clock.now();
        let mut gone = false;
        let finished = self.pods.change(key, false, |pod| {
            // The name may belong to another pod by now.
            if *pod.uid != *uid {
                return Err(Refusal::not_found("pods", &pod.name));
            }
            let deletion = Some(Deletion { at: pod.deletion.map_or(now, |d| d.at), grace_secs: 0 });
            let phase = if pod.finished() { pod.phase } else { Phase::Failed };
            let since = if pod.ready { now } else { pod.since };
            let new = Pod { deletion, phase, ready: false, since, ..pod.clone() };
            gone = new.over();
            Ok(if gone { Outcome::Remove(new) } else { Outcome::Keep(new) })
        });
        if let (Ok(pod), true) = (finished, gone) {
            self.journal.note(PodChange::Gone, &pod);
        }
    }

    /// Makes a pod for a controller.
    pub(super) fn spawn_pod(&self, owner: &str, template: &Arc<Template>, node: Option<Arc<str>>) {
        let number = usize::try_from(self.serial()).unwrap_or(0);
        // Names of new pods come from the far end, so that they do not meet those that were there from the start.
        let name = format!("{owner}-{}", suffix(usize::MAX / 2 - number));
        let now = self.clock.now();
        let pod = Pod {
            name: name.into(),
            uid: self.uid(),
            version: 0,
            template: Arc::clone(template),
            node,
            phase: Phase::Pending,
            ready: false,
            created: now,
            since: now,
            deletion: None,
        };
        let allowed = self.may_create("pods", pod.namespace(), pod.name());
        let _ = allowed.and_then(|()| self.add_pod(pod, false));
    }

    /// Shows a kubelet's own pod again, as the kubelet does when somebody deleted it from the API.
    pub(super) fn mirror_again(&self, pod: &Pod) {
        let Some(node) = pod.node.as_deref().filter(|node| self.nodes.get(node).is_ok()) else { return };
        if self.pods.get(&pod.key()).is_err() {
            let again = Pod {
                uid: self.uid(),
                version: 0,
                deletion: None,
                phase: Phase::Running,
                ready: true,
                ..pod.clone()
            };
            let _ = self.add_pod(Pod { node: Some(node.into()), ..again }, false);
        }
    }

    /// Gives a cordoned node its taint, and takes it from one that is not.
    pub(super) fn follow_cordon(&self, name: &str) {
        let now = time(self.clock.now());
        // A node that is gone needs no taint.
        let _ = self.nodes.update(name, false, |node| {
            let mut new = node.clone();
            let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.retain(|taint| taint["key"] != UNSCHEDULABLE);
            if node["spec"]["unschedulable"] == true {
                taints.push(json!({"key": UNSCHEDULABLE, "effect": "NoSchedule", "timeAdded": now}));
            }
            new["spec"]["taints"] = taints.into();
            nodes::admit(node, new)
        });
    }
}
