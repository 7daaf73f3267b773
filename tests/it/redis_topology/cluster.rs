//! A slot that moves and a primary that dies in a Cluster, while users of it are followed.

use std::sync::Arc;
use std::time::Duration;

use milepost::bus::Feed;
use milepost::bus::contract::{Collector, user};
use milepost::dispatch::{Dispatcher, RedisDispatch};
use milepost::redis::LibraryState;
use milepost::task::{ReplicaId, TaskId, UserId};
use milepost_harness::Cluster;

use super::{NEVER, connect};
use crate::bus_redis::{Replica, keys, patient};
use crate::support::{eventually, until};

fn start(node_timeout: Duration) -> Cluster {
    tokio::task::block_in_place(|| Cluster::start(node_timeout)).unwrap()
}

fn slot(cluster: &Cluster, user: &UserId) -> u16 {
    cluster.slot(&keys().events(user)).unwrap()
}

fn seqs(inbox: &Collector) -> Vec<u64> {
    inbox.entries().iter().map(|entry| entry.seq.0).collect()
}

async fn last(inbox: &Arc<Collector>, seq: u64) {
    let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == seq);
    inbox.wait_until("the newest entry", last).await;
}

/// While its keys go over one by one a publish waits or fails. The new server begins a new epoch, which is told, and from
/// then on everything is heard there, without a sweep.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_takes_its_users_along() {
    let cluster = start(NEVER);
    let replica = Replica::at(&cluster.url(), &patient());
    let (user, task) = (user("moved"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    replica.publish(&user, task, 1..=5).await;
    inbox.wait_for(5).await;
    let slot = slot(&cluster, &user);
    for lap in 1..=3 {
        let target = (cluster.owner(slot).unwrap() + 1) % 3;
        let first = lap * 5 + 1;
        let moving = async {
            cluster.begin_move(slot, target).unwrap();
            // Long enough for publishes to meet the slot on its way.
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| cluster.finish_move(slot, target)).unwrap();
        };
        tokio::join!(moving, replica.publish(&user, task, first..=first + 3));
        let told = |inbox: &Collector| u64::try_from(inbox.losses().len()) == Ok(lap);
        inbox.wait_until("the new epoch", told).await;
        replica.publish(&user, task, first + 4..=first + 4).await;
        last(&inbox, first + 4).await;
        assert!(seqs(&inbox).is_sorted_by(|a, b| a < b), "{:?}", seqs(&inbox));
    }
    let subscribed = async || {
        let owner = &cluster.nodes()[cluster.owner(slot).unwrap()];
        owner.command(&["PUBSUB", "SHARDCHANNELS", "*"]).unwrap().contains(&keys().doorbell(&user))
    };
    until("the doorbell is heard at the new server", subscribed).await;
    until("readiness to be back", async || replica.bus.health().ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_is_replaced_and_its_users_are_told() {
    let cluster = start(Duration::from_secs(2));
    let replica = Replica::at(&cluster.url(), &patient());
    let (hit, task) = (user("hit"), TaskId::generate());
    let (slot, others) = (slot(&cluster, &hit), (0..).map(|n| UserId::new(format!("other-{n}")).unwrap()));
    let owner = cluster.owner(slot).unwrap();
    let elsewhere = |other: &UserId| cluster.owner(super::cluster::slot(&cluster, other)).unwrap() != owner;
    let spared = others.into_iter().find(elsewhere).unwrap();
    let (_one, inbox) = replica.follow(&hit).await;
    let (_two, other_inbox) = replica.follow(&spared).await;
    for user in [&hit, &spared] {
        replica.publish(user, task, 1..=3).await;
    }
    inbox.wait_for(3).await;
    cluster.nodes()[owner].process().kill().unwrap();
    until("readiness to be off", async || !replica.bus.health().ready).await;
    // The others have their own servers.
    replica.publish(&spared, task, 4..=6).await;
    last(&other_inbox, 6).await;
    assert_eq!(other_inbox.losses(), []);

    eventually("the failover", async || cluster.owner(slot).ok().filter(|new| *new != owner)).await;
    inbox.wait_until("the loss", |inbox| !inbox.losses().is_empty()).await;
    replica.publish(&hit, task, 4..=6).await;
    last(&inbox, 6).await;
    assert!(seqs(&inbox).is_sorted_by(|a, b| a < b), "{:?}", seqs(&inbox));
    until("readiness to be back", async || replica.bus.health().ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_follow_their_slot() {
    let cluster = start(NEVER);
    let dispatch = RedisDispatch::new(connect(&cluster.url())).with_claim_idle(Duration::from_millis(300));
    let mut receiver = dispatch.receiver(&ReplicaId::generate("worker")).await.unwrap();
    let slot = cluster.slot("mp:dispatch").unwrap();
    for _ in 0..2 {
        let (source, target) = (cluster.owner(slot).unwrap(), (cluster.owner(slot).unwrap() + 1) % 3);
        let task = TaskId::generate();
        let ringing = async {
            let blocked = async || {
                !cluster.nodes()[source]
                    .command(&["INFO", "clients"])
                    .unwrap()
                    .contains("blocked_clients:0\r")
            };
            until("the receiver blocks", blocked).await;
            cluster.begin_move(slot, target).unwrap();
            tokio::task::block_in_place(|| cluster.finish_move(slot, target)).unwrap();
            eventually("the wake-up is taken", async || dispatch.notify(task).await.ok()).await;
        };
        let receiving = eventually("the token comes", async || {
            let tokens = receiver.receive(10, Duration::from_millis(500)).await.unwrap_or_default();
            tokens.into_iter().find(|token| token.task_id == Some(task))
        });
        let (token, ()) = tokio::join!(receiving, ringing);
        receiver.ack(token).await.unwrap();
    }
}

/// A Cluster does not pass functions on: a node that has none gets them from whoever meets it.
#[tokio::test(flavor = "multi_thread")]
async fn every_primary_has_the_library_and_one_that_lost_it_is_healed() {
    let cluster = start(NEVER);
    let redis = connect(&cluster.url());
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Missing);
    redis.install_library().await.unwrap();
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Current);
    let (user, task) = (user("healed"), TaskId::generate());
    cluster.command(&keys().events(&user), &["FUNCTION", "FLUSH"]).unwrap();
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Missing);
    let replica = Replica::at(&cluster.url(), &patient());
    replica.publish(&user, task, 1..=1).await;
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Current);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_look_at_every_primary_and_name_the_odd_one() {
    use milepost::redis::checks::{Severity, check};
    let cluster = start(NEVER);
    let redis = connect(&cluster.url());
    redis.install_library().await.unwrap();
    for node in &cluster.nodes()[..3] {
        for (setting, value) in [("appendonly", "yes"), ("stream-node-max-bytes", "1024")] {
            node.command(&["CONFIG", "SET", setting, value]).unwrap();
        }
    }
    let odd = async || {
        let found = check(&redis).await.unwrap();
        let odd: Vec<_> = found.into_iter().filter(|finding| finding.severity != Severity::Good).collect();
        odd.into_iter().map(|finding| (finding.subject, finding.detail)).collect::<Vec<_>>()
    };
    assert_eq!(odd().await, []);
    cluster.nodes()[1].command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let found = odd().await;
    assert_eq!((found.len(), found[0].0), (1, "maxmemory-policy"), "{found:?}");
    assert!(found[0].1.starts_with(&format!("127.0.0.1:{}: ", cluster.nodes()[1].port())), "{found:?}");
}
