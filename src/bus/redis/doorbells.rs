//! Hearing the doorbells of all users followed: a subscription to every server that has some of them.
//!
//! A supervisor keeps one [`Line`] to each server as servers come and go. Who wants to hear a channel asks here, and is
//! passed on to the line of the server that has it; while that is not known or not up, the request waits within its
//! deadline. What a line does is in [`super::subscription`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::follow::Registry;
use super::status::Status;
use super::subscription::Line;
use crate::redis::{Address, CallError, Layout, Node, Redis, Shard};
use crate::task::ReplicaId;

/// Requests that may wait for a line; callers past it wait for a place.
const QUEUE_MAX: usize = 1_024;
/// Pause before a request is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// A wish about one channel.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: &'static str,
    pub(super) channel: String,
    /// Told when it is done; dropped when it has to be tried again.
    pub(super) done: oneshot::Sender<()>,
}

/// The queues of the lines, by server.
type Lines = Arc<Mutex<HashMap<Address, mpsc::Sender<Request>>>>;

/// Asks for doorbells.
#[derive(Debug, Clone)]
pub(super) struct Doorbells {
    redis: Redis,
    lines: Lines,
    deadline: Duration,
}

impl Doorbells {
    /// Waits until rings on a channel of this shard are heard.
    pub(super) async fn subscribe(&self, shard: Shard, channel: &str) -> Result<(), CallError> {
        self.request("SSUBSCRIBE", shard, channel).await
    }

    /// Waits until they are no longer.
    pub(super) async fn unsubscribe(&self, shard: Shard, channel: &str) -> Result<(), CallError> {
        self.request("SUNSUBSCRIBE", shard, channel).await
    }

    async fn request(&self, command: &'static str, shard: Shard, channel: &str) -> Result<(), CallError> {
        let done = async {
            while !self.try_request(command, shard, channel).await? {
                sleep(AGAIN).await;
            }
            Ok(())
        };
        timeout(self.deadline, done).await.unwrap_or(Err(CallError::Late))
    }

    async fn try_request(
        &self,
        command: &'static str,
        shard: Shard,
        channel: &str,
    ) -> Result<bool, CallError> {
        let layout = self.redis.layout().await?;
        let Some(line) = layout.owner(shard).and_then(|node| self.line(node.address())) else {
            return Ok(false);
        };
        let (done, answer) = oneshot::channel();
        let request = Request { command, channel: channel.to_owned(), done };
        Ok(line.send(request).await.is_ok() && answer.await.is_ok())
    }

    fn line(&self, server: &Address) -> Option<mpsc::Sender<Request>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned()
    }
}

/// Keeps a line to every server.
pub(super) struct Supervisor {
    redis: Redis,
    registry: Arc<Registry>,
    status: Arc<Status>,
    replica: ReplicaId,
    lines: Lines,
    running: HashMap<Address, (Arc<Node>, AbortOnDropHandle<()>)>,
}

impl Supervisor {
    pub(super) fn new(
        redis: Redis,
        registry: Arc<Registry>,
        status: Arc<Status>,
        replica: ReplicaId,
    ) -> (Doorbells, Self) {
        let lines = Lines::default();
        // A new connection may have to be made first.
        let deadline = (redis.config().connect_timeout + redis.config().command_timeout) * 2;
        let doorbells = Doorbells { redis: redis.clone(), lines: Arc::clone(&lines), deadline };
        (doorbells, Self { redis, registry, status, replica, lines, running: HashMap::new() })
    }

    /// Keeps the lines up for ever. Dropping the future closes them.
    pub(super) async fn run(mut self) {
        let mut layouts = self.redis.layouts();
        loop {
            let layout = Arc::clone(&layouts.borrow_and_update());
            self.settle(&layout);
            if layouts.changed().await.is_err() {
                return;
            }
        }
    }

    /// Opens lines to new servers and closes those to servers that have nothing of ours any more.
    fn settle(&mut self, layout: &Layout) {
        let ours = |node: &&Arc<Node>| layout.any_shard(node).is_some();
        let wanted: HashMap<Address, &Arc<Node>> =
            layout.nodes().iter().filter(ours).map(|node| (node.address().clone(), node)).collect();
        let stays = |(address, (node, _)): (&Address, &(Arc<Node>, _))| {
            wanted.get(address).is_some_and(|wanted| Arc::ptr_eq(wanted, node))
        };
        let gone: Vec<Address> =
            self.running.iter().filter(|line| !stays(*line)).map(|(address, _)| address.clone()).collect();
        for address in gone {
            self.running.remove(&address);
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
            self.status.take_down(&address);
        }
        for (address, node) in wanted {
            if !self.running.contains_key(&address) {
                self.open(address, node);
            }
        }
    }

    fn open(&mut self, address: Address, node: &Arc<Node>) {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let line = Line {
            redis: self.redis.clone(),
            node: Arc::clone(node),
            registry: Arc::clone(&self.registry),
            bell: self.status.hang(&address),
            replica: self.replica.clone(),
            requests,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(line.run()));
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).insert(address.clone(), queue);
        self.running.insert(address, (Arc::clone(node), task));
    }
}
