//! Kubernetes clusters and what actions share.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;
use crate::task::safety::Rules;

/// One cluster: a kubeconfig and a context in it, or the cluster Milepost itself runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Name used in requests.
    pub name: String,
    /// Path of a kubeconfig file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in it; its current one when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Use the service account of the pod instead of a kubeconfig.
    #[serde(default)]
    pub in_cluster: bool,
    /// Let the kubeconfig run programs that fetch credentials (`exec`, `auth-provider`), as this process. Without it such a
    /// kubeconfig is refused.
    #[serde(default)]
    pub allow_exec: bool,
    /// Its own rules of which nodes may be taken out of service, in place of `actions.safety`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<Rules>,
}

/// What actions share.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionsConfig {
    /// Allow the `wait` action, which only waits: for demos and load tests. It needs no cluster configuration.
    pub wait: bool,
    /// Prefix of the annotations written to nodes.
    pub annotation_prefix: String,
    /// Annotations in which other tools write why they cordoned a node: keys such as `ops.example.com/cordon-reason`, or
    /// prefixes such as `ops.example.com`, under which every key that ends with `reason` counts.
    pub foreign_reasons: Vec<String>,
    /// Keys of labels, taints and annotations that may be changed although they belong to Kubernetes or another program,
    /// such as `topology.kubernetes.io/zone` where no cloud sets it.
    pub allowed_keys: Vec<String>,
    /// How long one call to a Kubernetes API may take.
    #[serde(with = "duration")]
    pub call_timeout: Duration,
    /// Reads per second from one cluster, and as many writes, past a burst of twice as many each. Halved when the cluster
    /// says that it has too much to do, and raised again with what it answers.
    pub calls_per_second: u32,
    /// Calls to one cluster at once.
    pub calls_at_once: usize,
    /// Which nodes may be taken out of service, on clusters that have no rules of their own.
    pub safety: Rules,
}

impl Default for ActionsConfig {
    fn default() -> Self {
        Self {
            wait: false,
            annotation_prefix: "milepost.dev".into(),
            foreign_reasons: Vec::new(),
            allowed_keys: Vec::new(),
            call_timeout: Duration::from_secs(10),
            calls_per_second: 200,
            calls_at_once: 64,
            safety: Rules::default(),
        }
    }
}
