//! Redis plumbing that the bus, dispatch and tickets share: connections, keys, the function library, and what to make
//! of errors.
//!
//! Three kinds of connection to each server, never mixed: a pool for commands that finish at once, dedicated ones for
//! commands that are supposed to hang, and one for subscriptions. One server, Sentinel and Cluster differ in who says
//! which servers there are, and in nothing else.
//!
//! Reading order: `topology` what the URL says · `discovery` asks who the servers are · `layout` who has which slot ·
//! `routing` the slot of a command · `servers` gets it there · `node` one server · `connection` what the others call.
//! Not here: streams and groups of users ([`crate::bus::redis`]) and tokens ([`crate::dispatch::redis`]).

mod backoff;
pub mod checks;
mod connection;
mod dedicated;
mod discovery;
mod errors;
mod keys;
mod layout;
mod node;
mod routing;
mod scripts;
mod servers;
mod topology;

pub use backoff::Backoff;
pub use connection::{CallError, Redis, Reply};
pub use errors::{Reaction, reaction};
pub use keys::{Keys, SHARDS, Shard, WORKERS, group};
pub use layout::Layout;
pub use node::Node;
pub use scripts::{Call, LIBRARY, LibraryState};
pub use topology::{Address, SetupError};
