//! The subscription to one server: a RESP3 connection, and nothing goes over it but SSUBSCRIBE and SUNSUBSCRIBE.
//!
//! When it breaks, or rings stay away although probes are sent, a new one is built, subscribed for everybody followed
//! whose shard the server has, and all of them are compared with the server: what rang meanwhile went unheard, and it
//! may be another primary. In a Cluster a shard that moves away takes its channels along, by a push that nobody asked
//! for; the line of its new server then finds it missing and subscribes. What is subscribed is known from the pushes
//! alone, because such a push can pass for the reply to another command. Messages are handled on the connection's own
//! task and only mark users as rung.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Pipeline, PushInfo, PushKind, Value, cmd};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::doorbells::Request;
use super::follow::{Follow, Registry};
use super::status::Bell;
use crate::redis::{Backoff, CallError, Node, Reaction, Redis, reaction};
use crate::task::{EntryId, ReplicaId};

/// Channels named in one pipeline; each has a command of its own, as Cluster wants.
const BATCH_MAX: usize = 256;
/// Pause between probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Pause before what could not be subscribed is tried again, and how often it is.
const AGAIN: Duration = Duration::from_millis(100);
const TRIES: u32 = 50;

/// The subscription to one server.
pub(super) struct Line {
    pub(super) redis: Redis,
    pub(super) node: Arc<Node>,
    pub(super) registry: Arc<Registry>,
    pub(super) bell: Arc<Bell>,
    pub(super) replica: ReplicaId,
    pub(super) requests: mpsc::Receiver<Request>,
}

/// What the pushes of one connection have said.
#[derive(Default)]
struct Pushed {
    /// Channels that the server has confirmed and not taken back.
    channels: Mutex<HashSet<Vec<u8>>>,
    /// Told when the connection is of no use any more.
    broken: Notify,
    /// Told when the server took a channel back.
    taken: Notify,
}

impl Pushed {
    fn channels(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, channel: &str) -> bool {
        self.channels().contains(channel.as_bytes())
    }
}

impl Line {
    /// Keeps the subscription up for ever. Dropping the future closes it.
    pub(super) async fn run(mut self) {
        let probe =
            probe(self.redis.clone(), Arc::clone(&self.node), Arc::clone(&self.bell), self.replica.clone());
        tokio::select! {
            () = probe => {}
            () = self.keep_up() => {}
        }
    }

    async fn keep_up(&mut self) {
        let (mut backoff, server) = (Backoff::default(), self.node.address().clone());
        loop {
            let pushed = Arc::new(Pushed::default());
            match self.connect(&pushed).await {
                Ok(connection) => {
                    if backoff.succeeded() {
                        tracing::info!(%server, "the doorbell subscription is up again");
                    }
                    self.serve(connection, &pushed).await;
                    self.bell.disconnected();
                    tracing::warn!(%server, "the doorbell subscription broke; sweeps find news until it is up again");
                }
                Err(error) if backoff.failures() == 0 => {
                    tracing::warn!(%server, %error, "the doorbell subscription is down; sweeps still find news");
                }
                Err(error) => tracing::debug!(%server, %error, "the doorbell subscription is still down"),
            }
            self.redis.look_again();
            sleep(backoff.failed()).await;
        }
    }

    async fn connect(&self, pushed: &Arc<Pushed>) -> Result<MultiplexedConnection, CallError> {
        let mut connection = self.node.subscriber(self.on_push(Arc::clone(pushed))).await?;
        self.settle(&mut connection, pushed).await?;
        self.bell.connected();
        Ok(connection)
    }

    fn on_push(&self, pushed: Arc<Pushed>) -> impl Fn(PushInfo) + Send + Sync + 'static {
        let (registry, bell) = (Arc::clone(&self.registry), Arc::clone(&self.bell));
        move |push| {
            let Some(Value::BulkString(channel)) = push.data.first() else {
                if push.kind == PushKind::Disconnection {
                    pushed.broken.notify_one();
                }
                return;
            };
            match push.kind {
                PushKind::SMessage => {
                    bell.heard();
                    if let Some(follow) = registry.get(channel) {
                        entry_of(&push).into_iter().for_each(|entry| follow.hear(entry));
                        follow.ring();
                    }
                }
                PushKind::SSubscribe => {
                    pushed.channels().insert(channel.clone());
                }
                PushKind::SUnsubscribe => {
                    pushed.channels().remove(channel);
                    // Who has asked for it is closed by now.
                    if registry.get(channel).is_none_or(|follow| !follow.is_closed()) {
                        pushed.taken.notify_one();
                    }
                }
                _ => {}
            }
        }
    }

    /// Serves requests until the connection is of no use any more.
    async fn serve(&mut self, mut connection: MultiplexedConnection, pushed: &Pushed) {
        let (mut batch, mut layouts) = (Vec::with_capacity(BATCH_MAX), self.redis.layouts());
        loop {
            let result = tokio::select! {
                () = pushed.broken.notified() => return,
                () = self.bell.rebuild.notified() => return,
                () = pushed.taken.notified() => self.settle(&mut connection, pushed).await,
                Ok(()) = layouts.changed() => self.settle(&mut connection, pushed).await,
                // Without anybody left to ask, the connection stays as it is until the line is dropped.
                n = self.requests.recv_many(&mut batch, BATCH_MAX) => match n {
                    0 => return pushed.broken.notified().await,
                    _ => self.answer(&mut connection, &mut batch, pushed).await,
                },
            };
            if let Err(error) = result {
                tracing::debug!(%error, "the doorbell subscription did not take a command");
                return;
            }
        }
    }

    /// Subscribes to what is missing of the users followed whose shard the server has, and has these compared with it.
    async fn settle(&self, connection: &mut MultiplexedConnection, pushed: &Pushed) -> Result<(), CallError> {
        for _ in 0..TRIES {
            let missing = self.missing(pushed);
            let probe = self.probe_channel().filter(|probe| !pushed.has(probe));
            let channels = missing.iter().map(|follow| follow.channel.as_str()).chain(probe.as_deref());
            let commands: Vec<_> = channels.map(|channel| ("SSUBSCRIBE", channel)).collect();
            if commands.is_empty() {
                return Ok(());
            }
            for batch in commands.chunks(BATCH_MAX) {
                send(connection, batch.iter().copied()).await?;
            }
            // Who is just beginning to be followed asks the server next anyway.
            let compared =
                |follow: &&Arc<Follow>| pushed.has(&follow.channel) && follow.state().place.is_some();
            missing.iter().filter(compared).for_each(Follow::suspect);
            if commands.iter().all(|(_, channel)| pushed.has(channel)) {
                return Ok(());
            }
            // The server does not have them any more, or not yet.
            self.redis.look_again();
            sleep(AGAIN).await;
        }
        Err(CallError::Reply("channels that should be there were refused again and again".into()))
    }

    fn missing(&self, pushed: &Pushed) -> Vec<Arc<Follow>> {
        let layout = Arc::clone(&self.redis.layouts().borrow());
        let here = |follow: &Arc<Follow>| {
            layout.owner(follow.shard).is_some_and(|owner| Arc::ptr_eq(owner, &self.node))
        };
        let mut follows = self.registry.all();
        follows.retain(|follow| here(follow) && !follow.is_closed() && !pushed.has(&follow.channel));
        follows
    }

    fn probe_channel(&self) -> Option<String> {
        probe_channel(&self.redis, &self.node, &self.replica)
    }

    /// Does what is asked for. A request that came to nothing is dropped, for its sender to try again.
    async fn answer(
        &self,
        connection: &mut MultiplexedConnection,
        batch: &mut Vec<Request>,
        pushed: &Pushed,
    ) -> Result<(), CallError> {
        send(connection, batch.iter().map(|request| (request.command, request.channel.as_str()))).await?;
        for request in batch.drain(..) {
            if pushed.has(&request.channel) == (request.command == "SSUBSCRIBE") {
                let _ = request.done.send(());
            } else {
                self.redis.look_again();
            }
        }
        Ok(())
    }
}

/// The entry that a doorbell tells of.
fn entry_of(push: &PushInfo) -> Option<EntryId> {
    match push.data.get(1)? {
        Value::BulkString(id) => std::str::from_utf8(id).ok()?.parse().ok(),
        _ => None,
    }
}

/// Sends commands and waits for as many replies. A refusal because the channel's slot is elsewhere is none here: what
/// was subscribed is told by pushes.
async fn send(
    connection: &mut MultiplexedConnection,
    commands: impl Iterator<Item = (&'static str, &str)>,
) -> Result<(), CallError> {
    let mut pipeline = Pipeline::new();
    for (command, channel) in commands {
        pipeline.cmd(command).arg(channel);
    }
    for reply in connection.req_packed_commands(&pipeline, 0, pipeline.len()).await? {
        match reply.extract_error().map_err(CallError::from) {
            Err(error) if reaction(&error) != Reaction::Wait => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A channel that the server has and that nobody else rings. Of one of its shards, which may be another one later.
fn probe_channel(redis: &Redis, node: &Node, replica: &ReplicaId) -> Option<String> {
    let shard = redis.layouts().borrow().any_shard(node)?;
    Some(redis.keys().probe(shard, replica))
}

/// Rings the replica's own bell every second, for ever, and has the subscription rebuilt when the rings stay away.
async fn probe(redis: Redis, node: Arc<Node>, bell: Arc<Bell>, replica: ReplicaId) {
    loop {
        if let Some(channel) = probe_channel(&redis, &node, &replica) {
            let sent: Result<Value, _> = redis.query(cmd("SPUBLISH").arg(&channel).arg("probe")).await;
            if sent.is_ok() && bell.is_deaf() {
                let server = node.address();
                tracing::warn!(%server, "probes are sent and no doorbell arrives; building the subscription anew");
                bell.rebuild.notify_one();
            }
        }
        sleep(PROBE_EVERY).await;
    }
}
