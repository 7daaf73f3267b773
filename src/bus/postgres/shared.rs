//! What the feed and its task share: who is followed, the bell, and how well reading and listening go.
//!
//! Not here: reading ([`super::reader`]), and the port itself ([`super::feed`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::followers::Followers;
use crate::BoxError;
use crate::bus::Health;
use crate::config::Notify as Mode;
use crate::postgres::listener::Heard;
use crate::task::UserId;

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

impl Shared {
    pub(super) fn new(mode: Mode) -> Self {
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

    /// Takes what the listener heard: a bell, or news of the listener itself.
    pub(super) fn heard(&self, heard: &Heard<'_>) {
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

    pub(super) fn unfollow(&self, user: &UserId, number: u64) {
        self.followers().unfollow(user, number);
        self.left.notify_one();
    }

    /// Returns once nobody is followed.
    pub(super) async fn followed_no_more(&self) {
        loop {
            let left = self.left.notified();
            if self.followers().is_empty() {
                return;
            }
            left.await;
        }
    }

    /// What the health page is told.
    pub(super) fn health(&self) -> Health {
        let State { reading, listening } = self.state().clone();
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
