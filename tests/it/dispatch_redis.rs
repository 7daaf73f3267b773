//! Wake-ups on a real Redis: the contract, and what happens to tokens when workers, groups and servers die.

use std::sync::Arc;
use std::time::Duration;

use milepost::config::RedisConfig;
use milepost::dispatch::{Dispatcher, RedisDispatch, Token, TokenSource, contract};
use milepost::faulty::fixtures;
use milepost::redis::Redis;
use milepost::task::{ReplicaId, TaskId};
use milepost::telemetry::Metrics;
use tokio::time::Instant;

use crate::support::{PATIENCE, until};

type Server = milepost_harness::Redis;

struct Fixture {
    replicas: [Arc<dyn Dispatcher>; 2],
}

impl contract::Fixture for Fixture {
    fn dispatcher(&self, replica: usize) -> Arc<dyn Dispatcher> {
        Arc::clone(&self.replicas[replica])
    }

    fn redelivers(&self) -> bool {
        true
    }
}

fn connect(server: &Server) -> Redis {
    let config = RedisConfig { url: Some(server.url().into()), ..RedisConfig::default() };
    Redis::connect(&config, &Metrics::new()).unwrap()
}

fn dispatch(server: &Server) -> RedisDispatch {
    RedisDispatch::new(connect(server)).with_claim_idle(Duration::from_millis(300))
}

fn worker(name: &str) -> ReplicaId {
    ReplicaId::generate(name)
}

/// Receives until something comes, errors of a server that comes back included.
async fn eventually(receiver: &mut dyn TokenSource) -> Vec<Token> {
    let end = Instant::now() + PATIENCE;
    loop {
        let last = receiver.receive(10, Duration::from_millis(500)).await;
        match last {
            Ok(tokens) if !tokens.is_empty() => return tokens,
            _ => assert!(Instant::now() < end, "no token came: {last:?}"),
        }
    }
}

fn tasks(tokens: &[Token]) -> Vec<TaskId> {
    tokens.iter().filter_map(|token| token.task_id).collect()
}

fn length(server: &Server) -> String {
    server.command(&["XLEN", "mp:dispatch"]).unwrap().trim().to_owned()
}

fn consumers(server: &Server) -> usize {
    server.command(&["XINFO", "CONSUMERS", "mp:dispatch", "workers"]).unwrap().matches("name").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    let server = Server::start().unwrap();
    let one = || -> Arc<dyn Dispatcher> { Arc::new(RedisDispatch::new(connect(&server))) };
    contract::holds(&Fixture { replicas: [one(), one()] }).await;
    assert_eq!(length(&server), ":0", "acked tokens leave the stream");
    assert_eq!(consumers(&server), 0, "closed receivers leave the group");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_callers_that_ask_again() {
    for (plan, _) in fixtures::plans() {
        let server = Server::start().unwrap();
        let one = || -> Arc<dyn Dispatcher> { Arc::new(RedisDispatch::new(connect(&server))) };
        contract::holds(&fixtures::Through::new(Fixture { replicas: [one(), one()] }, &plan)).await;
        assert!(plan.met("dispatcher.receiver") > 0, "no fault bit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_dead_worker_pass_on_and_its_late_ack_changes_nothing() {
    let server = Server::start().unwrap();
    let dispatch = dispatch(&server);
    let (task, mut zombie) = (TaskId::generate(), dispatch.receiver(&worker("zombie")).await.unwrap());
    dispatch.notify(task).await.unwrap();
    let held = eventually(zombie.as_mut()).await.pop().unwrap();

    let mut heir = dispatch.receiver(&worker("heir")).await.unwrap();
    let inherited = eventually(heir.as_mut()).await;
    assert_eq!(tasks(&inherited), [task]);
    assert!(!zombie.ack(held).await.unwrap(), "the refusal is told");
    assert_eq!(length(&server), ":1", "the ack of one that lost the token must not end it");
    assert!(heir.ack(inherited[0].clone()).await.unwrap());
    assert_eq!(length(&server), ":0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_wait_closes_its_connection_and_loses_no_token() {
    let server = Server::start().unwrap();
    let dispatch = dispatch(&server);
    let mut receiver = dispatch.receiver(&worker("impatient")).await.unwrap();
    let wait = receiver.receive(10, PATIENCE);
    assert!(tokio::time::timeout(Duration::from_millis(200), wait).await.is_err(), "nothing was rung");
    milepost_harness::process::wait_for(PATIENCE, "the server to end the wait", || {
        Ok(server.command(&["INFO", "clients"])?.contains("blocked_clients:0\r"))
    })
    .unwrap();
    let task = TaskId::generate();
    dispatch.notify(task).await.unwrap();
    assert_eq!(tasks(&eventually(receiver.as_mut()).await), [task]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_group_or_stream_is_made_again_while_somebody_waits() {
    let server = Server::start().unwrap();
    let dispatch = dispatch(&server);
    let mut receiver = dispatch.receiver(&worker("steady")).await.unwrap();
    for loss in [&["XGROUP", "DESTROY", "mp:dispatch", "workers"][..], &["DEL", "mp:dispatch"], &["FLUSHALL"]]
    {
        let ringing = async {
            // Let the receiver block first, so that the loss meets it there.
            let blocked =
                async || !server.command(&["INFO", "clients"]).unwrap().contains("blocked_clients:0\r");
            until("the receiver blocks", blocked).await;
            server.command(loss).unwrap();
            let task = TaskId::generate();
            dispatch.notify(task).await.unwrap();
            task
        };
        let (tokens, task) = tokio::join!(eventually(receiver.as_mut()), ringing);
        assert_eq!(tasks(&tokens), [task], "after {loss:?}");
        for token in tokens {
            receiver.ack(token).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_empty_is_used_again() {
    let mut server = Server::start().unwrap();
    let dispatch = dispatch(&server);
    let mut receiver = dispatch.receiver(&worker("survivor")).await.unwrap();
    assert!(receiver.receive(1, Duration::from_millis(50)).await.unwrap().is_empty());
    server.process().kill().unwrap();
    assert!(receiver.receive(1, Duration::from_millis(50)).await.is_err());
    server.run().unwrap();
    let task = TaskId::generate();
    let end = Instant::now() + PATIENCE;
    while dispatch.notify(task).await.is_err() {
        assert!(Instant::now() < end, "the server is not found again");
    }
    assert_eq!(tasks(&eventually(receiver.as_mut()).await), [task]);
}

/// The commands last sent by the clients of a server.
fn last_commands(server: &Server) -> String {
    server.command(&["CLIENT", "LIST"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_demoted_primary_are_given_up() {
    let server = Server::start().unwrap();
    let dispatch = dispatch(&server);
    let mut receiver = dispatch.receiver(&worker("loyal")).await.unwrap();
    dispatch.notify(TaskId::generate()).await.unwrap();
    for token in eventually(receiver.as_mut()).await {
        receiver.ack(token).await.unwrap();
    }
    assert!(receiver.receive(1, Duration::from_millis(50)).await.unwrap().is_empty());
    assert!(last_commands(&server).contains("cmd=xreadgroup"));

    server.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    assert!(dispatch.notify(TaskId::generate()).await.is_err());
    assert!(receiver.receive(1, Duration::from_millis(50)).await.is_err());
    let gone =
        async || !["cmd=xreadgroup", "cmd=xadd"].iter().any(|cmd| last_commands(&server).contains(cmd));
    until("the connections are given up", gone).await;

    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let task = TaskId::generate();
    dispatch.notify(task).await.unwrap();
    assert_eq!(tasks(&eventually(receiver.as_mut()).await), [task]);
}
