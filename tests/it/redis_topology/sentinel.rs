//! A failover by Sentinel: what was acknowledged and lost with the old primary is told, and everything goes on.

use std::time::Duration;

use milepost::bus::contract::{Collector, user};
use milepost::bus::{Feed, Loss, Replay};
use milepost::dispatch::{Dispatcher, RedisDispatch};
use milepost::task::{Position, ReplicaId, TaskId, UserId};
use milepost_harness::{Redis, SentinelSet};
use nix::sys::signal::Signal;

use super::connect;
use crate::bus_redis::{Replica, keys, number, patient};
use crate::support::{eventually, until};

/// Longer than a replica is stopped here, so that it is not taken for lost itself.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// What the kernel may hold between a primary and a replica that does not read, and more.
const FILLER_BYTES: usize = 1 << 20;
const FILLERS: usize = 40;

fn start(replicas: usize) -> SentinelSet {
    tokio::task::block_in_place(|| SentinelSet::start(replicas, DOWN_AFTER)).unwrap()
}

/// Stops the replica and fills what the kernel holds for it: of what is written from now on it will learn nothing.
fn fall_behind(set: &SentinelSet) {
    set.servers()[1].process().signal(Signal::SIGSTOP).unwrap();
    let filler = "x".repeat(FILLER_BYTES);
    for n in 0..FILLERS {
        set.servers()[0].command(&["SET", &format!("filler-{n}"), &filler]).unwrap();
    }
}

/// Kills the primary, and has the replica that knows less put in its place.
fn fail_over(set: &SentinelSet) -> usize {
    set.servers()[0].process().kill().unwrap();
    set.servers()[1].process().signal(Signal::SIGCONT).unwrap();
    tokio::task::block_in_place(|| set.wait_failover(0)).unwrap()
}

fn length(server: &Redis, user: &UserId) -> u64 {
    number(server, &["XLEN", &keys().events(user)])
}

async fn lost(replica: &Replica, user: &UserId, position: &Position) -> Option<Loss> {
    let replay =
        eventually("the replay is answered", async || replica.bus.replay(user, position, 10).await.ok());
    match replay.await {
        Replay::Lost(loss) => Some(loss),
        Replay::Page { .. } => None,
    }
}

/// Three users: one whose reader had the entries that are lost, one who lost entries that nobody had read, and one to
/// whom nothing happened. None can know which it is, so all are told; no position of theirs is continued anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn f09_acknowledged_entries_that_a_failover_lost_are_told_to_everybody() {
    let set = start(1);
    let (here, elsewhere) = (Replica::at(&set.url(), &patient()), Replica::at(&set.url(), &patient()));
    let (watched, offline, quiet) = (user("watched"), user("offline"), user("quiet"));
    let task = TaskId::generate();
    let (_one, inbox) = here.follow(&watched).await;
    let (_two, quiet_inbox) = here.follow(&quiet).await;
    for user in [&watched, &offline, &quiet] {
        here.publish(user, task, 1..=3).await;
    }
    inbox.wait_for(3).await;
    quiet_inbox.wait_for(3).await;
    let before: Vec<Position> = {
        let mut heads = Vec::new();
        for user in [&watched, &offline, &quiet] {
            heads.push(here.bus.head(user).await.unwrap());
        }
        heads
    };
    until("the replica has them", async || length(&set.servers()[1], &quiet) == 3).await;

    fall_behind(&set);
    here.publish(&watched, task, 4..=6).await;
    here.publish(&offline, task, 4..=6).await;
    inbox.wait_for(6).await;
    let seen = inbox.entries().last().unwrap().position.clone();
    let primary = fail_over(&set);
    assert_eq!(
        (length(&set.servers()[primary], &watched), length(&set.servers()[primary], &offline)),
        (3, 3),
        "the fault bit: acknowledged entries are lost"
    );

    // Without a publish and without a sweep.
    for inbox in [&inbox, &quiet_inbox] {
        inbox.wait_until("the loss", |inbox| !inbox.losses().is_empty()).await;
    }
    // New entries pass the lost ones.
    here.publish(&watched, task, 7..=9).await;
    here.publish(&offline, task, 7..=9).await;
    let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 9);
    inbox.wait_until("what came after", last).await;
    assert_eq!(lost(&elsewhere, &watched, &seen).await, Some(Loss::Epoch));
    for (user, position) in [&watched, &offline, &quiet].into_iter().zip(&before) {
        assert_eq!(lost(&elsewhere, user, position).await, Some(Loss::Epoch), "{user}");
    }
    let head = elsewhere.bus.head(&watched).await.unwrap();
    assert_eq!(lost(&elsewhere, &watched, &head).await, None, "a new position is good");
    assert_eq!(inbox.losses().len(), 1, "it is told once");
    until("readiness to be back", async || here.bus.health().ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_wait_are_woken_through_the_new_primary() {
    let set = start(2);
    let dispatch = RedisDispatch::new(connect(&set.url())).with_claim_idle(Duration::from_millis(300));
    let mut receiver = dispatch.receiver(&ReplicaId::generate("worker")).await.unwrap();
    let task = TaskId::generate();
    let ringing = async {
        let blocked =
            async || !set.servers()[0].command(&["INFO", "clients"]).unwrap().contains("blocked_clients:0\r");
        until("the receiver blocks", blocked).await;
        // One that stands still keeps its connections, and nothing breaks.
        set.servers()[0].process().signal(Signal::SIGSTOP).unwrap();
        eventually("the wake-up is taken", async || dispatch.notify(task).await.ok()).await;
    };
    let receiving = async {
        eventually("the token comes", async || {
            let tokens = receiver.receive(10, Duration::from_millis(500)).await.unwrap_or_default();
            tokens.into_iter().find(|token| token.task_id == Some(task))
        })
        .await
    };
    let (token, ()) = tokio::join!(receiving, ringing);
    eventually("the token is ended", async || receiver.ack(token.clone()).await.ok()).await;
    let primary = set.wait_failover(0).unwrap();

    // The old one is back and does not know yet that it is none any more.
    set.servers()[0].process().signal(Signal::SIGCONT).unwrap();
    let another = TaskId::generate();
    eventually("the wake-up is taken", async || dispatch.notify(another).await.ok()).await;
    until("it is with the new primary", async || {
        set.servers()[primary]
            .command(&["XRANGE", "mp:dispatch", "-", "+"])
            .unwrap()
            .contains(&another.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sentinel_of_three_is_enough_to_start_and_none_is_an_error_in_good_time() {
    let set = start(1);
    for index in [0, 1] {
        set.sentinel(index).signal(Signal::SIGSTOP).unwrap();
    }
    let redis = connect(&set.url());
    redis.query::<String>(&redis::cmd("PING")).await.unwrap();
    set.sentinel(2).kill().unwrap();
    let redis = connect(&set.url());
    let ping =
        tokio::time::timeout(Duration::from_secs(15), redis.query::<String>(&redis::cmd("PING"))).await;
    assert!(ping.expect("a deadline").unwrap_err().to_string().contains("which server is the primary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_sentinel_knows_is_an_error() {
    let set = start(1);
    let redis = connect(&set.url().replace("mymaster", "another"));
    assert!(redis.layout().await.is_err());
}
