//! Tests of the whole: real binaries, real Redis, real Postgres. One file per capability.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod bus_postgres;
mod database;
mod dispatch_redis;
mod kubernetes;
mod servers;
mod store;
mod tickets_redis;
