//! Keeps the tables of the bus small: old and excess events, silent tasks, idle streams; and keeps what is watched.
//!
//! Run beside the reading of every gateway now and then. Each statement is bounded, skips rows that others hold, and is
//! safe from any number of replicas at once; a replica with nothing to delete pays an index probe or a scan of the small
//! tables. A stream that somebody follows is touched, so that watching an idle user is not a loss every `stream_ttl`.

use std::time::Duration;

use super::shared::Shared;
use super::{jittered, statements};
use crate::bus::FENCE_TTL;
use crate::config::BusConfig;
use crate::postgres::Database;
use crate::task::UserId;

/// Rows deleted by one statement.
const BATCH: i64 = 2_000;
/// Statements of one kind in one round; what is left waits for the next.
const BATCHES_MAX: u32 = 25;
/// Shortest and longest pause between rounds.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Users touched by one statement.
const TOUCHED_MAX: usize = 2_000;

/// The bounds of the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upkeep {
    entries_max: i64,
    retention: Duration,
    stream_ttl: Duration,
}

impl From<&BusConfig> for Upkeep {
    fn from(config: &BusConfig) -> Self {
        Self {
            entries_max: i64::try_from(config.entries_max.max(1)).unwrap_or(i64::MAX),
            retention: config.retention,
            stream_ttl: config.stream_ttl,
        }
    }
}

impl Upkeep {
    /// Goes round until dropped. A failed round is told by the reading that fails with it, and the next one makes up
    /// for it.
    pub(super) async fn run(&self, database: &Database, shared: &Shared) {
        loop {
            tokio::time::sleep(jittered(self.interval())).await;
            let followed = shared.followers().users();
            if let Err(error) = self.round(database, &followed).await {
                tracing::debug!(%error, "the tables of the bus could not be trimmed; trying later");
            }
        }
    }

    /// Pause between rounds: several fit into the shortest life of a stream.
    fn interval(&self) -> Duration {
        (self.stream_ttl / 4).min(INTERVAL_MAX).max(INTERVAL_MIN)
    }

    async fn round(&self, database: &Database, followed: &[UserId]) -> Result<(), sqlx::Error> {
        for users in followed.chunks(TOUCHED_MAX) {
            self.touch(database, users).await?;
        }
        let (retention, ttl) = (self.retention.as_secs_f64(), self.stream_ttl.as_secs_f64());
        drain(database, statements::TRIM_OLD, Bound::Seconds(retention)).await?;
        drain(database, statements::TRIM_EXCESS, Bound::Entries(self.entries_max)).await?;
        drain(database, statements::DROP_SILENT, Bound::Ages(ttl, FENCE_TTL.as_secs_f64())).await?;
        drain(database, statements::DROP_IDLE, Bound::Seconds(ttl)).await
    }

    async fn touch(&self, database: &Database, users: &[UserId]) -> Result<(), sqlx::Error> {
        let names: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let touch = sqlx::query(statements::TOUCH).bind(names).bind(self.stream_ttl.as_secs_f64() / 2.0);
        database.write(touch.execute(database.pool())).await.map(drop)
    }
}

/// What a statement keeps.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Seconds(f64),
    Ages(f64, f64),
    Entries(i64),
}

/// Runs a deleting statement until it finds less than a batch.
async fn drain(database: &Database, statement: &'static str, bound: Bound) -> Result<(), sqlx::Error> {
    for _ in 0..BATCHES_MAX {
        let query = sqlx::query(statement);
        let query = match bound {
            Bound::Seconds(seconds) => query.bind(seconds),
            Bound::Ages(one, other) => query.bind(one).bind(other),
            Bound::Entries(entries) => query.bind(entries),
        };
        let deleted = database.write(query.bind(BATCH).execute(database.pool())).await?.rows_affected();
        if deleted < BATCH.unsigned_abs() {
            break;
        }
    }
    Ok(())
}
