//! Milepost runs batch operations on worker replicas and streams every step, live and resumable, to whoever is
//! watching, through any gateway replica.
//!
//! Modules in reading order. Arrows point one way: `cli` wires the roles; roles meet only through ports; ports speak
//! the words of the core.
//!
//! * core: [`task`]
//! * ports, each beside its backends: [`bus`] · [`store`] · [`dispatch`] · [`tickets`] · [`templates`] · [`action`] · [`clock`]; with
//!   faults in front of them, for tests: [`faulty`]
//! * shared plumbing of backends: [`postgres`] · [`redis`]
//! * roles: [`gateway`], on connections of [`http`] · [`worker`] · [`maintenance`]
//! * a cluster to try things on: [`simulator`]
//! * around them: [`config`] · [`telemetry`] · [`lifecycle`] · [`admin`]
//! * outside: [`client`] · the checker of recorded runs: [`verify`] · the command line: [`cli`], which wires everything

pub mod action;
pub mod admin;
pub mod bus;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod faulty;
pub mod gateway;
pub mod http;
pub mod lifecycle;
pub mod maintenance;
mod planted;
pub mod postgres;
pub mod redis;
pub mod simulator;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod templates;
pub mod tickets;
pub mod verify;
pub mod worker;

/// Any error, for `source()` chains across a port.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
