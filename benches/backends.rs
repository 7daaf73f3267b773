//! Calls to Redis and Postgres as workers make them, against servers that are started for it.
//!
//! `make bench` runs them; a machine without the servers skips them and says so. Not here: what runs without a server (`hot`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use milepost::bus::contract::{progress, user};
use milepost::bus::{Publisher, RedisPublisher};
use milepost::config::{BusConfig, DatabaseConfig, RedisConfig};
use milepost::postgres::Database;
use milepost::redis::Redis;
use milepost::store::{ClaimRules, ClaimStore, Created, Fence, NewTask, PostgresStore, TaskStore};
use milepost::task::{
    Draft, Effect, ItemName, ItemOutcome, ItemResult, Origin, ReplicaId, TaskId, TaskSpec, UserId,
};
use milepost::telemetry::metrics::Metrics;
use milepost_harness::{Postgres, Redis as RedisServer};
use tokio::runtime::Runtime;

/// Items of the task whose results are recorded: more than all benches record.
const ITEMS: u32 = 100_000;

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// Events published at once, until all are acknowledged. More than one go out in pipelines.
#[divan::bench(args = [1, 16, 128], sample_size = 1, max_time = 5)]
fn publish_redis(bencher: Bencher<'_, '_>, at_once: u64) {
    let Ok(server) = RedisServer::start() else { return eprintln!("skipped: no Redis") };
    let runtime = runtime();
    let config = RedisConfig { url: Some(server.url().into()), ..RedisConfig::default() };
    let publisher = runtime.block_on(async {
        let redis = Redis::connect(&config, &Metrics::new()).expect("a valid address");
        RedisPublisher::start(&redis, &BusConfig::default())
    });
    let (user, task, mut seq) = (user("bench"), TaskId::generate(), 0);
    let events = || {
        let first = seq + 1;
        seq += at_once;
        (first..=seq).map(|seq| progress(task, 1, seq)).collect::<Vec<_>>()
    };
    bencher.counter(ItemsCount::new(at_once)).with_inputs(events).bench_local_values(|events| {
        let publish = events.iter().map(|event| publisher.publish(&user, event));
        runtime.block_on(try_join_all(publish)).expect("published")
    });
}

/// A task that a worker has claimed.
struct Claimed {
    store: PostgresStore,
    fence: Fence,
    next: AtomicU32,
}

impl Claimed {
    async fn on(server: &Postgres) -> Self {
        let url = server.database().expect("a new database");
        let config = DatabaseConfig { url: Some(url.into()), ..DatabaseConfig::default() };
        let database = Database::connect(&config, "bench", &Metrics::new()).await.expect("it answers");
        database.migrate().await.expect("the schema is made");
        let store = PostgresStore::new(database);
        let draft = Draft {
            action: "wait".into(),
            parameters: serde_json::json!({"duration_ms": 1}),
            cluster: "prod".into(),
            items: (0..ITEMS).map(name).collect(),
            ..Draft::default()
        };
        let spec = TaskSpec::new(draft).expect("a valid draft");
        let owner = UserId::new("bench").expect("a valid name");
        let id = TaskId::generate();
        let created = store
            .create(NewTask { id, owner, spec, key: None, open_max: 1, origin: Origin::default() })
            .await;
        assert!(matches!(created, Ok(Created::New(_))), "{created:?}");
        let rules = ClaimRules { lease: Duration::from_secs(600), per_cluster_max: 1 };
        let worker = ReplicaId::new("bench").expect("a valid name");
        let task = store.claim(&worker, &rules).await.expect("it answers").expect("a task").task;
        let fence = Fence { task: task.id, attempt: task.state.attempt };
        Self { store, fence, next: AtomicU32::new(0) }
    }

    /// The next results that are not in the record yet.
    fn results(&self, n: u32) -> Vec<ItemResult> {
        let first = self.next.fetch_add(n, Ordering::Relaxed);
        assert!(first + n <= ITEMS, "there are items for all");
        let result = |index| ItemResult {
            index,
            name: ItemName::new(name(index)).expect("a valid name"),
            outcome: ItemOutcome::Succeeded { effect: Effect::Changed },
            tries: 1,
            finished_at: Timestamp::UNIX_EPOCH,
        };
        (first..first + n).map(result).collect()
    }
}

fn name(index: u32) -> String {
    format!("node-{index:06}")
}

/// The statement that records so many results under the fence, its commit included.
#[divan::bench(args = [1, 50, 500], sample_size = 1, sample_count = 100)]
fn record_postgres(bencher: Bencher<'_, '_>, results: u32) {
    let Ok(server) = Postgres::start() else { return eprintln!("skipped: no Postgres") };
    let runtime = runtime();
    let claimed = runtime.block_on(Claimed::on(&server));
    bencher.counter(ItemsCount::new(results)).with_inputs(|| claimed.results(results)).bench_local_values(
        |results| {
            let counts = runtime.block_on(claimed.store.record(claimed.fence, black_box(&results)));
            counts.expect("recorded")
        },
    );
}
