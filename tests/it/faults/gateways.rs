//! F04 and F05: a gateway dies or is told to stop under many sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::stage::{Stage, blocking, spec};
use super::watch::Socket;
use crate::support::{names, until, wait_batch};

/// So many users, each with nine raw sockets and a client of the product: 200 sockets.
const USERS: usize = 20;

/// A batch for every user, submitted at the gateways in turn, and all sockets open.
async fn crowd(stage: &mut Stage) {
    for n in 0..USERS {
        stage.watch(&user(n), 9).await;
    }
    for n in 0..USERS {
        let mut batch = wait_batch(&names(&user(n), 60), 250, 11);
        batch["concurrency"] = 4.into();
        stage.submit_at(n % 2, &user(n), &batch).await;
    }
    let first = stage.accepted[0].task.clone();
    stage.seen(&first, 12).await;
}

pub fn user(n: usize) -> String {
    format!("user-{n:02}")
}

/// Sockets that lost a connection after `since`.
pub fn lost(stage: &Stage, since: Instant) -> Vec<Arc<Socket>> {
    let lost = |socket: &Arc<Socket>| !socket.losses(since).is_empty();
    stage.sockets().into_iter().filter(lost).collect()
}

pub async fn all_back(sockets: &[Arc<Socket>]) {
    until("all sockets are back", async || sockets.iter().all(|socket| socket.is_up())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_gateway_killed_under_200_sockets() {
    let mut stage = Stage::start(spec());
    crowd(&mut stage).await;
    let (began, fault) = (Instant::now(), stage.fault("kill-gateway"));
    blocking(|| stage.hub.gateways[0].kill()).unwrap();
    until("its sockets notice", async || lost(&stage, began).len() >= 80).await;
    fault.bit(format!("{} sockets were cut", lost(&stage, began).len()));
    all_back(&stage.sockets()).await;
    // Sockets went on where they were: nobody had to begin anew, and the judge finds no number missing.
    let anew = lost(&stage, began).iter().filter(|socket| socket.resynced(began).is_some()).count();
    assert_eq!(anew, 0, "positions were not continued");
    let report = stage.judge().await;
    assert_eq!(report.totals.repeats, 0, "I8: a position that is continued repeats nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_gateway_told_to_stop() {
    let mut stage = Stage::start(spec());
    crowd(&mut stage).await;
    let (began, fault) = (Instant::now(), stage.fault("term-gateway"));
    blocking(|| stage.hub.gateways[0].stop(Duration::from_secs(30))).unwrap();
    let lost = lost(&stage, began);
    assert!(lost.len() >= 80, "void: {} sockets were closed", lost.len());
    fault.bit(format!("{} sockets were closed", lost.len()));
    let raw = lost.iter().filter(|socket| socket.raw);
    let codes: Vec<_> = raw.flat_map(|socket| socket.losses(began)).collect();
    assert!(codes.iter().all(|code| *code == Some(1012)), "{codes:?}");
    all_back(&lost).await;
    let back: Vec<Instant> = lost.iter().filter_map(|socket| socket.back(began)).collect();
    let spread = *back.iter().max().unwrap() - *back.iter().min().unwrap();
    assert!(spread > Duration::from_secs(1), "all came back within {spread:?}");
    stage.judge().await;
}
