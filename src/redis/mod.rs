//! Redis plumbing that the bus, dispatch and tickets share: connections, keys, the function library, and what to make
//! of errors.
//!
//! Three kinds of connection, never mixed: a pool for commands that finish at once, dedicated ones for commands that
//! are supposed to hang, and one per process for subscriptions. Not here: streams and groups of users
//! ([`crate::bus::redis`]) and tokens ([`crate::dispatch::redis`]).

mod backoff;
pub mod checks;
mod connection;
mod dedicated;
mod errors;
mod keys;
mod scripts;
mod topology;

pub use backoff::Backoff;
pub use connection::{CallError, Redis};
pub use errors::{Reaction, reaction};
pub use keys::{Keys, SHARDS, Shard, WORKERS, group};
pub use scripts::{Call, LIBRARY, LibraryState};
pub use topology::SetupError;
