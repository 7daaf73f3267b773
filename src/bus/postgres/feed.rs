//! The reading side of the bus in Postgres, as gateways use it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::followers::Followers;
use super::reader::{Reader, read};
use super::rows::Head;
use super::upkeep::Upkeep;
use super::{CHANNEL, statements, unavailable};
use crate::BoxError;
use crate::bus::{BusError, Feed, Following, Health, Inbox, Replay};
use crate::config::{BusConfig, Notify as Mode};
use crate::lifecycle::Lifecycle;
use crate::postgres::Database;
use crate::postgres::listener::{Heard, listen};
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

/// What the feed and its task share.
pub(super) struct Shared {
    followers: Mutex<Followers>,
    /// Rung when a user is.
    pub(super) bell: Notify,
    left: Notify,
    state: Mutex<State>,
}

/// What the health page is told.
#[derive(Debug, Clone)]
struct State {
    reading: Result<(), String>,
    listening: Listening,
}

#[derive(Debug, Clone)]
enum Listening {
    SwitchedOff,
    Hears,
    Deaf(String),
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
        loop {
            let left = self.shared.left.notified();
            if self.shared.followers().is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl Shared {
    fn new(mode: Mode) -> Self {
        let listening = match mode {
            Mode::Poll => Listening::SwitchedOff,
            Mode::Listen => Listening::Deaf("connecting".into()),
        };
        let state = State { reading: Err("nothing was read yet".into()), listening };
        Self {
            followers: Mutex::default(),
            bell: Notify::new(),
            left: Notify::new(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether notifications arrive.
    pub(super) fn hears(&self) -> bool {
        matches!(self.state().listening, Listening::Hears)
    }

    pub(super) fn reads_well(&self) {
        if std::mem::replace(&mut self.state().reading, Ok(())).is_err() {
            tracing::info!("the progress bus is read");
        }
    }

    pub(super) fn reads_badly(&self, error: &sqlx::Error) {
        if std::mem::replace(&mut self.state().reading, Err(error.to_string())).is_ok() {
            tracing::warn!(%error, "the progress bus cannot be read; trying until it can");
        }
    }

    fn heard(&self, heard: &Heard<'_>) {
        match heard {
            Heard::Connected => self.connected(),
            Heard::Disconnected(error) => self.disconnected(error),
            Heard::Message(user) => {
                if UserId::new(user).is_ok_and(|user| self.followers().ring(&user)) {
                    self.bell.notify_one();
                }
            }
        }
    }

    fn connected(&self) {
        self.state().listening = Listening::Hears;
        self.followers().ring_all();
        self.bell.notify_one();
        tracing::info!("notifications of the progress bus arrive");
    }

    fn disconnected(&self, error: &BoxError) {
        let before = std::mem::replace(&mut self.state().listening, Listening::Deaf(error.to_string()));
        if matches!(before, Listening::Hears) {
            tracing::warn!(%error, "notifications of the progress bus are lost; polling until they arrive again");
        }
        // The pause until the next poll is shorter now.
        self.bell.notify_one();
    }

    fn unfollow(&self, user: &UserId, number: u64) {
        self.followers().unfollow(user, number);
        self.left.notify_one();
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
        let State { reading, listening } = self.shared.state().clone();
        if self.ended.is_cancelled() {
            return Health { ready: false, detail: "the progress bus is no longer read".into() };
        }
        let detail = match (&reading, listening) {
            (Err(error), _) => format!("the progress bus cannot be read: {error}"),
            (Ok(()), Listening::Hears) => "progress arrives by notification".into(),
            (Ok(()), Listening::SwitchedOff) => "progress arrives by polling, as configured".into(),
            (Ok(()), Listening::Deaf(error)) => {
                format!("progress arrives by polling, for notifications do not arrive: {error}")
            }
        };
        Health { ready: reading.is_ok(), detail }
    }
}
