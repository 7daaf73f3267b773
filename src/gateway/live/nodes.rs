//! The nodes of a cluster as a stream of server-sent events: all of them, and then each change.
//!
//! A stream keeps nothing but the names that its client was told of. Changes wait in the one ring of the cluster, whose
//! length is the bound; a client that reads more slowly than that is told to forget what it has (`reset`) and gets the
//! nodes anew. There is no position to resume from: whoever connects gets the nodes as they are. Not here: which nodes there
//! are ([`crate::action::NodeViews`]), and the progress of tasks ([`super::session`]).

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::close::Close;
use super::protocol::{Goodbye, json, parts, sse_event};
use super::session::Counted;
use crate::action::nodes::{Followed, NodeFilter};
use crate::action::{ClusterError, Freshness, NodeChange, NodeChanges, NodeView, Nodes};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::ApiError;
use crate::gateway::hub::count_refused;
use crate::task::{ClusterName, UserId};
use crate::telemetry::metrics::Kind;

/// Chunks between a stream and its connection.
const CHUNKS: usize = 1;
/// Bytes gathered before they become a chunk.
const CHUNK_BYTES: usize = 16 * 1024;
/// Between looks at the time, the token and how current the nodes are.
const LOOK: Duration = Duration::from_secs(1);
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client waits before it connects again, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// How many streams each user has here.
#[derive(Debug)]
pub(crate) struct Streams {
    users: Mutex<HashMap<UserId, usize>>,
    per_user_max: usize,
}

/// A place among a user's streams, given back on drop.
struct Place {
    shared: Arc<Shared>,
    user: UserId,
}

impl Streams {
    pub(crate) fn new(per_user_max: u32) -> Self {
        Self { users: Mutex::default(), per_user_max: per_user_max.max(1) as usize }
    }

    fn users(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(shared: &Arc<Shared>, user: &UserId) -> Option<Place> {
        let mut users = shared.streams.users();
        let count = users.entry(user.clone()).or_default();
        (*count < shared.streams.per_user_max).then(|| {
            *count += 1;
            Place { shared: Arc::clone(shared), user: user.clone() }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.shared.streams.users();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    /// All nodes that are asked for, in parts.
    Snapshot {
        nodes: &'a [&'a NodeView],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    Added {
        node: &'a NodeView,
    },
    Updated {
        node: &'a NodeView,
        changed: &'a [&'static str],
    },
    Deleted {
        name: &'a str,
        uid: &'a str,
        /// False for one that is still there, and fits the filter no more.
        gone: bool,
    },
    /// Forget what you have: a snapshot follows.
    Reset,
    Freshness(&'a Freshness),
}

impl Frame<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Snapshot { .. } => "snapshot",
            Self::Added { .. } => "added",
            Self::Updated { .. } => "updated",
            Self::Deleted { .. } => "deleted",
            Self::Reset => "reset",
            Self::Freshness(_) => "freshness",
        }
    }
}

/// Answers with a stream of events and runs it.
pub(crate) async fn respond(
    shared: &Arc<Shared>,
    caller: Caller,
    cluster: ClusterName,
    filter: NodeFilter,
) -> Result<Response, ApiError> {
    if shared.stopping.is_cancelled() {
        return Err(ApiError::Unavailable("this replica is stopping", None));
    }
    let Some(place) = Streams::enter(shared, &caller.user) else {
        count_refused(&shared.parts.metrics);
        return Err(ApiError::TooMany(
            shared.parts.live.ping_interval,
            "you follow nodes too often at once; close one stream first",
        ));
    };
    let (nodes, changes) = shared.parts.clusters.follow(&cluster).await?;
    let (chunks, body) = mpsc::channel(CHUNKS);
    let stream = NodeStream {
        shared: Arc::clone(shared),
        _place: place,
        expires_s: caller.expires_s,
        cluster,
        filter,
        chunks,
        buffer: BytesMut::from(format!("retry: {RETRY_MS}\n\n").as_bytes()),
        told: HashSet::new(),
        stale: false,
    };
    shared.tracker.spawn(stream.run(nodes, changes));
    let next = |mut body: mpsc::Receiver<Bytes>| async move {
        let chunk = body.recv().await?;
        Some((Ok::<_, Infallible>(chunk), body))
    };
    let mut response = Body::from_stream(stream::unfold(body, next)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct NodeStream {
    shared: Arc<Shared>,
    _place: Place,
    expires_s: i64,
    cluster: ClusterName,
    filter: NodeFilter,
    chunks: mpsc::Sender<Bytes>,
    buffer: BytesMut,
    /// Names of the nodes that the client has.
    told: HashSet<String>,
    /// Whether the client was told that they may be old.
    stale: bool,
}

impl NodeStream {
    async fn run(mut self, nodes: Nodes, changes: NodeChanges) {
        let sockets = &self.shared.parts.metrics.sockets;
        let _counted = Counted::new(sockets.get_or_create_owned(&Kind { kind: "nodes" }));
        let close = match self.drive(nodes, changes).await {
            Ok(close) | Err(close) => close,
        };
        let Some(code) = close.code() else { return };
        let goodbye = Goodbye { code, reason: close.reason(), reconnect: close.reconnect() };
        self.buffer.extend_from_slice(&sse_event("close", None, &json(&goodbye)));
        let _ = timeout(CLOSE_TIMEOUT, self.flush()).await;
    }

    async fn drive(&mut self, nodes: Nodes, mut changes: NodeChanges) -> Result<Close, Close> {
        self.snapshot(&nodes).await?;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wrote = Instant::now();
        let stopping = self.shared.stopping.clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(self.shutdown()),
                () = self.chunks.closed() => return Ok(Close::Gone),
                followed = changes.next() => match followed {
                    Followed::Change(change) => self.change(&change).await?,
                    Followed::Lagged => changes = self.reset().await?,
                    Followed::Over => return Ok(Close::Unavailable),
                },
                _ = look.tick() => {
                    if self.shared.parts.clock.now().as_second() >= self.expires_s {
                        return Ok(Close::Expired);
                    }
                    self.freshness().await?;
                    if self.buffer.is_empty() && wrote.elapsed() >= self.shared.parts.live.ping_interval {
                        self.buffer.extend_from_slice(b": still here\n\n");
                    }
                }
            }
            if !self.buffer.is_empty() {
                self.flush().await?;
                wrote = Instant::now();
            }
        }
    }

    /// Every client waits for a time of its own, so that they do not come back all at once.
    fn shutdown(&self) -> Close {
        let spread = self.shared.parts.server.close_spread.mul_f64(rand::random());
        Close::Shutdown { retry_ms: u32::try_from(spread.as_millis()).unwrap_or(u32::MAX) }
    }

    async fn snapshot(&mut self, nodes: &Nodes) -> Result<(), Close> {
        let asked: Vec<&NodeView> =
            nodes.nodes.iter().map(AsRef::as_ref).filter(|node| self.filter.matches(node)).collect();
        self.told = asked.iter().map(|node| node.name.clone()).collect();
        let parts = parts(&asked);
        let last = parts.len() - 1;
        for (i, nodes) in parts.into_iter().enumerate() {
            self.put(&Frame::Snapshot { nodes, more: i < last }).await?;
        }
        self.stale = nodes.freshness.stale;
        self.put(&Frame::Freshness(&nodes.freshness)).await?;
        self.flush().await
    }

    async fn change(&mut self, change: &NodeChange) -> Result<(), Close> {
        let (node, changed, gone): (_, &[_], _) = match change {
            NodeChange::Added(node) => (node, &[], false),
            NodeChange::Updated { node, changed } => (node, changed, false),
            NodeChange::Deleted(node) => (node, &[], true),
        };
        let frame = if gone || !self.filter.matches(node) {
            if !self.told.remove(&node.name) {
                return Ok(());
            }
            Frame::Deleted { name: &node.name, uid: &node.uid, gone }
        } else if self.told.insert(node.name.clone()) {
            Frame::Added { node }
        } else {
            Frame::Updated { node, changed }
        };
        self.put(&frame).await
    }

    /// The client was too slow: it gets everything anew.
    async fn reset(&mut self) -> Result<NodeChanges, Close> {
        self.shared.parts.metrics.slow_sockets.inc();
        let (nodes, changes) = match self.shared.parts.clusters.follow(&self.cluster).await {
            Ok(followed) => followed,
            Err(ClusterError::Unknown(_) | ClusterError::Unavailable { .. }) => {
                return Err(Close::Unavailable);
            }
        };
        self.put(&Frame::Reset).await?;
        self.snapshot(&nodes).await?;
        Ok(changes)
    }

    /// Tells when the nodes begin to be old, or are current again.
    async fn freshness(&mut self) -> Result<(), Close> {
        let Some(freshness) = self.shared.parts.clusters.freshness(&self.cluster) else { return Ok(()) };
        if freshness.stale == self.stale {
            return Ok(());
        }
        self.stale = freshness.stale;
        self.put(&Frame::Freshness(&freshness)).await
    }

    async fn put(&mut self, frame: &Frame<'_>) -> Result<(), Close> {
        self.buffer.extend_from_slice(&sse_event(frame.kind(), None, &json(frame)));
        if self.buffer.len() >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Hands the chunk over. A client that takes none for long is cut off.
    async fn flush(&mut self) -> Result<(), Close> {
        let chunk = std::mem::take(&mut self.buffer).freeze();
        if chunk.is_empty() {
            return Ok(());
        }
        match timeout(self.shared.parts.live.idle_timeout, self.chunks.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Close::Gone),
        }
    }
}
