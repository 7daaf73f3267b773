//! What is kept in Redis, for how long, and what it costs.

use std::time::Duration;

use milepost::bus::contract::{progress, terminal, user};
use milepost::bus::{BusError, Publisher};
use milepost::config::BusConfig;
use milepost::task::TaskId;

use super::{Replica, Server, keys, number, patient, pending};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_about_as_much_as_was_asked_for() {
    let server = Server::with_args(&["--save", "", "--stream-node-max-entries", "20"]).unwrap();
    let config = BusConfig { entries_max: 100, ..patient() };
    let replica = Replica::start(&server, &config);
    let (user, task) = (user("long"), TaskId::generate());
    replica.publish(&user, task, 1..=500).await;
    let length = number(&server, &["XLEN", &keys().events(&user)]);
    assert!((100..=140).contains(&length), "{length} entries are kept");
    for key in [keys().events(&user), keys().epoch(&user), keys().task(&user, task)] {
        assert!(number(&server, &["PTTL", &key]) > 0, "{key} would live for ever");
    }
    let day = Duration::from_secs(24 * 3600);
    replica.bus.publish(&user, &terminal(task, 1, 501)).await.unwrap();
    let ttl = Duration::from_millis(number(&server, &["PTTL", &keys().task(&user, task)]));
    assert!(ttl < day / 24, "the fence of a finished task is kept for {ttl:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_older_than_asked_for_go() {
    let server = Server::with_args(&["--save", "", "--stream-node-max-entries", "1"]).unwrap();
    let config = BusConfig { retention: Duration::from_millis(300), ..patient() };
    let replica = Replica::start(&server, &config);
    let (user, task) = (user("old"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    replica.publish(&user, task, 1..=20).await;
    inbox.wait_for(20).await;
    // Time itself is what is waited for.
    tokio::time::sleep(Duration::from_millis(400)).await;
    replica.publish(&user, task, 21..=21).await;
    inbox.wait_for(21).await;
    assert!(number(&server, &["XLEN", &keys().events(&user)]) < 20);
    assert_eq!(inbox.losses(), [], "what was read before it was trimmed is no loss");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_to_publish_and_still_delivers_and_acknowledges() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let (user, task) = (user("full"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    replica.publish(&user, task, 1..=5).await;
    inbox.wait_for(5).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refused = replica.bus.publish(&user, &progress(task, 1, 6)).await.unwrap_err();
    assert!(matches!(refused, BusError::Unavailable { .. }), "{refused}");
    inbox.clear();
    let (events, group) = (keys().events(&user), replica.group());
    until("everything to be acknowledged", async || pending(&server, &events, &group) == 0).await;
    let (_another, _) = replica.follow(&super::user("late")).await;
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    replica.publish(&user, task, 6..=6).await;
    assert_eq!(inbox.wait_for(1).await[0].seq.0, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_user_costs_about_a_kilobyte() {
    const USERS: usize = 2_000;
    let server = Server::with_args(&["--save", "", "--stream-node-max-bytes", "1024"]).unwrap();
    let replica = Replica::start(&server, &patient());
    let memory = || {
        let info = server.command(&["INFO", "memory"]).unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse::<usize>().unwrap()
    };
    // Connections and the library are there before the measurement.
    let (_warm, _) = replica.follow(&user("warm")).await;
    let before = memory();
    let mut following = Vec::new();
    for n in 0..USERS {
        following.push(replica.follow(&user(&format!("quiet{n}"))).await);
    }
    let each = (memory() - before) / USERS;
    assert!(each < 1_800, "{each} bytes for each user");
}
