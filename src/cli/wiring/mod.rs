//! Puts a process together: backends for the mode, roles on a lifecycle. The only place that names backends.
//!
//! Reading order: [`plumbing`] (which backend keeps which port) · this file (which roles run on them) · [`examine`]
//! (what `milepost doctor` looks at). Not here: what is printed ([`super::serve`]).

pub mod examine;
mod plumbing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;

use super::exit::UsageError;
use crate::action::{KubeClusters, Registry};
use crate::admin::{self, Admin, Check};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Mode};
use crate::gateway::{self, Gateway};
use crate::lifecycle::Lifecycle;
use crate::store::Store;
use crate::task::ReplicaId;
use crate::telemetry::Metrics;
use crate::{maintenance, worker};

use plumbing::Plumbing;

/// Between looks at the record for the readiness page.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long such a look may take.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Takes tasks in and pushes their progress.
    pub gateway: bool,
    /// Runs tasks.
    pub worker: bool,
    /// Looks after what crashed.
    pub maintenance: bool,
}

impl Roles {
    /// Everything in one process.
    pub const ALL: Self = Self { gateway: true, worker: true, maintenance: true };
}

impl std::fmt::Display for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roles = [(self.gateway, "gateway"), (self.worker, "worker"), (self.maintenance, "maintenance")];
        let names: Vec<&str> = roles.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        f.write_str(&names.join(", "))
    }
}

/// A process that runs.
pub struct Running {
    /// Where things live.
    pub mode: Mode,
    /// The gateway, if it has that role.
    pub gateway: Option<Gateway>,
    /// Where probes and metrics are.
    pub admin: SocketAddr,
    /// Actions and clusters.
    pub registry: Arc<Registry>,
    plumbing: Plumbing,
}

impl Running {
    /// Closes what is still open. Call it when the lifecycle has ended.
    pub async fn close(self) {
        self.plumbing.close().await;
    }
}

/// What all roles of a process share.
struct Shared<'a> {
    config: &'a Config,
    plumbing: &'a Plumbing,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    replica: ReplicaId,
    life: &'a Lifecycle,
}

/// Starts the roles on `life` and returns once their ports are open.
///
/// # Errors
/// When a backend cannot be reached, its schema is older than this release, or a port cannot be had.
pub async fn start(config: &Config, roles: Roles, life: &Lifecycle) -> Result<Running> {
    let mode = config.mode();
    if mode == Mode::Memory && roles != Roles::ALL {
        let why = "memory mode holds everything in one process: use `milepost serve`, or set database.url";
        return Err(UsageError(why.into()).into());
    }
    let metrics = Metrics::new();
    let clusters = KubeClusters::measured(&config.clusters, &config.actions, metrics.clone());
    let clusters = clusters.context("clusters")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Ports first: they are the likeliest to fail, and nothing else has been begun yet.
    let listener = if roles.gateway { Some(listen(config.server.listen).await?) } else { None };
    let admin_listener = listen(config.server.admin_listen).await?;
    let plumbing = Plumbing::connect(config, &metrics, &clock).await?;
    let shared = Shared {
        store: plumbing.store(),
        registry: Arc::new(Registry::new(clusters, config.actions.wait, Arc::clone(&clock))),
        replica: replica(config),
        config,
        plumbing: &plumbing,
        clock,
        metrics,
        life,
    };
    let mut checks = shared.record_check(mode);
    let gateway = match listener {
        Some(listener) => Some(shared.gateway(listener, &mut checks)?),
        None => None,
    };
    if roles.worker {
        shared.worker();
    }
    if roles.maintenance {
        shared.maintenance();
    }
    let admin = shared.admin(admin_listener, mode, checks)?;
    let registry = Arc::clone(&shared.registry);
    Ok(Running { mode, gateway, admin, registry, plumbing })
}

impl Shared<'_> {
    fn gateway(&self, listener: TcpListener, checks: &mut Vec<Check>) -> Result<Gateway> {
        let (publisher, feed) = self.plumbing.bus(self.config, &self.replica, self.life)?;
        let health = Arc::clone(&feed);
        checks.push(Check::new("progress", move || health.health()));
        let parts = gateway::Parts {
            store: self.store.clone(),
            publisher,
            feed,
            dispatcher: self.plumbing.dispatcher(self.config, self.life),
            tickets: self.plumbing.tickets(),
            templates: self.plumbing.templates(),
            clusters: self.registry.clone(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            server: self.config.server.clone(),
            live: self.config.live.clone(),
            limits: self.config.limits.clone(),
            auth: self.config.auth.clone(),
            lanes_per_task: u32::try_from(self.config.worker.lanes_per_task).unwrap_or(u32::MAX),
            wait_action: self.config.actions.wait,
            replica: self.replica.clone(),
            mode: self.config.mode().to_string(),
        };
        gateway::serve(parts, listener, self.life).context("start the gateway")
    }

    fn worker(&self) {
        let parts = worker::Parts {
            store: self.store.clone(),
            publisher: self.plumbing.publisher(self.config),
            dispatcher: self.plumbing.dispatcher(self.config, self.life),
            actions: self.registry.clone(),
            clusters: self.registry.clone(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            config: self.config.worker.clone(),
            replica: self.replica.clone(),
        };
        worker::run(parts, self.life);
    }

    fn maintenance(&self) {
        let parts = maintenance::Parts {
            store: self.store.clone(),
            leadership: self.store.clone(),
            publisher: self.plumbing.publisher(self.config),
            dispatcher: self.plumbing.dispatcher(self.config, self.life),
            metrics: self.metrics.clone(),
            config: self.config.maintenance.clone(),
            audit: self.config.audit.clone(),
            stall_after: self.config.worker.stall_after,
            extra: self.plumbing.duties(),
        };
        maintenance::run(parts, self.life);
    }

    /// Readiness follows the record, where it is not held by this very process.
    fn record_check(&self, mode: Mode) -> Vec<Check> {
        if mode == Mode::Memory {
            return Vec::new();
        }
        let store = Arc::clone(&self.store);
        let ping = move || {
            let store = Arc::clone(&store);
            async move { store.ping().await.map_err(Into::into) }
        };
        vec![Check::polled("record", PING_INTERVAL, PING_TIMEOUT, self.life, ping)]
    }

    fn admin(&self, listener: TcpListener, mode: Mode, checks: Vec<Check>) -> Result<SocketAddr> {
        let address = listener.local_addr().context("the admin listener has no address")?;
        let (metrics, replica) = (self.metrics.clone(), self.replica.to_string());
        admin::serve(Admin { metrics, checks, replica, mode: mode.to_string() }, listener, self.life);
        Ok(address)
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Unique among replicas and restarts, and begins with the configured or the host's name.
fn replica(config: &Config) -> ReplicaId {
    let host = || {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other))
    };
    let name = config.replica.clone().unwrap_or_else(|| host().unwrap_or_default());
    ReplicaId::generate(name.trim())
}

/// Brings the schema of Postgres and the functions of Redis up to date. Returns what was done, a sentence each.
///
/// # Errors
/// When there is nothing to migrate, or a server cannot be reached.
pub async fn migrate(config: &Config) -> Result<Vec<&'static str>> {
    plumbing::migrate(config).await
}
