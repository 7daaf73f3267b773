//! What a gateway knows of each user it follows, and who has something to read or to acknowledge.
//!
//! Rung users are a set: a user is in its lane's queue at most once, however often the bell rings, so the queue is
//! bounded by the users followed. A user's place in its stream is moved by one task only, its lane's reader.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bus::{AckSink, Inbox};
use crate::redis::{Keys, Shard};
use crate::task::{EntryId, Position, UserId};

/// Readers of a process. Users are spread over them by shard. One reads what rang while it was reading in one call, so more
/// of them make more and smaller calls of the same news: four take twice the processor of one.
pub(super) const LANES: usize = 1;
/// Entries of one user that wait to be acknowledged.
const ACKS_HELD_MAX: usize = 16_384;
/// How late a doorbell may be before it counts as lost.
const DOORBELL_LATE_MAX: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user followed by this process.
pub(super) struct Follow {
    pub(super) user: UserId,
    pub(super) shard: Shard,
    /// Key of the stream.
    pub(super) events: String,
    /// Key of the epoch.
    pub(super) epoch: String,
    /// Channel of the doorbell.
    pub(super) channel: String,
    pub(super) inbox: Arc<dyn Inbox>,
    lane: Arc<Lane>,
    rung: AtomicBool,
    closed: AtomicBool,
    state: Mutex<State>,
    acks: Mutex<Vec<EntryId>>,
}

/// Where reading stands.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// After the last entry delivered; `None` until the group exists.
    pub(super) place: Option<Position>,
    /// A reply may have been lost with entries in it: the group may be ahead of `place`.
    pub(super) doubtful: bool,
    /// The group or the stream may be another one: ask the server before reading on.
    pub(super) suspect: bool,
    /// Where the last sweep found the reader behind.
    pub(super) behind_at: Option<EntryId>,
    /// A key of the user is of another type, which was told.
    pub(super) refused: bool,
    /// The newest entry that a doorbell told of.
    heard: Option<EntryId>,
    /// News that a sweep found before a doorbell told, and when.
    unheard: Option<(EntryId, Instant)>,
}

impl State {
    /// Notes news that a sweep found. Its doorbell may be on its way.
    pub(super) fn found(&mut self, news: EntryId, now: Instant) {
        if self.heard.is_none_or(|heard| heard < news) {
            self.unheard.get_or_insert((news, now));
        }
    }

    /// Notes a doorbell.
    fn hear(&mut self, entry: EntryId) {
        self.heard = self.heard.max(Some(entry));
        self.unheard.take_if(|(news, _)| *news == entry);
    }

    /// Whether the doorbell of news that a sweep found is out for so long that it is lost. Says so once.
    pub(super) fn missed(&mut self, now: Instant) -> bool {
        self.unheard.take_if(|(_, since)| now.duration_since(*since) > DOORBELL_LATE_MAX).is_some()
    }
}

impl Follow {
    pub(super) fn new(user: &UserId, inbox: Arc<dyn Inbox>, keys: &Keys, lanes: &[Arc<Lane>; LANES]) -> Self {
        let shard = Shard::of(user);
        Self {
            user: user.clone(),
            shard,
            events: keys.events(user),
            epoch: keys.epoch(user),
            channel: keys.doorbell(user),
            inbox,
            lane: Arc::clone(&lanes[shard.index() % lanes.len()]),
            rung: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            acks: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Ends the deliveries.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Notes the doorbell of an entry. Ringing is up to the caller.
    pub(super) fn hear(&self, entry: EntryId) {
        self.state().hear(entry);
    }

    /// Has the user read soon.
    pub(super) fn ring(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            lock(&self.lane.rung).push_back(Arc::clone(self));
            self.lane.rings.notify_one();
        }
    }

    /// Has the server asked about stream and group before the user is read again.
    pub(super) fn suspect(self: &Arc<Self>) {
        self.state().suspect = true;
        self.ring();
    }

    /// Has what a lost reply may have held read again.
    pub(super) fn doubt(self: &Arc<Self>) {
        self.state().doubtful = true;
        self.ring();
    }

    /// Adds entries to acknowledge. While the server refuses them the oldest are forgotten past a bound; they stay
    /// pending until the group goes.
    pub(super) fn add_acks(self: &Arc<Self>, ids: impl IntoIterator<Item = EntryId>) {
        let mut acks = lock(&self.acks);
        let first = acks.is_empty();
        acks.extend(ids);
        let excess = acks.len().saturating_sub(ACKS_HELD_MAX);
        acks.drain(..excess);
        if first && !acks.is_empty() {
            lock(&self.lane.ackers).push(Arc::clone(self));
            self.lane.acks.notify_one();
        }
    }

    /// Takes up to `max` entries to acknowledge; what is left keeps the user in its lane's list.
    fn take_acks(self: &Arc<Self>, max: usize) -> Vec<EntryId> {
        let mut acks = lock(&self.acks);
        let portion = acks.len().min(max);
        let rest = acks.split_off(portion);
        let taken = std::mem::replace(&mut *acks, rest);
        if !acks.is_empty() {
            lock(&self.lane.ackers).push(Arc::clone(self));
            self.lane.acks.notify_one();
        }
        taken
    }
}

/// What receipts of a user's entries hold on to.
pub(super) struct Acks(pub(super) Arc<Follow>);

impl AckSink for Acks {
    fn ack(&self, _: &UserId, id: EntryId) {
        if !self.0.is_closed() {
            self.0.add_acks([id]);
        }
    }
}

/// The users that one reader serves and that have something to do.
#[derive(Default)]
pub(super) struct Lane {
    rung: Mutex<VecDeque<Arc<Follow>>>,
    pub(super) rings: Notify,
    ackers: Mutex<Vec<Arc<Follow>>>,
    pub(super) acks: Notify,
}

impl Lane {
    /// Takes up to `max` rung users that can be read. From here on a ring counts anew.
    pub(super) fn take_rung(&self, max: usize) -> Vec<Arc<Follow>> {
        let mut rung = lock(&self.rung);
        let n = rung.len().min(max);
        let taken: Vec<_> = rung.drain(..n).collect();
        if !rung.is_empty() {
            self.rings.notify_one();
        }
        drop(rung);
        taken.into_iter().filter(Self::wake).collect()
    }

    fn wake(follow: &Arc<Follow>) -> bool {
        follow.rung.store(false, Ordering::SeqCst);
        !follow.is_closed() && follow.state().place.is_some()
    }

    /// Takes all that is to be acknowledged, at most `max` entries of each user.
    pub(super) fn take_acks(&self, max: usize) -> Vec<(Arc<Follow>, Vec<EntryId>)> {
        let ackers = std::mem::take(&mut *lock(&self.ackers));
        let acks = ackers.into_iter().map(|follow| {
            let ids = follow.take_acks(max);
            (follow, ids)
        });
        acks.filter(|(follow, ids)| !follow.is_closed() && !ids.is_empty()).collect()
    }
}

/// All users followed, by the channel of their doorbell.
#[derive(Default)]
pub(super) struct Registry {
    follows: RwLock<HashMap<Box<[u8]>, Arc<Follow>>>,
}

impl Registry {
    pub(super) fn insert(&self, follow: &Arc<Follow>) {
        let mut follows = self.follows.write().unwrap_or_else(PoisonError::into_inner);
        follows.insert(follow.channel.as_bytes().into(), Arc::clone(follow));
    }

    /// Removes this follow. False when another one of the same user has taken its place.
    pub(super) fn remove(&self, follow: &Arc<Follow>) -> bool {
        let mut follows = self.follows.write().unwrap_or_else(PoisonError::into_inner);
        let channel = follow.channel.as_bytes();
        let same = follows.get(channel).is_some_and(|current| Arc::ptr_eq(current, follow));
        same && follows.remove(channel).is_some()
    }

    /// The user whose doorbell this is.
    pub(super) fn get(&self, channel: &[u8]) -> Option<Arc<Follow>> {
        self.follows.read().unwrap_or_else(PoisonError::into_inner).get(channel).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Follow>> {
        self.follows.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.follows.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Entry, Loss};
    use crate::task::Epoch;

    struct Nobody;

    impl Inbox for Nobody {
        fn deliver(&self, _: &UserId, _: Vec<Entry>) {}
        fn lost(&self, _: &UserId, _: Loss) {}
    }

    fn follow(lanes: &[Arc<Lane>; LANES], name: &str) -> Arc<Follow> {
        let user = UserId::new(name).unwrap();
        let follow = Arc::new(Follow::new(&user, Arc::new(Nobody), &Keys::new("mp").unwrap(), lanes));
        follow.state().place = Some(Position::new(Epoch::new("a").unwrap(), EntryId::START));
        follow
    }

    fn id(n: u64) -> EntryId {
        EntryId { major: n, minor: 0 }
    }

    #[test]
    fn a_user_rung_many_times_is_read_once_and_can_be_rung_again() {
        let lanes: [Arc<Lane>; LANES] = Default::default();
        let follow = follow(&lanes, "alice");
        let lane = Arc::clone(&follow.lane);
        for _ in 0..1_000 {
            follow.ring();
        }
        assert_eq!(lane.take_rung(256).len(), 1);
        assert!(lane.take_rung(256).is_empty());
        follow.ring();
        assert_eq!(lane.take_rung(256).len(), 1);
    }

    #[test]
    fn closed_users_and_those_without_a_group_are_not_read() {
        let lanes: [Arc<Lane>; LANES] = Default::default();
        let (closed, fresh) = (follow(&lanes, "closed"), follow(&lanes, "fresh"));
        closed.ring();
        closed.close();
        fresh.state().place = None;
        fresh.ring();
        assert!(lanes.iter().all(|lane| lane.take_rung(10).is_empty()));
    }

    #[test]
    fn acks_are_taken_in_bounded_portions_and_none_is_left_behind() {
        let lanes: [Arc<Lane>; LANES] = Default::default();
        let follow = follow(&lanes, "alice");
        follow.add_acks((1..=5).map(id));
        follow.add_acks((6..=7).map(id));
        let mut taken = Vec::new();
        for portion in [3, 3, 1] {
            let acks = follow.lane.take_acks(3);
            assert_eq!(acks.len(), 1);
            assert_eq!(acks[0].1.len(), portion);
            taken.extend(acks[0].1.clone());
        }
        assert_eq!(taken, (1..=7).map(id).collect::<Vec<_>>());
        assert!(follow.lane.take_acks(3).is_empty());
    }

    #[test]
    fn acks_that_a_server_refuses_for_ever_are_bounded() {
        let lanes: [Arc<Lane>; LANES] = Default::default();
        let follow = follow(&lanes, "alice");
        let all = u64::try_from(ACKS_HELD_MAX).unwrap() + 10;
        follow.add_acks((1..=all).map(id));
        let taken = follow.lane.take_acks(usize::MAX).remove(0).1;
        assert_eq!((taken.len(), taken[0]), (ACKS_HELD_MAX, id(11)));
    }

    #[test]
    fn a_doorbell_that_is_only_late_is_not_missed() {
        let (mut state, now) = (State::default(), Instant::now());
        let later = now + DOORBELL_LATE_MAX * 2;
        state.found(id(5), now);
        assert!(!state.missed(now), "it may be on its way");
        state.hear(id(5));
        assert!(!state.missed(later));
        state.hear(id(6));
        state.found(id(6), now);
        assert!(!state.missed(later), "it rang while the sweep was looking");
        state.found(id(7), now);
        state.hear(id(8));
        assert!(state.missed(later), "another one rang, this one never did");
        assert!(!state.missed(later), "and that is told once");
    }

    #[test]
    fn a_later_follow_of_the_same_user_is_not_removed_by_the_end_of_the_first() {
        let lanes: [Arc<Lane>; LANES] = Default::default();
        let registry = Registry::default();
        let (first, second) = (follow(&lanes, "alice"), follow(&lanes, "alice"));
        registry.insert(&first);
        registry.insert(&second);
        assert!(!registry.remove(&first));
        assert!(registry.get(second.channel.as_bytes()).is_some());
        assert!(registry.remove(&second));
        assert!(registry.is_empty());
    }
}
