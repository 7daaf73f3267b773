//! Postgres plumbing that the store, the bus and dispatch share: a pool, a deadline around every call, the schema.
//!
//! Server-side limits (`statement_timeout`, `lock_timeout`) are set on every connection, but a server that is stopped
//! or cut off cannot enforce them and sqlx would wait for ever. So each call also runs under a deadline of ours. Nothing
//! here is tried again: the caller knows whether that is safe. Not here: any statement about tasks or events.

pub mod checks;
pub(crate) mod listener;
mod schema;

use std::future::Future;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

pub use schema::SchemaError;

use crate::config::DatabaseConfig;
use crate::telemetry::Metrics;

/// How long a statement may wait for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transaction may sit between two statements before the server ends it, and frees its locks.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pooled connection may rest before it is asked whether it lives. The pool asks it whenever it comes back, so asking
/// one that has just done so is a round trip more for every statement.
const ASK_AFTER: Duration = Duration::from_millis(100);
/// What a call may take over the server's own limits before we give up on the server.
const DEADLINE_MARGIN: Duration = Duration::from_secs(1);

/// Why there is no database to work with. All of these stop a start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// `database.url` is missing or is not a Postgres URL. The URL itself is not shown: it holds a password.
    #[error("database.url is not a Postgres URL: {0}")]
    Url(String),
    /// The server does not answer or refuses us.
    #[error("the database cannot be reached")]
    Unreachable(#[source] sqlx::Error),
}

/// A connection pool with deadlines and counters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    options: PgConnectOptions,
    deadline: Duration,
    metrics: Metrics,
}

/// Whether a connection that has rested for so long is good to use; an error closes it.
async fn lives(connection: &mut PgConnection, rested: Duration) -> Result<bool, sqlx::Error> {
    if rested >= ASK_AFTER {
        connection.ping().await?;
    }
    Ok(true)
}

impl Database {
    /// Opens a pool and checks that the server answers. `application` is shown in `pg_stat_activity`.
    ///
    /// # Errors
    /// When the URL is missing or malformed, or the server does not answer within the time to acquire.
    pub async fn connect(
        config: &DatabaseConfig,
        application: &str,
        metrics: &Metrics,
    ) -> Result<Self, ConnectError> {
        let options = connect_options(config, application)?;
        let pool = PgPoolOptions::new()
            .max_connections(config.connections_max)
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, rested| Box::pin(lives(connection, rested.idle_for)))
            .connect_lazy_with(options.clone());
        let deadline = config.acquire_timeout + config.statement_timeout + DEADLINE_MARGIN;
        let database = Self { pool, options, deadline, metrics: metrics.clone() };
        database.ping().await.map_err(ConnectError::Unreachable)?;
        Ok(database)
    }

    /// The pool, to run statements on inside [`Self::read`] or [`Self::write`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How to open a connection beside the pool, for what must own one: a lock held for long, a listener.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The longest time a call may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Runs one reading statement under the deadline and counts it.
    ///
    /// # Errors
    /// The call's own, or a time-out as `E::from(sqlx::Error::Io(..))`: then the outcome is unknown.
    pub async fn read<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E>
    where
        E: From<sqlx::Error>,
    {
        self.metrics.count_reads(1);
        within(self.deadline, call).await
    }

    /// Runs one writing statement under the deadline and counts it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn write<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E>
    where
        E: From<sqlx::Error>,
    {
        self.metrics.count_writes(1);
        within(self.deadline, call).await
    }

    /// Runs a transaction of so many reading and writing statements under one deadline and counts them.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn transaction<T, E>(
        &self,
        reads: u64,
        writes: u64,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E>
    where
        E: From<sqlx::Error>,
    {
        self.metrics.count_reads(reads);
        self.metrics.count_writes(writes);
        within(self.deadline, call).await
    }

    /// Whether the server answers.
    ///
    /// # Errors
    /// When it does not, within the deadline.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        self.read(async { sqlx::query("SELECT 1").execute(&self.pool).await.map(drop) }).await
    }

    /// Closes all connections, waiting for those in use, at most for the deadline.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(self.deadline, self.pool.close()).await;
    }
}

/// Runs a call under a deadline; a time-out looks like an input/output error of the connection.
pub(crate) async fn within<T, E>(deadline: Duration, call: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<sqlx::Error>,
{
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(timed_out(deadline).into()))
}

fn timed_out(deadline: Duration) -> sqlx::Error {
    let message = format!("the database gave no answer within {deadline:?}");
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message))
}

/// The server's keep-alive (in seconds) makes it notice within half a minute that we are gone without a word, and give
/// up our locks. Compiling a plan to machine code takes longer than any statement of ours.
fn connect_options(config: &DatabaseConfig, application: &str) -> Result<PgConnectOptions, ConnectError> {
    let url = config.url.as_ref().ok_or_else(|| ConnectError::Url("it is not set".into()))?;
    let options: PgConnectOptions =
        url.expose_secret().parse().map_err(|error: sqlx::Error| ConnectError::Url(error.to_string()))?;
    Ok(options.application_name(application).options([
        ("statement_timeout", config.statement_timeout.as_millis()),
        ("lock_timeout", LOCK_TIMEOUT.as_millis()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT.as_millis()),
        ("tcp_keepalives_idle", 10),
        ("tcp_keepalives_interval", 5),
        ("tcp_keepalives_count", 3),
        ("jit", 0),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_answers_ends_at_the_deadline() {
        let call = std::future::pending::<Result<(), sqlx::Error>>();
        let error = within(Duration::from_secs(8), call).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 8s"), "{error}");
    }

    #[test]
    fn a_bad_url_is_refused_without_showing_it() {
        let config =
            DatabaseConfig { url: Some("postgres://u:hunter2@host:port/db".into()), ..Default::default() };
        let error = connect_options(&config, "milepost").unwrap_err().to_string();
        assert!(error.starts_with("database.url") && !error.contains("hunter2"), "{error}");
        assert!(connect_options(&DatabaseConfig::default(), "milepost").is_err());
    }
}
