//! The reading side of the bus in Postgres, as gateways use it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::reader::{Reader, read};
use super::rows::Head;
use super::shared::Shared;
use super::upkeep::Upkeep;
use super::{CHANNEL, statements, unavailable};
use crate::bus::{BusError, Feed, Following, Health, Inbox, Replay};
use crate::config::{BusConfig, Notify as Mode};
use crate::lifecycle::Lifecycle;
use crate::postgres::Database;
use crate::postgres::listener::listen;
use crate::task::{Epoch, Event, Position, TaskId, UserId};

/// Most entries in one page of a replay, whatever the caller asks for.
const PAGE_MAX: usize = 5_000;

/// Reads the tables of the bus for one gateway replica.
pub struct PostgresFeed {
    database: Database,
    shared: Arc<Shared>,
    ended: CancellationToken,
    _end_on_drop: DropGuard,
}

impl PostgresFeed {
    /// Starts the task that reads. It ends when the feed is dropped, after a soft stop once nobody is followed any more,
    /// or at the hard stop.
    #[must_use]
    pub fn start(database: Database, config: &BusConfig, lifecycle: &Lifecycle) -> Self {
        let shared = Arc::new(Shared::new(config.notify));
        let ended = lifecycle.hard().child_token();
        let task = Task {
            database: database.clone(),
            config: config.clone(),
            shared: Arc::clone(&shared),
            soft: lifecycle.soft().clone(),
            ended: ended.clone(),
        };
        lifecycle.spawn("postgres bus", task.run());
        Self { database, shared, _end_on_drop: ended.clone().drop_guard(), ended }
    }

    async fn find(&self, user: &UserId) -> Result<Option<Position>, sqlx::Error> {
        let head = sqlx::query_as(statements::HEAD).bind(user.as_str());
        let head: Option<Head> = self.database.read(head.fetch_optional(self.database.pool())).await?;
        Ok(head.map(|Head(position)| position))
    }

    async fn open(&self, user: &UserId) -> Result<Position, sqlx::Error> {
        let epoch = Epoch::generate();
        let open = sqlx::query_as(statements::OPEN).bind(user.as_str()).bind(epoch.as_str());
        let Head(position) = self.database.write(open.fetch_one(self.database.pool())).await?;
        Ok(position)
    }
}

struct Task {
    database: Database,
    config: BusConfig,
    shared: Arc<Shared>,
    soft: CancellationToken,
    ended: CancellationToken,
}

impl Task {
    async fn run(self) {
        let mut reader = Reader::new(&self.shared, &self.database, &self.config);
        let upkeep = Upkeep::from(&self.config);
        tokio::select! {
            () = reader.run() => {}
            () = upkeep.run(&self.database, &self.shared) => {}
            () = self.listen() => {}
            () = self.ended.cancelled() => {}
            () = self.over() => {}
        }
        self.ended.cancel();
    }

    async fn listen(&self) {
        match self.config.notify {
            Mode::Poll => std::future::pending().await,
            Mode::Listen => {
                listen(&self.database, CHANNEL, |heard| self.shared.heard(&heard)).await;
            }
        }
    }

    /// After a soft stop: until nobody is followed.
    async fn over(&self) {
        self.soft.cancelled().await;
        self.shared.followed_no_more().await;
    }
}

#[async_trait]
impl Feed for PostgresFeed {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        let cursor = self.find(user).await.map_err(unavailable("following a user"))?;
        if self.ended.is_cancelled() {
            let source = "this process is stopping".into();
            return Err(BusError::Unavailable { doing: "following a user", source });
        }
        let number = self.shared.followers().follow(user, inbox, cursor);
        self.shared.bell.notify_one();
        let (shared, user) = (Arc::downgrade(&self.shared), user.clone());
        Ok(Following::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.unfollow(&user, number);
            }
        }))
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        let doing = "asking for the head of a stream";
        match self.find(user).await.map_err(unavailable(doing))? {
            Some(head) => Ok(head),
            None => self.open(user).await.map_err(unavailable(doing)),
        }
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        let rows = i64::try_from(limit.clamp(1, PAGE_MAX)).unwrap_or(i64::MAX);
        let cursors = std::iter::once((user, Some(after))).collect();
        let found = read(&self.database, cursors, rows, rows).await;
        let mut found = found.map_err(unavailable("replaying a stream"))?;
        let found = found.pop().flatten().unwrap_or_default();
        Ok(match found.loss(Some(after)) {
            Some(loss) => Replay::Lost(loss),
            None => Replay::Page { complete: found.is_complete(), entries: found.entries },
        })
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        let doing = "asking for live tasks";
        let tasks: Vec<_> = tasks.iter().map(TaskId::as_uuid).collect();
        let live = sqlx::query_scalar(statements::LIVE).bind(user.as_str()).bind(tasks);
        let live = self.database.read(live.fetch_all(self.database.pool())).await;
        let events: Vec<Vec<u8>> = live.map_err(unavailable(doing))?;
        let read = |event: Vec<u8>| serde_json::from_slice(&event);
        let events: Result<_, _> = events.into_iter().map(read).collect();
        events.map_err(|error| BusError::Unavailable { doing, source: error.into() })
    }

    fn health(&self) -> Health {
        if self.ended.is_cancelled() {
            return Health { ready: false, detail: "the progress bus is no longer read".into() };
        }
        self.shared.health()
    }
}
