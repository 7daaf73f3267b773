//! Kubernetes clusters and what actions share.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// One cluster: a kubeconfig and a context in it, or the cluster Milepost itself runs in.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Calls per second to one cluster, past a burst of twice as many.
    pub calls_per_second: u32,
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
        }
    }
}
