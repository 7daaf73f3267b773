//! What watchers see when Redis forgets, trims, swallows, stands still or fails over.

use std::time::Duration;

use milepost::bus::contract::{Collector, progress, user};
use milepost::bus::{Feed, Loss, Publisher};
use milepost::redis::Shard;
use milepost::task::{TaskId, UserId};
use tokio::time::Instant;

use super::{Replica, Server, keys, patient, pending, publish_one, swept};
use crate::support::{PATIENCE, until};

/// What a server loses, and whether watchers must be told. Deliveries go on in every case, without any sweep.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_redis_forgets_later_events_flow() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    for (forgets, loss) in [
        (vec!["FLUSHALL"], Some(Loss::Epoch)),
        (vec!["DEL", "<events>"], Some(Loss::Epoch)),
        (vec!["DEL", "<epoch>"], Some(Loss::Epoch)),
        // The reader knows where it was, so nothing is lost.
        (vec!["XGROUP", "DESTROY", "<events>", "<group>"], None),
        (vec!["FUNCTION", "FLUSH"], None),
        (vec!["CLIENT", "KILL", "TYPE", "pubsub"], None),
        (vec!["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"], None),
    ] {
        let (user, task) = (user("forgotten"), TaskId::generate());
        let (_following, inbox) = replica.follow(&user).await;
        replica.publish(&user, task, 1..=3).await;
        inbox.wait_for(3).await;
        let (events, epoch, group) = (keys().events(&user), keys().epoch(&user), replica.group());
        let words: Vec<&str> = forgets
            .iter()
            .map(|word| match *word {
                "<events>" => &events,
                "<epoch>" => &epoch,
                "<group>" => &group,
                word => word,
            })
            .collect();
        server.command(&words).unwrap();
        replica.publish(&user, task, 4..=6).await;
        let told = |inbox: &Collector| inbox.losses().first() == loss.as_ref();
        if loss.is_some() {
            inbox.wait_until("the loss", told).await;
        }
        replica.publish(&user, task, 7..=9).await;
        let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 9);
        inbox.wait_until("what came after", last).await;
        assert!(told(&inbox), "{:?} after {forgets:?}", inbox.losses());
        let seqs: Vec<u64> = inbox.entries().iter().map(|entry| entry.seq.0).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
        assert!(loss.is_some() || seqs == (1..=9).collect::<Vec<_>>(), "{seqs:?} after {forgets:?}");
    }
    assert!(replica.repairs("group") && replica.repairs("epoch"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_persistence_is_told_and_survived() {
    let mut server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, quiet, task) = (user("restart"), user("quiet"), TaskId::generate());
    let (_one, inbox) = replica.follow(&user).await;
    let (_other, quiet_inbox) = replica.follow(&quiet).await;
    replica.publish(&user, task, 1..=3).await;
    inbox.wait_for(3).await;
    server.process().kill().unwrap();
    until("readiness to be off", async || !replica.bus.health().ready).await;
    server.run().unwrap();
    // These come after the loss or are part of it.
    replica.publish(&user, task, 4..=6).await;
    inbox.wait_until("the loss", |inbox| !inbox.losses().is_empty()).await;
    replica.publish(&user, task, 7..=9).await;
    let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 9);
    inbox.wait_until("what came after the restart", last).await;
    assert_eq!(inbox.losses(), [Loss::Epoch]);
    // Nobody published to this one: the sweep alone tells.
    quiet_inbox.wait_until("the loss", |inbox| inbox.losses() == [Loss::Epoch]).await;
    until("readiness to be back", async || replica.bus.health().ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_delays_and_loses_nothing() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, task) = (user("still"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    let writer = async {
        replica.publish(&user, task, 1..=300).await;
    };
    let stops = async {
        for _ in 0..2 {
            inbox.wait_until("some entries", |inbox| !inbox.entries().is_empty()).await;
            server.process().signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
            // Longer than any command may take, so that replies are given up on.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            server.process().signal(nix::sys::signal::Signal::SIGCONT).unwrap();
        }
    };
    tokio::join!(writer, stops);
    let seqs: Vec<u64> = inbox.wait_for(300).await.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=300).collect::<Vec<_>>());
    assert_eq!(inbox.losses(), []);
    inbox.clear();
    let (events, group) = (keys().events(&user), replica.group());
    until("everything to be acknowledged", async || pending(&server, &events, &group) == 0).await;
}

/// Appends entries of attempt 1 as `mp2_publish` does but without ringing, then runs `then`, all in one step.
fn append_silently(server: &Server, user: &UserId, seqs: std::ops::RangeInclusive<u64>, then: &str) {
    let script = format!(
        "for seq = {}, {} do
            local previous = redis.call('HGET', KEYS[2], 'last')
            local id = redis.call('XADD', KEYS[1], '*', 't', ARGV[1], 'n', '1-' .. seq, 'e', 0, 'p', previous, 'd', '{{}}')
            redis.call('HSET', KEYS[2], 'last', id)
        end
        {then}",
        seqs.start(),
        seqs.end()
    );
    let (events, epoch, task) = (keys().events(user), keys().epoch(user), TaskId::generate().to_string());
    server.command(&["EVAL", &script, "2", &events, &epoch, &task]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_trimmed_before_they_were_read_are_a_loss() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let (user, task) = (user("trimmed"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    publish_one(&replica, &user, task, 1).await;
    inbox.wait_for(1).await;
    append_silently(&server, &user, 2..=3, "redis.call('XTRIM', KEYS[1], 'MAXLEN', 1)");
    publish_one(&replica, &user, task, 4).await;
    let seqs: Vec<u64> = inbox.wait_for(3).await.iter().map(|entry| entry.seq.0).collect();
    assert_eq!((seqs, inbox.losses()), (vec![1, 3, 4], vec![Loss::Trimmed]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_reply_is_read_again_and_no_loss() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let (user, task) = (user("swallowed"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    publish_one(&replica, &user, task, 1).await;
    inbox.wait_for(1).await;
    let (events, group) = (keys().events(&user), replica.group());
    // A late read of an earlier connection takes the entry, and its reply reaches nobody.
    let late = format!("redis.call('XREADGROUP', 'GROUP', '{group}', 'gateway', 'STREAMS', KEYS[1], '>')");
    append_silently(&server, &user, 2..=2, &late);
    publish_one(&replica, &user, task, 3).await;
    let seqs: Vec<u64> = inbox.wait_for(3).await.iter().map(|entry| entry.seq.0).collect();
    assert_eq!((seqs, inbox.losses()), (vec![1, 2, 3], vec![]));
    inbox.clear();
    until("everything to be acknowledged", async || pending(&server, &events, &group) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_without_a_doorbell_is_found_by_the_sweep() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, task) = (user("unheard"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    publish_one(&replica, &user, task, 1).await;
    let mut seq = 1;
    // The first ones may be found by a read that an earlier doorbell asked for.
    while replica.missed_none() {
        seq += 1;
        append_silently(&server, &user, seq..=seq, "");
        let entries = inbox.wait_for(usize::try_from(seq).unwrap()).await;
        assert_eq!(entries.last().unwrap().seq.0, seq);
    }
    assert_eq!(inbox.losses(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_lost_with_its_primary_is_told_by_the_sweep() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, task) = (user("failover"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    let first = publish_one(&replica, &user, task, 1).await;
    let second = publish_one(&replica, &user, task, 2).await;
    inbox.wait_for(2).await;
    // The new primary has never heard of the second entry.
    server.command(&["XDEL", &keys().events(&user), &second]).unwrap();
    server.command(&["HSET", &keys().epoch(&user), "last", &first]).unwrap();
    inbox.wait_until("the loss", |inbox| inbox.losses() == [Loss::Ahead]).await;
    publish_one(&replica, &user, task, 3).await;
    assert_eq!(inbox.wait_for(3).await[2].seq.0, 3);
    assert_eq!(inbox.losses(), [Loss::Ahead]);
}

/// Somebody else writes under the key of a user's stream: that user alone is without live progress, and it passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_stops_its_user_alone_until_it_is_gone() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (hit, task) = (user("hit"), TaskId::generate());
    let neighbour = of_the_same_shard(&hit);
    let (_one, inbox) = replica.follow(&hit).await;
    let (_other, others) = replica.follow(&neighbour).await;
    publish_one(&replica, &hit, task, 1).await;
    inbox.wait_for(1).await;
    until("readiness", async || replica.bus.health().ready).await;

    for key in [keys().events(&hit), keys().epoch(&hit)] {
        server.command(&["DEL", &key]).unwrap();
        server.command(&["SET", &key, "not ours"]).unwrap();
        server.command(&["SPUBLISH", &keys().doorbell(&hit), "9999999999999-0"]).unwrap();
        assert!(replica.bus.publish(&hit, &progress(task, 1, 99)).await.is_err());
        others.clear();
        let (other, before) = (TaskId::generate(), Instant::now());
        for seq in 1..=20 {
            publish_one(&replica, &neighbour, other, seq).await;
            others.wait_for(usize::try_from(seq).unwrap()).await;
        }
        // A reader that stops at the key comes back after pauses of up to 2 s, twenty times.
        assert!(before.elapsed() < PATIENCE, "the neighbour waited {:?}", before.elapsed());
        assert!(replica.bus.health().ready, "{:?}", replica.bus.health());
        let before = calls(&server);
        // The time itself is what is measured over.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calls = calls(&server) - before;
        assert!(calls < 400, "{calls} commands in two idle seconds, ten sweeps and two probes");

        server.command(&["DEL", &key]).unwrap();
        inbox.clear();
        let new = TaskId::generate();
        replica.publish(&hit, new, 1..=2).await;
        inbox.wait_until("the loss", |inbox| inbox.losses().contains(&Loss::Epoch)).await;
        replica.publish(&hit, new, 3..=3).await;
        let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 3);
        inbox.wait_until("what came after", last).await;
    }
}

/// Another user whose stream is read in the same call.
fn of_the_same_shard(user: &UserId) -> UserId {
    let others = (0..).map(|n| UserId::new(format!("{user}-{n}")).unwrap());
    others.into_iter().find(|other| Shard::of(other) == Shard::of(user)).unwrap()
}

/// Commands that the server has processed.
fn calls(server: &Server) -> u64 {
    let info = server.command(&["INFO", "stats"]).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    line.unwrap().trim().parse().unwrap()
}
