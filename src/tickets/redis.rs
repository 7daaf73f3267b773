//! Tickets in Redis: a key with a life of its own, taken out by `GETDEL`, which only one caller wins.
//!
//! Only the hash of a ticket is in the key. A Redis that loses its data loses tickets; browsers ask for new ones.

use std::time::Duration;

use async_trait::async_trait;
use redis::cmd;

use super::{TicketError, TicketHash, Tickets};
use crate::config::duration::millis;
use crate::redis::{CallError, Redis};

/// Tickets that any gateway on the same Redis redeems.
#[derive(Debug, Clone)]
pub struct RedisTickets {
    redis: Redis,
}

impl RedisTickets {
    /// Keeps tickets in `redis`.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }
}

fn unavailable(doing: &'static str) -> impl FnOnce(CallError) -> TicketError {
    move |error| TicketError { doing, source: error.into() }
}

#[async_trait]
impl Tickets for RedisTickets {
    async fn issue(&self, ticket: TicketHash, grant: String, ttl: Duration) -> Result<(), TicketError> {
        let mut set = cmd("SET");
        set.arg(self.redis.keys().ticket(&ticket)).arg(grant).arg("PX").arg(millis(ttl).max(1));
        self.redis.query(&set).await.map_err(unavailable("issuing a ticket"))
    }

    async fn redeem(&self, ticket: TicketHash) -> Result<Option<String>, TicketError> {
        let mut take = cmd("GETDEL");
        take.arg(self.redis.keys().ticket(&ticket));
        self.redis.query(&take).await.map_err(unavailable("redeeming a ticket"))
    }
}
