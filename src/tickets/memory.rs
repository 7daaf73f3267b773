//! Tickets held by this process. Over ones go at every issue; a full store refuses rather than forget a valid ticket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{TicketError, TicketHash, Tickets};

/// Tickets held at once. At 4 kB each that is 40 MB.
const TICKETS_MAX: usize = 10_000;

/// Pause between looks for tickets that are over.
const SWEEP: Duration = Duration::from_secs(1);

/// Tickets held by this process. Cheap to clone; clones share the tickets.
#[derive(Debug, Clone)]
pub struct MemoryTickets {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tickets: HashMap<TicketHash, Ticket>,
    next_sweep: Instant,
}

#[derive(Debug)]
struct Ticket {
    grant: String,
    end: Instant,
}

impl MemoryTickets {
    /// Without any ticket.
    #[must_use]
    pub fn new() -> Self {
        let state = State { tickets: HashMap::new(), next_sweep: Instant::now() };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl Default for MemoryTickets {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn sweep(&mut self, now: Instant) {
        if now >= self.next_sweep || self.tickets.len() >= TICKETS_MAX {
            self.tickets.retain(|_, ticket| ticket.end > now);
            self.next_sweep = now + SWEEP;
        }
    }
}

#[async_trait]
impl Tickets for MemoryTickets {
    async fn issue(&self, ticket: TicketHash, grant: String, ttl: Duration) -> Result<(), TicketError> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep(now);
        if state.tickets.len() >= TICKETS_MAX {
            let source = format!("{TICKETS_MAX} tickets are waiting to be used").into();
            return Err(TicketError { doing: "issuing a ticket", source });
        }
        state.tickets.insert(ticket, Ticket { grant, end: now + ttl });
        Ok(())
    }

    async fn redeem(&self, ticket: TicketHash) -> Result<Option<String>, TicketError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = state.tickets.remove(&ticket);
        Ok(taken.filter(|ticket| ticket.end > Instant::now()).map(|ticket| ticket.grant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tickets::contract;

    struct Fixture(MemoryTickets);

    impl contract::Fixture for Fixture {
        fn tickets(&self, _: usize) -> Arc<dyn Tickets> {
            Arc::new(self.0.clone())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_contract_holds() {
        contract::holds(&Fixture(MemoryTickets::new())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_store_refuses_until_tickets_are_over() {
        let (tickets, ttl) = (MemoryTickets::new(), Duration::from_secs(30));
        for n in 0..TICKETS_MAX as u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            tickets.issue(hash, "grant".into(), ttl).await.unwrap();
        }
        assert!(tickets.issue([255; 32], "grant".into(), ttl).await.is_err());
        tokio::time::advance(ttl).await;
        tickets.issue([255; 32], "grant".into(), ttl).await.unwrap();
        assert_eq!(tickets.redeem([255; 32]).await.unwrap().as_deref(), Some("grant"));
    }
}
