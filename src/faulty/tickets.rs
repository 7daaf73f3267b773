//! Tickets with faults.

use std::time::Duration;

use async_trait::async_trait;

use super::{Faulty, pass};
use crate::tickets::{TicketError, TicketHash, Tickets};

#[async_trait]
impl<S: Tickets + ?Sized> Tickets for Faulty<S> {
    async fn issue(&self, ticket: TicketHash, grant: String, ttl: Duration) -> Result<(), TicketError> {
        pass!(self.plan, "tickets.issue", self.inner.issue(ticket, grant.clone(), ttl))
    }

    async fn redeem(&self, ticket: TicketHash) -> Result<Option<String>, TicketError> {
        pass!(self.plan, "tickets.redeem", self.inner.redeem(ticket))
    }
}
