//! Everything that tickets promise, one named function per promise. Each backend runs all of it against its real
//! server. A broken promise panics with what was seen.

use std::sync::Arc;
use std::time::Duration;

use super::{TicketHash, Tickets};

/// A life that no suite outlasts.
const LONG: Duration = Duration::from_secs(300);

/// A backend under test.
pub trait Fixture: Send + Sync {
    /// The tickets as gateway replica 0 or 1 sees them, on the same server.
    fn tickets(&self, replica: usize) -> Arc<dyn Tickets>;
}

/// Runs every promise.
///
/// # Panics
/// When one is broken.
pub async fn holds(fixture: &dyn Fixture) {
    a_ticket_is_good_once_and_anywhere(fixture).await;
    an_unknown_ticket_is_nothing(fixture).await;
    a_ticket_that_is_over_is_nothing(fixture).await;
    a_long_ticket_outlives_a_short_one(fixture).await;
    of_many_at_once_exactly_one_gets_the_grant(fixture).await;
    every_ticket_has_its_own_grant(fixture).await;
    a_grant_comes_back_as_it_was(fixture).await;
}

fn hash() -> TicketHash {
    rand::random()
}

async fn issue(fixture: &dyn Fixture, grant: &str, ttl: Duration) -> TicketHash {
    let ticket = hash();
    fixture.tickets(0).issue(ticket, grant.to_owned(), ttl).await.expect("issue");
    ticket
}

async fn redeem(fixture: &dyn Fixture, replica: usize, ticket: TicketHash) -> Option<String> {
    fixture.tickets(replica).redeem(ticket).await.expect("redeem")
}

async fn a_ticket_is_good_once_and_anywhere(fixture: &dyn Fixture) {
    let ticket = issue(fixture, "once", LONG).await;
    assert_eq!(redeem(fixture, 1, ticket).await.as_deref(), Some("once"));
    assert_eq!(redeem(fixture, 1, ticket).await, None);
    assert_eq!(redeem(fixture, 0, ticket).await, None);
}

async fn an_unknown_ticket_is_nothing(fixture: &dyn Fixture) {
    assert_eq!(redeem(fixture, 0, hash()).await, None);
}

async fn a_ticket_that_is_over_is_nothing(fixture: &dyn Fixture) {
    let ticket = issue(fixture, "late", Duration::from_millis(1)).await;
    // Time itself is what is waited for.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(redeem(fixture, 0, ticket).await, None);
}

async fn a_long_ticket_outlives_a_short_one(fixture: &dyn Fixture) {
    let long = issue(fixture, "long", LONG).await;
    let short = issue(fixture, "short", Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    issue(fixture, "sweeps", LONG).await;
    assert_eq!(redeem(fixture, 0, short).await, None);
    assert_eq!(redeem(fixture, 0, long).await.as_deref(), Some("long"));
}

async fn of_many_at_once_exactly_one_gets_the_grant(fixture: &dyn Fixture) {
    for _ in 0..5 {
        let ticket = issue(fixture, "one", LONG).await;
        let racers = (0..16).map(|n| {
            let tickets = fixture.tickets(n % 2);
            tokio::spawn(async move { tickets.redeem(ticket).await })
        });
        let mut got = 0;
        for racer in racers.collect::<Vec<_>>() {
            got += usize::from(racer.await.expect("no panic").expect("redeem").is_some());
        }
        assert_eq!(got, 1, "one ticket opened {got} connections");
    }
}

async fn every_ticket_has_its_own_grant(fixture: &dyn Fixture) {
    let (one, two) = (issue(fixture, "first", LONG).await, issue(fixture, "second", LONG).await);
    assert_eq!(redeem(fixture, 0, two).await.as_deref(), Some("second"));
    assert_eq!(redeem(fixture, 0, one).await.as_deref(), Some("first"));
}

async fn a_grant_comes_back_as_it_was(fixture: &dyn Fixture) {
    let long = "x".repeat(4096);
    for grant in ["", "{\"user\":\"zoë\",\"quote\":\"\\\"\"}", "line\nbreak\ttab", &long] {
        let ticket = issue(fixture, grant, LONG).await;
        assert_eq!(redeem(fixture, 1, ticket).await.as_deref(), Some(grant));
    }
}
