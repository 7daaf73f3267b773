//! Tells a worker that a user changed a task that it holds, by a notification that is part of the change.
//!
//! The payload is the worker; what was changed it learns from its renewal. Behind a pooler that passes no notifications on
//! nothing is lost but time. Not here: the connection ([`crate::postgres::listener`]).

use std::convert::Infallible;

use sqlx::PgConnection;

use super::PostgresStore;
use crate::config::Notify;
use crate::postgres::listener::{Heard, NOTIFY, listen};
use crate::task::ReplicaId;

/// The channel of changes by users. Payload: the worker that holds the task.
const CHANNEL: &str = "milepost_control";

/// Rings for a worker when the transaction is committed.
pub(super) async fn ring(tx: &mut PgConnection, worker: &ReplicaId) -> Result<(), sqlx::Error> {
    sqlx::query(NOTIFY).bind(CHANNEL).bind(worker.as_str()).execute(tx).await.map(drop)
}

impl PostgresStore {
    /// Rings until dropped; returns at once when notifications are switched off.
    pub(super) async fn hear_of_changes(&self, worker: &ReplicaId, ring: &(dyn Fn() + Send + Sync)) {
        if self.notify == Notify::Poll {
            return;
        }
        let mut hears = true;
        let heard = |heard: Heard<'_>| match heard {
            Heard::Connected => {
                hears = true;
                ring();
            }
            Heard::Message(to) if to == worker.as_str() => ring(),
            Heard::Message(_) => {}
            Heard::Disconnected(error) => {
                if std::mem::take(&mut hears) {
                    tracing::warn!(%error, "changes by users reach running tasks only with the next renewal");
                }
            }
        };
        let never: Infallible = listen(&self.db, CHANNEL, heard).await;
        match never {}
    }
}
