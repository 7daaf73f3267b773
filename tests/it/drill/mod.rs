//! Drills: what happens to nodes and pods when something goes wrong, through real gateways and workers.
//!
//! The clusters are simulators in this process that remember every request and every pod, so what was done is judged by
//! what the clusters saw ([`seen`]) and never by what Milepost says of it. A fault that did not bite makes its test fail as
//! void. Reading order: this file (what runs) · [`seen`] · the drills. Not here: what a single action does with each
//! answer ([`crate::kubernetes`]), faults of Redis and Postgres ([`crate::faults`]).

mod kills;
mod outage;
mod reload;
mod seen;
mod stops;
mod storms;
mod unlucky;
mod waves;

use std::sync::Arc;
use std::time::Duration;

use milepost::clock::SystemClock;
use milepost::simulator::{Behaviour, Fault, Rule, Simulator, SimulatorConfig};
use milepost_harness::{Hub, HubMode, HubSpec, Proxy, Replica};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::{Api, Watcher, eventually, is_terminal};

/// A cluster of this process.
pub struct Site {
    pub name: &'static str,
    pub simulator: Simulator,
    /// What stands between it and Milepost.
    pub proxy: Proxy,
}

impl Site {
    /// Starts a cluster.
    pub async fn start(name: &'static str, config: SimulatorConfig) -> Self {
        let config = SimulatorConfig { cluster: name.into(), log_max: 1_000_000, ..config };
        let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
        let proxy = Proxy::to(simulator.addr.port()).unwrap();
        Self { name, simulator, proxy }
    }

    /// The way to it, through the proxy.
    pub fn kubeconfig(&self) -> String {
        let (server, shown) = (self.simulator.addr, self.proxy.port());
        self.simulator.kubeconfig_yaml().replace(&server.to_string(), &format!("127.0.0.1:{shown}"))
    }

    /// A batch on some of its nodes.
    pub fn batch(&self, action: &str, nodes: &[String], parameters: &Value) -> Value {
        json!({"action": action, "cluster": self.name, "items": nodes, "parameters": parameters})
    }
}

/// A cluster whose pods end and start quickly.
pub fn quick(nodes: u32, pods_per_node: u32) -> SimulatorConfig {
    let ms = Duration::from_millis;
    let behaviour =
        Behaviour { ends_within: ms(100), ready_after: ms(100), budget_lag: ms(10), ..Behaviour::default() };
    SimulatorConfig { nodes, pods_per_node, budgets_percent: 0, behaviour, ..SimulatorConfig::default() }
}

/// Requests with this verb take that long.
pub fn slow(verb: &str, ms: u64) -> Rule {
    let time = Duration::from_millis(ms);
    Rule::on(verb, Fault::Latency { from: time, to: time })
}

/// What a drain needs on the pods that a simulator plants.
pub fn drain() -> Value {
    json!({"ignore_daemonsets": true, "delete_emptydir_data": true, "force": true})
}

/// A pod of a controller that does not make another one.
pub fn pod(node: &str, name: &str) -> Value {
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "o", "controller": true}]);
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": owner},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

/// Processes that know some clusters.
pub struct Stage {
    pub hub: Hub,
    _kubeconfigs: TempDir,
}

impl Stage {
    /// Starts one gateway and so many workers that know these clusters.
    pub async fn start(mode: HubMode, workers: usize, sites: &[&Site], set: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut clusters = Vec::new();
        for site in sites {
            let file = folder.path().join(site.name);
            std::fs::write(&file, site.kubeconfig()).unwrap();
            clusters.push(json!({"name": site.name, "kubeconfig": file}));
        }
        let mut spec = HubSpec { gateways: 1, workers, ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode) }
            .set("MILEPOST_CLUSTERS", &json!(clusters).to_string())
            .set("MILEPOST_WORKER__LEASE", "3s")
            .set("MILEPOST_WORKER__RENEW_INTERVAL", "500ms");
        for (key, value) in set {
            spec = spec.set(key, value);
        }
        let hub = blocking(|| Hub::start(spec)).unwrap();
        Self { hub, _kubeconfigs: folder }
    }

    /// A user who may change things.
    pub fn user(&self, name: &str) -> User {
        let (base, token) =
            (self.hub.urls()[0].clone(), blocking(|| self.hub.token(name, "operator")).unwrap());
        User { api: Api::new(&base, &token), base, token }
    }

    /// The place of the worker that holds a task, when there is one task.
    pub async fn holder(&self) -> usize {
        let holds = |worker: &Replica| worker.metric("milepost_tasks_held").is_ok_and(|held| held > 0.0);
        let found = || blocking(|| self.hub.workers.iter().position(holds));
        eventually("a worker holds the task", async || found()).await
    }
}

/// A user at the gateway.
pub struct User {
    pub api: Api,
    pub base: String,
    pub token: String,
}

impl User {
    /// Everything that the user's sockets are sent from now on.
    pub async fn watch(&self) -> Watcher {
        Watcher::connect(&self.base, &self.token, None).await
    }

    /// Asks for a change of a task.
    pub async fn order(&self, task: &str, verb: &str) {
        let (status, answer) = self.api.call("POST", &format!("tasks/{task}/{verb}"), None).await;
        assert_eq!(status, 200, "{verb}: {answer}");
    }

    /// Waits for the end of a task for as long as it needs within `within`, and gives the record back.
    pub async fn ended(&self, task: &str, within: Duration) -> Value {
        let path = format!("tasks/{task}");
        let end = Instant::now() + within;
        loop {
            let record = self.api.get(&path).await;
            if is_terminal(&record) {
                return record;
            }
            assert!(Instant::now() < end, "not over within {within:?}: {record}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// All items of a task.
    pub async fn items(&self, task: &str) -> Vec<Value> {
        let page = self.api.get(&format!("tasks/{task}/items?limit=1000")).await;
        page["items"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
    }

    /// Waits for the end of a task of which nothing failed, and no item was tried more than once.
    pub async fn ended_unharmed(&self, task: &str, within: Duration) {
        let record = self.ended(task, within).await;
        let items = self.items(task).await;
        let odd: Vec<_> =
            items.iter().filter(|item| item["state"] != "succeeded" || item["tries"] != 1).collect();
        assert!(odd.is_empty(), "{odd:#?}");
        assert_eq!((&record["status"], &record["failed"]), (&json!("completed"), &json!(0)), "{record}");
    }
}

/// A call that waits for processes, from a test's async code.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(call)
}
