//! A Kubernetes API on loopback with virtual nodes: for the demo, load tests, and tests of what Milepost does to nodes.
//!
//! Unmodified `kubectl` and client libraries work against it over plain HTTP. It serves what Milepost uses: version and
//! discovery, nodes, pods with evictions and budgets, what owns pods, and reviews of access, with real versions,
//! conflicts and refusals. Faults can be ordered by [`Rule`], rights taken by [`Denied`]. Not here: server-side apply,
//! and any check of who asks.

mod access;
mod acts;
mod agenda;
mod api;
mod budgets;
mod cluster;
mod collection;
mod controllers;
mod deletion;
mod discovery;
mod eviction;
mod inside;
mod journal;
mod log;
mod meddler;
mod nodes;
mod object;
mod patch;
mod placing;
mod pod;
mod protobuf;
mod query;
mod reply;
mod resources;
mod rules;
mod seed;
mod selector;
mod serve;
mod server;
mod status;
mod view;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;

pub use access::Denied;
pub use controllers::Behaviour;
pub use journal::{PodChange, PodEvent};
pub use log::{LoggedRequest, Observer};
pub use meddler::Meddler;
pub use rules::{Fault, Rule};

use access::Access;
use api::Api;
use cluster::Cluster;
use controllers::Controllers;

/// What a simulated cluster looks like and what goes wrong in it.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Name of the cluster, its context and its user in the kubeconfig.
    pub cluster: String,
    /// How many nodes there are: `node-001` and on.
    pub nodes: u32,
    /// How many of them are the control plane, at most half.
    pub control_planes: u32,
    /// Zones, given to the nodes in turn.
    pub zones: Vec<String>,
    /// Pods of each worker node; none by default. A control plane has its own three.
    pub pods_per_node: u32,
    /// How many of a hundred replicated apps have a PodDisruptionBudget.
    pub budgets_percent: u8,
    /// How fast the cluster does what it does by itself.
    pub behaviour: Behaviour,
    /// Changes of each resource kept for watches; an older watch gets a 410.
    pub history_max: usize,
    /// Requests kept in the log.
    pub log_max: usize,
    /// Decides which requests meet the rules that leave it to chance.
    pub seed: u64,
    /// What goes wrong.
    pub rules: Vec<Rule>,
    /// What the account may not do.
    pub denied: Vec<Denied>,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            cluster: "simulator".into(),
            nodes: 100,
            control_planes: 3,
            zones: ["zone-a", "zone-b", "zone-c"].map(String::from).into(),
            pods_per_node: 0,
            budgets_percent: 50,
            behaviour: Behaviour::default(),
            history_max: 2_000,
            log_max: 10_000,
            seed: 0,
            rules: Vec::new(),
            denied: Vec::new(),
        }
    }
}

/// A running simulator. It stops, and cuts its connections, when dropped.
pub struct Simulator {
    /// Where it listens.
    pub addr: SocketAddr,
    cluster: String,
    api: Arc<Api>,
    _stop: DropGuard,
}

impl Simulator {
    /// Starts on a listener. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(
        config: SimulatorConfig,
        listener: TcpListener,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let addr = listener.local_addr()?;
        let began = Instant::now();
        let api = Arc::new(Api {
            cluster: Arc::new(Cluster::new(&config, clock, began)),
            access: Access::new(config.denied),
            rules: rules::Rules::new(config.seed, config.rules),
            log: log::RequestLog::new(config.log_max, began),
        });
        let stop = CancellationToken::new();
        let controllers = Controllers::new(Arc::clone(&api.cluster), config.behaviour);
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(controllers.run()).await });
        tokio::spawn(server::run(listener, Arc::clone(&api), stop.clone()));
        Ok(Self { addr, cluster: config.cluster, api, _stop: stop.drop_guard() })
    }

    /// Starts on a port of 127.0.0.1; 0 takes a free one.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn bind(config: SimulatorConfig, port: u16, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        Self::start(config, TcpListener::bind(("127.0.0.1", port)).await?, clock)
    }

    /// A kubeconfig for `kubectl` and client libraries.
    #[must_use]
    pub fn kubeconfig_yaml(&self) -> String {
        let (name, addr) = (&self.cluster, self.addr);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
             clusters:\n- name: {name}\n  cluster:\n    server: http://{addr}\n\
             users:\n- name: {name}\n  user: {{}}\n\
             contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n"
        )
    }

    /// Puts other rules in force, for requests from now on.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.api.rules.replace(rules);
    }

    /// Takes rights from the account, instead of those it lacked before.
    pub fn deny(&self, denied: Vec<Denied>) {
        self.api.access.replace(denied);
    }

    /// Has each request from now on told to an observer. Only the first one is ever told.
    pub fn observe(&self, observer: Observer) {
        self.api.log.observe(observer);
    }

    /// The requests kept in the log, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.api.log.entries()
    }
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator")
            .field("addr", &self.addr)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}
