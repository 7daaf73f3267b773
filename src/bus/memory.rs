//! The bus of a single process: streams in memory, gone with it.
//!
//! Entries are handed to inboxes by whoever publishes, before the publish returns, and never under a lock: an inbox
//! may publish or follow from inside `deliver`. Several publishers of one user at once stay in order, because only one
//! of them hands out and does so until nothing is left; the others only append. Every clone, and every follow, reads
//! the same streams. Nothing needs an ack, so entries carry no receipt.
//!
//! Bounds: `entries_max` and `retention` per user; a stream that nobody follows goes `stream_ttl` after its last entry.

mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use self::stream::{Limits, Stream};
use super::{BusError, Entry, Feed, Following, Health, Inbox, Loss, Published, Publisher, Replay};
use crate::config::BusConfig;
use crate::task::{Attempt, Event, ItemResult, Position, Seq, TaskId, UserId};

/// Longest pause between looks for idle streams.
const SWEEP_MAX: Duration = Duration::from_secs(60);

/// Progress streams held by this process. Cheap to clone; clones share the streams.
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    channels: HashMap<UserId, Channel>,
    followers: u64,
    next_sweep: Instant,
}

/// A user's stream and who follows it.
struct Channel {
    stream: Stream,
    followers: Vec<Follower>,
    /// Whether somebody is handing out entries right now.
    busy: bool,
}

struct Follower {
    number: u64,
    inbox: Arc<dyn Inbox>,
    /// After the last entry handed out.
    cursor: Position,
}

/// What one follower gets, taken under the lock and handed over outside of it.
struct Delivery {
    inbox: Arc<dyn Inbox>,
    lost: Option<Loss>,
    entries: Vec<Entry>,
}

impl MemoryBus {
    /// A bus without streams, bounded as `config` says.
    #[must_use]
    pub fn new(config: &BusConfig) -> Self {
        let state = State { channels: HashMap::new(), followers: 0, next_sweep: Instant::now() };
        let shared = Shared { limits: Limits::from(config), state: Mutex::new(state) };
        Self { shared: Arc::new(shared) }
    }

    /// Forgets a user's stream, as if the process had started again. Followers are told. For tests and drills.
    pub fn wipe(&self, user: &UserId) {
        if let Some(channel) = self.shared.lock().channels.get_mut(user) {
            channel.stream = Stream::new(Instant::now());
        }
        self.shared.hand_out(user);
    }

    /// Forgets all but a user's newest entries. For tests and drills.
    pub fn trim(&self, user: &UserId, keep: usize) {
        if let Some(channel) = self.shared.lock().channels.get_mut(user) {
            channel.stream.keep(keep);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what followers of `user` have not got, unless another thread is at it: that one then takes it along.
    fn hand_out(&self, user: &UserId) {
        if !self.lock().begin(user) {
            return;
        }
        while let Some(deliveries) = self.next(user) {
            for delivery in deliveries {
                delivery.hand_over(user);
            }
        }
    }

    fn next(&self, user: &UserId) -> Option<Vec<Delivery>> {
        let mut state = self.lock();
        let channel = state.channels.get_mut(user)?;
        let deliveries: Vec<_> = channel.take();
        channel.busy = !deliveries.is_empty();
        channel.busy.then_some(deliveries)
    }

    fn unfollow(&self, user: &UserId, number: u64) {
        if let Some(channel) = self.lock().channels.get_mut(user) {
            channel.followers.retain(|follower| follower.number != number);
        }
    }
}

impl State {
    fn channel(&mut self, user: &UserId, now: Instant) -> &mut Channel {
        self.channels.entry(user.clone()).or_insert_with(|| Channel {
            stream: Stream::new(now),
            followers: Vec::new(),
            busy: false,
        })
    }

    /// Takes the turn to hand out. Refused while another thread has it.
    fn begin(&mut self, user: &UserId) -> bool {
        let turn = self.channels.get_mut(user).filter(|channel| !channel.busy);
        turn.map(|channel| channel.busy = true).is_some()
    }

    /// Forgets idle streams and old entries, now and then.
    fn sweep(&mut self, limits: &Limits, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + (limits.ttl / 2).min(SWEEP_MAX);
        self.channels.retain(|_, channel| {
            channel.stream.trim(limits, now);
            channel.busy || !channel.followers.is_empty() || !channel.stream.is_idle(limits, now)
        });
    }
}

impl Channel {
    /// What the followers have not got yet, and moves their cursors past it.
    fn take(&mut self) -> Vec<Delivery> {
        let head = self.stream.position();
        let behind = self.followers.iter_mut().filter(|follower| follower.cursor != head);
        behind.map(|follower| follower.take(&self.stream, &head)).collect()
    }
}

impl Follower {
    fn take(&mut self, stream: &Stream, head: &Position) -> Delivery {
        let (lost, entries) = match stream.after(&self.cursor, usize::MAX) {
            Replay::Page { entries, .. } => (None, entries),
            Replay::Lost(loss) => (Some(loss), Vec::new()),
        };
        self.cursor = head.clone();
        Delivery { inbox: Arc::clone(&self.inbox), lost, entries }
    }
}

impl Delivery {
    fn hand_over(self, user: &UserId) {
        if let Some(loss) = self.lost {
            self.inbox.lost(user, loss);
        } else {
            self.inbox.deliver(user, self.entries);
        }
    }
}

#[async_trait]
impl Publisher for MemoryBus {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        let body = serde_json::to_vec(event)
            .map_err(|error| BusError::Unavailable { doing: "writing an event", source: error.into() })?;
        let now = Instant::now();
        let published = {
            let mut state = self.shared.lock();
            state.sweep(&self.shared.limits, now);
            let stream = &mut state.channel(user, now).stream;
            stream.append(event, recorded, Bytes::from(body), &self.shared.limits, now)?
        };
        self.shared.hand_out(user);
        Ok(published)
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        let state = self.shared.lock();
        let channel = state.channels.get(user);
        Ok(channel.map_or_else(Vec::new, |channel| channel.stream.unrecorded(task, attempt)))
    }
}

#[async_trait]
impl Feed for MemoryBus {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        let mut state = self.shared.lock();
        state.followers += 1;
        let number = state.followers;
        let channel = state.channel(user, Instant::now());
        let cursor = channel.stream.position();
        channel.followers.push(Follower { number, inbox, cursor });
        let (shared, user): (Weak<Shared>, _) = (Arc::downgrade(&self.shared), user.clone());
        Ok(Following::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.unfollow(&user, number);
            }
        }))
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        let (mut state, now) = (self.shared.lock(), Instant::now());
        state.sweep(&self.shared.limits, now);
        Ok(state.channel(user, now).stream.position())
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        let state = self.shared.lock();
        let channel = state.channels.get(user);
        Ok(channel.map_or(Replay::Lost(Loss::Epoch), |channel| channel.stream.after(after, limit)))
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        let state = self.shared.lock();
        Ok(state.channels.get(user).map_or_else(Vec::new, |channel| channel.stream.live(tasks)))
    }

    fn health(&self) -> Health {
        Health { ready: true, detail: "progress streams are held by this process".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract::{self, progress, user};

    struct Fixture(MemoryBus);

    #[async_trait]
    impl contract::Fixture for Fixture {
        fn publisher(&self) -> Arc<dyn Publisher> {
            Arc::new(self.0.clone())
        }

        fn feed(&self, _: usize) -> Arc<dyn Feed> {
            Arc::new(self.0.clone())
        }

        async fn wipe(&self, user: &UserId) {
            self.0.wipe(user);
        }

        async fn trim(&self, user: &UserId, keep: usize) {
            self.0.trim(user, keep);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_contract_holds() {
        contract::holds(&Fixture(MemoryBus::new(&BusConfig::default()))).await;
    }

    /// Publishes the next event of its task from inside the delivery of one.
    struct Echo {
        bus: MemoryBus,
        seen: Mutex<Vec<u64>>,
    }

    impl Inbox for Echo {
        fn deliver(&self, user: &UserId, entries: Vec<Entry>) {
            for entry in entries {
                self.seen.lock().unwrap().push(entry.seq.0);
                if entry.seq.0 < 5 {
                    let next = progress(entry.task_id, 1, entry.seq.0 + 1);
                    let published = futures_util::FutureExt::now_or_never(self.bus.publish(user, &next));
                    published.unwrap().unwrap();
                }
            }
        }

        fn lost(&self, _: &UserId, loss: Loss) {
            panic!("lost: {loss:?}");
        }
    }

    #[tokio::test]
    async fn an_inbox_may_publish_while_it_is_delivered_to() {
        let (bus, user) = (MemoryBus::new(&BusConfig::default()), user("echo"));
        let echo = Arc::new(Echo { bus: bus.clone(), seen: Mutex::default() });
        let _following = bus.follow(&user, Arc::clone(&echo) as Arc<dyn Inbox>).await.unwrap();
        bus.publish(&user, &progress(TaskId::generate(), 1, 1)).await.unwrap();
        assert_eq!(*echo.seen.lock().unwrap(), [1, 2, 3, 4, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn users_whose_streams_idle_are_forgotten_unless_followed() {
        let config = BusConfig { stream_ttl: Duration::from_secs(10), ..BusConfig::default() };
        let (bus, idle, followed) = (MemoryBus::new(&config), user("idle"), user("followed"));
        let inbox = contract::Collector::new();
        let _following = bus.follow(&followed, inbox).await.unwrap();
        for user in [&idle, &followed] {
            bus.publish(user, &contract::terminal(TaskId::generate(), 1, 1)).await.unwrap();
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        bus.publish(&user("other"), &progress(TaskId::generate(), 1, 1)).await.unwrap();
        let state = bus.shared.lock();
        assert!(!state.channels.contains_key(&idle));
        assert!(state.channels.contains_key(&followed));
    }
}
