//! What the suites share: events to publish, users of their own, and an inbox that remembers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::Fixture;
use crate::bus::{Entry, Feed, Following, Inbox, Loss, Published, Replay};
use crate::task::{
    Attempt, ClusterName, Counts, Epoch, Event, EventKind, ItemChange, ItemName, ItemState, Position, Seq,
    Status, TaskId, UserId,
};

/// How long a suite waits for what must come, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A user that no other suite uses. `name` is for people who read a failure.
#[must_use]
pub fn user(name: &str) -> UserId {
    let unique = Epoch::generate();
    UserId::new(format!("{name}-{unique}")).expect("a short name without spaces")
}

/// A progress event with one changed item.
#[must_use]
pub fn progress(task: TaskId, attempt: u32, seq: u64) -> Event {
    let mut event = Event {
        task_id: task,
        attempt: Attempt(attempt),
        seq: Seq(seq),
        kind: EventKind::Progress,
        status: Status::Running,
        action: "cordon".into(),
        cluster: ClusterName::new("prod").expect("a valid name"),
        parent_id: None,
        concurrency: None,
        current: 0,
        counts: Counts::default(),
        progress: 0,
        current_node: None,
        items: vec![item(seq)],
        stalled_since: None,
        wave: None,
        waits_for: None,
        message: Some("a sentence with \"quotes\", a \\ and söme ünïcode \u{1F680}".into()),
        error: None,
        timestamp: Timestamp::UNIX_EPOCH,
    };
    let succeeded = u32::try_from(seq).unwrap_or(u32::MAX);
    event.set_counts(Counts { total: u32::MAX, succeeded, ..Counts::default() });
    event
}

/// The event that ends a task well.
#[must_use]
pub fn terminal(task: TaskId, attempt: u32, seq: u64) -> Event {
    Event { kind: EventKind::Complete, status: Status::Completed, ..progress(task, attempt, seq) }
}

fn item(seq: u64) -> ItemChange {
    let name = ItemName::new(format!("node-{seq}")).expect("a valid name");
    let (index, state) = (u32::try_from(seq).unwrap_or(0), ItemState::Succeeded);
    ItemChange { index, name, state, effect: None, error: None, done_us: Some(1), tries: None, step: None }
}

/// An inbox that remembers everything, in order, and wakes who waits for it.
#[derive(Debug)]
pub struct Collector {
    seen: Mutex<Vec<Seen>>,
    changed: watch::Sender<usize>,
}

/// What an inbox was told.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    Entry(Entry),
    Lost(Loss),
}

impl Collector {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// The entries so far, in the order of delivery.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |seen: &Seen| match seen {
            Seen::Entry(entry) => Some(entry.clone()),
            Seen::Lost(_) => None,
        };
        self.lock().iter().filter_map(entry).collect()
    }

    /// The losses so far.
    #[must_use]
    pub fn losses(&self) -> Vec<Loss> {
        let loss = |seen: &Seen| match seen {
            Seen::Entry(_) => None,
            Seen::Lost(loss) => Some(*loss),
        };
        self.lock().iter().filter_map(loss).collect()
    }

    /// Waits until there are so many entries, and gives all of them back.
    ///
    /// # Panics
    /// When they do not come within half a minute.
    pub async fn wait_for(&self, entries: usize) -> Vec<Entry> {
        self.wait_until("enough entries", |collector| collector.entries().len() >= entries).await;
        self.entries()
    }

    /// Waits until `done` says so.
    ///
    /// # Panics
    /// When it does not within half a minute.
    pub async fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !done(self) {
                changed.changed().await.expect("the sender lives as long as the collector");
            }
        };
        let ended = tokio::time::timeout(PATIENCE, wait).await;
        assert!(ended.is_ok(), "waited in vain for {what}; seen: {}", self.summary());
    }

    /// Forgets everything, and with it the receipts.
    pub fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.lock());
        drop(forgotten);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn summary(&self) -> String {
        let seen = self.lock();
        let last = seen.iter().rev().take(5).map(|seen| match seen {
            Seen::Entry(entry) => entry.position.to_string(),
            Seen::Lost(loss) => format!("lost {}", loss.as_str()),
        });
        format!("{} in all, the last ones backwards: {}", seen.len(), last.collect::<Vec<_>>().join(", "))
    }

    fn push(&self, seen: impl Iterator<Item = Seen>) {
        self.lock().extend(seen);
        self.changed.send_modify(|n| *n += 1);
    }
}

impl Inbox for Collector {
    fn deliver(&self, _: &UserId, entries: Vec<Entry>) {
        assert!(!entries.is_empty(), "a delivery of nothing");
        self.push(entries.into_iter().map(Seen::Entry));
    }

    fn lost(&self, _: &UserId, loss: Loss) {
        self.push(std::iter::once(Seen::Lost(loss)));
    }
}

/// Publishes an event that must be appended.
pub(super) async fn publish(fixture: &dyn Fixture, user: &UserId, event: &Event) -> Position {
    match fixture.publisher().publish(user, event).await {
        Ok(Published::Appended(position)) => position,
        other => panic!("{event:?} was not appended: {other:?}"),
    }
}

/// Publishes the events `seqs` of one task in attempt 1.
pub(super) async fn publish_all(
    fixture: &dyn Fixture,
    user: &UserId,
    task: TaskId,
    seqs: std::ops::RangeInclusive<u64>,
) -> Vec<Position> {
    let mut positions = Vec::new();
    for seq in seqs {
        positions.push(publish(fixture, user, &progress(task, 1, seq)).await);
    }
    positions
}

/// Follows with a collector of its own.
pub(super) async fn follow(
    fixture: &dyn Fixture,
    replica: usize,
    user: &UserId,
) -> (Following, Arc<Collector>) {
    let inbox = Collector::new();
    let following = fixture.feed(replica).follow(user, Arc::clone(&inbox) as Arc<dyn Inbox>).await;
    (following.expect("follow"), inbox)
}

/// A page that must not be lost.
pub(super) async fn page(
    feed: &dyn Feed,
    user: &UserId,
    after: &Position,
    limit: usize,
) -> (Vec<Entry>, bool) {
    match feed.replay(user, after, limit).await.expect("replay") {
        Replay::Page { entries, complete } => (entries, complete),
        Replay::Lost(loss) => panic!("{after} of {user} is lost: {loss:?}"),
    }
}

/// Why a position cannot be continued, which it must not be.
pub(super) async fn loss(feed: &dyn Feed, user: &UserId, after: &Position) -> Loss {
    match feed.replay(user, after, 100).await.expect("replay") {
        Replay::Lost(loss) => loss,
        Replay::Page { entries, .. } => panic!("{after} was continued with {} entries", entries.len()),
    }
}

/// Everything after a position, in pages of `limit`.
pub(super) async fn replay_all(feed: &dyn Feed, user: &UserId, after: &Position, limit: usize) -> Vec<Entry> {
    let (mut all, mut after) = (Vec::new(), after.clone());
    loop {
        let (entries, complete) = page(feed, user, &after, limit).await;
        assert!(entries.len() <= limit, "{} entries in a page of {limit}", entries.len());
        assert!(complete || !entries.is_empty(), "an empty page that is not the last");
        if let Some(last) = entries.last() {
            after = last.position.clone();
        }
        all.extend(entries);
        if complete {
            return all;
        }
    }
}

/// The seqs of entries, in their order.
pub(super) fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.0).collect()
}

/// The positions of entries, in their order.
pub(super) fn positions(entries: &[Entry]) -> Vec<Position> {
    entries.iter().map(|entry| entry.position.clone()).collect()
}
