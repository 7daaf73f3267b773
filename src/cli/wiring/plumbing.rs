//! Which backend keeps which port, by mode.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;

use super::super::exit::UsageError;
use crate::BoxError;
use crate::bus::memory::MemoryBus;
use crate::bus::postgres::{PostgresFeed, PostgresPublisher};
use crate::bus::redis::{RedisBus, RedisPublisher, collect_dead_groups};
use crate::bus::{Feed, Publisher};
use crate::clock::Clock;
use crate::config::{Config, Mode};
use crate::dispatch::Dispatcher;
use crate::dispatch::memory::MemoryDispatch;
use crate::dispatch::postgres::PostgresDispatch;
use crate::dispatch::redis::RedisDispatch;
use crate::lifecycle::Lifecycle;
use crate::maintenance::driver::Duty;
use crate::postgres::Database;
use crate::redis::Redis;
use crate::redis::checks::{self, Severity};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::postgres::PostgresStore;
use crate::task::ReplicaId;
use crate::telemetry::Metrics;
use crate::templates::Templates;
use crate::templates::memory::MemoryTemplates;
use crate::templates::postgres::PostgresTemplates;
use crate::tickets::Tickets;
use crate::tickets::memory::MemoryTickets;
use crate::tickets::postgres::PostgresTickets;
use crate::tickets::redis::RedisTickets;

/// The name of this process in `pg_stat_activity`.
const APPLICATION: &str = "milepost";
/// Between looks for groups of gateways that are gone.
const REAP_INTERVAL: Duration = Duration::from_secs(10);

/// Connections of a process, or what stands in for them.
pub(super) enum Plumbing {
    /// Everything is held here.
    Memory {
        store: Arc<MemoryStore>,
        bus: Arc<MemoryBus>,
        dispatch: Arc<MemoryDispatch>,
        tickets: Arc<MemoryTickets>,
        templates: Arc<MemoryTemplates>,
    },
    /// One database keeps every port.
    Postgres { database: Database, store: Arc<PostgresStore> },
    /// The record in Postgres, everything that moves in Redis.
    Redis { database: Database, store: Arc<PostgresStore>, redis: Redis, publisher: Arc<RedisPublisher> },
}

impl Plumbing {
    /// Connects, and refuses a database whose schema is older than this release.
    pub(super) async fn connect(config: &Config, metrics: &Metrics, clock: &Arc<dyn Clock>) -> Result<Self> {
        match config.mode() {
            Mode::Memory => {
                let store = MemoryStore::new(Arc::clone(clock));
                Ok(Self::Memory {
                    bus: Arc::new(MemoryBus::new(&config.bus)),
                    dispatch: Arc::new(MemoryDispatch::new()),
                    tickets: Arc::new(MemoryTickets::new()),
                    templates: Arc::new(MemoryTemplates::new(Arc::clone(clock), store.audit())),
                    store: Arc::new(store),
                })
            }
            Mode::Postgres => {
                let database = connect_database(config, metrics).await?;
                let store = postgres_store(config, &database);
                Ok(Self::Postgres { database, store })
            }
            Mode::Redis => {
                let database = connect_database(config, metrics).await?;
                let store = postgres_store(config, &database);
                let redis = connect_redis(config, metrics).await?;
                let publisher = Arc::new(RedisPublisher::start(&redis, &config.bus));
                Ok(Self::Redis { database, store, redis, publisher })
            }
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory { store, .. } => store.clone(),
            Self::Postgres { store, .. } | Self::Redis { store, .. } => store.clone(),
        }
    }

    /// Both sides of the bus, for a gateway. Call it once: it starts readers on `life`.
    pub(super) fn bus(
        &self,
        config: &Config,
        replica: &ReplicaId,
        life: &Lifecycle,
    ) -> Result<(Arc<dyn Publisher>, Arc<dyn Feed>)> {
        Ok(match self {
            Self::Memory { bus, .. } => (bus.clone(), bus.clone()),
            Self::Postgres { database, .. } => {
                (self.publisher(config), Arc::new(PostgresFeed::start(database.clone(), &config.bus, life)))
            }
            Self::Redis { redis, publisher, .. } => {
                let bus = RedisBus::start(redis.clone(), &config.bus, replica, life).context("Redis")?;
                (publisher.clone(), Arc::new(bus))
            }
        })
    }

    /// The writing side of the bus alone.
    pub(super) fn publisher(&self, config: &Config) -> Arc<dyn Publisher> {
        match self {
            Self::Memory { bus, .. } => bus.clone(),
            Self::Postgres { database, .. } => {
                Arc::new(PostgresPublisher::new(database.clone(), &config.bus))
            }
            Self::Redis { publisher, .. } => publisher.clone(),
        }
    }

    pub(super) fn dispatcher(&self, config: &Config, life: &Lifecycle) -> Arc<dyn Dispatcher> {
        match self {
            Self::Memory { dispatch, .. } => dispatch.clone(),
            Self::Postgres { database, .. } => {
                Arc::new(PostgresDispatch::new(database.clone(), &config.bus, life))
            }
            Self::Redis { redis, .. } => Arc::new(RedisDispatch::new(redis.clone())),
        }
    }

    pub(super) fn tickets(&self) -> Arc<dyn Tickets> {
        match self {
            Self::Memory { tickets, .. } => tickets.clone(),
            Self::Postgres { database, .. } => Arc::new(PostgresTickets::new(database.clone())),
            Self::Redis { redis, .. } => Arc::new(RedisTickets::new(redis.clone())),
        }
    }

    pub(super) fn templates(&self) -> Arc<dyn Templates> {
        match self {
            Self::Memory { templates, .. } => templates.clone(),
            Self::Postgres { database, .. } | Self::Redis { database, .. } => {
                Arc::new(PostgresTemplates::new(database.clone()))
            }
        }
    }

    /// Upkeep that only this mode needs.
    pub(super) fn duties(&self) -> Vec<Box<dyn Duty>> {
        match self {
            Self::Redis { redis, .. } => vec![Box::new(GroupReaper { redis: redis.clone() })],
            Self::Memory { .. } | Self::Postgres { .. } => Vec::new(),
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Memory { .. } => {}
            Self::Postgres { database, .. } | Self::Redis { database, .. } => database.close().await,
        }
    }
}

fn postgres_store(config: &Config, database: &Database) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::new(database.clone()).with_notify(config.bus.notify))
}

async fn connect_database(config: &Config, metrics: &Metrics) -> Result<Database> {
    let database = Database::connect(&config.database, APPLICATION, metrics).await.context("Postgres")?;
    if config.database.migrate_on_start {
        database.migrate().await.context("Postgres")?;
    } else {
        database.check_schema().await.context("Postgres")?;
    }
    Ok(database)
}

/// Says what is wrong with the server, and refuses one that cannot do. One that is down is only waited for by whoever
/// needs it: the record does not depend on it.
async fn connect_redis(config: &Config, metrics: &Metrics) -> Result<Redis> {
    let redis = Redis::connect(&config.redis, metrics).context("Redis")?;
    let findings = match checks::check(&redis).await {
        Ok(findings) => findings,
        Err(error) => {
            tracing::warn!(%error, "Redis does not answer; wake-ups and progress wait for it");
            return Ok(redis);
        }
    };
    for finding in findings {
        match finding.severity {
            Severity::Good => {}
            Severity::Warning => {
                let (subject, detail, fix) = (finding.subject, finding.detail, finding.fix);
                tracing::warn!(subject, fix, "Redis: {detail}");
            }
            Severity::Fatal => bail!("Redis {}: {}; {}", finding.subject, finding.detail, finding.fix),
        }
    }
    Ok(redis)
}

/// Removes what gateways that are gone left in Redis.
struct GroupReaper {
    redis: Redis,
}

#[async_trait]
impl Duty for GroupReaper {
    fn name(&self) -> &'static str {
        "group_reaper"
    }

    fn interval(&self) -> Duration {
        REAP_INTERVAL
    }

    async fn run(&self) -> Result<u64, BoxError> {
        Ok(collect_dead_groups(&self.redis).await?)
    }
}

/// See [`super::migrate`].
pub(super) async fn migrate(config: &Config) -> Result<Vec<&'static str>> {
    if config.mode() == Mode::Memory {
        return Err(UsageError("there is nothing to migrate in memory mode: set database.url".into()).into());
    }
    let database =
        Database::connect(&config.database, APPLICATION, &Metrics::new()).await.context("Postgres")?;
    database.migrate().await.context("Postgres")?;
    database.close().await;
    let mut done = vec!["the schema of Postgres is up to date"];
    if config.mode() == Mode::Redis {
        let redis = Redis::connect(&config.redis, &Metrics::new()).context("Redis")?;
        redis.install_library().await.context("Redis")?;
        done.push("the functions of Redis are those of this release");
    }
    Ok(done)
}
