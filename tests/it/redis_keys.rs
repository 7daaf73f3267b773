//! Every key that a whole Milepost leaves in Redis is one of `redis/KEYS.md`, of the type that is said there, and goes by
//! itself where that is said.

use milepost_harness::{Hub, HubMode, HubSpec, Redis};
use serde_json::json;

use crate::support::{Api, Watcher, is_terminal, names, until, wait_batch};

const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/redis/KEYS.md"));

/// A row of the document.
#[derive(Debug)]
struct Row {
    /// Such as `mp:{s017}:u:<user>:epoch`.
    pattern: String,
    kind: String,
    /// What is said of the time to live.
    ttl: String,
}

fn rows() -> Vec<Row> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `mp:")).map(cells);
    let row = |cells: Vec<&str>| {
        let [pattern, kind, _, ttl, ..] = cells[..] else { return None };
        Some(Row { pattern: pattern.trim_matches('`').into(), kind: kind.into(), ttl: ttl.into() })
    };
    rows.filter_map(row).collect()
}

impl Row {
    fn fits(&self, key: &str) -> bool {
        let (ours, theirs): (Vec<_>, Vec<_>) = (self.pattern.split(':').collect(), key.split(':').collect());
        let part = |(pattern, part): (&&str, &&str)| match *pattern {
            "{s017}" => part.len() == 6 && part.starts_with("{s") && part.ends_with('}'),
            hole if hole.starts_with('<') => !part.is_empty(),
            word => word == *part,
        };
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(part)
    }

    fn lives_for_ever(&self) -> bool {
        self.ttl == "none"
    }

    /// The words of Redis for a type.
    fn type_name(&self) -> &str {
        if self.kind == "sorted set" { "zset" } else { &self.kind }
    }
}

fn simple(redis: &Redis, words: &[&str]) -> String {
    redis.command(words).unwrap().trim().trim_start_matches(['+', ':']).to_owned()
}

fn keys(redis: &Redis) -> Vec<String> {
    let found = redis.command(&["KEYS", "*"]).unwrap();
    found.lines().filter(|line| !line.starts_with(['*', '$'])).map(str::to_owned).collect()
}

/// Checks every key against its row, and tells which rows were met.
fn check(redis: &Redis, rows: &[Row]) -> Vec<String> {
    let mut met = Vec::new();
    for key in keys(redis) {
        let fitting: Vec<_> = rows.iter().filter(|row| row.fits(&key)).collect();
        let [row] = fitting[..] else { panic!("{key} is described by {fitting:?}") };
        let kind = simple(redis, &["TYPE", &key]);
        if kind == "none" {
            continue;
        }
        assert_eq!(kind, row.type_name(), "{key}");
        let ttl: i64 = simple(redis, &["PTTL", &key]).parse().unwrap();
        assert_eq!(ttl == -1, row.lives_for_ever(), "{key} lives for {ttl} ms, and {:?} is said", row.ttl);
        met.push(row.pattern.clone());
    }
    met
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_documented_and_goes_when_it_is_said_to() {
    let mut spec = HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis);
    (spec.gateways, spec.workers) = (1, 1);
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let (redis, rows) = (hub.redis.as_ref().unwrap(), rows());
    let token = hub.token("ann", "operator").unwrap();
    let api = Api::new(&hub.gateways[0].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let ticket = api.call("POST", "live/tickets", Some(&json!({"origin": hub.gateways[0].url()}))).await;
    assert_eq!(ticket.0, 201, "{}", ticket.1);
    let task = api.submit(&wait_batch(&names("k", 20), 5, 0)).await;
    socket.events_until(&task, is_terminal).await;
    let mut batch = wait_batch(&names("slow", 20), 1_000, 0);
    batch["concurrency"] = json!(10);
    let slow = api.submit(&batch).await;
    let kept = || keys(redis).iter().any(|key| key.ends_with(":results"));
    until("results are kept for a takeover", async || kept()).await;
    let mut met = check(redis, &rows);
    socket.events_until(&slow, is_terminal).await;
    assert!(!kept(), "results are kept of a task that is over");

    met.extend(check(redis, &rows));
    met.sort();
    met.dedup();
    let mut said: Vec<_> = rows.iter().map(|row| row.pattern.clone()).collect();
    said.sort();
    assert_eq!(met, said, "every row of the document has a key");
    let live = keys(redis).into_iter().find(|key| key.ends_with(&task)).unwrap();
    let left: u64 = simple(redis, &["PTTL", &live]).parse().unwrap();
    assert!(left <= 15 * 60 * 1_000, "a finished task is kept for {left} ms");

    // What goes with the last socket and the last token, and what stays.
    drop(socket);
    let gone = async || {
        let followed = keys(redis).iter().any(|key| key.contains(":g:"));
        !followed && simple(redis, &["XLEN", "mp:dispatch"]) == "0"
    };
    until("groups and tokens are gone", gone).await;
    check(redis, &rows);
}
