//! Workers and maintenance over a real Postgres: a worker dies, or the database goes away, in the middle of a task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use milepost::action::{Action, ActionError, Actions, Context, Done, Target};
use milepost::bus::{PostgresPublisher, Publisher};
use milepost::clock::SystemClock;
use milepost::config::{AuditConfig, BusConfig, MaintenanceConfig, WorkerConfig};
use milepost::dispatch::{Dispatcher, MemoryDispatch};
use milepost::lifecycle::Lifecycle;
use milepost::postgres::Database;
use milepost::store::{NewTask, PostgresStore, Task, TaskStore, UpkeepStore};
use milepost::task::{Draft, Effect, Origin, ReplicaId, Status, TaskId, TaskSpec, UserId};
use milepost::telemetry::Metrics;
use milepost::{maintenance, worker};
use milepost_harness::Postgres;
use tokio::time::Instant;

use crate::database::migrated;
use crate::support::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// An action that takes 50 ms and counts its runs by item.
#[derive(Clone, Default)]
struct Counting {
    runs: Arc<Mutex<BTreeMap<u32, u32>>>,
}

#[async_trait]
impl Actions for Counting {
    async fn prepare(&self, _: &Task) -> Result<Arc<dyn Action>, ActionError> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Action for Counting {
    async fn run(&self, target: Target<'_>, _: &Context) -> Result<Done, ActionError> {
        *self.runs.lock().unwrap().entry(target.index).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(Done::Succeeded(Effect::Changed))
    }
}

/// One database and what runs on it.
struct Hub {
    database: Database,
    store: Arc<PostgresStore>,
    publisher: Arc<PostgresPublisher>,
    dispatch: MemoryDispatch,
    actions: Counting,
    metrics: Metrics,
}

impl Hub {
    async fn on(postgres: &Postgres) -> Self {
        let database = migrated(postgres).await;
        Self {
            store: Arc::new(PostgresStore::new(database.clone())),
            publisher: Arc::new(PostgresPublisher::new(database.clone(), &BusConfig::default())),
            dispatch: MemoryDispatch::new(),
            actions: Counting::default(),
            metrics: Metrics::new(),
            database,
        }
    }

    fn worker(&self, name: &str, config: WorkerConfig) -> Lifecycle {
        let life = Lifecycle::new();
        let parts = worker::Parts {
            store: self.store.clone(),
            publisher: self.publisher.clone(),
            dispatcher: Arc::new(self.dispatch.clone()),
            actions: Arc::new(self.actions.clone()),
            clusters: crate::support::no_clusters(),
            clock: Arc::new(SystemClock),
            metrics: self.metrics.clone(),
            config,
            replica: ReplicaId::new(name).unwrap(),
        };
        worker::run(parts, &life);
        life
    }

    fn maintenance(&self) -> Lifecycle {
        let life = Lifecycle::new();
        let parts = maintenance::Parts {
            store: self.store.clone(),
            leadership: self.store.clone(),
            publisher: self.publisher.clone() as Arc<dyn Publisher>,
            dispatcher: Arc::new(self.dispatch.clone()),
            metrics: self.metrics.clone(),
            config: MaintenanceConfig::default(),
            audit: AuditConfig::default(),
            stall_after: WorkerConfig::default().stall_after,
            extra: Vec::new(),
        };
        maintenance::run(parts, &life);
        life
    }

    async fn submit(&self, items: u32) -> TaskId {
        let draft = Draft {
            action: "cordon".into(),
            cluster: "prod".into(),
            items: (0..items).map(|index| format!("node-{index}")).collect(),
            ..Draft::default()
        };
        let spec = TaskSpec::new(draft).unwrap();
        let new = NewTask {
            id: TaskId::generate(),
            owner: UserId::new("ada").unwrap(),
            spec,
            key: None,
            open_max: 1_000,
            origin: Origin::default(),
        };
        let id = new.id;
        self.store.create(new).await.unwrap();
        self.dispatch.notify(id).await.unwrap();
        id
    }

    async fn task(&self, id: TaskId) -> Option<Task> {
        self.store.find(id).await.ok().flatten()
    }

    /// Waits until the task is as it should be; a database that is away counts as not yet.
    async fn until(&self, what: &str, id: TaskId, as_it_should: impl Fn(&Task) -> bool) -> Task {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(task) = self.task(id).await.filter(|task| as_it_should(task)) {
                return task;
            }
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn runs(&self) -> Vec<u32> {
        self.actions.runs.lock().unwrap().values().copied().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_task_goes_on_elsewhere_without_what_was_recorded() {
    let postgres = Postgres::start().unwrap();
    let hub = Hub::on(&postgres).await;
    let first = hub.worker("w1", WorkerConfig { lanes_per_task: 10, ..WorkerConfig::default() });
    let id = hub.submit(300).await;
    let half = hub.until("some results are recorded", id, |task| task.counts.succeeded >= 100).await;
    first.hard().cancel();
    first.stop();
    let _maintenance = hub.maintenance();
    // It does not know of the task: the reconciler rings when the lease is over, and it looks by itself then.
    let never = Duration::from_secs(1_000_000);
    let _second = hub.worker("w2", WorkerConfig { poll_interval: never, ..WorkerConfig::default() });
    let task = hub.until("it is completed", id, |task| task.state.status == Status::Completed).await;
    assert_eq!((task.counts.succeeded, task.state.attempt.0, half.state.attempt.0), (300, 2, 1));
    let runs = hub.runs();
    let twice = runs.iter().filter(|runs| **runs == 2).count();
    assert!(runs.len() == 300 && runs.iter().all(|runs| *runs <= 2));
    assert!(twice <= 200, "{twice} items ran twice although 100 were recorded");
    until("the end is told", async || hub.store.backlog().await.unwrap().outbox == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_for_a_moment_costs_time_only() {
    let postgres = Postgres::start().unwrap();
    let hub = Hub::on(&postgres).await;
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(hub.database.pool()).await.unwrap();
    let config = WorkerConfig { lease: Duration::from_secs(60), ..WorkerConfig::default() };
    let _worker = hub.worker("w1", config);
    let id = hub.submit(400).await;
    hub.until("results are recorded", id, |task| task.counts.succeeded >= 40).await;
    let shut = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false");
    let open = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    let cut =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'");
    postgres.sql("postgres", &shut).unwrap();
    postgres.sql("postgres", &cut).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(hub.task(id).await.is_none(), "the database is away");
    postgres.sql("postgres", &open).unwrap();
    let task = hub.until("it is completed", id, |task| task.state.status == Status::Completed).await;
    assert_eq!((task.counts.succeeded, task.state.attempt.0), (400, 1));
    assert_eq!(hub.runs(), vec![1; 400]);
    assert!(hub.metrics.publish_errors.get() > 0, "the worker met the outage");
}
