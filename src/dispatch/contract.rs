//! Everything a dispatch promises, one named function per promise. Each backend runs all of it against its real server.
//!
//! Tokens are hints that may be doubled, so a suite counts a wake-up as good when it comes, and never asks that no
//! other comes. A broken promise panics with what was seen. The server must carry no other traffic.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Token, TokenSource};
use crate::task::{ReplicaId, TaskId};

/// How long a suite waits for what must come, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A wait after which what has not come will not come.
const SHORT: Duration = Duration::from_millis(300);

/// A backend under test.
pub trait Fixture: Send + Sync {
    /// The dispatcher of process 0 or 1, on the same server.
    fn dispatcher(&self, replica: usize) -> Arc<dyn Dispatcher>;

    /// Whether an unacked token of a receiver that ended comes again to another.
    fn redelivers(&self) -> bool;
}

/// Runs every promise.
///
/// # Panics
/// When one is broken.
pub async fn holds(fixture: &dyn Fixture) {
    ringing_without_anybody_listening_is_fine(fixture).await;
    a_token_from_before_the_receiver_wakes_it(fixture).await;
    a_waiting_receiver_wakes_at_once(fixture).await;
    an_empty_wait_ends_in_time_and_empty(fixture).await;
    no_more_than_asked_for_at_once(fixture).await;
    every_ring_is_answered_by_some_receiver(fixture).await;
    rings_between_receives_are_kept(fixture).await;
    an_acked_token_does_not_come_again(fixture).await;
    acks_of_anything_are_harmless(fixture).await;
    what_nobody_has_taken_is_counted(fixture).await;
    unacked_tokens_of_a_closed_receiver_pass_on(fixture).await;
    a_closed_receiver_may_come_back(fixture).await;
}

fn worker(name: &str) -> ReplicaId {
    ReplicaId::generate(name)
}

async fn open(fixture: &dyn Fixture, replica: usize, name: &str) -> Box<dyn TokenSource> {
    fixture.dispatcher(replica).receiver(&worker(name)).await.expect("open a receiver")
}

/// Takes and acks everything that waits.
async fn drain(receiver: &mut dyn TokenSource) {
    loop {
        let tokens = receiver.receive(100, SHORT).await.expect("receive");
        if tokens.is_empty() {
            return;
        }
        ack_all(receiver, tokens).await;
    }
}

async fn ack_all(receiver: &mut dyn TokenSource, tokens: Vec<Token>) {
    for token in tokens {
        receiver.ack(token).await.expect("ack");
    }
}

async fn ring(fixture: &dyn Fixture, n: usize) -> HashSet<TaskId> {
    let tasks: HashSet<_> = (0..n).map(|_| TaskId::generate()).collect();
    for task in &tasks {
        fixture.dispatcher(0).notify(*task).await.expect("ring");
    }
    tasks
}

async fn ringing_without_anybody_listening_is_fine(fixture: &dyn Fixture) {
    ring(fixture, 3).await;
}

async fn a_token_from_before_the_receiver_wakes_it(fixture: &dyn Fixture) {
    ring(fixture, 1).await;
    let mut receiver = open(fixture, 1, "late").await;
    let tokens = receiver.receive(10, PATIENCE).await.expect("receive");
    assert!(!tokens.is_empty(), "a worker that starts must look for work");
    ack_all(receiver.as_mut(), tokens).await;
    drain(receiver.as_mut()).await;
    receiver.close().await.expect("close");
}

async fn a_waiting_receiver_wakes_at_once(fixture: &dyn Fixture) {
    let mut receiver = open(fixture, 1, "waiting").await;
    drain(receiver.as_mut()).await;
    let waiting = tokio::spawn(async move {
        let start = Instant::now();
        let tokens = receiver.receive(10, PATIENCE).await.expect("receive");
        (receiver, tokens, start.elapsed())
    });
    ring(fixture, 1).await;
    let (mut receiver, tokens, took) = waiting.await.expect("no panic");
    assert!(!tokens.is_empty(), "waited {took:?} in vain");
    assert!(took < PATIENCE / 2, "woke after {took:?}: that was no wake-up");
    ack_all(receiver.as_mut(), tokens).await;
    receiver.close().await.expect("close");
}

async fn an_empty_wait_ends_in_time_and_empty(fixture: &dyn Fixture) {
    let mut receiver = open(fixture, 0, "idle").await;
    drain(receiver.as_mut()).await;
    let start = Instant::now();
    let tokens = receiver.receive(10, SHORT).await.expect("receive");
    assert!(tokens.is_empty(), "woken by nothing: {tokens:?}");
    assert!(start.elapsed() >= SHORT / 2, "a worker would spin: waited {:?}", start.elapsed());
    assert!(start.elapsed() < PATIENCE);
    receiver.close().await.expect("close");
}

async fn no_more_than_asked_for_at_once(fixture: &dyn Fixture) {
    let mut receiver = open(fixture, 0, "modest").await;
    drain(receiver.as_mut()).await;
    ring(fixture, 7).await;
    for max in [1, 2, 3] {
        let tokens = receiver.receive(max, PATIENCE).await.expect("receive");
        assert!((1..=max).contains(&tokens.len()), "{} tokens of {max}", tokens.len());
        ack_all(receiver.as_mut(), tokens).await;
    }
    drain(receiver.as_mut()).await;
    receiver.close().await.expect("close");
}

async fn every_ring_is_answered_by_some_receiver(fixture: &dyn Fixture) {
    let mut receivers = Vec::new();
    for replica in [0, 1] {
        let mut receiver = open(fixture, replica, "busy").await;
        drain(receiver.as_mut()).await;
        receivers.push(receiver);
    }
    let rung = ring(fixture, 20).await;
    let mut answered = HashSet::new();
    let end = Instant::now() + PATIENCE;
    while !rung.is_subset(&answered) {
        assert!(Instant::now() < end, "{} of {} rings were answered", answered.len(), rung.len());
        for receiver in &mut receivers {
            let tokens = receiver.receive(3, SHORT).await.expect("receive");
            answered.extend(tokens.iter().filter_map(|token| token.task_id));
            ack_all(receiver.as_mut(), tokens).await;
        }
    }
    for receiver in receivers {
        receiver.close().await.expect("close");
    }
}

async fn rings_between_receives_are_kept(fixture: &dyn Fixture) {
    let mut receiver = open(fixture, 0, "between").await;
    drain(receiver.as_mut()).await;
    for _ in 0..3 {
        // The worker claims and runs while the bell rings.
        ring(fixture, 2).await;
        let tokens = receiver.receive(10, PATIENCE).await.expect("receive");
        assert!(!tokens.is_empty());
        ack_all(receiver.as_mut(), tokens).await;
        drain(receiver.as_mut()).await;
    }
    receiver.close().await.expect("close");
}

async fn an_acked_token_does_not_come_again(fixture: &dyn Fixture) {
    let mut first = open(fixture, 0, "acks").await;
    let mut second = open(fixture, 1, "sees-nothing").await;
    drain(first.as_mut()).await;
    drain(second.as_mut()).await;
    ring(fixture, 3).await;
    drain(first.as_mut()).await;
    drain(second.as_mut()).await;
    first.close().await.expect("close");
    let tokens = second.receive(10, SHORT).await.expect("receive");
    assert!(tokens.is_empty(), "acked tokens came again: {tokens:?}");
    second.close().await.expect("close");
}

async fn acks_of_anything_are_harmless(fixture: &dyn Fixture) {
    let mut receiver = open(fixture, 0, "acker").await;
    drain(receiver.as_mut()).await;
    ring(fixture, 1).await;
    let token = receiver.receive(1, PATIENCE).await.expect("receive").pop().expect("a token");
    assert!(receiver.ack(token.clone()).await.expect("ack"), "it was ours");
    receiver.ack(token.clone()).await.expect("ack twice");
    let mut other = open(fixture, 1, "other").await;
    other.ack(token).await.expect("ack what another one had");
    drain(receiver.as_mut()).await;
    drain(other.as_mut()).await;
    receiver.close().await.expect("close");
    other.close().await.expect("close");
}

async fn what_nobody_has_taken_is_counted(fixture: &dyn Fixture) {
    let waiting = async || fixture.dispatcher(1).waiting().await.expect("count");
    let mut receiver = open(fixture, 0, "counting").await;
    drain(receiver.as_mut()).await;
    assert_eq!(waiting().await, 0);
    ring(fixture, 3).await;
    assert_eq!(waiting().await, if fixture.redelivers() { 3 } else { 0 }, "kept means counted");
    let tokens = receiver.receive(2, PATIENCE).await.expect("receive");
    assert!(waiting().await <= 2, "a token in hand is not waiting: {tokens:?}");
    ack_all(receiver.as_mut(), tokens).await;
    drain(receiver.as_mut()).await;
    assert_eq!(waiting().await, 0);
    receiver.close().await.expect("close");
}

async fn unacked_tokens_of_a_closed_receiver_pass_on(fixture: &dyn Fixture) {
    let mut leaving = open(fixture, 0, "leaving").await;
    drain(leaving.as_mut()).await;
    let rung = ring(fixture, 2).await;
    let mut taken = HashSet::new();
    while taken.len() < rung.len() {
        let tokens = leaving.receive(10, PATIENCE).await.expect("receive");
        assert!(!tokens.is_empty(), "{taken:?} of {rung:?}");
        taken.extend(tokens.iter().filter_map(|token| token.task_id));
    }
    leaving.close().await.expect("close");
    let mut staying = open(fixture, 1, "staying").await;
    let mut passed_on = HashSet::new();
    let end = Instant::now() + PATIENCE;
    while fixture.redelivers() && !rung.is_subset(&passed_on) {
        assert!(Instant::now() < end, "{passed_on:?} of {rung:?} passed on");
        let tokens = staying.receive(10, SHORT).await.expect("receive");
        passed_on.extend(tokens.iter().filter_map(|token| token.task_id));
        ack_all(staying.as_mut(), tokens).await;
    }
    drain(staying.as_mut()).await;
    staying.close().await.expect("close");
}

async fn a_closed_receiver_may_come_back(fixture: &dyn Fixture) {
    let (name, dispatcher) = (worker("same"), fixture.dispatcher(0));
    for _ in 0..3 {
        let mut receiver = dispatcher.receiver(&name).await.expect("open again");
        drain(receiver.as_mut()).await;
        ring(fixture, 1).await;
        let tokens = receiver.receive(10, PATIENCE).await.expect("receive");
        assert!(!tokens.is_empty());
        ack_all(receiver.as_mut(), tokens).await;
        receiver.close().await.expect("close");
    }
}
