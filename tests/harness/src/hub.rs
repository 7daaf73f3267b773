//! A whole Milepost of real processes: gateways, workers and maintenance replicas of one binary, with the servers that the
//! mode needs. Knows the command line and the configuration file, and nothing of the code.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{Process, wait_for};
use crate::replica::{Replica, ReplicaSpec, Start};
use crate::{FakeClock, Postgres, Proxy, Redis, ports};

/// The secret that signs tokens of a test hub.
pub const SECRET: &str = "a-secret-of-tests-only-0123456789abcdef";
/// Ends the section `auth`: everybody holds everything, and no rule counts nodes.
const WITHOUT_RULES: &str = "  grants: [{may: [force, bypass-pdb, control-plane]}]\nactions:\n  wait: true\n  \
                             safety: {control_plane_quorum: false, last_node: false}\n";

/// What a user of a test hub may ask for in a second. One who waits for something looks a hundred times, far more often than
/// a person may by default; a hub on a quiet machine is quick enough to answer that often.
const REQUESTS_PER_SECOND: u32 = 1_000;

/// Where records, wake-ups and progress live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubMode {
    /// One process, nothing else.
    Memory,
    /// Postgres alone, with notifications.
    Postgres,
    /// Postgres alone, polled.
    PostgresPoll,
    /// Redis and Postgres.
    Redis,
}

impl HubMode {
    /// A name for tables and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Postgres => "postgres",
            Self::PostgresPoll => "postgres, polled",
            Self::Redis => "redis",
        }
    }
}

/// What to start. Every worker process does maintenance too; a leader is elected.
#[derive(Debug, Clone)]
pub struct HubSpec {
    /// The `milepost` binary.
    pub binary: PathBuf,
    /// Where things live.
    pub mode: HubMode,
    /// Gateway processes. Ignored in memory mode, where one process does all.
    pub gateways: usize,
    /// Worker processes.
    pub workers: usize,
    /// Nodes of a simulated cluster called `sim`; none when 0.
    pub nodes: usize,
    /// Further settings, such as `("MILEPOST_WORKER__LEASE", "2s")`.
    pub env: Vec<(String, String)>,
    /// Whether the processes reach Redis, Postgres and the simulated cluster through proxies of the hub.
    pub proxied: bool,
    /// A Redis of the caller's that the hub neither starts nor ends, such as a set of servers.
    pub redis_url: Option<String>,
    /// Whether Postgres counts the statements that it runs.
    pub counted: bool,
}

impl HubSpec {
    /// Two gateways and three workers without a cluster: the `wait` action on the cluster `local` is allowed.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, mode: HubMode) -> Self {
        Self {
            binary: binary.into(),
            mode,
            gateways: 2,
            workers: 3,
            nodes: 0,
            env: Vec::new(),
            proxied: false,
            redis_url: None,
            counted: false,
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Uses a Redis of the caller's, by its address.
    #[must_use]
    pub fn on_redis(self, url: impl Into<String>) -> Self {
        Self { redis_url: Some(url.into()), mode: HubMode::Redis, ..self }
    }

    /// Has Postgres count statements, in its view `pg_stat_statements`.
    #[must_use]
    pub fn counted(self) -> Self {
        Self { counted: true, ..self }
    }

    /// Puts proxies between the processes and what they need.
    #[must_use]
    pub fn proxied(self) -> Self {
        Self { proxied: true, ..self }
    }
}

/// Proxies of a hub, where they were asked for and there is something behind them.
#[derive(Debug, Default)]
pub struct Proxies {
    /// In front of Redis.
    pub redis: Option<Proxy>,
    /// In front of Postgres.
    pub postgres: Option<Proxy>,
    /// In front of the simulated cluster.
    pub cluster: Option<Proxy>,
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    /// Gateways, in the order of their start. In memory mode the one process.
    pub gateways: Vec<Replica>,
    /// Workers. Empty in memory mode.
    pub workers: Vec<Replica>,
    /// The simulated cluster's process.
    pub simulator: Option<Process>,
    /// The Postgres of the hub.
    pub postgres: Option<Postgres>,
    /// The Redis of the hub.
    pub redis: Option<Redis>,
    /// What stands between the processes and their servers, if asked for.
    pub proxies: Proxies,
    database: String,
    spec: HubSpec,
    folder: TempDir,
}

impl Hub {
    /// Starts everything and waits until every replica is ready.
    ///
    /// # Errors
    /// When a server or a replica does not come up; with the end of its log.
    pub fn start(spec: HubSpec) -> Result<Self> {
        let own = spec.mode == HubMode::Redis && spec.redis_url.is_none();
        let redis = own.then(Redis::start).transpose()?;
        Self::start_on(spec, redis)
    }

    /// Starts everything on a Redis of the caller's making, such as one that keeps its data on disk.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(spec: HubSpec, redis: Option<Redis>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("milepost-hub-").tempdir()?;
        let settings: &[&str] =
            if spec.counted { &["shared_preload_libraries=pg_stat_statements"] } else { &[] };
        let start = || Postgres::with_settings(settings);
        let postgres = (spec.mode != HubMode::Memory).then(start).transpose()?;
        let database = postgres.as_ref().map(Postgres::database).transpose()?.unwrap_or_default();
        let proxy = |port: Option<u16>| port.filter(|_| spec.proxied).map(Proxy::to).transpose();
        let proxies = Proxies {
            redis: proxy(redis.as_ref().map(Redis::port))?,
            postgres: proxy(postgres.as_ref().map(Postgres::port))?,
            cluster: None,
        };
        let mut hub = Self {
            gateways: Vec::new(),
            workers: Vec::new(),
            simulator: None,
            postgres,
            redis,
            proxies,
            database,
            spec,
            folder,
        };
        if hub.spec.counted && hub.postgres.is_some() {
            hub.sql("CREATE EXTENSION pg_stat_statements")?;
        }
        hub.start_simulator()?;
        hub.write_config()?;
        hub.start_replicas()?;
        Ok(hub)
    }

    fn start_replicas(&mut self) -> Result<()> {
        if self.spec.mode == HubMode::Memory {
            let replica = self.replica("serve", &["serve"], &ReplicaSpec::default())?;
            self.gateways.push(replica);
            return self.gateways[0].wait_ready();
        }
        self.command(&["migrate"])?;
        for _ in 0..self.spec.gateways {
            self.launch_gateway(&ReplicaSpec::default())?;
        }
        for _ in 0..self.spec.workers {
            self.launch_worker(&ReplicaSpec::default())?;
        }
        self.gateways.iter().chain(&self.workers).try_for_each(Replica::wait_ready)
    }

    fn launch_gateway(&mut self, spec: &ReplicaSpec<'_>) -> Result<()> {
        let replica = self.replica(&format!("gateway-{}", self.gateways.len()), &["gateway"], spec)?;
        self.gateways.push(replica);
        Ok(())
    }

    fn launch_worker(&mut self, spec: &ReplicaSpec<'_>) -> Result<()> {
        let name = format!("worker-{}", self.workers.len());
        let replica = self.replica(&name, &["worker", "--with-maintenance"], spec)?;
        self.workers.push(replica);
        Ok(())
    }

    fn start_simulator(&mut self) -> Result<()> {
        if self.spec.nodes == 0 {
            return Ok(());
        }
        let port = ports::free()?;
        if self.spec.proxied {
            self.proxies.cluster = Some(Proxy::to(port)?);
        }
        let shown = self.proxies.cluster.as_ref().map_or(port, Proxy::port);
        let (listen, advertise) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{shown}"));
        let kubeconfig = self.kubeconfig();
        let mut command = vec![self.spec.binary.display().to_string()];
        let nodes = self.spec.nodes.to_string();
        for arg in ["simulator", "--nodes", &nodes, "--listen", &listen, "--advertise", &advertise] {
            command.push(arg.to_owned());
        }
        command.extend(["--kubeconfig".to_owned(), kubeconfig.display().to_string()]);
        let log = self.folder.path().join("simulator.log");
        let process = Process::start(&command, &self.spec.env, &log, "KILL")?;
        wait_for(Duration::from_secs(10), "the simulator", || Ok(kubeconfig.exists()))
            .with_context(|| process.log())?;
        self.simulator = Some(process);
        Ok(())
    }

    fn write_config(&self) -> Result<()> {
        let mut text = format!("auth:\n  hs256_secret: {SECRET}\n");
        // Simulated clusters are cordoned and drained to the last node, by users who hold everything.
        let with_nodes =
            self.spec.nodes > 0 || self.spec.env.iter().any(|(name, _)| name == "MILEPOST_CLUSTERS");
        text.push_str(if with_nodes { WITHOUT_RULES } else { "actions:\n  wait: true\n" });
        text.push_str(&format!("limits:\n  requests_per_second: {REQUESTS_PER_SECOND}\n"));
        if self.spec.mode != HubMode::Memory {
            text.push_str(&format!("database:\n  url: {}\n", self.database_url()));
        }
        if let Some(url) = self.redis_url() {
            text.push_str(&format!("redis:\n  url: {url}\n"));
        }
        if self.spec.mode == HubMode::PostgresPoll {
            text.push_str("bus:\n  notify: poll\n  poll_interval: 500ms\n");
        }
        if self.spec.nodes > 0 {
            let kubeconfig = self.kubeconfig();
            text.push_str(&format!("clusters:\n  - name: sim\n    kubeconfig: {}\n", kubeconfig.display()));
        }
        std::fs::write(self.config(), text)?;
        Ok(())
    }

    /// The database as the processes reach it.
    fn database_url(&self) -> String {
        let Some((server, proxy)) = self.postgres.as_ref().zip(self.proxies.postgres.as_ref()) else {
            return self.database.clone();
        };
        self.database.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()))
    }

    /// The Redis as the processes reach it.
    fn redis_url(&self) -> Option<String> {
        if self.spec.redis_url.is_some() {
            return self.spec.redis_url.clone();
        }
        let port = self.proxies.redis.as_ref().map(Proxy::port).or(self.redis.as_ref().map(Redis::port))?;
        Some(format!("redis://127.0.0.1:{port}/"))
    }

    fn replica(&self, name: &str, command: &[&str], spec: &ReplicaSpec<'_>) -> Result<Replica> {
        let mut args: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
        args.extend(["--config".to_owned(), self.config().display().to_string()]);
        let mut env = self.spec.env.clone();
        env.extend(spec.env.iter().cloned());
        Replica::start(Start {
            name: name.to_owned(),
            prefix: spec.clock.map(FakeClock::prefix).unwrap_or_default(),
            binary: spec.binary.clone().unwrap_or_else(|| self.spec.binary.clone()),
            args,
            env,
            log: self.folder.path().join(format!("{name}.log")),
        })
    }

    /// Starts one more gateway.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn add_gateway(&mut self) -> Result<()> {
        self.add_gateway_with(&ReplicaSpec::default())
    }

    /// Starts one more gateway that is not like the others.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn add_gateway_with(&mut self, spec: &ReplicaSpec<'_>) -> Result<()> {
        self.launch_gateway(spec)?;
        self.gateways.last().map_or(Ok(()), Replica::wait_ready)
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn add_worker(&mut self) -> Result<()> {
        self.add_worker_with(&ReplicaSpec::default())
    }

    /// Starts one more worker that is not like the others.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn add_worker_with(&mut self, spec: &ReplicaSpec<'_>) -> Result<()> {
        self.launch_worker(spec)?;
        self.workers.last().map_or(Ok(()), Replica::wait_ready)
    }

    /// Runs one command of the binary with the hub's configuration, and gives back what it prints.
    ///
    /// # Errors
    /// When the command fails; with what it said.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.command_of(&self.spec.binary, args)
    }

    /// The same with another binary than the hub's.
    ///
    /// # Errors
    /// When the command fails; with what it said.
    pub fn command_of(&self, binary: &Path, args: &[&str]) -> Result<String> {
        let output = Command::new(binary).args(args).arg("--config").arg(self.config()).output()?;
        if !output.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A bearer token that every gateway of the hub accepts.
    ///
    /// # Errors
    /// When the command fails.
    pub fn token(&self, user: &str, role: &str) -> Result<String> {
        self.command(&["token", "--user", user, "--role", role])
    }

    /// Runs one SQL statement on the hub's database.
    ///
    /// # Errors
    /// When the hub has none or the statement fails.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let postgres = self.postgres.as_ref().context("this mode has no database")?;
        let name = self.database.rsplit('/').next().unwrap_or_default();
        postgres.sql(name, statement)
    }

    /// The URL of the database, past any proxy. Empty in memory mode.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Base addresses of all gateways.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.gateways.iter().map(Replica::url).collect()
    }

    /// The kubeconfig of the simulated cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("milepost.yaml")
    }

    /// The folder of the hub's logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
