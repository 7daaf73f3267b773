//! Notifications of Postgres, over a connection of its own outside of the pool.
//!
//! A listener that looks alive may be deaf: behind a pooler in transaction mode LISTEN succeeds and nothing ever
//! arrives, and a cut network says nothing at all. So after each LISTEN, and after each silence, a probe is sent through
//! the pool, and the listener counts as connected only while its probes come back. What was sent while it was not
//! connected is lost: whoever listens looks for itself on every [`Heard::Connected`]. Not here: what a notification means.

use std::convert::Infallible;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};
use tokio::time::timeout;
use uuid::Uuid;

use super::Database;
use crate::BoxError;

/// The name of listening connections in `pg_stat_activity`.
const APPLICATION: &str = "milepost listener";
/// Silence after which the path is probed.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between tries to connect: doubled from the first to the longest, with jitter.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// Probes are for listeners themselves. Nothing else that is sent begins with a space.
const PROBE_PREFIX: &str = " probe ";
/// Sends a notification; used for probes here and for rings elsewhere.
pub(crate) const NOTIFY: &str = "SELECT pg_notify($1, $2)";

/// What a listener hears.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    /// Notifications arrive from here on; earlier ones may have been missed.
    Connected,
    /// A notification's payload.
    Message(&'a str),
    /// Notifications do not arrive; it goes on trying.
    Disconnected(&'a BoxError),
}

/// Listens on a channel until dropped. `heard` must not block.
pub(crate) async fn listen(
    database: &Database,
    channel: &'static str,
    mut heard: impl FnMut(Heard<'_>) + Send,
) -> Infallible {
    let mut pauses = retries();
    loop {
        let mut connected = false;
        let error = match Session::open(database, channel).await {
            Ok(mut session) => session.run(&mut connected, &mut heard).await,
            Err(error) => error,
        };
        heard(Heard::Disconnected(&error));
        if connected {
            pauses = retries();
        }
        tokio::time::sleep(pauses.next().unwrap_or(RETRY_LONGEST)).await;
    }
}

fn retries() -> impl Iterator<Item = Duration> {
    let pauses = ExponentialBuilder::new().with_min_delay(RETRY_FIRST).with_max_delay(RETRY_LONGEST);
    pauses.with_jitter().without_max_times().build()
}

/// One connection that listens.
struct Session<'a> {
    database: &'a Database,
    channel: &'static str,
    listener: PgListener,
    probe: String,
}

impl<'a> Session<'a> {
    async fn open(database: &'a Database, channel: &'static str) -> Result<Self, BoxError> {
        // PgListener takes its connection from a pool. A pool of one, used once, keeps it apart from the others.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(database.deadline())
            .connect_lazy_with(database.options().clone().application_name(APPLICATION));
        let open = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(channel).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let listener = super::within(database.deadline(), open).await?;
        let probe = format!("{PROBE_PREFIX}{}", Uuid::new_v4().simple());
        Ok(Self { database, channel, listener, probe })
    }

    /// Hands on what arrives until the connection is lost or deaf, and says why it ended.
    async fn run(&mut self, connected: &mut bool, heard: &mut (impl FnMut(Heard<'_>) + Send)) -> BoxError {
        loop {
            if let Err(error) = self.prove(heard).await {
                return error;
            }
            if !*connected {
                *connected = true;
                heard(Heard::Connected);
            }
            if let Err(error) = self.until_silence(heard).await {
                return error;
            }
        }
    }

    /// Sends a probe and waits for it to come back, handing on what comes before it.
    async fn prove(&mut self, heard: &mut (impl FnMut(Heard<'_>) + Send)) -> Result<(), BoxError> {
        let (database, probe) = (self.database, self.probe.clone());
        let send = sqlx::query(NOTIFY).bind(self.channel).bind(&probe).execute(database.pool());
        database.read(send).await?;
        let back = async {
            while !self.next(heard).await? {}
            Ok::<_, BoxError>(())
        };
        let deaf = "notifications do not arrive: does a pooler stand between that does not pass them on?";
        timeout(PROBE_TIMEOUT, back).await.unwrap_or_else(|_| Err(deaf.into()))
    }

    async fn until_silence(&mut self, heard: &mut (impl FnMut(Heard<'_>) + Send)) -> Result<(), BoxError> {
        while let Ok(next) = timeout(SILENCE, self.next(heard)).await {
            next?;
        }
        Ok(())
    }

    /// Waits for one notification and hands it on, unless it is a probe. Returns whether it was our probe.
    /// Cancel-safe: sqlx takes a message from its buffer only when all of it has arrived.
    async fn next(&mut self, heard: &mut (impl FnMut(Heard<'_>) + Send)) -> Result<bool, BoxError> {
        let notification: PgNotification =
            self.listener.try_recv().await?.ok_or("the connection that listens was lost")?;
        let payload = notification.payload();
        if !payload.starts_with(PROBE_PREFIX) {
            heard(Heard::Message(payload));
        }
        Ok(payload == self.probe)
    }
}
