//! Private servers for tests and load runs: real Redis and Postgres on free ports in temporary folders.
//!
//! Every server may be killed, stopped and wiped, because nobody else uses it. A server ends when its handle is
//! dropped, and also when the process that started it dies, however it dies. Nothing here knows Milepost.

pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;

pub use postgres::Postgres;
pub use process::Process;
pub use redis::Redis;
