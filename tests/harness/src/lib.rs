//! Private servers for tests and load runs: real Redis and Postgres on free ports in temporary folders.
//!
//! Every server may be killed, stopped and wiped, because nobody else uses it. A server ends when its handle is
//! dropped, and also when the process that started it dies, however it dies. [`hub`] starts a whole Milepost of real
//! processes; [`proxy`] and [`clock`] make what lies between them and what they see fail. Nothing here knows its code.

pub mod chromium;
pub mod clock;
pub mod cluster;
pub mod hub;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod replica;
pub mod sentinel;

pub use chromium::Chromium;
pub use clock::FakeClock;
pub use cluster::Cluster;
pub use hub::{Hub, HubMode, HubSpec, SECRET};
pub use postgres::Postgres;
pub use process::Process;
pub use proxy::{Flow, Proxy, Trap, Way};
pub use redis::Redis;
pub use replica::{Replica, ReplicaSpec};
pub use sentinel::SentinelSet;
