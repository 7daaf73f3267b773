//! Tickets in Postgres, for installations without a Redis. Time is the database's alone, so replicas whose clocks differ
//! agree on whether a ticket is over. Tickets that nobody redeemed go with later issues, some at a time.

use std::time::Duration;

use async_trait::async_trait;

use super::{TicketError, TicketHash, Tickets};
use crate::BoxError;
use crate::postgres::Database;

/// Keeps a ticket, and removes a few that are over: more than one per issue, so they cannot pile up.
const ISSUE: &str = "
WITH over AS (
    DELETE FROM tickets WHERE hash IN (
        SELECT hash FROM tickets WHERE expires_at < now() AND hash <> $1
        ORDER BY expires_at LIMIT 20 FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO tickets (hash, granted, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (hash) DO UPDATE SET granted = excluded.granted, expires_at = excluded.expires_at";

/// Takes a ticket out. Of several at once, one deletes the row; the others wait for it and find none.
const REDEEM: &str = "DELETE FROM tickets WHERE hash = $1 RETURNING granted, expires_at > now()";

/// Every statement of this backend, by name. A test prepares each against the migrated schema.
pub const STATEMENTS: [(&str, &str); 2] = [("ISSUE", ISSUE), ("REDEEM", REDEEM)];

/// Tickets held by a Postgres. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresTickets {
    database: Database,
}

impl PostgresTickets {
    /// Tickets in `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn take(&self, ticket: TicketHash) -> Result<Option<String>, BoxError> {
        let redeem = sqlx::query_as(REDEEM).bind(&ticket[..]);
        let taken: Option<(Vec<u8>, bool)> =
            self.database.write(redeem.fetch_optional(self.database.pool())).await?;
        let granted = taken.filter(|(_, valid)| *valid).map(|(granted, _)| String::from_utf8(granted));
        Ok(granted.transpose()?)
    }
}

#[async_trait]
impl Tickets for PostgresTickets {
    async fn issue(&self, ticket: TicketHash, grant: String, ttl: Duration) -> Result<(), TicketError> {
        let issue = sqlx::query(ISSUE).bind(&ticket[..]).bind(grant.into_bytes()).bind(ttl.as_secs_f64());
        let issued = self.database.write(issue.execute(self.database.pool())).await;
        issued.map(drop).map_err(|error| TicketError { doing: "issuing a ticket", source: error.into() })
    }

    async fn redeem(&self, ticket: TicketHash) -> Result<Option<String>, TicketError> {
        self.take(ticket).await.map_err(|source| TicketError { doing: "redeeming a ticket", source })
    }
}
