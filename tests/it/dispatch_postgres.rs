//! Wake-ups through a real Postgres: the contract in both notify modes, and what happens to listeners.

use std::sync::Arc;
use std::time::Duration;

use milepost::config::{BusConfig, Notify};
use milepost::dispatch::{Dispatcher, PostgresDispatch, TokenSource, contract};
use milepost::faulty::fixtures;
use milepost::lifecycle::Lifecycle;
use milepost::postgres::Database;
use milepost::task::{ReplicaId, TaskId};
use milepost_harness::Postgres;
use sqlx::{Executor, SqlSafeStr};
use tokio::time::Instant;

use crate::database::migrated;
use crate::support::{PATIENCE, until};

const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    dispatch: PostgresDispatch,
    database: Database,
    lifecycle: Lifecycle,
}

impl Fixture {
    async fn start(postgres: &Postgres, config: &BusConfig) -> Self {
        let (database, lifecycle) = (migrated(postgres).await, Lifecycle::new());
        let dispatch = PostgresDispatch::new(database.clone(), config, &lifecycle);
        Self { dispatch, database, lifecycle }
    }

    async fn receiver(&self) -> Box<dyn TokenSource> {
        let mut receiver = self.dispatch.receiver(&ReplicaId::generate("worker")).await.unwrap();
        let first = receiver.receive(10, PATIENCE).await.unwrap();
        assert_eq!(first.len(), 1, "a receiver begins with a look for itself");
        receiver
    }

    async fn listeners(&self) -> i64 {
        let count = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'milepost listener'";
        sqlx::query_scalar(count).fetch_one(self.database.pool()).await.unwrap()
    }
}

impl contract::Fixture for Fixture {
    fn dispatcher(&self, _: usize) -> Arc<dyn Dispatcher> {
        Arc::new(self.dispatch.clone())
    }

    fn redelivers(&self) -> bool {
        false
    }
}

/// Notifications must do all the work: the poll is too rare to help.
fn listening() -> BusConfig {
    BusConfig { poll_interval: HOUR, ..BusConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_notifications() {
    let postgres = Postgres::start().unwrap();
    contract::holds(&Fixture::start(&postgres, &listening()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_callers_that_ask_again() {
    for (plan, _) in fixtures::plans() {
        let postgres = Postgres::start().unwrap();
        let fixture = Fixture::start(&postgres, &listening()).await;
        contract::holds(&fixtures::Through::new(fixture, &plan)).await;
        assert!(plan.met("dispatcher.receiver") > 0, "no fault bit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_fits_the_schema() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (name, statement) in milepost::dispatch::postgres::STATEMENTS {
        let prepared = database.pool().prepare(statement.into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {prepared:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_polls_alone_a_receive_ends_soon_and_empty() {
    let postgres = Postgres::start().unwrap();
    let config = BusConfig { notify: Notify::Poll, poll_interval: Duration::from_millis(50), ..listening() };
    let fixture = Fixture::start(&postgres, &config).await;
    let mut receiver = fixture.receiver().await;
    fixture.dispatch.notify(TaskId::generate()).await.unwrap();
    let start = Instant::now();
    let tokens = tokio::time::timeout(PATIENCE, receiver.receive(10, HOUR)).await.unwrap().unwrap();
    assert!(tokens.is_empty(), "nothing was rung: {tokens:?}");
    assert!(start.elapsed() >= Duration::from_millis(40), "a worker would spin");
    assert_eq!(fixture.listeners().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ring_wakes_every_worker() {
    let postgres = Postgres::start().unwrap();
    let fixture = Fixture::start(&postgres, &listening()).await;
    let (mut one, mut two) = (fixture.receiver().await, fixture.receiver().await);
    let task = TaskId::generate();
    fixture.dispatch.notify(task).await.unwrap();
    for receiver in [&mut one, &mut two] {
        let tokens = receiver.receive(10, PATIENCE).await.unwrap();
        assert_eq!(tokens.iter().map(|token| token.task_id).collect::<Vec<_>>(), [Some(task)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_listener_comes_back_with_a_look_for_itself() {
    let postgres = Postgres::start().unwrap();
    let fixture = Fixture::start(&postgres, &listening()).await;
    let mut receiver = fixture.receiver().await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'milepost listener'";
    let killed: i64 = sqlx::query_scalar(kill).fetch_one(fixture.database.pool()).await.unwrap();
    assert_eq!(killed, 1);
    let tokens = receiver.receive(10, PATIENCE).await.unwrap();
    assert_eq!(tokens.len(), 1, "rings may have been missed: {tokens:?}");
    let task = TaskId::generate();
    fixture.dispatch.notify(task).await.unwrap();
    let tokens = receiver.receive(10, PATIENCE).await.unwrap();
    assert_eq!(tokens.iter().map(|token| token.task_id).collect::<Vec<_>>(), [Some(task)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_wakes_the_workers() {
    let mut postgres = Postgres::start().unwrap();
    let fixture = Fixture::start(&postgres, &listening()).await;
    let mut receiver = fixture.receiver().await;
    postgres.process().kill().unwrap();
    assert!(fixture.dispatch.notify(TaskId::generate()).await.is_err());
    postgres.run().unwrap();
    let tokens = receiver.receive(10, PATIENCE).await.unwrap();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_receiver_leaves_nothing_behind() {
    let postgres = Postgres::start().unwrap();
    let fixture = Fixture::start(&postgres, &listening()).await;
    let receiver = fixture.receiver().await;
    assert_eq!(fixture.listeners().await, 1);
    receiver.close().await.unwrap();
    until("its connection is closed", async || fixture.listeners().await == 0).await;
    fixture.lifecycle.shut_down(PATIENCE).await;
}
