//! The reading of a feed: waits for bells, reads rung users from their cursors, delivers, and polls.
//!
//! It never gives up: a failed read leaves its users rung and is tried again after a pause with jitter. Nothing is lost
//! by that, because cursors only move past what was found.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep, sleep_until};

use super::followers::Asked;
use super::rows::{Found, group};
use super::shared::Shared;
use super::{jittered, statements};
use crate::config::BusConfig;
use crate::postgres::Database;
use crate::task::{Position, UserId};

/// Users read by one statement, events per user, and rows in all.
const USERS_MAX: usize = 256;
const EVENTS_PER_USER: i64 = 256;
const ROWS_MAX: i64 = 4_096;
/// Users compared by one poll statement.
const POLLED_MAX: usize = 2_000;
/// Pauses after failures: doubled from the first to the longest, with jitter.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Reads for one feed.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    database: &'a Database,
    poll_interval: Duration,
    sweep_interval: Duration,
    polled: Instant,
}

impl<'a> Reader<'a> {
    pub(super) fn new(shared: &'a Shared, database: &'a Database, config: &BusConfig) -> Self {
        Self {
            shared,
            database,
            poll_interval: jittered(config.poll_interval),
            sweep_interval: jittered(config.sweep_interval.max(config.poll_interval)),
            polled: Instant::now(),
        }
    }

    /// Runs until dropped.
    pub(super) async fn run(&mut self) {
        let mut pauses = retries();
        let mut outcome = self.poll().await;
        loop {
            match outcome {
                Ok(()) => {
                    self.shared.reads_well();
                    pauses = retries();
                    self.wait().await;
                }
                Err(error) => {
                    self.shared.reads_badly(&error);
                    sleep(pauses.next().unwrap_or(RETRY_LONGEST)).await;
                }
            }
            outcome = self.turn().await;
        }
    }

    /// Waits for a bell, or until the next poll is due.
    async fn wait(&self) {
        tokio::select! {
            () = self.shared.bell.notified() => {}
            () = sleep_until(self.next_poll()) => {}
        }
    }

    /// Does what is due.
    async fn turn(&mut self) -> Result<(), sqlx::Error> {
        if Instant::now() >= self.next_poll() {
            self.poll().await?;
        }
        self.read_rung().await
    }

    /// While notifications arrive the poll only looks for lost ones.
    fn next_poll(&self) -> Instant {
        self.polled + if self.shared.hears() { self.sweep_interval } else { self.poll_interval }
    }

    /// Rings every user whose stream is not where the cursor is. Asks even for nobody, to know whether it could.
    async fn poll(&mut self) -> Result<(), sqlx::Error> {
        let cursors = self.shared.followers().cursors();
        for cursors in cursors.chunks(POLLED_MAX) {
            self.poll_some(cursors).await?;
        }
        if cursors.is_empty() {
            self.poll_some(&[]).await?;
        }
        self.polled = Instant::now();
        Ok(())
    }

    async fn poll_some(&self, cursors: &[Asked]) -> Result<(), sqlx::Error> {
        let Columns { users, epochs, ids } = cursors.iter().map(Asked::cursor).collect();
        let poll = sqlx::query_scalar(statements::POLL).bind(users).bind(epochs).bind(ids);
        let rung: Vec<String> = self.database.read(poll.fetch_all(self.database.pool())).await?;
        let mut followers = self.shared.followers();
        for user in rung.iter().filter_map(|user| UserId::new(user).ok()) {
            followers.ring(&user);
        }
        Ok(())
    }

    /// Reads until no user is rung.
    async fn read_rung(&self) -> Result<(), sqlx::Error> {
        loop {
            let asked = self.shared.followers().take_rung(USERS_MAX);
            if asked.is_empty() {
                return Ok(());
            }
            let cursors = asked.iter().map(Asked::cursor).collect();
            match read(self.database, cursors, EVENTS_PER_USER, ROWS_MAX).await {
                Ok(found) => self.deliver(&asked, found),
                Err(error) => {
                    asked.iter().for_each(|asked| self.ring_again(asked));
                    return Err(error);
                }
            }
        }
    }

    fn deliver(&self, asked: &[Asked], found: Vec<Option<Found>>) {
        for (asked, found) in asked.iter().zip(found) {
            let Some(found) = found else {
                self.ring_again(asked);
                continue;
            };
            let delivery = self.shared.followers().settle(asked, found);
            if let Some(delivery) = delivery {
                delivery.hand_over();
            }
        }
    }

    fn ring_again(&self, asked: &Asked) {
        self.shared.followers().ring(&asked.user);
    }
}

fn retries() -> impl Iterator<Item = Duration> {
    let pauses = ExponentialBuilder::new().with_min_delay(RETRY_FIRST).with_max_delay(RETRY_LONGEST);
    pauses.with_jitter().without_max_times().build()
}

/// Cursors as the columns that statements take.
#[derive(Default)]
pub(super) struct Columns<'a> {
    users: Vec<&'a str>,
    epochs: Vec<Option<&'a str>>,
    ids: Vec<Option<i64>>,
}

impl<'a> FromIterator<(&'a UserId, Option<&'a Position>)> for Columns<'a> {
    fn from_iter<T: IntoIterator<Item = (&'a UserId, Option<&'a Position>)>>(cursors: T) -> Self {
        let mut columns = Self::default();
        for (user, position) in cursors {
            columns.users.push(user.as_str());
            columns.epochs.push(position.map(|position| position.epoch.as_str()));
            // An id that no column holds is ahead of every stream, and stays so.
            let id = |position: &Position| i64::try_from(position.id.major).unwrap_or(i64::MAX);
            columns.ids.push(position.map(id));
        }
        columns
    }
}

/// Reads streams from cursors: what was found for each, or `None` where the limit of rows cut it off.
pub(super) async fn read(
    database: &Database,
    cursors: Columns<'_>,
    per_user: i64,
    rows: i64,
) -> Result<Vec<Option<Found>>, sqlx::Error> {
    let Columns { users, epochs, ids } = cursors;
    let asked = users.len();
    let read = sqlx::query(statements::READ).bind(users).bind(epochs).bind(ids).bind(per_user).bind(rows);
    group(&database.read(read.fetch_all(database.pool())).await?, asked)
}
