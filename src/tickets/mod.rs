//! One-use tickets let a browser open a live connection without putting its token into an address.
//!
//! A gateway issues a ticket against a bearer token; any gateway redeems it, once, within its short life. Only the
//! hash of a ticket is stored. Backends: `memory`, `redis`, `postgres`. Each runs the whole of `contract`. Not here:
//! what a ticket grants (the gateway packs that into `grant`).

pub mod contract;
pub mod memory;
pub mod postgres;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;

pub use self::redis::RedisTickets;
pub use memory::MemoryTickets;
pub use postgres::PostgresTickets;

use crate::BoxError;

/// Why a ticket call failed. There is one way; the caller answers 503.
#[derive(Debug, thiserror::Error)]
#[error("tickets are unavailable while {doing}")]
pub struct TicketError {
    /// What was tried.
    pub doing: &'static str,
    /// The backend's own error.
    #[source]
    pub source: BoxError,
}

/// SHA-256 of a ticket's text.
pub type TicketHash = [u8; 32];

/// Keeps tickets between issue and redemption.
#[async_trait]
pub trait Tickets: Send + Sync + 'static {
    /// Keeps `grant` (at most 4 kB, opaque here) under the ticket's hash for `ttl`. Cancel-safe.
    async fn issue(&self, ticket: TicketHash, grant: String, ttl: Duration) -> Result<(), TicketError>;

    /// Takes the grant out: of any number of calls for one ticket, on any replicas, exactly one gets it. `None` for a
    /// ticket that is unknown, used or over. Not cancel-safe: a dropped call may have used the ticket up.
    async fn redeem(&self, ticket: TicketHash) -> Result<Option<String>, TicketError>;
}
