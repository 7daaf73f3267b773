//! Local fan-out: which sockets of this replica belong to a user, and getting the user's entries to all of them.
//!
//! A user's stream is followed once, from the first socket here until the last is gone. An entry's frame is built
//! once, whoever many sockets take it. Not here: what a socket does with it ([`super::live::session`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::ends::OpenTasks;
use super::live::close::Close;
use super::live::outbox::{Bounds, Outbox};
use super::live::protocol::Frame;
use crate::bus::{BusError, Entry, Feed, Following, Inbox, Loss};
use crate::task::UserId;
use crate::telemetry::metrics::{Kind, Metrics};

/// How long a stream may take to be followed, and how long a caller waits for that, beside the backend's own deadlines.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a socket could not join.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// The user has as many sockets here as one may have.
    TooMany,
    /// The user's stream cannot be followed now.
    Unavailable(BusError),
}

/// One live connection as others see it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// What waits to be written to it.
    pub(crate) outbox: Outbox,
    /// Its number; pings are spread by it.
    pub(crate) id: u64,
    /// When its token ends, in seconds since the Unix epoch.
    pub(crate) expires_s: i64,
    /// When it last gave a sign of life, in milliseconds since the hub was made.
    seen_ms: AtomicU64,
    /// Whether nobody waits any more for it to join.
    given_up: AtomicBool,
}

/// Gives a socket up when its caller leaves before it has joined.
struct Waiting(Option<Arc<Socket>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.given_up.store(true, Ordering::Relaxed);
        }
    }
}

/// All sockets of this replica.
pub(crate) struct Hub {
    feed: Arc<dyn Feed>,
    /// Shared, because every user's fan-out has it, and it is large.
    metrics: Arc<Metrics>,
    bounds: Bounds,
    per_user_max: usize,
    users: Mutex<HashMap<UserId, Arc<Channel>>>,
    ids: AtomicU64,
    began: Instant,
}

/// One user's sockets, and the guard that keeps their stream followed.
struct Channel {
    fanout: Arc<Fanout>,
    following: OnceCell<Following>,
}

/// What a feed delivers to. Apart from the guard, so that a feed that holds it does not keep itself going.
pub(super) struct Fanout {
    sockets: Mutex<Vec<Arc<Socket>>>,
    open: Mutex<OpenTasks>,
    metrics: Arc<Metrics>,
}

/// A socket's place in the hub. Dropping it leaves; the last one of a user ends the following.
pub(crate) struct Membership {
    hub: Arc<Hub>,
    user: UserId,
    socket: Arc<Socket>,
    channel: Option<Arc<Channel>>,
}

impl Hub {
    pub(crate) fn new(feed: Arc<dyn Feed>, metrics: Metrics, bounds: Bounds, per_user_max: u32) -> Self {
        Self {
            feed,
            metrics: Arc::new(metrics),
            bounds,
            per_user_max: usize::try_from(per_user_max.max(1)).unwrap_or(usize::MAX),
            users: Mutex::default(),
            ids: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// Adds a socket of `user`. Once this returns, every entry appended from now on reaches its outbox.
    ///
    /// Cancel-safe: following is finished in the background, and what nobody waits for any more leaves again. It takes no
    /// place under the limit meanwhile, or an outage would use them all up, and a client is told not to come back.
    pub(crate) async fn join(
        self: &Arc<Self>,
        user: &UserId,
        expires_s: i64,
    ) -> Result<Membership, JoinError> {
        let membership = self.enter(user, expires_s)?;
        let mut waiting = Waiting(Some(Arc::clone(&membership.socket)));
        let joining = tokio::spawn(membership.follow());
        match tokio::time::timeout(FOLLOW_TIMEOUT, joining).await {
            Ok(Ok(joined)) => {
                waiting.0 = None;
                joined
            }
            Ok(Err(error)) => Err(unavailable(error)),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Takes a place without following yet.
    fn enter(self: &Arc<Self>, user: &UserId, expires_s: i64) -> Result<Membership, JoinError> {
        let mut users = self.users();
        let channel =
            users.entry(user.clone()).or_insert_with(|| Arc::new(Channel::new(Arc::clone(&self.metrics))));
        let channel = Arc::clone(channel);
        let mut sockets = channel.fanout.sockets();
        let waited_for = sockets.iter().filter(|socket| !socket.given_up.load(Ordering::Relaxed));
        if waited_for.count() >= self.per_user_max {
            return Err(JoinError::TooMany);
        }
        let socket = Arc::new(self.socket(expires_s));
        sockets.push(Arc::clone(&socket));
        drop(sockets);
        channel.fanout.open().joined();
        Ok(Membership { hub: Arc::clone(self), user: user.clone(), socket, channel: Some(channel) })
    }

    fn socket(&self, expires_s: i64) -> Socket {
        Socket {
            outbox: Outbox::new(self.bounds),
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            expires_s,
            seen_ms: AtomicU64::new(self.uptime_ms()),
            given_up: AtomicBool::new(false),
        }
    }

    /// Every socket here now.
    pub(crate) fn sockets(&self) -> Vec<Arc<Socket>> {
        let users = self.users();
        let mut all = Vec::with_capacity(users.len());
        users.values().for_each(|channel| all.extend(channel.fanout.sockets().iter().cloned()));
        all
    }

    /// Every user here now.
    pub(super) fn fanouts(&self) -> Vec<(UserId, Arc<Fanout>)> {
        let users = self.users();
        users.iter().map(|(user, channel)| (user.clone(), Arc::clone(&channel.fanout))).collect()
    }

    /// Notes a sign of life.
    pub(crate) fn saw(&self, socket: &Socket) {
        socket.seen_ms.store(self.uptime_ms(), Ordering::Relaxed);
    }

    /// How long a socket has given no sign of life.
    pub(crate) fn silence(&self, socket: &Socket) -> Duration {
        Duration::from_millis(self.uptime_ms().saturating_sub(socket.seen_ms.load(Ordering::Relaxed)))
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Arc<Channel>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits any more.
#[derive(Debug, thiserror::Error)]
#[error("the client did not wait")]
struct GivenUp;

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> JoinError {
    JoinError::Unavailable(BusError::Unavailable { doing: "following a stream", source: error.into() })
}

impl Membership {
    /// The socket.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Follows the user's stream, unless another socket has it followed already.
    async fn follow(self) -> Result<Self, JoinError> {
        if let Some(channel) = &self.channel {
            channel.following.get_or_try_init(|| self.begin(&channel.fanout)).await?;
        }
        Ok(self)
    }

    /// Bounded by itself: the user's other sockets wait for this call, whoever made it.
    async fn begin(&self, fanout: &Arc<Fanout>) -> Result<Following, JoinError> {
        if self.socket.given_up.load(Ordering::Relaxed) {
            // The next in line may still be waited for.
            return Err(unavailable(GivenUp));
        }
        let inbox: Arc<dyn Inbox> = Arc::clone(fanout) as Arc<dyn Inbox>;
        match tokio::time::timeout(FOLLOW_TIMEOUT, self.hub.feed.follow(&self.user, inbox)).await {
            Ok(followed) => followed.map_err(JoinError::Unavailable),
            Err(error) => Err(unavailable(error)),
        }
    }
}

impl Drop for Membership {
    /// All under the lock of the users, so that a following ends before the next one of the same user begins.
    fn drop(&mut self) {
        let mut users = self.hub.users();
        let Some(channel) = self.channel.take() else { return };
        let last = {
            let mut sockets = channel.fanout.sockets();
            sockets.retain(|other| other.id != self.socket.id);
            sockets.is_empty()
        };
        if last {
            users.remove(&self.user);
        }
        drop(channel);
    }
}

impl Channel {
    fn new(metrics: Arc<Metrics>) -> Self {
        let fanout = Fanout { sockets: Mutex::default(), open: Mutex::default(), metrics };
        Self { fanout: Arc::new(fanout), following: OnceCell::new() }
    }
}

impl Fanout {
    fn sockets(&self) -> MutexGuard<'_, Vec<Arc<Socket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the sockets may believe to be running.
    pub(super) fn open(&self) -> MutexGuard<'_, OpenTasks> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Socket by socket, not event by event: each is woken once, and writes with one flush what came together.
    fn push(&self, frames: &[Arc<Frame>]) {
        for socket in self.sockets().iter() {
            let pushed = socket.outbox.push(frames);
            if pushed.merged > 0 {
                self.metrics.events_coalesced.inc_by(pushed.merged);
            }
            if pushed.overflow {
                self.metrics.slow_sockets.inc();
            }
        }
    }
}

impl Inbox for Fanout {
    fn deliver(&self, user: &UserId, entries: Vec<Entry>) {
        let now = Instant::now();
        let mut open = self.open();
        entries.iter().for_each(|entry| open.heard(entry.task_id, entry.terminal, now));
        drop(open);
        let frame = |entry: Entry| {
            let position = entry.position.clone();
            let frame = Frame::new(entry);
            if frame.is_none() {
                tracing::error!(user.id = %user, %position, "an entry is not an event; it was left out");
            }
            frame.map(Arc::new)
        };
        let frames: Vec<_> = entries.into_iter().filter_map(frame).collect();
        self.push(&frames);
    }

    fn lost(&self, user: &UserId, loss: Loss) {
        tracing::info!(user.id = %user, loss = loss.as_str(), "sockets get a fresh snapshot");
        for socket in self.sockets().iter() {
            socket.outbox.resync(loss);
        }
    }
}

/// Ends every socket for a shutdown, spread evenly over `spread`, and tells each client when to come back.
pub(crate) async fn close_all(hub: &Hub, spread: Duration) {
    let mut sockets = hub.sockets();
    // Users come in no order, but the sockets of one user come together: spread those as well.
    sockets.sort_by_key(|socket| socket.id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let n = u32::try_from(sockets.len()).unwrap_or(u32::MAX).max(1);
    let start = Instant::now();
    for (i, socket) in (0_u32..).zip(&sockets) {
        tokio::time::sleep_until(start + spread / n * i).await;
        dismiss(socket);
    }
}

/// Ends the sockets that joined while the others were being closed.
pub(crate) fn close_late(hub: &Hub) {
    hub.sockets().iter().for_each(|socket| dismiss(socket));
}

fn dismiss(socket: &Socket) {
    socket.outbox.close(Close::Shutdown { retry_ms: rand::random_range(500..8_000) });
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("users", &self.users().len()).finish_non_exhaustive()
    }
}

/// Counts a refused socket.
pub(crate) fn count_refused(metrics: &Metrics) {
    metrics.refused.get_or_create(&Kind { kind: "sockets" }).inc();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use async_trait::async_trait;

    use super::*;
    use crate::bus::{AckSink, Health, Receipt, Replay};
    use crate::task::{Attempt, EntryId, Epoch, Event, Position, Seq, TaskId};

    /// A feed that only counts: how often it was followed, and how often that ended.
    #[derive(Default)]
    struct Counting {
        followed: AtomicUsize,
        ended: Arc<AtomicUsize>,
        inbox: Mutex<Option<Arc<dyn Inbox>>>,
    }

    #[async_trait]
    impl Feed for Counting {
        async fn follow(&self, _user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
            tokio::task::yield_now().await;
            self.followed.fetch_add(1, Ordering::SeqCst);
            *self.inbox.lock().unwrap() = Some(inbox);
            let ended = Arc::clone(&self.ended);
            Ok(Following::new(move || {
                ended.fetch_add(1, Ordering::SeqCst);
            }))
        }

        async fn head(&self, _user: &UserId) -> Result<Position, BusError> {
            unreachable!("the hub does not ask")
        }

        async fn replay(&self, _user: &UserId, _after: &Position, _limit: usize) -> Result<Replay, BusError> {
            unreachable!("the hub does not ask")
        }

        async fn live(&self, _user: &UserId, _tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
            unreachable!("the hub does not ask")
        }

        fn health(&self) -> Health {
            unreachable!("the hub does not ask")
        }
    }

    impl Counting {
        fn counts(&self) -> (usize, usize) {
            (self.followed.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
        }
    }

    fn hub(feed: &Arc<Counting>) -> Arc<Hub> {
        let bounds = Bounds { coalesce_bytes: 1_000, bytes_max: 10_000 };
        Arc::new(Hub::new(Arc::clone(feed) as _, Metrics::new(), bounds, 2))
    }

    fn ada() -> UserId {
        UserId::new("ada").unwrap()
    }

    #[tokio::test]
    async fn a_user_is_followed_once_and_until_the_last_socket_is_gone() {
        let feed = Arc::new(Counting::default());
        let hub = hub(&feed);
        let user = ada();
        let (one, two) = tokio::join!(hub.join(&user, i64::MAX), hub.join(&user, i64::MAX));
        let (one, two) = (one.ok().unwrap(), two.ok().unwrap());
        assert!(matches!(hub.join(&user, i64::MAX).await, Err(JoinError::TooMany)));
        assert_eq!(feed.counts(), (1, 0));
        drop(one);
        assert_eq!(feed.counts(), (1, 0));
        drop(two);
        assert_eq!((feed.counts(), hub.users().len()), ((1, 1), 0));
        let _again = hub.join(&user, i64::MAX).await.ok().unwrap();
        assert_eq!(feed.counts(), (2, 1));
    }

    #[derive(Default)]
    struct Acked(AtomicUsize);

    impl AckSink for Acked {
        fn ack(&self, _user: &UserId, _id: EntryId) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn an_entry_is_acknowledged_once_every_socket_has_let_go_of_it() {
        let (feed, acked) = (Arc::new(Counting::default()), Arc::new(Acked::default()));
        let hub = hub(&feed);
        let one = hub.join(&ada(), i64::MAX).await.ok().unwrap();
        let two = hub.join(&ada(), i64::MAX).await.ok().unwrap();
        let id = EntryId::counted(1);
        let entry = Entry {
            position: Position::new(Epoch::generate(), id),
            task_id: TaskId::generate(),
            attempt: Attempt(1),
            seq: Seq(1),
            terminal: true,
            body: bytes::Bytes::from_static(br#"{"type":"complete"}"#),
            receipt: Some(Arc::new(Receipt::new(ada(), id, Arc::clone(&acked) as _))),
        };
        let inbox = feed.inbox.lock().unwrap().clone().unwrap();
        inbox.deliver(&ada(), vec![entry]);
        let written = one.socket().outbox.take().await;
        assert_eq!(written.items.len(), 1);
        drop(written);
        assert_eq!(acked.0.load(Ordering::SeqCst), 0, "the other socket has not written it");
        drop(two.socket().outbox.take().await);
        assert_eq!(acked.0.load(Ordering::SeqCst), 1);
    }
}
