//! The bus in Postgres, for installations without a Redis.
//!
//! Writing is one call of a function in the database. It locks the user's row, so events of a user commit in the order
//! of their ids, and a cursor can never pass an event that commits late. The notification carries the user id alone;
//! its queue is shared by the whole database and locked at commit, which the short transaction keeps brief.
//!
//! Reading: one task per [`PostgresFeed`] holds a *set* of users whose bell rang and reads them from their cursors, many
//! in one statement. Bells may be lost: after each (re)connect all users count as rung, and a poll compares all heads
//! every `bus.sweep_interval` while notifications arrive, every `bus.poll_interval` while they do not or are switched
//! off (`bus.notify: poll`). Ids are dense, so a reader sees a gap for what it is.
//!
//! The tables are unlogged: a crash of the server empties them, which readers are told as a new epoch. Every
//! feed also trims the tables ([`upkeep`]). Reading order: [`statements`] · [`publisher`] · [`rows`] · [`followers`] · [`shared`] ·
//! [`reader`] · [`feed`].

mod feed;
mod followers;
mod publisher;
mod reader;
mod rows;
mod shared;
mod statements;
mod upkeep;

pub use feed::PostgresFeed;
pub use publisher::PostgresPublisher;
pub use statements::ALL as STATEMENTS;

use std::time::Duration;

use super::BusError;

/// The channel of the doorbell. Payload: a user id.
const CHANNEL: &str = "milepost_bus";

/// Turns an error of the driver into the port's, saying what was tried.
fn unavailable(doing: &'static str) -> impl FnOnce(sqlx::Error) -> BusError {
    move |error| BusError::Unavailable { doing, source: error.into() }
}

/// A pause that differs from replica to replica, so that they do not all ask at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.2))
}
