//! Tickets on a real Redis.

use std::sync::Arc;

use milepost::config::RedisConfig;
use milepost::faulty::{Fault, Plan, fixtures};
use milepost::redis::Redis;
use milepost::telemetry::Metrics;
use milepost::tickets::{RedisTickets, Tickets, contract};

struct Fixture {
    replicas: [Arc<dyn Tickets>; 2],
}

impl contract::Fixture for Fixture {
    fn tickets(&self, replica: usize) -> Arc<dyn Tickets> {
        Arc::clone(&self.replicas[replica])
    }
}

fn tickets(server: &milepost_harness::Redis) -> Arc<dyn Tickets> {
    let config = RedisConfig { url: Some(server.url().into()), ..RedisConfig::default() };
    Arc::new(RedisTickets::new(Redis::connect(&config, &Metrics::new()).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    let server = milepost_harness::Redis::start().unwrap();
    contract::holds(&Fixture { replicas: [tickets(&server), tickets(&server)] }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_callers_that_ask_again() {
    let (server, plan) =
        (milepost_harness::Redis::start().unwrap(), Plan::in_turn(Fault::Before, &fixtures::ALL));
    let fixture = Fixture { replicas: [tickets(&server), tickets(&server)] };
    contract::holds(&fixtures::Through::new(fixture, &plan)).await;
    assert!(plan.met("tickets.redeem") > 0, "no fault bit");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticket_itself_is_nowhere_in_redis() {
    let server = milepost_harness::Redis::start().unwrap();
    let ticket = [0xab; 32];
    tickets(&server).issue(ticket, "grant".into(), std::time::Duration::from_secs(60)).await.unwrap();
    let keys = server.command(&["KEYS", "*"]).unwrap();
    assert!(keys.contains(&format!("mp:ticket:{}", "ab".repeat(32))), "{keys}");
    assert!(keys.starts_with("*1\r\n"), "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_an_error_in_good_time() {
    let server = milepost_harness::Redis::start().unwrap();
    let tickets = tickets(&server);
    assert_eq!(tickets.redeem([1; 32]).await.unwrap(), None);
    server.process().signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    let redeem = tokio::time::timeout(std::time::Duration::from_secs(10), tickets.redeem([1; 32])).await;
    let error = redeem.expect("a deadline").unwrap_err();
    assert_eq!(error.doing, "redeeming a ticket");
}
