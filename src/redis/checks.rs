//! Whether the servers of Redis are fit for Milepost: what is wrong, what it risks, and what to do.
//!
//! Asked at start and by `milepost doctor`. The judging is pure; nothing here refuses to start, the caller does.

use redis::{Cmd, cmd};

use super::scripts::LibraryState;
use super::{CallError, LIBRARY, Layout, Node, Redis};

/// The oldest server with functions and sharded pub/sub. Valkey reports a Redis version of its own, 7.2.
const VERSION_MIN: (u32, u32) = (7, 0);
/// A stream node of this size or less is small for a quiet user.
const NODE_BYTES_GOOD: u64 = 1_024;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works, and risks or costs something.
    Warning,
    /// Milepost cannot run on this server.
    Fatal,
}

/// Something about the server that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at, such as `maxmemory-policy`.
    pub subject: &'static str,
    /// What is there and what that risks, as a sentence.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub fix: String,
}

/// What a server says about itself. `None` where it does not tell, as managed services do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Version, such as `7.0.15`.
    pub version: Option<String>,
    /// What happens at the memory limit.
    pub maxmemory_policy: Option<String>,
    /// Whether the append-only file is on.
    pub appendonly: Option<bool>,
    /// When snapshots are saved; empty when never.
    pub save: Option<String>,
    /// Bytes allocated for the first node of a stream.
    pub stream_node_max_bytes: Option<u64>,
    /// What it has of the function library.
    pub library: Option<LibraryState>,
    /// Replicas that could take its place; `None` where nobody would have them do so.
    pub replicas: Option<u64>,
}

/// Asks every server that takes writes and judges the answers. What all say alike is told once.
///
/// # Errors
/// When it cannot be found out who they are, or one of them cannot be reached.
pub async fn check(redis: &Redis) -> Result<Vec<Finding>, CallError> {
    let layout = redis.layout().await?;
    let mut told: Vec<(Finding, Vec<String>)> = Vec::new();
    for node in layout.nodes() {
        let mut facts = facts(node).await?;
        if !redis.fails_over() {
            facts.replicas = None;
        }
        for finding in judge(&facts) {
            match told.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, servers)) => servers.push(node.address().to_string()),
                None => told.push((finding, vec![node.address().to_string()])),
            }
        }
    }
    let all = layout.nodes().len();
    let mut findings: Vec<Finding> =
        told.into_iter().map(|(finding, at)| finding.told_by(&at, all)).collect();
    findings.extend(coverage(&layout));
    Ok(findings)
}

impl Finding {
    /// Names the servers that it is about, unless it is about all.
    fn told_by(mut self, servers: &[String], all: usize) -> Self {
        if servers.len() < all {
            self.detail = format!("{}: {}", servers.join(", "), self.detail);
        }
        self
    }
}

/// Whether every key has a server.
fn coverage(layout: &Layout) -> Option<Finding> {
    let nobodys = layout.slots_of_nobody();
    (nobodys > 0).then(|| {
        let detail = format!("no server has {nobodys} of the slots, so some users get no progress");
        fatal("slots", detail, "redis-cli --cluster fix")
    })
}

/// Asks a server about itself. What it refuses to tell is left out.
///
/// # Errors
/// When the server cannot be reached.
pub async fn facts(node: &Node) -> Result<Facts, CallError> {
    let info: String = redis::from_redis_value(node.query(&cmd("INFO")).await?)?;
    let setting = async |name: &str| -> Option<String> {
        let answer: Vec<String> = redis::from_redis_value(node.query(&config_get(name)).await.ok()?).ok()?;
        answer.into_iter().nth(1)
    };
    Ok(Facts {
        version: field(&info, "redis_version"),
        maxmemory_policy: setting("maxmemory-policy").await,
        appendonly: setting("appendonly").await.map(|value| value == "yes"),
        save: setting("save").await,
        stream_node_max_bytes: setting("stream-node-max-bytes").await.and_then(|value| value.parse().ok()),
        library: node.library_state().await.ok(),
        replicas: field(&info, "connected_slaves").and_then(|value| value.parse().ok()),
    })
}

fn config_get(name: &str) -> Cmd {
    let mut get = cmd("CONFIG");
    get.arg("GET").arg(name);
    get
}

fn field(info: &str, name: &str) -> Option<String> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// Judges what a server said.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings =
        vec![version(facts), eviction(facts), persistence(facts), nodes(facts), library(facts)];
    findings.extend(replicas(facts));
    findings
}

fn good(subject: &'static str, detail: String) -> Finding {
    Finding { severity: Severity::Good, subject, detail, fix: String::new() }
}

fn warning(subject: &'static str, detail: String, fix: &str) -> Finding {
    Finding { severity: Severity::Warning, subject, detail, fix: fix.to_owned() }
}

fn fatal(subject: &'static str, detail: String, fix: &str) -> Finding {
    Finding { severity: Severity::Fatal, subject, detail, fix: fix.to_owned() }
}

/// The finding for what the server does not tell.
fn untold(subject: &'static str, risk: &str) -> Finding {
    let detail = format!("the server does not tell its {subject}; {risk}");
    warning(subject, detail, "look it up at the provider, or allow CONFIG GET")
}

fn version(facts: &Facts) -> Finding {
    const SUBJECT: &str = "version";
    let Some(text) = &facts.version else {
        return untold(SUBJECT, "older ones than Redis 7.0 have no functions");
    };
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < VERSION_MIN {
        let detail = format!("Redis {text} has no functions and no sharded pub/sub, which publishing needs");
        return fatal(SUBJECT, detail, "use Redis 7.0, Valkey 7.2, or newer");
    }
    good(SUBJECT, format!("Redis {text}"))
}

fn eviction(facts: &Facts) -> Finding {
    const SUBJECT: &str = "maxmemory-policy";
    match facts.maxmemory_policy.as_deref() {
        None => untold(SUBJECT, "anything but noeviction may drop streams and their groups silently"),
        Some("noeviction") => good(SUBJECT, "nothing is evicted; a full server refuses writes".into()),
        Some(policy) => warning(
            SUBJECT,
            format!(
                "{policy} drops streams, groups and wake-ups silently when memory is full; watchers are then resynced"
            ),
            "CONFIG SET maxmemory-policy noeviction",
        ),
    }
}

fn persistence(facts: &Facts) -> Finding {
    const SUBJECT: &str = "persistence";
    match (facts.appendonly, facts.save.as_deref()) {
        (Some(true), _) => good(SUBJECT, "the append-only file is on".into()),
        (Some(false), Some("")) => warning(
            SUBJECT,
            "nothing is kept on disk; after a restart every watcher is resynced and waiting work is found by the poll".into(),
            "CONFIG SET appendonly yes",
        ),
        (Some(false), Some(_)) => warning(
            SUBJECT,
            "only snapshots are kept; a crash loses the progress and wake-ups since the last one".into(),
            "CONFIG SET appendonly yes",
        ),
        _ => untold(SUBJECT, "without it a restart resyncs every watcher"),
    }
}

fn nodes(facts: &Facts) -> Finding {
    const SUBJECT: &str = "stream-node-max-bytes";
    match facts.stream_node_max_bytes {
        None => untold(SUBJECT, "the default costs 4 kB for each quiet user"),
        Some(bytes) if (1..=NODE_BYTES_GOOD).contains(&bytes) => good(SUBJECT, format!("{bytes} bytes")),
        Some(bytes) => warning(
            SUBJECT,
            format!(
                "{bytes} bytes are allocated for each user's stream, however quiet; 1024 saves 3 kB per user"
            ),
            "CONFIG SET stream-node-max-bytes 1024",
        ),
    }
}

fn library(facts: &Facts) -> Finding {
    const SUBJECT: &str = "function library";
    match facts.library {
        Some(LibraryState::Current) => good(SUBJECT, format!("{LIBRARY} is the one of this release")),
        Some(LibraryState::Missing) => warning(
            SUBJECT,
            format!("{LIBRARY} is missing; the first publish will load it"),
            "milepost migrate",
        ),
        Some(LibraryState::Different) => warning(
            SUBJECT,
            format!("{LIBRARY} is not the one of this release, so fixes of this release are not in effect"),
            "milepost migrate",
        ),
        None => untold(SUBJECT, "publishing needs it"),
    }
}

fn replicas(facts: &Facts) -> Option<Finding> {
    const SUBJECT: &str = "replicas";
    let replicas = facts.replicas?;
    Some(if replicas == 0 {
        warning(
            SUBJECT,
            "no replica is connected, so nothing can take the place of the primary when it is lost".into(),
            "start a replica, or look at why it is not connected",
        )
    } else {
        good(SUBJECT, format!("{replicas} connected"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Facts {
        Facts {
            version: Some("7.2.4".into()),
            maxmemory_policy: Some("noeviction".into()),
            appendonly: Some(true),
            save: Some(String::new()),
            stream_node_max_bytes: Some(1024),
            library: Some(LibraryState::Current),
            replicas: Some(1),
        }
    }

    fn worst(facts: &Facts) -> Vec<(&'static str, Severity)> {
        let findings = judge(facts);
        for finding in &findings {
            let needs_fix = finding.severity != Severity::Good;
            assert_eq!(needs_fix, !finding.fix.is_empty(), "{finding:?}");
            assert!(!finding.detail.is_empty());
        }
        findings.iter().filter(|f| f.severity != Severity::Good).map(|f| (f.subject, f.severity)).collect()
    }

    #[test]
    fn a_fit_server_has_no_fault() {
        assert_eq!(worst(&fit()), []);
    }

    #[test]
    fn each_fault_is_found_alone() {
        let with = |change: fn(&mut Facts)| {
            let mut facts = fit();
            change(&mut facts);
            worst(&facts)
        };
        assert_eq!(with(|f| f.version = Some("6.2.14".into())), [("version", Severity::Fatal)]);
        assert_eq!(
            with(|f| f.maxmemory_policy = Some("allkeys-lru".into())),
            [("maxmemory-policy", Severity::Warning)]
        );
        assert_eq!(with(|f| f.appendonly = Some(false)), [("persistence", Severity::Warning)]);
        assert_eq!(
            with(|f| f.stream_node_max_bytes = Some(4096)),
            [("stream-node-max-bytes", Severity::Warning)]
        );
        assert_eq!(
            with(|f| f.stream_node_max_bytes = Some(0)),
            [("stream-node-max-bytes", Severity::Warning)]
        );
        assert_eq!(
            with(|f| f.library = Some(LibraryState::Different)),
            [("function library", Severity::Warning)]
        );
        assert_eq!(with(|f| f.replicas = Some(0)), [("replicas", Severity::Warning)]);
    }

    #[test]
    fn a_server_that_tells_nothing_is_warned_about_everything() {
        assert_eq!(worst(&Facts::default()).len(), 5);
    }

    #[test]
    fn fields_of_info_are_found() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        assert_eq!(field(info, "redis_version").as_deref(), Some("7.0.15"));
        assert_eq!(field(info, "redis"), None);
    }
}
