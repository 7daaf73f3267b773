//! The subscription connection: one per process, RESP3, and nothing goes over it but SSUBSCRIBE and SUNSUBSCRIBE.
//!
//! A supervisor owns it. When it breaks, or rings stay away although probes are sent, the supervisor builds a new one,
//! subscribes for everybody followed, and has all of them read once: what rang meanwhile went unheard. Messages are
//! handled on the connection's own task and only mark users as rung.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Pipeline, PushInfo, PushKind, Value, cmd};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::follow::Registry;
use super::status::Status;
use crate::redis::{Backoff, CallError, Redis};
use crate::task::EntryId;

/// Channels named in one pipeline; each has a command of its own, as Cluster wants.
const BATCH_MAX: usize = 256;
/// Requests that may wait for the supervisor; callers past it wait for a place.
const QUEUE_MAX: usize = 1_024;
/// Pause between probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Request {
    command: &'static str,
    channel: String,
    reply: oneshot::Sender<()>,
}

/// Asks the supervisor for doorbells.
#[derive(Debug, Clone)]
pub(super) struct Doorbells {
    requests: mpsc::Sender<Request>,
    deadline: Duration,
}

impl Doorbells {
    /// Waits until rings on `channel` are heard.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<(), CallError> {
        self.request("SSUBSCRIBE", channel).await
    }

    /// Waits until they are no longer.
    pub(super) async fn unsubscribe(&self, channel: &str) -> Result<(), CallError> {
        self.request("SUNSUBSCRIBE", channel).await
    }

    async fn request(&self, command: &'static str, channel: &str) -> Result<(), CallError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { command, channel: channel.to_owned(), reply };
        let done = async {
            self.requests.send(request).await.ok()?;
            answer.await.ok()
        };
        match timeout(self.deadline, done).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(CallError::NoConnection("the doorbell subscription broke".into())),
            Err(_) => Err(CallError::Late),
        }
    }
}

/// Owns the subscription connection.
pub(super) struct Supervisor {
    redis: Redis,
    registry: Arc<Registry>,
    status: Arc<Status>,
    probe: String,
    requests: mpsc::Receiver<Request>,
}

impl Supervisor {
    pub(super) fn new(
        redis: Redis,
        registry: Arc<Registry>,
        status: Arc<Status>,
        probe: String,
    ) -> (Doorbells, Self) {
        let (sender, requests) = mpsc::channel(QUEUE_MAX);
        // A new connection may have to be made first.
        let deadline = (redis.config().connect_timeout + redis.config().command_timeout) * 2;
        let doorbells = Doorbells { requests: sender, deadline };
        (doorbells, Self { redis, registry, status, probe, requests })
    }

    /// Keeps the subscription up for ever. Dropping the future closes it.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let broken = Arc::new(Notify::new());
            match self.connect(&broken).await {
                Ok(connection) => {
                    if backoff.succeeded() {
                        tracing::info!("the doorbell subscription is up again");
                    }
                    self.serve(connection, &broken).await;
                    self.status.disconnected();
                    tracing::warn!("the doorbell subscription broke; sweeps find news until it is up again");
                }
                Err(error) if backoff.failures() == 0 => {
                    tracing::warn!(%error, "the doorbell subscription is down; sweeps still find news");
                }
                Err(error) => tracing::debug!(%error, "the doorbell subscription is still down"),
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    async fn connect(&self, broken: &Arc<Notify>) -> Result<MultiplexedConnection, CallError> {
        let mut connection = self.redis.subscriber(self.on_push(Arc::clone(broken))).await?;
        let follows = self.registry.all();
        let channels = follows.iter().map(|follow| follow.channel.as_str()).chain([self.probe.as_str()]);
        let commands: Vec<_> = channels.map(|channel| ("SSUBSCRIBE", channel)).collect();
        for batch in commands.chunks(BATCH_MAX) {
            send(&mut connection, batch.iter().copied()).await?;
        }
        self.status.connected();
        for follow in follows {
            follow.ring();
        }
        Ok(connection)
    }

    fn on_push(&self, broken: Arc<Notify>) -> impl Fn(PushInfo) + Send + Sync + 'static {
        let (registry, status) = (Arc::clone(&self.registry), Arc::clone(&self.status));
        move |push| {
            let follow = || match push.data.first() {
                Some(Value::BulkString(channel)) => registry.get(channel),
                _ => None,
            };
            match push.kind {
                PushKind::SMessage => {
                    status.heard();
                    if let Some(follow) = follow() {
                        entry_of(&push).into_iter().for_each(|entry| follow.hear(entry));
                        follow.ring();
                    }
                }
                // We did not ask for this: the channel has moved to another node.
                PushKind::SUnsubscribe if follow().is_some_and(|follow| !follow.is_closed()) => {
                    broken.notify_one();
                }
                PushKind::Disconnection => broken.notify_one(),
                _ => {}
            }
        }
    }

    /// Serves requests until the connection is of no use any more.
    async fn serve(&mut self, mut connection: MultiplexedConnection, broken: &Notify) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = broken.notified() => return,
                () = self.status.rebuild.notified() => return,
                n = self.requests.recv_many(&mut batch, BATCH_MAX) => {
                    // Without anybody left to ask, the connection stays as it is until the supervisor is dropped.
                    if n == 0 {
                        return broken.notified().await;
                    }
                }
            }
            let commands = batch.iter().map(|request| (request.command, request.channel.as_str()));
            if let Err(error) = send(&mut connection, commands).await {
                tracing::debug!(%error, "the doorbell subscription did not take a command");
                return;
            }
            for request in batch.drain(..) {
                let _ = request.reply.send(());
            }
        }
    }
}

/// The entry that a doorbell tells of.
fn entry_of(push: &PushInfo) -> Option<EntryId> {
    match push.data.get(1)? {
        Value::BulkString(id) => std::str::from_utf8(id).ok()?.parse().ok(),
        _ => None,
    }
}

async fn send(
    connection: &mut MultiplexedConnection,
    commands: impl Iterator<Item = (&'static str, &str)>,
) -> Result<(), CallError> {
    let mut pipeline = Pipeline::new();
    for (command, channel) in commands {
        pipeline.cmd(command).arg(channel);
    }
    for reply in connection.req_packed_commands(&pipeline, 0, pipeline.len()).await? {
        reply.extract_error()?;
    }
    Ok(())
}

/// Rings the replica's own bell every second, for ever, and has the subscription rebuilt when the rings stay away.
pub(super) async fn probe(redis: Redis, status: Arc<Status>, channel: String) {
    loop {
        let sent: Result<Value, _> = redis.query(cmd("SPUBLISH").arg(&channel).arg("probe")).await;
        if sent.is_ok() && status.is_deaf() {
            tracing::warn!("probes are sent and no doorbell arrives; building the subscription anew");
            status.rebuild.notify_one();
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
