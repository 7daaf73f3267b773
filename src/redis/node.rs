//! One server and the connections to it: a pool for commands that finish at once, dedicated ones for those that hang,
//! and the way to open one for subscriptions.

use std::time::Duration;

use deadpool::managed::{self, Object, RecycleResult};
use deadpool_redis::{Manager, Metrics, Runtime, Timeouts};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, RedisError, cmd};

use super::connection::{CallError, Reply};
use super::dedicated;
use super::errors::{Reaction, reaction};
use super::topology::{Address, SetupError, Topology};
use crate::config::RedisConfig;

/// How long a call may wait for a free connection of the pool.
const POOL_WAIT: Duration = Duration::from_millis(500);
/// How long the check of a pooled connection may take.
const POOL_RECYCLE: Duration = Duration::from_millis(500);
/// How long a pooled connection may go unused before it is asked whether it lives.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// Readers that may block at once in one process.
const DEDICATED_MAX: u32 = 8;

/// Makes and checks connections as deadpool-redis does, but for one that was in use just now: asking it each time would be a
/// round trip more for every call. One that breaks meanwhile is found by its next call, which closes all that wait.
struct Lively(Manager);

impl managed::Manager for Lively {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        self.0.create().await
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &Metrics,
    ) -> RecycleResult<RedisError> {
        if metrics.last_used() < ASK_AFTER { Ok(()) } else { self.0.recycle(connection, metrics).await }
    }
}

/// A server in use.
pub struct Node {
    address: Address,
    pool: managed::Pool<Lively>,
    dedicated: dedicated::Pool,
    subscriptions: Client,
    limits: AsyncConnectionConfig,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({} {:?})", self.address, self.pool.status())
    }
}

impl Node {
    /// Prepares the connections, and opens none.
    pub(super) fn new(
        address: Address,
        topology: &Topology,
        config: &RedisConfig,
    ) -> Result<Self, SetupError> {
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            .set_response_timeout(Some(config.command_timeout));
        let commands = Client::open(topology.commands(&address)).map_err(SetupError::Url)?;
        Ok(Self {
            pool: pool(config, topology.commands(&address), limits.clone())?,
            dedicated: dedicated::Pool::new(commands, config.connect_timeout, DEDICATED_MAX),
            subscriptions: Client::open(topology.subscriptions(&address)).map_err(SetupError::Url)?,
            address,
            limits,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends one command that finishes at once.
    ///
    /// # Errors
    /// When it answers with an error, too late or not at all.
    pub async fn query(&self, cmd: &Cmd) -> Reply {
        let mut replies = self.send(&[(cmd, false)]).await?;
        replies.pop().unwrap_or_else(|| Err(CallError::Reply("no reply".into())))
    }

    /// Sends commands in one go; those marked are to be served though their slot is still on its way here. A command
    /// that failed has its error, and the others were run.
    ///
    /// # Errors
    /// When the connection breaks or the answer is late; then any of them may have been run.
    pub(super) async fn send(&self, commands: &[(&Cmd, bool)]) -> Result<Vec<Reply>, CallError> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for (command, asking) in commands {
            if *asking {
                pipeline.add_command(cmd("ASKING"));
            }
            pipeline.add_command((*command).clone());
        }
        let mut values = self.send_whole(&pipeline).await?.into_iter();
        let mut of = |(_, asking): &(&Cmd, bool)| {
            let reply = if *asking { values.nth(1) } else { values.next() };
            reply.unwrap_or_else(|| Err(CallError::Reply("fewer replies than commands".into())))
        };
        Ok(commands.iter().map(&mut of).collect())
    }

    /// Sends a pipeline as it is. A command that failed has its error, and the others were run.
    ///
    /// # Errors
    /// As of [`Self::send`].
    pub(super) async fn send_whole(&self, pipeline: &Pipeline) -> Result<Vec<Reply>, CallError> {
        let mut connection = self.pool.get().await?;
        let sent = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
        let values = match sent {
            Ok(values) => values,
            Err(error) => {
                let error = CallError::from(error);
                self.close_all(connection, &error);
                return Err(error);
            }
        };
        let replies: Vec<Reply> =
            values.into_iter().map(|value| value.extract_error().map_err(CallError::from)).collect();
        let demoted =
            |reply: &&Reply| reply.as_ref().is_err_and(|error| reaction(error) == Reaction::FindPrimary);
        if let Some(Err(error)) = replies.iter().find(demoted) {
            self.close_all(connection, error);
        }
        Ok(replies)
    }

    /// Sends a command that blocks on the server for up to `block`, on a connection of its own.
    pub(super) async fn blocking(&self, cmd: &Cmd, block: Duration) -> Reply {
        self.dedicated.read(cmd, block).await
    }

    /// Opens a connection for subscriptions, whose pushes go to `on_push`. It must carry nothing but (S)SUBSCRIBE
    /// and their opposites. `on_push` runs on the connection's own task and must not block.
    ///
    /// # Errors
    /// When the server cannot be reached in time.
    pub async fn subscriber(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, CallError> {
        let sender = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            on_push(push);
            Ok(())
        };
        let config = self.limits.clone().set_push_sender(sender);
        Ok(self.subscriptions.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// The identity of the data it holds: another one after a restart and after each change of the primary, when the
    /// newest entries may be gone.
    ///
    /// # Errors
    /// When it answers with an error, too late or not at all.
    pub async fn replication_id(&self) -> Result<String, CallError> {
        let info: String = redis::from_redis_value(self.query(cmd("INFO").arg("replication")).await?)?;
        let line = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
        line.map(|id| id.trim().to_owned())
            .ok_or_else(|| CallError::Reply("INFO has no master_replid".into()))
    }

    /// Closes a connection and all that wait in the pool: of a server that broke one or is late the others are no better
    /// and would not be asked before they are used; and a demoted primary still answers, so they would live on.
    fn close_all(&self, connection: Object<Lively>, why: &CallError) {
        drop(Object::take(connection));
        let others = self.pool.retain(|_, _| false).removed.len();
        tracing::warn!(server = %self.address, closed = others + 1, error = %why, "connections to Redis are made anew");
    }
}

fn pool(
    config: &RedisConfig,
    info: redis::ConnectionInfo,
    limits: AsyncConnectionConfig,
) -> Result<managed::Pool<Lively>, SetupError> {
    let manager = Manager::new_with_config(info, limits).map_err(SetupError::Url)?;
    let timeouts =
        Timeouts { wait: Some(POOL_WAIT), create: Some(config.connect_timeout), recycle: Some(POOL_RECYCLE) };
    managed::Pool::builder(Lively(manager))
        .max_size(config.connections_max)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| SetupError::Pool(error.into()))
}
