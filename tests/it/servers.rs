//! The harness itself: servers start, answer, and die with their handle.

use std::time::Duration;

use milepost_harness::{Cluster, Postgres, Redis, SentinelSet};

#[test]
fn servers_start_answer_and_end() {
    let mut redis = Redis::start().unwrap();
    redis.command(&["SET", "a", "1"]).unwrap();
    redis.process().kill().unwrap();
    redis.run().unwrap();
    assert!(redis.command(&["GET", "a"]).unwrap().starts_with("$-1"));
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let name = url.rsplit('/').next().unwrap();
    assert_eq!(postgres.sql(name, "SELECT 1 + 1").unwrap(), "2");
}

#[test]
fn sentinels_put_a_replica_in_the_place_of_a_primary_that_died() {
    let set = SentinelSet::start(1, Duration::from_secs(1)).unwrap();
    assert_eq!(set.primary().unwrap(), 0);
    set.servers()[0].command(&["SET", "a", "1"]).unwrap();
    set.servers()[0].process().kill().unwrap();
    let new = set.wait_failover(0).unwrap();
    set.servers()[new].command(&["SET", "a", "2"]).unwrap();
}

#[test]
fn a_cluster_moves_slots_and_survives_the_death_of_a_primary() {
    let cluster = Cluster::start(Duration::from_secs(2)).unwrap();
    let slot = cluster.slot("a").unwrap();
    let owner = cluster.owner(slot).unwrap();
    cluster.nodes()[owner].command(&["SET", "a", "1"]).unwrap();
    let target = (owner + 1) % 3;
    cluster.begin_move(slot, target).unwrap();
    cluster.finish_move(slot, target).unwrap();
    assert!(cluster.command("a", &["GET", "a"]).unwrap().contains('1'));
    cluster.nodes()[target].process().kill().unwrap();
    assert_eq!(cluster.wait_failover(slot, target).unwrap(), target + 3);
}
