//! The way to Redis for everything but subscriptions: a pool for commands that finish at once, and dedicated
//! connections for those that hang.
//!
//! Rule: one check-out per batch, and a pipeline inside. A check-out asks the server whether the connection is alive,
//! so a check-out per command would cost a second round trip for each. Every call has a deadline.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime, Timeouts};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, ParsingError, Pipeline, PushInfo, RedisError, Value,
};

use super::dedicated;
use super::errors::{Reaction, reaction};
use super::keys::Keys;
use super::topology::{SetupError, Topology};
use crate::config::RedisConfig;
use crate::telemetry::Metrics;

/// How long a call may wait for a free connection of the pool.
const POOL_WAIT: Duration = Duration::from_millis(500);
/// How long the check of a pooled connection may take.
const POOL_RECYCLE: Duration = Duration::from_millis(500);
/// Readers that may block at once in one process.
const DEDICATED_MAX: u32 = 8;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Redis answered with an error, or the connection broke.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// There was no connection to be had in time.
    #[error("no connection to Redis: {0}")]
    NoConnection(crate::BoxError),
    /// The answer came too late.
    #[error("Redis answered too late")]
    Late,
    /// Redis answered with something else than the command gives.
    #[error("Redis gave a reply of an unexpected shape: {0}")]
    Reply(String),
}

impl From<PoolError> for CallError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Redis(error),
            other => Self::NoConnection(other.into()),
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
    pool: Pool,
    dedicated: dedicated::Pool,
    subscriptions: Client,
    keys: Keys,
    config: RedisConfig,
    metrics: Metrics,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("pool", &self.inner.pool.status()).finish_non_exhaustive()
    }
}

impl Redis {
    /// Prepares the connections. Opens none: a Redis that is down when a process starts is found by the first call,
    /// and by [`super::checks::check`].
    ///
    /// # Errors
    /// For a configuration that cannot work.
    pub fn connect(config: &RedisConfig, metrics: &Metrics) -> Result<Self, SetupError> {
        let topology = Topology::from_config(config)?;
        let keys = Keys::new(&config.key_prefix)?;
        let commands = Client::open(topology.commands()).map_err(SetupError::Url)?;
        let inner = Inner {
            pool: pool(config, &topology)?,
            dedicated: dedicated::Pool::new(commands, config.connect_timeout, DEDICATED_MAX),
            subscriptions: Client::open(topology.subscriptions()).map_err(SetupError::Url)?,
            keys,
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

    /// Sends one command that finishes at once. Cancel-safe as any lost reply: it was run or not.
    ///
    /// # Errors
    /// When Redis answers with an error, too late or not at all.
    pub async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, CallError> {
        let mut connection = self.inner.pool.get().await?;
        let reply = cmd.query_async(&mut connection).await.map_err(CallError::from);
        self.give_back(connection, is_demotion(&reply));
        reply
    }

    /// Sends commands that finish at once, in one go, and gives their replies as they are: a command that failed has
    /// [`Value::ServerError`] for its reply, and the others were run.
    ///
    /// # Errors
    /// When the connection breaks or the answer is late; then any of them may have been run.
    pub async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>, CallError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.inner.pool.get().await?;
        let replies =
            connection.req_packed_commands(pipeline, 0, pipeline.len()).await.map_err(CallError::from);
        let demoted = |reply| Reaction::to_reply(reply) == Some(Reaction::FindPrimary);
        let one_demoted = replies.as_ref().is_ok_and(|replies| replies.iter().any(demoted));
        self.give_back(connection, one_demoted || is_demotion(&replies));
        replies
    }

    /// Sends commands as one transaction and gives their replies.
    ///
    /// # Errors
    /// When any of them fails, the answer is late, or there is none.
    pub async fn transaction<T: FromRedisValue>(&self, mut pipeline: Pipeline) -> Result<T, CallError> {
        let mut connection = self.inner.pool.get().await?;
        let reply = pipeline.atomic().query_async(&mut connection).await.map_err(CallError::from);
        self.give_back(connection, is_demotion(&reply));
        reply
    }

    /// Sends a command that blocks on the server for up to `block`, on a connection of its own. A dropped call closes
    /// that connection; the server may have handed out what was read, so look among the pending entries.
    ///
    /// # Errors
    /// When Redis answers with an error, too late or not at all.
    pub async fn blocking(&self, cmd: &Cmd, block: Duration) -> Result<Value, CallError> {
        self.inner.dedicated.read(cmd, block).await
    }

    /// Opens a connection for subscriptions, whose pushes go to `on_push`. It must carry nothing but (S)SUBSCRIBE
    /// and their opposites. `on_push` runs on the connection's own task and must not block.
    ///
    /// # Errors
    /// When Redis cannot be reached in time.
    pub async fn subscriber(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, CallError> {
        let sender = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            on_push(push);
            Ok(())
        };
        let config = limits(&self.inner.config).set_push_sender(sender);
        Ok(self.inner.subscriptions.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Puts a connection back into the pool; after a demotion, closes it and all that wait there. A demoted primary
    /// still answers PING, so they would live on.
    fn give_back(&self, connection: Connection, demoted: bool) {
        if demoted {
            drop(Connection::take(connection));
            let others = self.inner.pool.retain(|_, _| false).removed.len();
            tracing::warn!(closed = others + 1, "Redis is not the primary any more; connecting anew");
        }
    }
}

fn is_demotion<T>(reply: &Result<T, CallError>) -> bool {
    reply.as_ref().is_err_and(|error| reaction(error) == Reaction::FindPrimary)
}

fn limits(config: &RedisConfig) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.command_timeout))
}

fn pool(config: &RedisConfig, topology: &Topology) -> Result<Pool, SetupError> {
    let manager = Manager::new_with_config(topology.commands(), limits(config)).map_err(SetupError::Url)?;
    let timeouts =
        Timeouts { wait: Some(POOL_WAIT), create: Some(config.connect_timeout), recycle: Some(POOL_RECYCLE) };
    Pool::builder(manager)
        .max_size(config.connections_max)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| SetupError::Pool(error.into()))
}
