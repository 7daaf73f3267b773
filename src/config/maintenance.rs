//! Upkeep: how often each duty looks, and how long finished tasks are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// Upkeep.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// Pause between looks of the rescuer, the relay and the dispatch reconciler.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Age at which an unpublished outbox row is published by the relay.
    #[serde(with = "duration")]
    pub outbox_age: Duration,
    /// How long finished tasks are kept.
    #[serde(with = "duration")]
    pub retention: Duration,
    /// Pause between looks of the pruner.
    #[serde(with = "duration")]
    pub prune_interval: Duration,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            outbox_age: Duration::from_secs(2),
            retention: Duration::from_secs(7 * 24 * 3600),
            prune_interval: Duration::from_secs(60),
        }
    }
}
