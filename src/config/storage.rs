//! Postgres and Redis: where they are and how long a call may take.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};

use super::duration;

/// Writes `***` for a secret that is set.
///
/// # Errors
/// Only what the serializer itself reports.
pub fn hidden<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some("***"),
        None => serializer.serialize_none(),
    }
}

/// Postgres.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database?sslmode=...`
    #[serde(serialize_with = "hidden")]
    pub url: Option<SecretString>,
    /// Most connections of this process.
    pub connections_max: u32,
    /// How long a call may wait for a connection.
    #[serde(with = "duration")]
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    #[serde(with = "duration")]
    pub statement_timeout: Duration,
    /// Bring the schema up to date at start instead of refusing to start.
    pub migrate_on_start: bool,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: None,
            connections_max: 16,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            migrate_on_start: false,
        }
    }
}

/// Redis: one server, a primary that Sentinels watch, or a Cluster, as the URL says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/db`, `redis+sentinel://user:password@host:port,host:port/master/db`, or
    /// `redis+cluster://user:password@host:port,host:port`; with TLS they begin with `rediss`. See
    /// [`super::redis_url`].
    #[serde(serialize_with = "hidden")]
    pub url: Option<SecretString>,
    /// Text before every key, so that several installations can share a server.
    pub key_prefix: String,
    /// Most connections for commands that finish at once.
    pub connections_max: usize,
    /// How long such a command may take.
    #[serde(with = "duration")]
    pub command_timeout: Duration,
    /// How long a connect may take.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long a blocking read of the dispatch stream waits on the server.
    #[serde(with = "duration")]
    pub block: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            key_prefix: "mp".into(),
            connections_max: 8,
            command_timeout: Duration::from_millis(1500),
            connect_timeout: Duration::from_secs(1),
            block: Duration::from_secs(2),
        }
    }
}
