//! The plumbing to Postgres: migrations, the check of the schema, and deadlines when the server stands still.

use std::time::Duration;

use milepost::config::DatabaseConfig;
use milepost::postgres::{Database, SchemaError};
use milepost::telemetry::Metrics;
use milepost_harness::Postgres;
use nix::sys::signal::Signal;
use sqlx::{ConnectOptions, Connection};

/// A configuration for a test's own database.
pub fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig { url: Some(url.into()), ..DatabaseConfig::default() }
}

/// A connected database with the schema of this release.
pub async fn migrated(postgres: &Postgres) -> Database {
    let url = postgres.database().expect("a new database");
    let database =
        Database::connect(&config(&url), "milepost-test", &Metrics::new()).await.expect("it answers");
    database.migrate().await.expect("the schema is made");
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_refused_until_it_is_migrated() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let database = Database::connect(&config(&url), "milepost-test", &Metrics::new()).await.unwrap();
    let error = database.check_schema().await.unwrap_err();
    assert!(matches!(error, SchemaError::Older { .. }));
    assert!(error.to_string().contains("run `milepost migrate`"), "{error}");
    let (one, other) = tokio::join!(database.migrate(), database.migrate());
    one.unwrap();
    other.unwrap();
    database.check_schema().await.unwrap();
    database.migrate().await.unwrap();
}

/// As when one replica makes an index concurrently while another one starts to migrate.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_migration_is_not_in_its_way() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let database = Database::connect(&config(&url), "milepost-test", &Metrics::new()).await.unwrap();
    let mut first = database.options().connect().await.unwrap();
    sqlx::raw_sql("SELECT pg_try_advisory_lock(20263, 0); CREATE TABLE busy (n int)")
        .execute(&mut first)
        .await
        .unwrap();
    let mut waiting = Box::pin(database.migrate());
    let early = tokio::time::timeout(Duration::from_millis(1_500), &mut waiting).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    sqlx::raw_sql("CREATE INDEX CONCURRENTLY busy_n ON busy (n)").execute(&mut first).await.unwrap();
    first.close().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("its turn comes").unwrap();
    database.check_schema().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_given_up_at_the_deadline() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let short = DatabaseConfig {
        acquire_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
        // Otherwise a call may open another connection before the one that is stopped is back in the pool.
        connections_max: 1,
        ..config(&url)
    };
    let database = Database::connect(&short, "milepost-test", &Metrics::new()).await.unwrap();
    let backends: Vec<i32> =
        sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE application_name = 'milepost-test'")
            .fetch_all(database.pool())
            .await
            .unwrap();
    signal(&backends, Signal::SIGSTOP);
    let answer = tokio::time::timeout(Duration::from_secs(20), database.ping()).await;
    signal(&backends, Signal::SIGCONT);
    answer.expect("the deadline is far below 20 s").unwrap_err();
    tokio::time::timeout(Duration::from_secs(20), async { while database.ping().await.is_err() {} })
        .await
        .expect("it answers again");
}

fn signal(pids: &[i32], signal: Signal) {
    for &pid in pids {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the backend is there");
    }
}
