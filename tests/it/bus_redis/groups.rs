//! Consumer groups of gateways: there while somebody follows, and gone with the follower, orderly or not.

use std::collections::HashSet;

use milepost::bus::contract::user;
use milepost::bus::redis::collect_dead_groups;
use milepost::redis::Shard;
use milepost::task::{TaskId, UserId};
use milepost::telemetry::Metrics;
use tokio::time::Instant;

use super::{Fixture, Replica, Server, connect, keys, number, patient};
use crate::support::{PATIENCE, until};

/// Names of the groups on a stream.
fn groups(server: &Server, stream: &str) -> HashSet<String> {
    let info = server.command(&["XINFO", "GROUPS", stream]).unwrap_or_default();
    info.lines().filter(|line| line.starts_with("gw:")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_has_its_group_while_it_follows_and_no_longer() {
    let fixture = Fixture::start(&patient());
    let [one, two] = &fixture.replicas;
    let user = user("groups");
    let events = keys().events(&user);
    let (first, _) = one.follow(&user).await;
    let (second, _) = two.follow(&user).await;
    assert_eq!(groups(&fixture.server, &events), HashSet::from([one.group(), two.group()]));
    drop(first);
    until("the group to go", async || groups(&fixture.server, &events) == HashSet::from([two.group()])).await;
    let channel = keys().doorbell(&user);
    let listeners = || fixture.server.command(&["PUBSUB", "SHARDNUMSUB", &channel]).unwrap();
    until("one listener to be left", async || listeners().ends_with(":1\r\n")).await;
    drop(second);
    until("the last group to go", async || groups(&fixture.server, &events).is_empty()).await;
    until("no listener to be left", async || listeners().ends_with(":0\r\n")).await;
    let index = keys().groups(Shard::of(&user), one.name.as_str());
    assert_eq!(number(&fixture.server, &["EXISTS", &index]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_leaves_nothing_behind() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let user = user("stop");
    let (following, inbox) = replica.follow(&user).await;
    until("the lease", async || number(&server, &["ZCARD", "mp:gateways"]) == 1).await;
    replica.life.stop();
    // Sockets are closed one by one after the stop; until then events still arrive.
    replica.publish(&user, TaskId::generate(), 1..=2).await;
    inbox.wait_for(2).await;
    drop(following);
    let stopped = Instant::now();
    replica.life.shut_down(PATIENCE).await;
    assert!(stopped.elapsed() < PATIENCE / 2, "the tasks did not end by themselves");
    assert!(groups(&server, &keys().events(&user)).is_empty());
    assert_eq!(number(&server, &["ZCARD", "mp:gateways"]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_a_dead_gateway_are_collected_and_those_of_the_living_stay() {
    let fixture = Fixture::start(&patient());
    let [dead, alive] = &fixture.replicas;
    let users: Vec<UserId> = (0..300).map(|n| user(&format!("orphan{n}"))).collect();
    let mut following = Vec::new();
    for user in &users {
        following.push((dead.follow(user).await, alive.follow(user).await));
    }
    let redis = connect(&fixture.server, &Metrics::new());
    assert_eq!(collect_dead_groups(&redis).await.unwrap(), 0, "both are alive");
    dead.life.hard().cancel();
    dead.life.shut_down(PATIENCE).await;
    assert_eq!(
        number(&fixture.server, &["ZCARD", "mp:gateways"]),
        2,
        "who leaves groups behind leaves its lease"
    );
    fixture.server.command(&["ZADD", "mp:gateways", "1", dead.name.as_str()]).unwrap();
    assert_eq!(collect_dead_groups(&redis).await.unwrap(), 300);
    for user in &users {
        assert_eq!(groups(&fixture.server, &keys().events(user)), HashSet::from([alive.group()]));
    }
    let gateways = fixture.server.command(&["ZRANGE", "mp:gateways", "0", "-1"]).unwrap();
    assert!(!gateways.contains(dead.name.as_str()) && gateways.contains(alive.name.as_str()), "{gateways}");
    assert_eq!(collect_dead_groups(&redis).await.unwrap(), 0);
}

/// Groups of a gateway that died are found through its lease only, so there is never a group without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_never_there_without_a_lease() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let user = user("leased");
    let (_following, inbox) = replica.follow(&user).await;
    assert_eq!(number(&server, &["ZCARD", "mp:gateways"]), 1);
    for _ in 0..5 {
        server.command(&["FLUSHALL"]).unwrap();
        let lost = inbox.losses().len();
        replica.publish(&user, TaskId::generate(), 1..=1).await;
        inbox.wait_until("the loss", |inbox| inbox.losses().len() > lost).await;
        until("the group", async || !groups(&server, &keys().events(&user)).is_empty()).await;
        assert_eq!(number(&server, &["ZCARD", "mp:gateways"]), 1);
    }
}
