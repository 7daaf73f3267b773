//! The schema: bringing it up to date, and refusing to work on an older one.
//!
//! Migrations only go forward (see `migrations/README.md`), so a newer schema than ours is fine: it belongs to the next
//! release, which is being rolled out beside us.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::{Database, within};

/// Every migration this release knows, embedded.
static MIGRATOR: Migrator = sqlx::migrate!();

/// Longest time a whole migration may take.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Looks for the lock of the schema while another replica migrates, and the pause between them.
const LOCK_TRIES: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// Taken by whoever migrates. The others look again later: a session that waited for a lock would be waited for by an
/// index that is made concurrently, and the server ends one of the two as a deadlock.
const TAKE_TURN: &str = "SELECT pg_try_advisory_lock(20263, 0)";
/// `lock_not_available`: another session holds what a migration needs.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Why the schema cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A migration of this release is missing.
    #[error(
        "the database schema is older than this release (migration {missing} is missing): run `milepost migrate`"
    )]
    Older {
        /// The first one that is missing.
        missing: i64,
    },
    /// A migration stopped half way and needs a person.
    #[error("migration {0} was applied only in part: see migrations/README.md")]
    Partial(i64),
    /// Another replica migrates, for longer than anybody should wait.
    #[error("another replica has been migrating the database for more than a minute: see how it is doing")]
    Busy,
    /// A migration failed.
    #[error("the database schema cannot be migrated")]
    Migrate(#[from] MigrateError),
    /// The server does not answer.
    #[error("the database schema cannot be read")]
    Unreachable(#[from] sqlx::Error),
}

impl Database {
    /// Brings the schema up to date. Several replicas may do so at once: one works, the others wait.
    ///
    /// # Errors
    /// When a migration fails, or others migrate or hold the needed locks for too long.
    pub async fn migrate(&self) -> Result<(), SchemaError> {
        for _ in 1..LOCK_TRIES {
            match self.migrate_once().await {
                Err(SchemaError::Busy) => tracing::info!("another replica migrates; waiting"),
                Err(SchemaError::Migrate(error)) if is_locked(&error) => {
                    tracing::info!("another session holds a lock that the migration needs; waiting");
                }
                other => return other,
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        self.migrate_once().await
    }

    /// Uses a connection of its own: migrations may take longer than a statement of the service, and their session
    /// lock must go with the connection when they fail.
    async fn migrate_once(&self) -> Result<(), SchemaError> {
        let options = self.options().clone().options([("statement_timeout", "0")]);
        let mut connection: PgConnection = within(self.deadline(), options.connect()).await?;
        let outcome = self.take_turn(&mut connection).await;
        let closed = tokio::time::timeout(self.deadline(), connection.close()).await;
        drop(closed);
        outcome
    }

    /// The turn ends with the connection.
    async fn take_turn(&self, connection: &mut PgConnection) -> Result<(), SchemaError> {
        let turn = sqlx::query_scalar(TAKE_TURN).fetch_one(&mut *connection);
        let is_ours: bool = within(self.deadline(), turn).await?;
        if !is_ours {
            return Err(SchemaError::Busy);
        }
        Ok(within(MIGRATE_TIMEOUT, async { MIGRATOR.run(connection).await }).await?)
    }

    /// Checks that the schema has every migration that this release knows.
    ///
    /// # Errors
    /// [`SchemaError::Older`] with a sentence that says what to do.
    pub async fn check_schema(&self) -> Result<(), SchemaError> {
        let applied: HashMap<i64, bool> = self.read(self.applied()).await?.into_iter().collect();
        for migration in MIGRATOR.iter() {
            match applied.get(&migration.version) {
                Some(true) => {}
                Some(false) => return Err(SchemaError::Partial(migration.version)),
                None => return Err(SchemaError::Older { missing: migration.version }),
            }
        }
        Ok(())
    }

    async fn applied(&self) -> Result<Vec<(i64, bool)>, sqlx::Error> {
        let has_any = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        if !sqlx::query_scalar::<_, bool>(has_any).fetch_one(self.pool()).await? {
            return Ok(Vec::new());
        }
        sqlx::query_as("SELECT version, success FROM _sqlx_migrations").fetch_all(self.pool()).await
    }
}

fn is_locked(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
}
