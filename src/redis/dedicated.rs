//! Connections for commands that are supposed to hang on the server, such as `XREADGROUP ... BLOCK`.
//!
//! A connection is marked busy before the read and clean when a reply was seen. One that comes back busy, because its
//! reader was dropped or gave up waiting, would swallow the next reader's entries: the pool closes it, which also ends
//! the wait on the server. So does one whose server is no primary any more: it would answer like that for ever.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};

use super::CallError;
use super::errors::Reaction;

/// How much longer than the server may block we wait for its answer.
const MARGIN: Duration = Duration::from_secs(2);

/// Opens and judges the dedicated connections.
#[derive(Debug)]
pub(super) struct Manager {
    client: Client,
    config: AsyncConnectionConfig,
}

/// A connection that at most one reader uses.
pub(super) struct Dedicated {
    connection: MultiplexedConnection,
    busy: bool,
}

impl Dedicated {
    async fn read(&mut self, cmd: &Cmd, block: Duration) -> Result<Value, RedisError> {
        self.connection.set_response_timeout(block + MARGIN);
        self.busy = true;
        let reply = self.connection.req_packed_command(cmd).await?;
        self.busy = Reaction::to_reply(&reply) == Some(Reaction::FindPrimary);
        reply.extract_error()
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Dedicated;
    type Error = RedisError;

    async fn connect(&self) -> Result<Dedicated, RedisError> {
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
        Ok(Dedicated { connection, busy: false })
    }

    async fn is_valid(&self, _: &mut Dedicated) -> Result<(), RedisError> {
        // Never asked: a connection is tried by using it, and a failed read closes it.
        Ok(())
    }

    fn has_broken(&self, dedicated: &mut Dedicated) -> bool {
        dedicated.busy
    }
}

/// The dedicated connections of a process.
#[derive(Clone)]
pub(super) struct Pool {
    pool: bb8::Pool<Manager>,
}

impl Pool {
    /// A pool of at most `size` connections, each opened when it is needed.
    pub(super) fn new(client: Client, connect_timeout: Duration, size: u32) -> Self {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(connect_timeout));
        let pool = bb8::Pool::builder()
            .max_size(size)
            .test_on_check_out(false)
            .max_lifetime(None)
            .connection_timeout(connect_timeout * 2)
            .retry_connection(false)
            .error_sink(Box::new(LogSink))
            .build_unchecked(Manager { client, config });
        Self { pool }
    }

    /// Sends a command that blocks on the server for up to `block`.
    pub(super) async fn read(&self, cmd: &Cmd, block: Duration) -> Result<Value, CallError> {
        let mut dedicated = self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => CallError::Redis(error),
            bb8::RunError::TimedOut => {
                CallError::NoConnection("none of the dedicated connections became free".into())
            }
        })?;
        Ok(dedicated.read(cmd, block).await?)
    }
}

/// Logs what the pool does by itself; without it, failed connects in the background would go unseen.
#[derive(Debug, Clone, Copy)]
struct LogSink;

impl bb8::ErrorSink<RedisError> for LogSink {
    fn sink(&self, error: RedisError) {
        tracing::debug!(%error, "a dedicated connection to Redis could not be opened");
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<RedisError>> {
        Box::new(*self)
    }
}
