//! Wake-ups through notifications of Postgres, for installations without a Redis.
//!
//! A notification is heard by every worker that listens, and by none that does not: it is kept nowhere. So one ring
//! wakes all workers, who then race for the task with `SKIP LOCKED`; all but one find nothing, which costs each an index
//! probe. And a receiver that was just opened, or connected again, begins with a token of its own: look for yourself.
//! While notifications do not arrive, or are switched off (`bus.notify: poll`), a receive gives up after
//! `bus.poll_interval` instead of the whole wait, so that its worker looks into the store as often. Pauses have jitter:
//! workers do not look all at once. There is nothing to ack.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::queue::Queue;
use super::{DispatchError, Dispatcher, Token, TokenSource};
use crate::config::{BusConfig, Notify};
use crate::lifecycle::Lifecycle;
use crate::postgres::Database;
use crate::postgres::listener::{Heard, NOTIFY, listen};
use crate::task::{ReplicaId, TaskId};

/// The channel of the wake-ups. Payload: a task id.
const CHANNEL: &str = "milepost_dispatch";
/// How long opening a receiver may wait for its connection; after that it goes on without, and polls.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Every statement of this backend, by name. A test prepares each against the migrated schema.
pub const STATEMENTS: [(&str, &str); 1] = [("NOTIFY", NOTIFY)];

/// Wake-ups through a Postgres. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresDispatch {
    database: Database,
    notify: Notify,
    poll_interval: Duration,
    lifecycle: Lifecycle,
}

impl PostgresDispatch {
    /// Rings and listens on `database`. Tasks of receivers are spawned on `lifecycle`.
    #[must_use]
    pub fn new(database: Database, config: &BusConfig, lifecycle: &Lifecycle) -> Self {
        let (notify, poll_interval) = (config.notify, config.poll_interval);
        Self { database, notify, poll_interval, lifecycle: lifecycle.clone() }
    }

    /// Starts to listen, until the token is cancelled.
    fn listen(&self, queue: &Arc<Queue>, ended: CancellationToken) -> watch::Receiver<bool> {
        let (hears, heard) = watch::channel(false);
        let (database, queue) = (self.database.clone(), Arc::clone(queue));
        self.lifecycle.spawn("postgres dispatch", async move {
            let hear = |heard: Heard<'_>| note(&heard, &queue, &hears);
            tokio::select! {
                _ = listen(&database, CHANNEL, hear) => {}
                () = ended.cancelled() => {}
            }
        });
        heard
    }
}

/// What a notification means to a receiver.
fn note(heard: &Heard<'_>, queue: &Queue, hears: &watch::Sender<bool>) {
    match heard {
        Heard::Connected => {
            hears.send_replace(true);
            queue.push(look_for_yourself());
        }
        Heard::Disconnected(error) => {
            if hears.send_replace(false) {
                tracing::warn!(%error, "wake-ups of workers are lost; polling until they arrive again");
            }
        }
        Heard::Message(task) => {
            let task_id = task.parse().ok();
            queue.push(Token { task_id, receipt: String::new() });
        }
    }
}

fn look_for_yourself() -> Token {
    Token { task_id: None, receipt: String::new() }
}

#[async_trait]
impl Dispatcher for PostgresDispatch {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        if self.notify == Notify::Poll {
            return Ok(());
        }
        let notify = sqlx::query(NOTIFY).bind(CHANNEL).bind(task.to_string());
        let rung = self.database.write(notify.execute(self.database.pool())).await;
        rung.map(drop).map_err(|error| DispatchError { doing: "ringing the workers", source: error.into() })
    }

    async fn receiver(&self, _: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
        let (queue, ended) = (Arc::new(Queue::default()), self.lifecycle.hard().child_token());
        let mut hears = match self.notify {
            Notify::Poll => None,
            Notify::Listen => Some(self.listen(&queue, ended.clone())),
        };
        let connected = match &mut hears {
            Some(hears) => {
                tokio::time::timeout(CONNECT_TIMEOUT, hears.wait_for(|hears| *hears)).await.is_ok()
            }
            None => false,
        };
        if !connected {
            queue.push(look_for_yourself());
        }
        Ok(Box::new(Receiver { queue, hears, poll_interval: self.poll_interval, _end: ended.drop_guard() }))
    }
}

struct Receiver {
    queue: Arc<Queue>,
    /// Whether notifications arrive; `None` when they are switched off.
    hears: Option<watch::Receiver<bool>>,
    poll_interval: Duration,
    _end: DropGuard,
}

impl Receiver {
    /// How long to wait before the worker looks for itself.
    fn patience(&self, wait: Duration) -> Duration {
        let hears = self.hears.as_ref().is_some_and(|hears| *hears.borrow());
        let longest = if hears { wait } else { wait.min(self.poll_interval) };
        longest.mul_f64(rand::random_range(0.8..=1.0))
    }
}

#[async_trait]
impl TokenSource for Receiver {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, DispatchError> {
        Ok(self.queue.receive(max, self.patience(wait)).await)
    }

    async fn ack(&mut self, _: Token) -> Result<bool, DispatchError> {
        Ok(true)
    }

    async fn close(self: Box<Self>) -> Result<(), DispatchError> {
        Ok(())
    }
}
