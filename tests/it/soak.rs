//! Ten thousand small tasks of several users through real processes: whatever comes has to go again.
//!
//! Users keep a bounded number of tasks open, watch them, and submit the next one when one ends. Every second all that
//! can grow is measured: streams, groups, pending entries, keys, rows. What is kept for a time may hold what came in that
//! time and no more, however fast the machine is. At the end nothing may be left. `SOAK_TASKS` sets another number.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milepost::redis::Keys;
use milepost::task::UserId;
use milepost_harness::{Hub, HubMode, HubSpec, Redis};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Api, PATIENCE, Watcher, is_terminal, names, until, wait_batch};

const USERS: usize = 10;
/// Tasks open at once.
const OPEN_MAX: usize = 200;
/// How long everything is kept: records, events, streams.
const KEPT: Duration = Duration::from_secs(3);
/// How much later than that it may go, on a loaded machine.
const LATE: Duration = Duration::from_secs(9);
/// Entries kept of a stream, and how many more there may be because Redis cuts whole nodes.
const ENTRIES_MAX: u64 = 400;
const NODE: u64 = 100;
/// Events of a task with one short item: queued, started, at most two of progress, complete.
const EVENTS_PER_TASK: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_leave_nothing_behind_in_redis_mode() {
    soak(HubMode::Redis, tasks(10_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_tasks_leave_nothing_behind_in_postgres_mode() {
    soak(HubMode::Postgres, tasks(2_000)).await;
}

fn tasks(usual: usize) -> usize {
    let set = std::env::var("SOAK_TASKS").ok().and_then(|n| n.parse().ok());
    // Every user has two who submit as many.
    set.unwrap_or(usual).next_multiple_of(USERS * 2)
}

async fn soak(mode: HubMode, tasks: usize) {
    let kept = format!("{}s", KEPT.as_secs());
    let spec = HubSpec { gateways: 2, workers: 2, ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode) }
        .set("MILEPOST_BUS__STREAM_TTL", &kept)
        .set("MILEPOST_BUS__RETENTION", &kept)
        .set("MILEPOST_BUS__ENTRIES_MAX", &ENTRIES_MAX.to_string())
        .set("MILEPOST_MAINTENANCE__RETENTION", &kept)
        .set("MILEPOST_AUDIT__RETENTION", &kept)
        .set("MILEPOST_MAINTENANCE__PRUNE_INTERVAL", "1s")
        .set("MILEPOST_WORKER__PER_CLUSTER_MAX", "1000")
        .set("MILEPOST_LIMITS__REQUESTS_PER_SECOND", "100000")
        .set("MILEPOST_TELEMETRY__LOG", "warn");
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let load = Load::new(&hub, tasks);
    let mut running = load.start(&hub).await;
    let began = Instant::now();
    let mut history = vec![(began, 0)];
    while !running.is_empty() {
        tokio::select! {
            Some(ended) = running.join_next() => ended.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                history.push((Instant::now(), load.ended()));
                let sizes = sizes(&hub);
                bounds(&history).check(&sizes, &history);
            }
        }
    }
    assert_eq!(load.ended(), tasks);
    until("nothing is left", async || left(&sizes(&hub)).is_empty()).await;
}

/// What the users do, and how far they are.
struct Load {
    tokens: Vec<String>,
    ended: Arc<Mutex<HashSet<String>>>,
    room: Arc<Semaphore>,
    each: usize,
}

impl Load {
    fn new(hub: &Hub, tasks: usize) -> Self {
        let token = |n| hub.token(&format!("user-{n}"), "operator").unwrap();
        Self {
            tokens: (0..USERS).map(token).collect(),
            ended: Arc::default(),
            room: Arc::new(Semaphore::new(OPEN_MAX)),
            each: tasks / USERS,
        }
    }

    fn ended(&self) -> usize {
        self.ended.lock().unwrap().len()
    }

    /// Every user submits to one gateway and watches at the other.
    async fn start(&self, hub: &Hub) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for token in &self.tokens {
            let watcher = Watcher::connect(&hub.gateways[1].url(), token, None).await;
            running.spawn(watch(watcher, Arc::clone(&self.ended), Arc::clone(&self.room), self.each));
            for _ in 0..2 {
                let api = Api::new(&hub.gateways[0].url(), token);
                running.spawn(submit(api, Arc::clone(&self.room), self.each / 2));
            }
        }
        running
    }
}

async fn submit(api: Api, room: Arc<Semaphore>, tasks: usize) {
    let batch = wait_batch(&names("n", 1), 0, 0);
    for _ in 0..tasks {
        tokio::time::timeout(PATIENCE, room.acquire()).await.expect("tasks end").unwrap().forget();
        api.submit(&batch).await;
    }
}

/// Sees the end of every task of a user, each of which makes room for another one.
async fn watch(mut watcher: Watcher, ended: Arc<Mutex<HashSet<String>>>, room: Arc<Semaphore>, tasks: usize) {
    let mut seen = 0;
    while seen < tasks {
        let frame = watcher.next().await;
        let new = |task: &&Value| {
            is_terminal(task) && ended.lock().unwrap().insert(task["task_id"].as_str().unwrap().to_owned())
        };
        let shown = frame["tasks"].as_array().map_or(std::slice::from_ref(&frame), Vec::as_slice);
        let new = shown.iter().filter(new).count();
        seen += new;
        room.add_permits(new);
    }
}

type Sizes = BTreeMap<String, u64>;

/// All that can grow.
fn sizes(hub: &Hub) -> Sizes {
    let tables = [
        "tasks",
        "task_members",
        "items",
        "outbox",
        "owners",
        "idempotency_keys",
        "audit",
        "audit_ends",
        "bus_streams",
        "bus_events",
        "bus_live",
    ];
    let counts: Vec<String> = tables.iter().map(|table| format!("(SELECT count(*) FROM {table})")).collect();
    let row = hub.sql(&format!("SELECT {}", counts.join(", "))).unwrap();
    let rows = row.split('|').map(|n| n.parse().unwrap());
    let mut sizes: Sizes = tables.map(str::to_owned).into_iter().zip(rows).collect();
    if let Some(redis) = &hub.redis {
        measure(redis, &mut sizes);
    }
    sizes
}

fn measure(redis: &Redis, sizes: &mut Sizes) {
    let keys = Keys::new("mp").unwrap();
    let number = |words: &[&str]| -> u64 {
        redis.command(words).unwrap().trim().trim_start_matches(':').parse().unwrap()
    };
    sizes.insert("keys".into(), number(&["DBSIZE"]));
    sizes.insert("dispatch".into(), number(&["XLEN", &keys.dispatch()]));
    let (mut longest, mut groups, mut pending) = (0, 0, 0);
    for n in 0..USERS {
        let stream = keys.events(&UserId::new(format!("user-{n}")).unwrap());
        longest = number(&["XLEN", &stream]).max(longest);
        let info = redis.command(&["XINFO", "GROUPS", &stream]).unwrap_or_default();
        let lines: Vec<&str> = info.lines().collect();
        groups = groups.max(lines.iter().filter(|line| **line == "name").count() as u64);
        let of = |pair: &&[&str]| pair[0] == "pending";
        pending += lines.windows(2).filter(of).map(|pair| pair[1][1..].parse::<u64>().unwrap()).sum::<u64>();
    }
    for (name, size) in [("longest stream", longest), ("groups of a stream", groups), ("pending", pending)] {
        sizes.insert(name.into(), size);
    }
}

/// The most there may be of each.
struct Bounds(BTreeMap<&'static str, u64>);

/// What ended within the time for which it is kept, and what is open, may be there.
fn bounds(history: &[(Instant, usize)]) -> Bounds {
    let (now, ended) = history[history.len() - 1];
    let before = history.iter().rev().find(|(at, _)| now.duration_since(*at) >= KEPT + LATE);
    let tasks = (ended - before.map_or(0, |(_, ended)| *ended) + OPEN_MAX * 2) as u64;
    let users = USERS as u64;
    Bounds(BTreeMap::from([
        ("tasks", tasks),
        ("task_members", tasks),
        ("items", tasks),
        ("outbox", tasks),
        ("owners", users),
        ("idempotency_keys", 0),
        // A submit and a claim of each task.
        ("audit", tasks * 2),
        ("audit_ends", tasks),
        ("bus_streams", users),
        ("bus_events", tasks * EVENTS_PER_TASK),
        ("bus_live", tasks),
        // Beside the tasks: stream, epoch and the index of groups of each user, and two of everybody.
        ("keys", tasks + users * 3 + 2),
        ("dispatch", OPEN_MAX as u64 * 2),
        ("longest stream", ENTRIES_MAX + NODE),
        ("groups of a stream", 1),
        ("pending", OPEN_MAX as u64 * EVENTS_PER_TASK),
    ]))
}

impl Bounds {
    fn check(&self, sizes: &Sizes, history: &[(Instant, usize)]) {
        for (name, size) in sizes {
            let most = self.0[name.as_str()];
            let at = history.last().unwrap().1;
            assert!(*size <= most, "after {at} tasks {name} has {size}, more than {most}: {sizes:?}");
        }
    }
}

/// What should be gone, when nobody watches and nothing runs.
fn left(sizes: &Sizes) -> Vec<(&String, &u64)> {
    // The dispatch stream and the leases of the gateways stay.
    sizes.iter().filter(|(name, size)| **size > if *name == "keys" { 2 } else { 0 }).collect()
}
