//! The way to Redis for everything: commands that finish at once, and those that hang.
//!
//! Rule: one check-out per batch, and a pipeline inside. A check-out asks the server whether the connection is alive,
//! so a check-out per command would cost a second round trip for each. Every call has a deadline. Where a command goes
//! follows from its key ([`super::servers`]).

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::PoolError;
use redis::{Cmd, FromRedisValue, ParsingError, Pipeline, RedisError, Value};
use tokio::sync::watch;

use super::keys::Keys;
use super::layout::Layout;
use super::servers::Servers;
use super::topology::SetupError;
use crate::config::RedisConfig;
use crate::telemetry::Metrics;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Redis answered with an error, or the connection broke.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// There was no connection to be had in time.
    #[error("no connection to Redis: {0}")]
    NoConnection(String),
    /// The answer came too late.
    #[error("Redis answered too late")]
    Late,
    /// Redis answered with something else than the command gives.
    #[error("Redis gave a reply of an unexpected shape: {0}")]
    Reply(String),
}

/// What one command came to.
pub type Reply = Result<Value, CallError>;

impl From<PoolError> for CallError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Redis(error),
            other => Self::NoConnection(other.to_string()),
        }
    }
}

impl From<ParsingError> for CallError {
    fn from(error: ParsingError) -> Self {
        Self::Reply(error.to_string())
    }
}

/// A Redis in use. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Servers,
    keys: Keys,
    config: RedisConfig,
    metrics: Metrics,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("servers", &self.inner.servers).finish_non_exhaustive()
    }
}

impl Redis {
    /// Prepares the connections. Waits for none: a Redis that is down when a process starts is found by the first
    /// call, and by [`super::checks::check`]. Must be called inside the runtime.
    ///
    /// # Errors
    /// For a configuration that cannot work.
    pub fn connect(config: &RedisConfig, metrics: &Metrics) -> Result<Self, SetupError> {
        let inner = Inner {
            servers: Servers::new(config)?,
            keys: Keys::new(&config.key_prefix)?,
            config: config.clone(),
            metrics: metrics.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// The settings this was made with.
    #[must_use]
    pub fn config(&self) -> &RedisConfig {
        &self.inner.config
    }

    /// The metrics this was made with.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Whether another server may take the place of one, as with Sentinel and Cluster.
    #[must_use]
    pub fn fails_over(&self) -> bool {
        self.inner.servers.fails_over()
    }

    /// The servers that take writes now. At the start, waits until somebody is found.
    ///
    /// # Errors
    /// When nobody is found in time.
    pub async fn layout(&self) -> Result<Arc<Layout>, CallError> {
        self.inner.servers.layout().await
    }

    /// The servers that take writes, and every change of that.
    #[must_use]
    pub fn layouts(&self) -> watch::Receiver<Arc<Layout>> {
        self.inner.servers.layouts()
    }

    /// Has it looked at soon who the servers are.
    pub fn look_again(&self) {
        self.inner.servers.doubt();
    }

    /// Sends one command that finishes at once. Cancel-safe as any lost reply: it was run or not.
    ///
    /// # Errors
    /// When Redis answers with an error, too late or not at all.
    pub async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, CallError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(cmd.clone());
        let mut replies = self.inner.servers.send(&pipeline).await;
        let reply = replies.pop().unwrap_or_else(|| Err(CallError::Reply("no reply".into())));
        Ok(redis::from_redis_value(reply?)?)
    }

    /// Sends commands that finish at once, in one go for each server that has keys of theirs, and gives what each came
    /// to. After a connection that broke or an answer that was late, any of a server's commands may have been run.
    pub async fn pipeline(&self, pipeline: &Pipeline) -> Vec<Reply> {
        if pipeline.is_empty() {
            return Vec::new();
        }
        self.inner.servers.send(pipeline).await
    }

    /// Sends a command that blocks on the server for up to `block`, on a connection of its own. A dropped call closes
    /// that connection; the server may have handed out what was read, so look among the pending entries.
    ///
    /// # Errors
    /// When Redis answers with an error, too late or not at all.
    pub async fn blocking(&self, cmd: &Cmd, block: Duration) -> Reply {
        self.inner.servers.blocking(cmd, block).await
    }
}
