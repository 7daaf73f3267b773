//! Tests of the whole: real binaries, real Redis, real Postgres. One file per capability.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod bad_input;
mod browser;
mod bus_postgres;
mod bus_redis;
mod cli;
mod control;
mod dashboard;
mod database;
mod deadlines;
mod dispatch_postgres;
mod dispatch_redis;
mod doctor;
mod documents;
mod failover;
mod faults;
mod gateway_acks;
mod gateway_announced;
mod gateway_api;
mod gateway_control;
mod gateway_faults;
mod gateway_live;
mod gateway_meanwhile;
mod gateway_outage;
mod gateway_pulse;
mod gateway_rig;
mod gateway_tickets;
mod handing_on;
mod kubernetes;
mod lost_ends;
mod main_job;
mod maintenance;
mod model;
mod redis_keys;
mod redis_topology;
mod servers;
mod soak;
mod store;
mod strategies;
mod support;
mod takeover;
mod tickets_postgres;
mod tickets_redis;
mod verify;
