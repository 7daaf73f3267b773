//! What an inbox is promised.

use std::collections::HashMap;
use std::time::Duration;

use super::Fixture;
use super::probe::{
    Collector, Seen, follow, page, positions, progress, publish, publish_all, replay_all, seqs, terminal,
    user,
};
use crate::bus::Entry;
use crate::task::{Event, Position, TaskId, UserId};

fn assert_in_order(entries: &[Entry]) {
    let ids: Vec<_> = entries.iter().map(|entry| entry.position.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "out of order or repeated: {ids:?}");
}

/// Waits until the entry numbered `seq` of `task` was delivered: with order promised, nothing before it is still due.
async fn wait_for_event(inbox: &Collector, task: TaskId, seq: u64) -> Vec<Entry> {
    let is_it = |entry: &Entry| entry.task_id == task && entry.seq.0 == seq;
    inbox.wait_until("a certain event", |inbox| inbox.entries().iter().any(is_it)).await;
    inbox.entries()
}

pub(super) async fn everything_after_a_follow_arrives_on_both_replicas(fixture: &dyn Fixture) {
    let (user, task) = (user("both"), TaskId::generate());
    publish_all(fixture, &user, task, 1..=5).await;
    let head = fixture.feed(0).head(&user).await.expect("head");
    let one = follow(fixture, 0, &user).await;
    let two = follow(fixture, 1, &user).await;
    let published = publish_all(fixture, &user, task, 6..=40).await;
    for (_following, inbox) in [&one, &two] {
        let entries = wait_for_event(inbox, task, 40).await;
        assert_in_order(&entries);
        let new = entries.into_iter().filter(|entry| entry.position.id > head.id);
        assert_eq!(positions(&new.collect::<Vec<_>>()), published);
        assert!(inbox.losses().is_empty());
    }
}

pub(super) async fn delivery_and_replay_agree(fixture: &dyn Fixture) {
    let (user, task) = (user("agree"), TaskId::generate());
    let start = fixture.feed(0).head(&user).await.expect("head");
    let (_following, inbox) = follow(fixture, 0, &user).await;
    publish(fixture, &user, &progress(task, 1, 1)).await;
    publish(fixture, &user, &terminal(task, 1, 2)).await;
    let delivered = inbox.wait_for(2).await;
    let (replayed, _) = page(fixture.feed(1).as_ref(), &user, &start, 10).await;
    for (one, other) in delivered.iter().zip(&replayed) {
        assert_eq!((&one.position, one.task_id), (&other.position, other.task_id));
        assert_eq!((one.attempt, one.seq, one.terminal), (other.attempt, other.seq, other.terminal));
        assert_eq!(one.body, other.body);
        assert!(serde_json::from_slice::<Event>(&one.body).is_ok());
    }
    assert_eq!(delivered.len(), replayed.len());
}

pub(super) async fn a_burst_arrives_complete(fixture: &dyn Fixture) {
    const BURST: u64 = 1_000;
    let (user, task) = (user("burst"), TaskId::generate());
    let one = follow(fixture, 0, &user).await;
    let two = follow(fixture, 1, &user).await;
    publish_all(fixture, &user, task, 1..=BURST).await;
    for (_following, inbox) in [&one, &two] {
        let entries = wait_for_event(inbox, task, BURST).await;
        assert_eq!(seqs(&entries), (1..=BURST).collect::<Vec<_>>());
    }
}

pub(super) async fn users_are_apart(fixture: &dyn Fixture) {
    let users: Vec<_> = (0..5).map(|n| user(&format!("isolated{n}"))).collect();
    let tasks: Vec<_> = users.iter().map(|_| TaskId::generate()).collect();
    let mut inboxes = Vec::new();
    for user in &users {
        inboxes.push(follow(fixture, 0, user).await);
    }
    for seq in 1..=10 {
        for (user, task) in users.iter().zip(&tasks) {
            publish(fixture, user, &progress(*task, 1, seq)).await;
        }
    }
    for ((_following, inbox), task) in inboxes.iter().zip(&tasks) {
        let entries = wait_for_event(inbox, *task, 10).await;
        assert!(entries.iter().all(|entry| entry.task_id == *task), "an event of another user");
        assert_eq!(seqs(&entries), (1..=10).collect::<Vec<_>>());
    }
}

/// Names are data: none of them is a pattern, a separator or a quote to any backend.
pub(super) async fn odd_names_are_users_like_any_other(fixture: &dyn Fixture) {
    let unique = user("odd");
    let longest = format!("{unique}{}", "\u{1F680}".repeat(UserId::LEN_MAX - unique.as_str().len()));
    let odd = [format!("{unique}:"), format!("{unique}:*"), format!("{unique}'\"\\%;--$1"), longest];
    let task = TaskId::generate();
    let mut inboxes = Vec::new();
    for name in &odd {
        let user = UserId::new(name).expect("an odd but valid name");
        inboxes.push((follow(fixture, 0, &user).await, user));
    }
    publish(fixture, &unique, &progress(task, 1, 1)).await;
    for (seq, (_, user)) in (1..).zip(&inboxes) {
        publish(fixture, user, &progress(task, 1, seq)).await;
    }
    for (seq, ((_following, inbox), user)) in (1..).zip(&inboxes) {
        let entries = wait_for_event(inbox, task, seq).await;
        assert_eq!(seqs(&entries), [seq], "to {user}");
    }
}

pub(super) async fn writers_of_different_tasks_interleave_without_loss(fixture: &dyn Fixture) {
    const WRITERS: usize = 8;
    const EACH: u64 = 40;
    let user = user("interleave");
    let (_following, inbox) = follow(fixture, 0, &user).await;
    let writers = (0..WRITERS).map(|_| {
        let (publisher, user, task) = (fixture.publisher(), user.clone(), TaskId::generate());
        tokio::spawn(async move {
            for seq in 1..=EACH {
                publisher.publish(&user, &progress(task, 1, seq)).await.expect("publish");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    let entries = inbox.wait_for(WRITERS * usize::try_from(EACH).expect("small")).await;
    assert_in_order(&entries);
    let mut tasks: HashMap<TaskId, Vec<u64>> = HashMap::new();
    for entry in &entries {
        tasks.entry(entry.task_id).or_default().push(entry.seq.0);
    }
    assert_eq!(tasks.len(), WRITERS);
    assert!(tasks.values().all(|seqs| *seqs == (1..=EACH).collect::<Vec<_>>()));
}

/// The order that the hub uses: follow, replay from a position, drop what was seen.
pub(super) async fn follow_then_replay_leaves_no_gap(fixture: &dyn Fixture) {
    const ALL: u64 = 300;
    let (user, task) = (user("no-gap"), TaskId::generate());
    let start = fixture.feed(0).head(&user).await.expect("head");
    let (publisher, owner) = (fixture.publisher(), user.clone());
    let writer = tokio::spawn(async move {
        for seq in 1..=ALL {
            publisher.publish(&owner, &progress(task, 1, seq)).await.expect("publish");
        }
    });
    let (_following, inbox) = follow(fixture, 1, &user).await;
    let mut seen = replay_all(fixture.feed(1).as_ref(), &user, &start, 10).await;
    writer.await.expect("no panic");
    // What the replay saw may be the whole stream already, and then nothing more is due.
    let replayed = seen.last().map_or(start.id, |entry| entry.position.id);
    if seen.len() < usize::try_from(ALL).expect("small") {
        wait_for_event(&inbox, task, ALL).await;
    }
    seen.extend(inbox.entries().into_iter().filter(|entry| entry.position.id > replayed));
    assert_eq!(seqs(&seen), (1..=ALL).collect::<Vec<_>>());
}

pub(super) async fn a_dropped_follow_ends_and_a_new_one_starts_afresh(fixture: &dyn Fixture) {
    let (user, task) = (user("again"), TaskId::generate());
    let mut next = 1;
    for _ in 0..4 {
        let head = fixture.feed(0).head(&user).await.expect("head");
        let (following, inbox) = follow(fixture, 0, &user).await;
        let published = publish_all(fixture, &user, task, next..=next + 4).await;
        let entries = wait_for_event(&inbox, task, next + 4).await;
        assert_in_order(&entries);
        let new: Vec<_> = entries.into_iter().filter(|entry| entry.position.id > head.id).collect();
        assert_eq!(positions(&new), published);
        drop(following);
        // Nobody follows: these are for a replay only.
        publish_all(fixture, &user, task, next + 5..=next + 6).await;
        next += 7;
        assert!(inbox.losses().is_empty());
    }
}

pub(super) async fn one_replica_leaving_does_not_disturb_the_other(fixture: &dyn Fixture) {
    let (user, task) = (user("leaving"), TaskId::generate());
    let (staying, inbox) = follow(fixture, 0, &user).await;
    let (leaving, other) = follow(fixture, 1, &user).await;
    publish_all(fixture, &user, task, 1..=3).await;
    other.wait_for(3).await;
    drop(leaving);
    publish_all(fixture, &user, task, 4..=30).await;
    assert_eq!(seqs(&inbox.wait_for(30).await), (1..=30).collect::<Vec<_>>());
    drop(staying);
}

pub(super) async fn a_follow_before_the_first_event_is_enough(fixture: &dyn Fixture) {
    let (user, task) = (user("first"), TaskId::generate());
    let (_following, inbox) = follow(fixture, 1, &user).await;
    let published = publish_all(fixture, &user, task, 1..=2).await;
    assert_eq!(positions(&inbox.wait_for(2).await), published);
    assert!(inbox.losses().is_empty(), "the first event of a user is no loss");
}

pub(super) async fn many_users_are_followed_at_once(fixture: &dyn Fixture) {
    let users: Vec<_> = (0..300).map(|n| user(&format!("many{n}"))).collect();
    let task = TaskId::generate();
    let mut inboxes = Vec::new();
    for user in &users {
        inboxes.push(follow(fixture, 0, user).await);
    }
    for user in &users {
        publish_all(fixture, user, task, 1..=2).await;
    }
    for (_following, inbox) in &inboxes {
        assert_eq!(seqs(&inbox.wait_for(2).await), [1, 2]);
    }
}

pub(super) async fn a_wipe_is_told_and_later_entries_flow(fixture: &dyn Fixture) {
    let (user, task) = (user("wipe-live"), TaskId::generate());
    let followers = [follow(fixture, 0, &user).await, follow(fixture, 1, &user).await];
    publish_all(fixture, &user, task, 1..=3).await;
    for (_following, inbox) in &followers {
        inbox.wait_for(3).await;
    }
    fixture.wipe(&user).await;
    // The first event of the new stream may come with the loss or be part of it.
    publish(fixture, &user, &progress(task, 2, 1)).await;
    for (_following, inbox) in &followers {
        inbox.wait_until("the loss", |inbox| !inbox.losses().is_empty()).await;
    }
    let published = publish_attempt_2(fixture, &user, task).await;
    for (_following, inbox) in &followers {
        let last = published.last().expect("some").clone();
        let arrived = |inbox: &Collector| inbox.entries().iter().any(|entry| entry.position == last);
        inbox.wait_until("the entries after the loss", arrived).await;
        let after_loss = inbox.after_last_loss();
        assert_in_order(&after_loss);
        let new: Vec<_> = positions(&after_loss).into_iter().filter(|p| published.contains(p)).collect();
        assert_eq!(new, published);
    }
}

async fn publish_attempt_2(fixture: &dyn Fixture, user: &UserId, task: TaskId) -> Vec<Position> {
    let mut positions = Vec::new();
    for seq in 2..=10 {
        positions.push(publish(fixture, user, &progress(task, 2, seq)).await);
    }
    positions
}

pub(super) async fn dropping_receipts_acknowledges(fixture: &dyn Fixture) {
    let (user, task) = (user("receipts"), TaskId::generate());
    let (_following, inbox) = follow(fixture, 0, &user).await;
    publish_all(fixture, &user, task, 1..=20).await;
    inbox.wait_for(20).await;
    let Some(held) = fixture.unacked(&user, 0).await else {
        inbox.clear();
        return;
    };
    assert_eq!(held, 20, "held receipts are not acknowledged");
    inbox.clear();
    let mut patience = 1_500;
    while fixture.unacked(&user, 0).await != Some(0) {
        patience -= 1;
        assert!(patience > 0, "dropped receipts were not acknowledged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn a_feed_that_delivers_is_ready(fixture: &dyn Fixture) {
    let user = user("ready");
    for replica in [0, 1] {
        let (_following, inbox) = follow(fixture, replica, &user).await;
        let task = TaskId::generate();
        publish(fixture, &user, &progress(task, 1, 1)).await;
        wait_for_event(&inbox, task, 1).await;
        let health = fixture.feed(replica).health();
        assert!(health.ready, "{}", health.detail);
        assert!(!health.detail.is_empty());
    }
}

impl Collector {
    fn after_last_loss(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for seen in self.seen() {
            match seen {
                Seen::Entry(entry) => entries.push(entry),
                Seen::Lost(_) => entries.clear(),
            }
        }
        entries
    }
}
