//! The lead: a session lock on a connection that does nothing else.
//!
//! It ends with its holder: a process that dies closes the connection. One that is stopped, or cut off from the server,
//! closes nothing, and its kernel goes on answering the server's keep-alives. So the server itself ends a session whose
//! holder does not ask for [`LEAD_LAPSE`], and the lock with it.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::Mutex;

use super::statements;
use crate::postgres::Database;
use crate::store::LEAD_LAPSE;

/// One replica's part in who leads.
pub(super) struct Lead {
    db: Database,
    seat: Mutex<Option<Seat>>,
}

/// A session that leads or waits for its turn.
struct Seat {
    session: PgConnection,
    leads: bool,
}

impl Lead {
    pub(super) fn new(db: Database) -> Self {
        Self { db, seat: Mutex::default() }
    }

    /// The seat is put back only after the answer: a failure, a time-out or a dropped call closes the session, and the
    /// lead goes with it.
    pub(super) async fn take_or_keep(&self) -> Result<bool, sqlx::Error> {
        let mut place = self.seat.lock().await;
        let before = place.take();
        let seat = self.db.read(self.ask(before)).await?;
        let leads = seat.leads;
        *place = Some(seat);
        Ok(leads)
    }

    async fn ask(&self, before: Option<Seat>) -> Result<Seat, sqlx::Error> {
        let (mut session, led) = match before {
            Some(seat) => (seat.session, seat.leads),
            None => (self.options().connect().await?, false),
        };
        // Taking a lock that one has already would have to be undone twice, so the holder only looks.
        let question = if led { statements::HAS_LEAD } else { statements::TAKE_LEAD };
        let leads = sqlx::query_scalar(question).fetch_one(&mut session).await?;
        Ok(Seat { session, leads })
    }

    fn options(&self) -> PgConnectOptions {
        self.db.options().clone().options([("idle_session_timeout", LEAD_LAPSE.as_millis())])
    }

    pub(super) async fn give_back(&self) {
        if let Some(seat) = self.seat.lock().await.take() {
            // When this fails the server ends the session by itself.
            let _ = tokio::time::timeout(self.db.deadline(), seat.session.close()).await;
        }
    }
}
