//! Sentinel and Cluster: the suites of every port that Redis keeps, and what a failover and a slot's move do to the bus
//! and to wake-ups. Whole processes are in [`crate::failover`].

mod cluster;
mod sentinel;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use milepost::bus::{Feed, Publisher, contract as bus};
use milepost::config::RedisConfig;
use milepost::dispatch::{Dispatcher, RedisDispatch, contract as dispatch};
use milepost::redis::Redis;
use milepost::task::UserId;
use milepost::telemetry::Metrics;
use milepost::tickets::{RedisTickets, Tickets, contract as tickets};
use milepost_harness::{Cluster, SentinelSet};

use crate::bus_redis::{Replica, keys, patient, pending};

/// How long a server must be silent to be taken for lost, for tests in which none shall be. Longer than a loaded machine
/// holds one up.
const NEVER: Duration = Duration::from_secs(60);

fn connect(url: &str) -> Redis {
    let config = RedisConfig { url: Some(url.into()), ..RedisConfig::default() };
    Redis::connect(&config, &Metrics::new()).unwrap()
}

/// Servers that have all keys between them.
trait Servers: Send + Sync {
    fn url(&self) -> String;

    /// The server that has a key.
    fn of(&self, key: &str) -> &milepost_harness::Redis;
}

impl Servers for SentinelSet {
    fn url(&self) -> String {
        self.url()
    }

    fn of(&self, _: &str) -> &milepost_harness::Redis {
        &self.servers()[self.primary().unwrap()]
    }
}

impl Servers for Cluster {
    fn url(&self) -> String {
        self.url()
    }

    fn of(&self, key: &str) -> &milepost_harness::Redis {
        &self.nodes()[self.owner(self.slot(key).unwrap()).unwrap()]
    }
}

/// Two replicas on some servers.
struct Fixture<S> {
    servers: S,
    replicas: [Replica; 2],
}

impl<S: Servers> Fixture<S> {
    fn on(servers: S) -> Self {
        let replica = || Replica::at(&servers.url(), &patient());
        Self { replicas: [replica(), replica()], servers }
    }
}

#[async_trait]
impl<S: Servers> bus::Fixture for Fixture<S> {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.replicas[0].bus.clone()
    }

    fn feed(&self, replica: usize) -> Arc<dyn Feed> {
        self.replicas[replica].bus.clone()
    }

    async fn wipe(&self, user: &UserId) {
        let server = self.servers.of(&keys().events(user));
        let found = server.command(&["KEYS", &format!("mp:*:u:{user}:*")]).unwrap();
        let mut wipe = vec!["DEL"];
        wipe.extend(found.lines().filter(|line| line.starts_with("mp:")));
        server.command(&wipe).unwrap();
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        let events = keys().events(user);
        self.servers.of(&events).command(&["XTRIM", &events, "MAXLEN", &keep.to_string()]).unwrap();
    }

    async fn unacked(&self, user: &UserId, replica: usize) -> Option<u64> {
        let events = keys().events(user);
        Some(pending(self.servers.of(&events), &events, &self.replicas[replica].group()))
    }
}

struct Dispatches([Arc<dyn Dispatcher>; 2]);

impl dispatch::Fixture for Dispatches {
    fn dispatcher(&self, replica: usize) -> Arc<dyn Dispatcher> {
        Arc::clone(&self.0[replica])
    }

    fn redelivers(&self) -> bool {
        true
    }
}

struct Ticketers([Arc<dyn Tickets>; 2]);

impl tickets::Fixture for Ticketers {
    fn tickets(&self, replica: usize) -> Arc<dyn Tickets> {
        Arc::clone(&self.0[replica])
    }
}

/// Every promise of every port that Redis keeps.
async fn the_contracts_hold(servers: impl Servers) {
    let redis = || connect(&servers.url());
    let dispatcher = || -> Arc<dyn Dispatcher> { Arc::new(RedisDispatch::new(redis())) };
    dispatch::holds(&Dispatches([dispatcher(), dispatcher()])).await;
    let ticketer = || -> Arc<dyn Tickets> { Arc::new(RedisTickets::new(redis())) };
    tickets::holds(&Ticketers([ticketer(), ticketer()])).await;
    bus::holds(&Fixture::on(servers)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contracts_hold_with_sentinel() {
    let set = tokio::task::block_in_place(|| SentinelSet::start(1, NEVER)).unwrap();
    the_contracts_hold(set).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contracts_hold_on_a_cluster() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(NEVER)).unwrap();
    the_contracts_hold(cluster).await;
}
