//! Progress on a real Redis: the contract, what it forgets, its groups, what it keeps, and the server itself.

mod forgetting;
mod groups;
mod keeping;
mod server;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use milepost::bus::contract::{self, Collector, progress, user};
use milepost::bus::{Feed, Published, Publisher, RedisBus};
use milepost::config::bus::Ack;
use milepost::config::{BusConfig, RedisConfig};
use milepost::faulty::{Fault, Plan, fixtures};
use milepost::lifecycle::Lifecycle;
use milepost::redis::{Keys, Redis, Shard};
use milepost::task::{ReplicaId, TaskId, UserId};
use milepost::telemetry::Metrics;

use crate::support::eventually;

type Server = milepost_harness::Redis;

/// Settings under which a lost doorbell would be noticed as a delay: a sweep alone would come too late.
pub fn patient() -> BusConfig {
    BusConfig { sweep_interval: Duration::from_secs(3600), ..BusConfig::default() }
}

fn swept() -> BusConfig {
    BusConfig { sweep_interval: Duration::from_millis(200), ..BusConfig::default() }
}

/// A gateway replica's view of the bus.
pub struct Replica {
    name: ReplicaId,
    pub bus: Arc<RedisBus>,
    metrics: Metrics,
    life: Lifecycle,
}

impl Replica {
    fn start(server: &Server, config: &BusConfig) -> Self {
        Self::at(&server.url(), config)
    }

    pub fn at(url: &str, config: &BusConfig) -> Self {
        let (life, metrics, name) = (Lifecycle::new(), Metrics::new(), ReplicaId::generate("gateway"));
        let redis = connect_to(url, &metrics);
        let bus = Arc::new(RedisBus::start(redis, config, &name, &life).unwrap());
        Self { name, bus, metrics, life }
    }

    pub fn group(&self) -> String {
        format!("gw:{}", self.name)
    }

    /// Follows a user with an inbox that remembers.
    pub async fn follow(&self, user: &UserId) -> (milepost::bus::Following, Arc<Collector>) {
        let inbox = Collector::new();
        let following =
            eventually("the user is followed", async || self.bus.follow(user, inbox.clone()).await.ok())
                .await;
        (following, inbox)
    }

    /// Publishes the events `seqs` of attempt 1, through outages.
    pub async fn publish(&self, user: &UserId, task: TaskId, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            eventually("the event is published", async || {
                self.bus.publish(user, &progress(task, 1, seq)).await.ok()
            })
            .await;
        }
    }

    /// Whether every doorbell came.
    fn missed_none(&self) -> bool {
        self.metrics.text().contains("milepost_doorbells_missed_total 0")
    }

    fn repairs(&self, kind: &str) -> bool {
        !self.metrics.text().contains(&format!("milepost_bus_repairs_total{{kind=\"{kind}\"}} 0"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.life.hard().cancel();
    }
}

fn connect(server: &Server, metrics: &Metrics) -> Redis {
    connect_to(&server.url(), metrics)
}

fn connect_to(url: &str, metrics: &Metrics) -> Redis {
    let config = RedisConfig { url: Some(url.into()), ..RedisConfig::default() };
    Redis::connect(&config, metrics).unwrap()
}

pub fn keys() -> Keys {
    Keys::new("mp").unwrap()
}

/// A number that Redis replies.
pub fn number(server: &Server, words: &[&str]) -> u64 {
    server.command(words).unwrap().trim().trim_start_matches(':').parse().unwrap()
}

/// Entries pending in a group, summed over all its consumers.
pub fn pending(server: &Server, stream: &str, group: &str) -> u64 {
    let summary = server.command(&["XPENDING", stream, group]).unwrap();
    summary.lines().nth(1).unwrap().trim_start_matches(':').parse().unwrap()
}

struct Fixture {
    server: Server,
    replicas: [Replica; 2],
    acks: bool,
}

impl Fixture {
    fn start(config: &BusConfig) -> Self {
        let server = Server::start().unwrap();
        let replicas = [Replica::start(&server, config), Replica::start(&server, config)];
        Self { server, replicas, acks: config.ack == Ack::Batched }
    }
}

#[async_trait]
impl contract::Fixture for Fixture {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.replicas[0].bus.clone()
    }

    fn feed(&self, replica: usize) -> Arc<dyn Feed> {
        self.replicas[replica].bus.clone()
    }

    async fn wipe(&self, user: &UserId) {
        let found = self.server.command(&["KEYS", &format!("mp:*:u:{user}:*")]).unwrap();
        let mut wipe = vec!["DEL"];
        wipe.extend(found.lines().filter(|line| line.starts_with("mp:")));
        self.server.command(&wipe).unwrap();
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        self.server.command(&["XTRIM", &keys().events(user), "MAXLEN", &keep.to_string()]).unwrap();
    }

    async fn unacked(&self, user: &UserId, replica: usize) -> Option<u64> {
        self.acks.then(|| pending(&self.server, &keys().events(user), &self.replicas[replica].group()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    contract::holds(&Fixture::start(&patient())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_callers_that_ask_again_after_lost_replies() {
    let plan = Plan::in_turn(Fault::After, fixtures::REPEATABLE);
    contract::holds(&fixtures::Through::new(Fixture::start(&patient()), &plan)).await;
    assert!(plan.met("feed.follow") > 0 && plan.met("feed.replay") > 0, "no fault bit");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_a_sweep_all_the_time() {
    let config = BusConfig { sweep_interval: Duration::from_millis(5), ..BusConfig::default() };
    let fixture = Fixture::start(&config);
    contract::holds(&fixture).await;
    for replica in &fixture.replicas {
        assert!(
            replica.missed_none(),
            "every doorbell rang, so none was missed, however often a sweep was faster"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_without_acknowledgements() {
    contract::holds(&Fixture::start(&BusConfig { ack: Ack::None, ..patient() })).await;
}

async fn publish_one(replica: &Replica, user: &UserId, task: TaskId, seq: u64) -> String {
    match replica.bus.publish(user, &progress(task, 1, seq)).await.unwrap() {
        Published::Appended(position) => position.id.to_string(),
        Published::Repeat => panic!("{seq} was published before"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_shown_live_to_its_owner_only() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let owner = user("owner");
    // Another user of the same shard, who could reach the key.
    let other = (0..)
        .map(|n| user(&format!("other{n}")))
        .find(|other| Shard::of(other) == Shard::of(&owner))
        .unwrap();
    let task = TaskId::generate();
    replica.publish(&owner, task, 1..=2).await;
    assert_eq!(replica.bus.live(&owner, &[task]).await.unwrap().len(), 1);
    assert!(replica.bus.live(&other, &[task]).await.unwrap().is_empty());
}
