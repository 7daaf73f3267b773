//! Writing to the bus in Postgres: one round trip per event.

use async_trait::async_trait;

use super::rows::Outcome;
use super::{CHANNEL, statements, unavailable};
use crate::bus::{BusError, Published, Publisher};
use crate::config::{BusConfig, Notify};
use crate::postgres::Database;
use crate::task::{Event, UserId};

/// Publishes to the tables of the bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresPublisher {
    database: Database,
    channel: Option<&'static str>,
}

impl PostgresPublisher {
    /// A publisher on `database`. It rings no bell when `bus.notify` is `poll`.
    #[must_use]
    pub fn new(database: Database, config: &BusConfig) -> Self {
        let channel = (config.notify == Notify::Listen).then_some(CHANNEL);
        Self { database, channel }
    }

    async fn call(&self, user: &UserId, event: &Event) -> Result<Outcome, sqlx::Error> {
        let publish = sqlx::query_as(statements::PUBLISH)
            .bind(user.as_str())
            .bind(event.task_id.as_uuid())
            .bind(i64::from(event.attempt.0))
            .bind(i64::try_from(event.seq.0).map_err(|error| sqlx::Error::Encode(error.into()))?)
            .bind(event.is_terminal())
            .bind(json(event)?)
            .bind(json(&Event { items: Vec::new(), ..event.clone() })?)
            .bind(self.channel);
        self.database.write(publish.fetch_one(self.database.pool())).await
    }
}

fn json(event: &Event) -> Result<Vec<u8>, sqlx::Error> {
    serde_json::to_vec(event).map_err(|error| sqlx::Error::Encode(error.into()))
}

#[async_trait]
impl Publisher for PostgresPublisher {
    async fn publish(&self, user: &UserId, event: &Event) -> Result<Published, BusError> {
        match self.call(user, event).await.map_err(unavailable("publishing an event"))? {
            Outcome::Appended(position) => Ok(Published::Appended(position)),
            Outcome::Repeat => Ok(Published::Repeat),
            Outcome::Fenced(current) => Err(BusError::Fenced { current }),
        }
    }
}
