//! What an operator can set, one file per section, every field with its default and unit.
//!
//! Sections are plain data; a role is handed its section and never asks the environment. [`load`] puts the layers
//! together, [`check`] holds the rules that types cannot. Not here: metrics and logs made from it
//! ([`crate::telemetry`]).

pub mod audit;
pub mod auth;
pub mod bus;
pub mod check;
pub mod clusters;
pub mod duration;
pub mod fault;
mod keys;
pub mod load;
pub mod maintenance;
pub mod network;
pub mod redis_url;
pub mod server;
pub mod storage;
pub mod telemetry;
pub mod worker;

use serde::{Deserialize, Serialize};

pub use audit::AuditConfig;
pub use auth::AuthConfig;
pub use bus::{BusConfig, Notify};
pub use clusters::{ActionsConfig, ClusterConfig};
pub use fault::{ConfigError, ConfigFault};
pub use load::{Loaded, Sources, load};
pub use maintenance::MaintenanceConfig;
pub use redis_url::RedisUrl;
pub use server::{LimitsConfig, LiveConfig, ServerConfig};
pub use storage::{DatabaseConfig, RedisConfig};
pub use telemetry::TelemetryConfig;
pub use worker::WorkerConfig;

/// The whole configuration. Keys that nobody knows are refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Pins the mode; it follows from the URLs when left out.
    pub mode: Option<Mode>,
    /// Name of this replica; made from the host name when left out.
    pub replica: Option<String>,
    /// Ports and addresses.
    pub server: ServerConfig,
    /// Sockets.
    pub live: LiveConfig,
    /// What one caller may do.
    pub limits: LimitsConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// Postgres.
    pub database: DatabaseConfig,
    /// Redis.
    pub redis: RedisConfig,
    /// Progress streams.
    pub bus: BusConfig,
    /// Workers.
    pub worker: WorkerConfig,
    /// Upkeep.
    pub maintenance: MaintenanceConfig,
    /// Who did what, why, from where, and what came of it.
    pub audit: AuditConfig,
    /// Kubernetes clusters.
    pub clusters: Vec<ClusterConfig>,
    /// Actions that need no cluster, and settings shared by all.
    pub actions: ActionsConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Where records, wake-ups and progress live, as the URLs say. A checked configuration never pins another mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (&self.redis.url, &self.database.url) {
            (Some(_), _) => Mode::Redis,
            (None, Some(_)) => Mode::Postgres,
            (None, None) => Mode::Memory,
        }
    }

    /// The configuration as YAML, with secrets hidden.
    ///
    /// # Panics
    /// Never: every section is plain maps, lists and texts.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(self).expect("sections are plain maps, lists and texts")
    }
}

/// Where records, wake-ups and progress live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In this process, gone with it.
    Memory,
    /// In Postgres alone.
    Postgres,
    /// Records in Postgres, wake-ups and progress in Redis.
    Redis,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        })
    }
}
