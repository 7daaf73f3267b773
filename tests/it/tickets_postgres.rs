//! Tickets in a real Postgres.

use std::sync::Arc;
use std::time::Duration;

use milepost::faulty::{Fault, Plan, fixtures};
use milepost::tickets::{PostgresTickets, Tickets, contract};
use milepost_harness::Postgres;
use sqlx::{Executor, SqlSafeStr};

use crate::database::migrated;

struct Fixture(PostgresTickets);

impl contract::Fixture for Fixture {
    fn tickets(&self, _: usize) -> Arc<dyn Tickets> {
        Arc::new(self.0.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    let postgres = Postgres::start().unwrap();
    contract::holds(&Fixture(PostgresTickets::new(migrated(&postgres).await))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_callers_that_ask_again() {
    let (postgres, plan) = (Postgres::start().unwrap(), Plan::in_turn(Fault::Before, &fixtures::ALL));
    let fixture = Fixture(PostgresTickets::new(migrated(&postgres).await));
    contract::holds(&fixtures::Through::new(fixture, &plan)).await;
    assert!(plan.met("tickets.redeem") > 0, "no fault bit");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_fits_the_schema() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (name, statement) in milepost::tickets::postgres::STATEMENTS {
        let prepared = database.pool().prepare(statement.into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {prepared:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_nobody_redeems_go_with_later_ones() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let tickets = PostgresTickets::new(database.clone());
    for n in 0..50 {
        tickets.issue([n; 32], "grant".into(), Duration::from_millis(1)).await.unwrap();
    }
    let valid = "SELECT count(*) FROM tickets WHERE expires_at > now()";
    let count = |statement| sqlx::query_scalar(statement).fetch_one(database.pool());
    while count(valid).await.unwrap() > 0_i64 {}
    for n in 100..104 {
        tickets.issue([n; 32], "grant".into(), Duration::from_secs(300)).await.unwrap();
    }
    let left: i64 = count("SELECT count(*) FROM tickets").await.unwrap();
    assert_eq!(left, 4, "only those that are good");
}
