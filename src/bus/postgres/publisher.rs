//! Writing to the bus in Postgres: one round trip per event.

use async_trait::async_trait;

use super::rows::Outcome;
use super::{CHANNEL, statements, unavailable};
use crate::bus::{BusError, Published, Publisher};
use crate::config::{BusConfig, Notify};
use crate::postgres::Database;
use crate::task::{Attempt, Event, ItemResult, Seq, TaskId, UserId};

/// Events read at once for a takeover: at most 500 results each.
const PAGE: i64 = 200;

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

    async fn call(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Outcome, sqlx::Error> {
        let kept_from = recorded.map(|recorded| number(recorded.next())).transpose()?;
        let publish = sqlx::query_as(statements::PUBLISH)
            .bind(user.as_str())
            .bind(event.task_id.as_uuid())
            .bind(i64::from(event.attempt.0))
            .bind(number(event.seq)?)
            .bind(event.is_terminal())
            .bind(json(event)?)
            .bind(json(&Event { items: Vec::new(), ..event.clone() })?)
            .bind(self.channel)
            .bind(kept_from);
        self.database.write(publish.fetch_one(self.database.pool())).await
    }

    /// Events of older attempts, after a place in the stream.
    async fn unrecorded_page(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
        after: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let page = sqlx::query_as(statements::UNRECORDED)
            .bind(user.as_str())
            .bind(task.as_uuid())
            .bind(i64::from(attempt.0))
            .bind(after)
            .bind(PAGE);
        self.database.read(page.fetch_all(self.database.pool())).await
    }
}

fn number(seq: Seq) -> Result<i64, sqlx::Error> {
    i64::try_from(seq.0).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn json(event: &Event) -> Result<Vec<u8>, sqlx::Error> {
    serde_json::to_vec(event).map_err(|error| sqlx::Error::Encode(error.into()))
}

#[async_trait]
impl Publisher for PostgresPublisher {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        match self.call(user, event, recorded).await.map_err(unavailable("publishing an event"))? {
            Outcome::Appended(position) => Ok(Published::Appended(position)),
            Outcome::Repeat => Ok(Published::Repeat),
            Outcome::Fenced(current) => Err(BusError::Fenced { current }),
        }
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        let (mut results, mut after) = (Vec::new(), 0);
        loop {
            let page = self.unrecorded_page(user, task, attempt, after).await;
            let page = page.map_err(unavailable("reading results that may not be recorded"))?;
            for (_, body) in &page {
                // One that cannot be read is of a release that tells results in another way: its items run again.
                results.extend(serde_json::from_slice::<Event>(body).iter().flat_map(Event::results));
            }
            match page.last() {
                Some((last, _)) => after = *last,
                None => return Ok(results),
            }
        }
    }
}
