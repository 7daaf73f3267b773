//! A Kubernetes API on loopback with virtual nodes: for the demo, load tests, and tests of what Milepost does to nodes.
//!
//! Unmodified `kubectl` and client libraries work against it over plain HTTP. It serves what Milepost uses: version and
//! discovery, and get, list, watch and patch of nodes, with real versions, conflicts and refusals. Faults can be ordered
//! by [`Rule`]. Not here: pods and evictions, server-side apply, and any check of who asks.

mod api;
mod collection;
mod discovery;
mod log;
mod nodes;
mod patch;
mod query;
mod rules;
mod selector;
mod server;
mod status;
mod view;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;

pub use log::{LoggedRequest, Observer};
pub use rules::{Fault, Rule};

use api::Api;
use collection::{Collection, Versions};

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
    /// Changes kept for watches; an older watch gets a 410.
    pub history_max: usize,
    /// Requests kept in the log.
    pub log_max: usize,
    /// Decides which requests meet the rules that leave it to chance.
    pub seed: u64,
    /// What goes wrong.
    pub rules: Vec<Rule>,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            cluster: "simulator".into(),
            nodes: 100,
            control_planes: 3,
            zones: ["zone-a", "zone-b", "zone-c"].map(String::from).into(),
            history_max: 2_000,
            log_max: 10_000,
            seed: 0,
            rules: Vec::new(),
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
        let fleet = nodes::fleet(&config, clock.now());
        let nodes = Collection::new("nodes", Arc::new(Versions::default()), config.history_max, fleet);
        let api = Arc::new(Api {
            nodes: Arc::new(nodes),
            rules: rules::Rules::new(config.seed, config.rules),
            log: log::RequestLog::new(config.log_max),
            clock,
        });
        let stop = CancellationToken::new();
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

    /// Names of the nodes, sorted.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        let page = self.api.nodes.list(&selector::Selector::default(), None, usize::MAX);
        page.items.iter().map(|node| collection::name_of(node).to_owned()).collect()
    }

    /// A node as the API would show it.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Value> {
        self.api.nodes.get(name).ok().map(|node| Value::clone(&node))
    }

    /// Changes a node by a JSON merge patch, as another writer of the cluster would. Returns the new node; `None` when
    /// it does not exist or the API would refuse the change.
    pub fn merge_patch(&self, name: &str, patch: &Value) -> Option<Value> {
        let edit = |old: &Value| nodes::admit(old, patch::PatchKind::Merge.apply(old, patch)?);
        self.api.nodes.update(name, false, edit).ok().map(|node| Value::clone(&node))
    }

    /// Takes a node away. Returns whether it was there.
    pub fn delete_node(&self, name: &str) -> bool {
        self.api.nodes.delete(name)
    }

    /// Puts other rules in force, for requests from now on.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.api.rules.replace(rules);
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
