//! Tests of the whole: real binaries, real Redis, real Postgres. One file per capability.

mod database;
mod kubernetes;
mod servers;
