//! The server itself: dead, without the library, or not fit.

use milepost::bus::contract::{Collector, progress, user};
use milepost::bus::{Feed, Publisher};
use milepost::redis::LIBRARY;
use milepost::task::TaskId;
use milepost::telemetry::Metrics;

use super::{Replica, Server, connect, patient};
use crate::support::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_an_error_in_good_time() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let user = user("dead");
    let head = replica.bus.head(&user).await.unwrap();
    server.process().signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    let event = progress(TaskId::generate(), 1, 1);
    let calls = async {
        let (inbox, tasks) = (Collector::new(), [event.task_id]);
        let (a, b, c, d) = tokio::join!(
            replica.bus.publish(&user, &event),
            replica.bus.follow(&user, inbox),
            replica.bus.replay(&user, &head, 10),
            replica.bus.live(&user, &tasks),
        );
        [a.is_err(), b.is_err(), c.is_err(), d.is_err()]
    };
    let failed = tokio::time::timeout(PATIENCE, calls).await.expect("every call has a deadline");
    assert_eq!(failed, [true; 4]);
    server.process().signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    eventually("the stream is read", async || replica.bus.replay(&user, &head, 10).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_is_installed_compared_and_healed() {
    use milepost::redis::LibraryState;
    let server = Server::start().unwrap();
    let redis = connect(&server, &Metrics::new());
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Missing);
    let replica = Replica::start(&server, &patient());
    replica.publish(&user("heals"), TaskId::generate(), 1..=1).await;
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Current);
    let other = format!("#!lua name={LIBRARY}\nredis.register_function('mp2_head', function() return 1 end)");
    server.command(&["FUNCTION", "LOAD", "REPLACE", &other]).unwrap();
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Different);
    redis.install_library().await.unwrap();
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Current);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_find_what_is_wrong_with_a_server() {
    use milepost::redis::checks::{Severity, check};
    let server = Server::start().unwrap();
    let redis = connect(&server, &Metrics::new());
    let faults = |findings: Vec<milepost::redis::checks::Finding>| -> Vec<&'static str> {
        findings.iter().filter(|f| f.severity != Severity::Good).map(|f| f.subject).collect()
    };
    let found = faults(check(&redis).await.unwrap());
    assert_eq!(found, ["persistence", "stream-node-max-bytes", "function library"]);
    for (setting, value) in [("appendonly", "yes"), ("stream-node-max-bytes", "1024")] {
        server.command(&["CONFIG", "SET", setting, value]).unwrap();
    }
    redis.install_library().await.unwrap();
    assert_eq!(faults(check(&redis).await.unwrap()), [""; 0]);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    assert_eq!(faults(check(&redis).await.unwrap()), ["maxmemory-policy"]);
}
