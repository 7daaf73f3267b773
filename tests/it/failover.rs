//! A batch of real processes while its Redis changes under it: a failover that loses what was acknowledged, a slot that
//! moves, a primary of a Cluster that dies, a subscription that delivers nothing. Somebody watches all the time and
//! comes back whenever the connection ends.

use std::time::Duration;

use milepost::task::UserId;
use milepost_harness::{Cluster, Hub, HubMode, HubSpec, Redis, SentinelSet, Trap};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bus_redis::keys;
use crate::support::{
    Api, Watcher, assert_orderly, eventually, is_terminal, names, order, until, wait_batch,
};

/// Items of a batch that takes about twelve seconds.
const ITEMS: usize = 300;
/// Written to a primary whose replica stands still, it fills what the kernel holds for the replica.
const FILLER_BYTES: usize = 1 << 20;
const FILLERS: usize = 40;

/// A client that comes back to another gateway with its last position whenever its connection ends, and does not
/// forgive: numbers only grow, counts never fall, and a gap is followed by a snapshot. One event may be older than a
/// snapshot that went by the record: the one that was on its way to Redis meanwhile. It is passed over, as clients do.
struct Faithful {
    urls: Vec<String>,
    token: String,
    socket: Option<Watcher>,
    task: String,
    connects: usize,
    snapshots: usize,
    position: Option<String>,
    seen: (u64, u64),
    current: u64,
    /// A number that was passed over without a word, until a snapshot.
    gap: Option<String>,
    /// Whether an event may be older than the snapshot before it.
    late: bool,
    over: Option<Value>,
}

impl Faithful {
    async fn connect(hub: &Hub, token: &str) -> Self {
        let mut new = Self {
            urls: hub.urls(),
            token: token.to_owned(),
            socket: None,
            task: String::new(),
            connects: 0,
            snapshots: 0,
            position: None,
            seen: (0, 0),
            current: 0,
            gap: None,
            late: false,
            over: None,
        };
        new.come_back().await;
        new
    }

    async fn come_back(&mut self) {
        let url = &self.urls[self.connects % self.urls.len()];
        self.connects += 1;
        let found = Watcher::try_connect(url, &self.token, self.position.as_deref()).await;
        let Some(socket) = found else { return tokio::time::sleep(Duration::from_millis(200)).await };
        self.position = socket.hello["position"].as_str().map(str::to_owned);
        if let Some(snapshot) = &socket.snapshot {
            self.take(&snapshot.clone());
        }
        self.socket = Some(socket);
    }

    /// Watches until `done`, or the end of the task.
    async fn watch(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(90);
        while self.over.is_none() && !done(self) {
            assert!(Instant::now() < end, "nothing more came: {:?} {}", self.seen, self.current);
            let Some(socket) = &mut self.socket else {
                self.come_back().await;
                continue;
            };
            match socket.try_next().await {
                Some(frame) => self.take(&frame),
                None => self.socket = None,
            }
        }
    }

    fn take(&mut self, frame: &Value) {
        if let Some(position) = frame["position"].as_str() {
            self.position = Some(position.to_owned());
        }
        match frame["type"].as_str().unwrap() {
            "hello" => {}
            "snapshot" => {
                (self.snapshots, self.gap, self.late) = (self.snapshots + 1, None, true);
                let tasks = frame["tasks"].as_array().unwrap();
                if let Some(task) = tasks.iter().find(|task| task["task_id"] == *self.task) {
                    self.forward(task);
                }
            }
            _ if frame["task_id"] == *self.task => {
                let (new, merged) = (order(frame), frame["merged"].as_u64().unwrap_or(1));
                if new <= self.seen {
                    return;
                }
                let dense = new == (self.seen.0, self.seen.1 + merged) || new.0 > self.seen.0;
                if !dense {
                    self.gap = Some(format!("{:?} then {frame}", self.seen));
                }
                if std::mem::take(&mut self.late) && frame["current"].as_u64() < Some(self.current) {
                    self.seen = new;
                    return;
                }
                self.forward(frame);
            }
            _ => panic!("an event of a task that is not ours: {frame}"),
        }
    }

    fn forward(&mut self, task: &Value) {
        let current = task["current"].as_u64().unwrap();
        assert!(current >= self.current, "{} items were done before: {task}", self.current);
        self.current = current;
        self.seen = self.seen.max(order(task));
        if is_terminal(task) {
            self.over = Some(task.clone());
        }
    }
}

async fn hub_on(url: &str) -> Hub {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis).on_redis(url);
    spec.workers = 2;
    tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap()
}

/// Submits the batch of a user who watches, and lets it run up to some items.
async fn begin(hub: &Hub, user: &str) -> Faithful {
    let token = hub.token(user, "operator").unwrap();
    let mut faithful = Faithful::connect(hub, &token).await;
    let mut batch = wait_batch(&names("n", ITEMS), 200, 0);
    batch["concurrency"] = json!(5);
    faithful.task = Api::new(&hub.gateways[1].url(), &token).submit(&batch).await;
    faithful.watch(|seen| seen.current >= 20).await;
    faithful
}

/// Everything ran once and is recorded once, and who watched was told of the end and of every gap.
fn assert_whole(hub: &Hub, faithful: &Faithful) {
    let end = faithful.over.as_ref().unwrap();
    assert_eq!((&end["status"], &end["current"]), (&json!("completed"), &json!(ITEMS)));
    assert_eq!(faithful.gap, None, "a gap that nobody told of");
    let task = &faithful.task;
    let record = hub.sql(&format!("SELECT status, attempt FROM tasks WHERE id = '{task}'")).unwrap();
    assert_eq!(record, "completed|1", "workers went on");
    let rows = hub.sql(&format!("SELECT count(*) FROM items WHERE task_id = '{task}'")).unwrap();
    assert_eq!(rows, ITEMS.to_string());
    let ran = |worker: &milepost_harness::Replica| {
        worker.metric("milepost_items_finished_total{status=\"succeeded\"}").unwrap()
    };
    assert_eq!(hub.workers.iter().map(ran).sum::<f64>(), f64::from(u16::try_from(ITEMS).unwrap()));
}

async fn ready(hub: &Hub) {
    until("both gateways are ready", async || {
        hub.gateways.iter().all(|gateway| gateway.probe("/readyz").is_ok_and(|status| status == 200))
    })
    .await;
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Whether a server has the entry that a position stands at.
fn has(server: &Redis, user: &UserId, position: &str) -> bool {
    let id = position.rsplit('.').next().unwrap();
    server.command(&["XRANGE", &keys().events(user), id, id]).unwrap().contains(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_batch_survives_a_failover_that_loses_acknowledged_entries() {
    let set = tokio::task::block_in_place(|| SentinelSet::start(1, Duration::from_secs(3))).unwrap();
    let hub = hub_on(&set.url()).await;
    let mut faithful = begin(&hub, "ann").await;
    let before = faithful.position.clone().unwrap();
    set.servers()[1].process().signal(Signal::SIGSTOP).unwrap();
    let filler = "x".repeat(FILLER_BYTES);
    for n in 0..FILLERS {
        set.servers()[0].command(&["SET", &format!("filler-{n}"), &filler]).unwrap();
    }
    let at = faithful.current;
    faithful.watch(|seen| seen.current >= at + 20).await;
    let seen = faithful.position.clone().unwrap();
    set.servers()[0].process().kill().unwrap();
    set.servers()[1].process().signal(Signal::SIGCONT).unwrap();
    let failover =
        async { eventually("the failover", async || set.primary().ok().filter(|new| *new != 0)).await };
    let (primary, ()) = tokio::join!(failover, faithful.watch(|_| false));
    assert!(has(&set.servers()[primary], &user("ann"), &before), "void: the replica had nothing");
    assert!(
        !has(&set.servers()[primary], &user("ann"), &seen),
        "void: nothing was lost that a watcher had seen"
    );
    assert!(faithful.snapshots > 1, "the loss was told");
    assert_whole(&hub, &faithful);

    // A position of before the failover, though its entry is still there: what came after it is not.
    let token = hub.token("ann", "operator").unwrap();
    for url in hub.urls() {
        let late = Watcher::connect(&url, &token, Some(&before)).await;
        assert_eq!((&late.hello["recovered"], &late.hello["reason"]), (&json!(false), &json!("epoch")));
        let tasks = late.snapshot.unwrap()["tasks"].clone();
        assert_eq!(tasks[0]["status"], "completed", "{tasks}");
    }
    ready(&hub).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_survives_the_moves_of_its_slot() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(Duration::from_secs(60))).unwrap();
    let hub = hub_on(&cluster.url()).await;
    let mut faithful = begin(&hub, "bob").await;
    let slot = cluster.slot(&keys().events(&user("bob"))).unwrap();
    let first = cluster.owner(slot).unwrap();
    let moves = async {
        for lap in 1..=3 {
            let target = (first + lap) % 3;
            cluster.begin_move(slot, target).unwrap();
            // Long enough for publishes to meet the slot on its way.
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| cluster.finish_move(slot, target)).unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    tokio::join!(moves, faithful.watch(|_| false));
    assert_whole(&hub, &faithful);
    assert_eq!(cluster.owner(slot).unwrap(), first);
    ready(&hub).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_survives_the_death_of_its_primary_in_a_cluster() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(Duration::from_secs(2))).unwrap();
    let hub = hub_on(&cluster.url()).await;
    let mut faithful = begin(&hub, "cid").await;
    let slot = cluster.slot(&keys().events(&user("cid"))).unwrap();
    let owner = cluster.owner(slot).unwrap();
    cluster.nodes()[owner].process().kill().unwrap();
    let failover = async {
        eventually("the failover", async || cluster.owner(slot).ok().filter(|new| *new != owner)).await;
    };
    tokio::join!(failover, faithful.watch(|_| false));
    assert!(faithful.snapshots > 1, "what may be lost was told");
    assert_whole(&hub, &faithful);
    ready(&hub).await;
}

/// One gateway stops hearing on a connection that looks sound to both ends. It says that it is not ready and lives on,
/// and a new connection is there within ten seconds. Meanwhile watchers get everything, later.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_delivers_nothing_is_found_and_replaced_within_ten_seconds() {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis).proxied();
    (spec.gateways, spec.workers) = (1, 1);
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let (gateway, proxy) = (&hub.gateways[0], hub.proxies.redis.as_ref().unwrap());
    let token = hub.token("dee", "operator").unwrap();
    let mut socket = Watcher::connect(&gateway.url(), &token, None).await;

    // The gateway's own probe is the first to come, and the last.
    proxy.set_trap(Trap::Deafen { reply: b"smessage".to_vec() }, 1);
    until("the connection is deaf", async || proxy.sprung() == 1).await;
    let (deaf, api) = (Instant::now(), Api::new(&gateway.url(), &token));
    let task = api.submit(&wait_batch(&names("d", 10), 10, 0)).await;
    let events = socket.events_until(&task, is_terminal).await;
    assert_orderly(&events);
    until("readiness is off", async || gateway.probe("/readyz").unwrap() == 503).await;
    assert_eq!(gateway.probe("/livez").unwrap(), 200);
    until("readiness is back", async || gateway.probe("/readyz").unwrap() == 200).await;
    assert!(deaf.elapsed() < Duration::from_secs(10), "{:?}", deaf.elapsed());
}
