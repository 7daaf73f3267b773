//! The audit: how long it is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// The audit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// How long it is told who did what, and what came of each node, after a task has ended. At least as long as tasks are
    /// kept (`maintenance.retention`).
    #[serde(with = "duration")]
    pub retention: Duration,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { retention: Duration::from_secs(90 * 24 * 3600) }
    }
}
