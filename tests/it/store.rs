//! The Postgres store: the promises of every store, and what only a database promises.

use std::sync::Arc;
use std::time::Duration;

use milepost::store::contract::{self, AnyStore};
use milepost::store::postgres::statements;
use milepost::store::{Leadership, PostgresStore};
use milepost_harness::Postgres;
use sqlx::{Executor, SqlSafeStr};

use crate::database::migrated;

#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_keeps_every_promise() {
    let postgres = Postgres::start().unwrap();
    let fresh = async || Arc::new(PostgresStore::new(migrated(&postgres).await)) as AnyStore;
    contract::holds(fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_is_understood_by_a_real_server() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (name, sql) in statements::ALL {
        let prepared = database.pool().prepare(sql.into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {:?}", prepared.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_leads_until_it_steps_down_or_dies() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let [one, two] = [(); 2].map(|()| PostgresStore::new(database.clone()));
    assert!(one.lead().await.unwrap());
    assert!(!two.lead().await.unwrap());
    one.step_down().await;
    eventually(async || two.lead().await.unwrap()).await;
    assert!(!one.lead().await.unwrap());
    let holder = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    sqlx::query(holder).execute(database.pool()).await.unwrap();
    two.lead().await.expect_err("the session is gone, and the lead with it");
    eventually(async || one.lead().await.unwrap()).await;
    assert!(!two.lead().await.unwrap());
}

async fn eventually(done: impl AsyncFn() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it happens within 30 s");
}
