//! What a reader with a position is promised.

use super::Fixture;
use super::probe::{loss, page, positions, progress, publish, publish_all, replay_all, seqs, terminal, user};
use crate::bus::Loss;
use crate::task::{Attempt, EntryId, Epoch, Event, Position, Seq, TaskId};

pub(super) async fn a_new_user_has_an_empty_stream(fixture: &dyn Fixture) {
    let (user, feed) = (user("new"), fixture.feed(0));
    let head = feed.head(&user).await.expect("head");
    let (entries, complete) = page(feed.as_ref(), &user, &head, 10).await;
    assert!(entries.is_empty() && complete);
    assert_eq!(feed.head(&user).await.expect("head"), head, "asking twice makes no second stream");
}

pub(super) async fn every_replica_names_the_same_head(fixture: &dyn Fixture) {
    let (user, task) = (user("head"), TaskId::generate());
    let (one, two) = (fixture.feed(0), fixture.feed(1));
    assert_eq!(one.head(&user).await.expect("head"), two.head(&user).await.expect("head"));
    let last = publish_all(fixture, &user, task, 1..=3).await.pop().expect("three");
    assert_eq!(one.head(&user).await.expect("head"), last);
    assert_eq!(two.head(&user).await.expect("head"), last);
}

pub(super) async fn pages_repeat_nothing_and_skip_nothing(fixture: &dyn Fixture) {
    let (user, task) = (user("pages"), TaskId::generate());
    let start = fixture.feed(0).head(&user).await.expect("head");
    let published = publish_all(fixture, &user, task, 1..=53).await;
    for limit in [1, 7, 52, 53, 54, 1_000] {
        let entries = replay_all(fixture.feed(1).as_ref(), &user, &start, limit).await;
        assert_eq!(positions(&entries), published, "in pages of {limit}");
    }
}

pub(super) async fn an_exactly_full_page_says_whether_it_was_the_last(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("full-page"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    let published = publish_all(fixture, &user, task, 1..=6).await;
    let (entries, complete) = page(feed.as_ref(), &user, &start, 3).await;
    assert!(entries.len() == 3 && !complete, "half of the stream");
    let (entries, complete) = page(feed.as_ref(), &user, &published[2], 4).await;
    assert!(entries.len() == 3 && complete, "the rest of the stream");
}

pub(super) async fn replay_at_the_head_is_empty(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("at-head"), TaskId::generate(), fixture.feed(0));
    publish_all(fixture, &user, task, 1..=3).await;
    let head = feed.head(&user).await.expect("head");
    let (entries, complete) = page(feed.as_ref(), &user, &head, 10).await;
    assert!(entries.is_empty() && complete);
    publish(fixture, &user, &progress(task, 1, 4)).await;
    assert_eq!(seqs(&page(feed.as_ref(), &user, &head, 10).await.0), [4]);
}

pub(super) async fn replay_continues_from_every_entry(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("resume"), TaskId::generate(), fixture.feed(1));
    let published = publish_all(fixture, &user, task, 1..=8).await;
    for (index, position) in published.iter().enumerate() {
        let text: Position = position.to_string().parse().expect("its own text");
        let (entries, _) = page(feed.as_ref(), &user, &text, 100).await;
        assert_eq!(positions(&entries), published[index + 1..]);
    }
}

pub(super) async fn entries_say_what_was_published(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("body"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    let events = [progress(task, 3, 1), terminal(task, 3, 2)];
    for event in &events {
        publish(fixture, &user, event).await;
    }
    let (entries, _) = page(feed.as_ref(), &user, &start, 10).await;
    assert_eq!(entries.len(), 2);
    for (entry, event) in entries.iter().zip(&events) {
        assert_eq!((entry.task_id, entry.attempt, entry.seq), (task, Attempt(3), event.seq));
        assert_eq!(entry.terminal, event.seq == Seq(2));
        assert_eq!(serde_json::from_slice::<Event>(&entry.body).expect("an event"), *event);
        assert!(entry.body.starts_with(b"{") && entry.body.ends_with(b"}"), "not a bare JSON object");
        assert!(entry.receipt.is_none(), "a replayed entry needs no ack");
    }
}

/// As when thousands of items of one task end within a flush.
pub(super) async fn a_large_event_passes_whole(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("large"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    let items = (1..=5_000).flat_map(|seq| progress(task, 1, seq).items);
    let event = Event { items: items.collect(), ..progress(task, 1, 1) };
    publish(fixture, &user, &event).await;
    let (entries, _) = page(feed.as_ref(), &user, &start, 10).await;
    assert_eq!(serde_json::from_slice::<Event>(&entries[0].body).expect("an event"), event);
}

pub(super) async fn another_epoch_is_lost(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("epoch"), TaskId::generate(), fixture.feed(0));
    let position = publish(fixture, &user, &progress(task, 1, 1)).await;
    let foreign = Position::new(Epoch::generate(), position.id);
    assert_eq!(loss(feed.as_ref(), &user, &foreign).await, Loss::Epoch);
    let start = Position::new(Epoch::generate(), EntryId::START);
    assert_eq!(loss(feed.as_ref(), &user, &start).await, Loss::Epoch);
}

pub(super) async fn an_unknown_users_position_is_lost(fixture: &dyn Fixture) {
    let position = Position::new(Epoch::generate(), EntryId::START);
    assert_eq!(loss(fixture.feed(0).as_ref(), &user("unknown"), &position).await, Loss::Epoch);
}

pub(super) async fn a_trimmed_position_is_lost_and_kept_ones_go_on(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("trimmed"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    let published = publish_all(fixture, &user, task, 1..=10).await;
    fixture.trim(&user, 4).await;
    assert_eq!(loss(feed.as_ref(), &user, &start).await, Loss::Trimmed);
    assert_eq!(loss(feed.as_ref(), &user, &published[4]).await, Loss::Trimmed);
    // Entry 6 itself is gone, but nothing after it is.
    for (index, position) in published.iter().enumerate().skip(5) {
        let (entries, _) = page(feed.as_ref(), &user, position, 100).await;
        assert_eq!(positions(&entries), published[index + 1..]);
    }
}

pub(super) async fn a_position_ahead_of_the_stream_is_lost(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("ahead"), TaskId::generate(), fixture.feed(0));
    let head = publish(fixture, &user, &progress(task, 1, 1)).await;
    let minor = Position::new(head.epoch.clone(), EntryId { minor: head.id.minor + 1, ..head.id });
    assert_eq!(loss(feed.as_ref(), &user, &minor).await, Loss::Ahead);
    let major = Position::new(head.epoch, EntryId { major: head.id.major + 1_000_000, minor: 0 });
    assert_eq!(loss(feed.as_ref(), &user, &major).await, Loss::Ahead);
}

pub(super) async fn a_wiped_stream_has_another_epoch(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("wiped"), TaskId::generate(), fixture.feed(0));
    let published = publish_all(fixture, &user, task, 1..=3).await;
    fixture.wipe(&user).await;
    assert_eq!(loss(feed.as_ref(), &user, &published[0]).await, Loss::Epoch);
    assert!(feed.live(&user, &[task]).await.expect("live").is_empty());
    // The fence went with the stream; the record has its own.
    let again = publish_all(fixture, &user, task, 1..=3).await;
    assert_ne!(again[0].epoch, published[0].epoch);
    assert_eq!(loss(feed.as_ref(), &user, &published[0]).await, Loss::Epoch);
    assert_eq!(positions(&page(feed.as_ref(), &user, &again[0], 10).await.0), again[1..]);
}
