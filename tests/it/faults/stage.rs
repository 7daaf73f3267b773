//! What a fault happens to: a hub of real processes, a cluster, users who submit, and sockets that watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milepost::clock::{Clock, SystemClock};
use milepost::simulator::{self, Rule, Simulator, SimulatorConfig};
use milepost::verify::record::{Call, fingerprint};
use milepost::verify::{Record, Report};
use milepost_harness::hub::SECRET;
use milepost_harness::{Hub, HubMode, HubSpec, Redis, Replica};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::judge;
use super::notes::{Fault, Notes};
use super::watch::{Servers, Socket, Watching};
use crate::support::{Api, PATIENCE, eventually, until};

/// Two gateways, three workers, Redis and Postgres.
pub fn spec() -> HubSpec {
    // A takeover within the patience of a test, with room for a machine that is busy.
    HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis)
        .set("MILEPOST_WORKER__LEASE", "3s")
        .set("MILEPOST_WORKER__RENEW_INTERVAL", "500ms")
        .set("MILEPOST_SERVER__CLOSE_SPREAD", "2s")
}

/// A call that waits for processes, from a test's async code.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(call)
}

/// A submit that was answered with a 2xx.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub task: String,
    pub user: String,
    pub cluster: String,
}

/// Everything that takes part in one test.
pub struct Stage {
    pub hub: Hub,
    pub cluster: Option<Simulator>,
    pub accepted: Vec<Accepted>,
    pub servers: Servers,
    record: PgPool,
    tokens: BTreeMap<String, String>,
    watching: Vec<Watching>,
    _kubeconfig: Option<TempDir>,
    pub notes: Notes,
    /// When the cluster began to count time.
    pub began_us: i64,
}

impl Stage {
    /// Starts the hub.
    pub fn start(spec: HubSpec) -> Self {
        Self::of(blocking(|| Hub::start(spec)).unwrap())
    }

    /// Starts the hub on a Redis of one's own.
    pub fn start_on(spec: HubSpec, redis: Redis) -> Self {
        Self::of(blocking(|| Hub::start_on(spec, Some(redis))).unwrap())
    }

    /// Starts the hub with a cluster `sim` of so many nodes, each patch of which takes that long. The cluster is in this
    /// process, and knows what was done to it.
    pub async fn with_cluster(spec: HubSpec, nodes: u32, patch: Duration) -> Self {
        let latency = simulator::Fault::Latency { from: patch, to: patch };
        let config = SimulatorConfig {
            nodes,
            log_max: 1_000_000,
            rules: vec![Rule::on("patch", latency)],
            ..SimulatorConfig::default()
        };
        let cluster = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
        let began_us = SystemClock.now().as_microsecond();
        let kubeconfig = cluster.kubeconfig_yaml();
        Self { cluster: Some(cluster), began_us, ..Self::with_kubeconfig(spec, &kubeconfig) }
    }

    /// Starts the hub with a cluster `sim` that this kubeconfig leads to.
    pub fn with_kubeconfig(spec: HubSpec, kubeconfig: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        std::fs::write(&file, kubeconfig).unwrap();
        let spec =
            spec.set("MILEPOST_CLUSTERS", &format!("[{{name: sim, kubeconfig: '{}'}}]", file.display()));
        let hub = blocking(|| Hub::start(spec)).unwrap();
        Self { _kubeconfig: Some(folder), ..Self::of(hub) }
    }

    fn of(hub: Hub) -> Self {
        let servers = Arc::new(Mutex::new(hub.urls()));
        let record = PgPoolOptions::new().max_connections(2).connect_lazy(hub.database()).unwrap();
        let (accepted, tokens, watching, notes) = <(_, _, _, Notes)>::default();
        Self {
            hub,
            cluster: None,
            accepted,
            servers,
            record,
            tokens,
            watching,
            _kubeconfig: None,
            began_us: notes.now(),
            notes,
        }
    }

    pub fn token(&mut self, user: &str) -> String {
        self.tokens.entry(user.to_owned()).or_insert_with(|| mint(user)).clone()
    }

    /// A user at a gateway.
    pub fn api(&mut self, user: &str, gateway: usize) -> Api {
        let token = self.token(user);
        Api::new(&self.hub.gateways[gateway].url(), &token)
    }

    /// Opens raw sockets of a user at the gateways in turn, and one of the product's own client.
    pub async fn watch(&mut self, user: &str, sockets: usize) {
        let token = self.token(user);
        for n in 0..sockets {
            let raw = Watching::raw(&self.servers, &self.notes, (user, &token), n, None);
            self.watching.push(raw);
        }
        self.watching.push(Watching::product(&self.servers, &self.notes, (user, &token)));
        let all = &self.watching;
        until("all sockets are open", async || all.iter().all(|one| one.socket().is_up())).await;
    }

    /// Opens a raw socket with small buffers that reads only while its gate is open.
    pub async fn watch_slowly(&mut self, user: &str) -> watch::Sender<bool> {
        let token = self.token(user);
        let gate = watch::Sender::new(true);
        let subscribed = Some(gate.subscribe());
        let one = Watching::raw(&self.servers, &self.notes, (user, &token), 0, subscribed);
        let socket = one.socket();
        self.watching.push(one);
        until("the socket is open", async || socket.is_up()).await;
        gate
    }

    /// Submits a batch at a gateway.
    pub async fn submit_at(&mut self, gateway: usize, user: &str, body: &Value) -> String {
        let task = self.api(user, gateway).submit(body).await;
        self.accept(user, &task, body);
        task
    }

    pub async fn submit(&mut self, user: &str, body: &Value) -> String {
        self.submit_at(0, user, body).await
    }

    /// Notes a submit that was answered with a 2xx.
    pub fn accept(&mut self, user: &str, task: &str, body: &Value) {
        self.note_submit(user, None, body, Some(202), Some(task));
    }

    /// Notes a submit with its answer, if there was one.
    pub fn note_submit(
        &mut self,
        user: &str,
        key: Option<&str>,
        body: &Value,
        status: Option<u16>,
        task: Option<&str>,
    ) {
        let call = Call {
            at_us: self.notes.now(),
            call: "submit".to_owned(),
            user: user.to_owned(),
            key: key.map(str::to_owned),
            body: Some(fingerprint(body)),
            status,
            task: task.map(|task| task.parse().unwrap()),
            poison: body["reason"] == "poison",
        };
        let accepted = task.filter(|_| call.is_accepted());
        self.notes.add(Record::Call(call));
        if let Some(task) = accepted {
            let cluster = body["cluster"].as_str().unwrap().to_owned();
            self.accepted.push(Accepted { task: task.to_owned(), user: user.to_owned(), cluster });
        }
    }

    /// Tasks on the cluster.
    pub fn on_cluster(&self) -> Vec<&str> {
        let there = self.accepted.iter().filter(|accepted| accepted.cluster == "sim");
        there.map(|accepted| accepted.task.as_str()).collect()
    }

    /// Notes that a fault is being made.
    pub fn fault(&self, name: &'static str) -> Fault {
        Fault::make(&self.notes, name, false)
    }

    /// Notes that a fault is being made which may take published events.
    pub fn loss(&self, name: &'static str) -> Fault {
        Fault::make(&self.notes, name, true)
    }

    /// The sockets, as far as they are now.
    pub fn sockets(&self) -> Vec<Arc<Socket>> {
        self.watching.iter().map(Watching::socket).collect()
    }

    /// One row of the record, columns divided by `|`.
    pub async fn row(&self, columns: &str, task: &str) -> String {
        self.sql(format!("SELECT concat_ws('|', {columns}) FROM tasks WHERE id = '{task}'")).await.remove(0)
    }

    pub async fn number(&self, statement: &str) -> u64 {
        self.sql(format!("SELECT ({statement})::text")).await[0].parse().unwrap()
    }

    /// One text per row, from the server itself and not through a proxy.
    pub async fn sql(&self, statement: String) -> Vec<String> {
        let rows = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(&self.record);
        timeout(PATIENCE, rows).await.expect("in time").unwrap()
    }

    /// Waits until so many items of a task are recorded.
    pub async fn recorded(&self, task: &str, items: u64) {
        let count = format!("SELECT count(*) FROM items WHERE task_id = '{task}'");
        until("items are recorded", async || self.number(&count).await >= items).await;
    }

    /// Waits until a socket of the task's user has seen so many of its items end.
    pub async fn seen(&self, task: &str, items: u32) {
        let sockets = self.sockets();
        let far = |socket: &Arc<Socket>| socket.current(task) >= items;
        until("items are seen", async || sockets.iter().any(far)).await;
    }

    /// Waits until the record says that a task is over.
    pub async fn ended(&self, task: &str) {
        until("the task is over", async || self.row("finished_at IS NOT NULL", task).await == "t").await;
    }

    /// The worker that holds a task, as its place in `hub.workers`.
    pub async fn holder(&self) -> usize {
        let holds = |worker: &Replica| worker.metric("milepost_tasks_held").is_ok_and(|held| held > 0.0);
        let workers = &self.hub.workers;
        eventually("a worker holds the task", async || blocking(|| workers.iter().position(holds))).await
    }

    /// The sum of a counter over processes; those that are gone count nothing.
    pub fn sum<'a>(&self, replicas: impl IntoIterator<Item = &'a Replica>, metric: &str) -> f64 {
        blocking(|| replicas.into_iter().filter_map(|replica| replica.total(metric).ok()).sum())
    }

    pub fn on_gateways(&self, metric: &str) -> f64 {
        self.sum(&self.hub.gateways, metric)
    }

    pub fn on_workers(&self, metric: &str) -> f64 {
        self.sum(&self.hub.workers, metric)
    }

    /// How often each node of the cluster was looked at to be acted on, once for each run of an item.
    pub fn runs(&self) -> BTreeMap<String, u32> {
        let mut runs = BTreeMap::new();
        for request in self.cluster.as_ref().unwrap().requests() {
            if let Some(node) = request.path.strip_prefix("/api/v1/nodes/").filter(|_| request.verb == "get")
            {
                *runs.entry(node.to_owned()).or_default() += 1;
            }
        }
        runs
    }

    /// Names of the items of a task that have a row.
    pub async fn recorded_names(&self, task: &str) -> BTreeSet<String> {
        let statement = format!(
            "SELECT names[idx + 1] FROM items JOIN task_members USING (task_id) WHERE task_id = '{task}'"
        );
        self.sql(statement).await.into_iter().collect()
    }

    /// A batch on all nodes of the cluster.
    pub fn node_batch(&self, value: &str, lanes: u32) -> Value {
        json!({
            "action": "label", "cluster": "sim", "items": self.cluster.as_ref().unwrap().node_names(),
            "parameters": {"labels": {"stage": value}, "overwrite": true}, "concurrency": lanes,
        })
    }

    /// Waits until everything that was accepted is over and told, then has the run judged.
    pub async fn judge(self) -> Report {
        let report = judge::judge(&self).await;
        for one in self.watching {
            one.stop().await;
        }
        report
    }
}

/// A token that every gateway of a hub accepts.
fn mint(user: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let end = SystemClock.now().as_second() + 12 * 3_600;
    let claims = json!({"sub": user, "role": "operator", "exp": end});
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}
