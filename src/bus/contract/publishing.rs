//! What a writer is promised.

use super::Fixture;
use super::probe::{follow, page, progress, publish, publish_all, seqs, terminal, user};
use crate::bus::{BusError, Published};
use crate::task::{Attempt, Event, TaskId};

fn assert_fenced(result: Result<Published, BusError>, by: Attempt) {
    match result {
        Err(BusError::Fenced { current }) => assert_eq!(current, by),
        other => panic!("not fenced by attempt {by}: {other:?}"),
    }
}

pub(super) async fn ids_grow_and_order_is_kept(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("order"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    let positions = publish_all(fixture, &user, task, 1..=20).await;
    assert!(start.id < positions[0].id);
    assert!(positions.windows(2).all(|pair| pair[0].id < pair[1].id), "{positions:?}");
    assert!(positions.iter().all(|position| position.epoch == start.epoch), "{positions:?}");
    assert_eq!(feed.head(&user).await.expect("head"), positions[19]);
    let (entries, _) = page(feed.as_ref(), &user, &start, 100).await;
    assert_eq!(seqs(&entries), (1..=20).collect::<Vec<_>>());
}

pub(super) async fn the_same_event_is_added_once(fixture: &dyn Fixture) {
    let (user, event, feed) = (user("repeat"), progress(TaskId::generate(), 1, 1), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    publish(fixture, &user, &event).await;
    for _ in 0..3 {
        let again = fixture.publisher().publish(&user, &event).await.expect("publish again");
        assert_eq!(again, Published::Repeat);
    }
    assert_eq!(seqs(&page(feed.as_ref(), &user, &start, 100).await.0), [1]);
}

pub(super) async fn an_older_number_of_the_same_attempt_is_a_repeat(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("older-seq"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    publish(fixture, &user, &progress(task, 1, 9)).await;
    let older = fixture.publisher().publish(&user, &progress(task, 1, 2)).await.expect("publish");
    assert_eq!(older, Published::Repeat);
    publish(fixture, &user, &progress(task, 1, 10)).await;
    assert_eq!(seqs(&page(feed.as_ref(), &user, &start, 100).await.0), [9, 10]);
}

pub(super) async fn an_older_attempt_is_fenced(fixture: &dyn Fixture) {
    let (user, task) = (user("fence"), TaskId::generate());
    publish(fixture, &user, &progress(task, 7, 1)).await;
    for attempt in [0, 1, 6] {
        let late = progress(task, attempt, 1_000);
        assert_fenced(fixture.publisher().publish(&user, &late).await, Attempt(7));
    }
}

pub(super) async fn a_newer_attempt_shuts_the_old_one_out(fixture: &dyn Fixture) {
    let (user, task, feed) = (user("takeover"), TaskId::generate(), fixture.feed(0));
    let start = feed.head(&user).await.expect("head");
    publish(fixture, &user, &progress(task, 1, 50)).await;
    publish(fixture, &user, &progress(task, 2, 1)).await;
    assert_fenced(fixture.publisher().publish(&user, &terminal(task, 1, 51)).await, Attempt(2));
    publish(fixture, &user, &terminal(task, 2, 2)).await;
    let (entries, _) = page(feed.as_ref(), &user, &start, 100).await;
    let orders: Vec<_> = entries.iter().map(|entry| (entry.attempt.0, entry.seq.0)).collect();
    assert_eq!(orders, [(1, 50), (2, 1), (2, 2)]);
}

/// As when the worker and the outbox relay publish the same terminal event.
pub(super) async fn racing_publishes_of_one_event_add_it_once(fixture: &dyn Fixture) {
    let (user, event) = (user("race"), terminal(TaskId::generate(), 1, 1));
    let start = fixture.feed(0).head(&user).await.expect("head");
    let racers = (0..8).map(|_| {
        let (publisher, user, event) = (fixture.publisher(), user.clone(), event.clone());
        tokio::spawn(async move { publisher.publish(&user, &event).await })
    });
    let mut appended = 0;
    for racer in racers.collect::<Vec<_>>() {
        let published = racer.await.expect("no panic").expect("publish");
        appended += u32::from(published != Published::Repeat);
    }
    assert_eq!(appended, 1);
    assert_eq!(page(fixture.feed(0).as_ref(), &user, &start, 100).await.0.len(), 1);
}

pub(super) async fn tasks_are_fenced_apart(fixture: &dyn Fixture) {
    let (user, one, two) = (user("apart"), TaskId::generate(), TaskId::generate());
    publish(fixture, &user, &progress(one, 5, 1)).await;
    publish(fixture, &user, &progress(two, 1, 1)).await;
    publish(fixture, &user, &progress(two, 1, 2)).await;
    assert_fenced(fixture.publisher().publish(&user, &progress(one, 4, 1)).await, Attempt(5));
}

pub(super) async fn a_refused_event_is_seen_by_nobody(fixture: &dyn Fixture) {
    let (user, task) = (user("refused"), TaskId::generate());
    let (_following, inbox) = follow(fixture, 0, &user).await;
    publish(fixture, &user, &progress(task, 2, 1)).await;
    let zombie = fixture.publisher().publish(&user, &progress(task, 1, 9)).await;
    assert_fenced(zombie, Attempt(2));
    let repeat = fixture.publisher().publish(&user, &progress(task, 2, 1)).await;
    assert_eq!(repeat.expect("publish"), Published::Repeat);
    publish(fixture, &user, &progress(task, 2, 2)).await;
    assert_eq!(seqs(&inbox.wait_for(2).await), [1, 2]);
    let live = fixture.feed(1).live(&user, &[task]).await.expect("live");
    assert_eq!(live[0].order(), progress(task, 2, 2).order());
}

pub(super) async fn live_gives_the_newest_event_without_items(fixture: &dyn Fixture) {
    let (user, one, two) = (user("live"), TaskId::generate(), TaskId::generate());
    publish_all(fixture, &user, one, 1..=3).await;
    publish(fixture, &user, &progress(two, 1, 1)).await;
    publish(fixture, &user, &terminal(two, 3, 1)).await;
    let mut live = fixture.feed(1).live(&user, &[one, two]).await.expect("live");
    live.sort_by_key(|event| event.task_id != one);
    let bare = |event| Event { items: Vec::new(), ..event };
    assert_eq!(live, [bare(progress(one, 1, 3)), bare(terminal(two, 3, 1))]);
}

pub(super) async fn live_knows_only_what_was_published(fixture: &dyn Fixture) {
    let (owner, other, task) = (user("live-owner"), user("live-other"), TaskId::generate());
    publish(fixture, &owner, &progress(task, 1, 1)).await;
    let feed = fixture.feed(0);
    assert!(feed.live(&owner, &[]).await.expect("live of nothing").is_empty());
    assert!(feed.live(&owner, &[TaskId::generate()]).await.expect("live").is_empty());
    assert!(feed.live(&other, &[task]).await.expect("live of another user").is_empty());
    assert_eq!(feed.live(&owner, &[TaskId::generate(), task]).await.expect("live").len(), 1);
}
