//! A primary with replicas and three Sentinels that watch it.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Process, wait_for};
use crate::redis::ask;
use crate::{Redis, ports};

/// What the Sentinels call the primary.
pub const MASTER: &str = "mymaster";
/// Longest wait for servers to find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers that a failover happens to. They keep nothing on disk.
#[derive(Debug)]
pub struct SentinelSet {
    servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl SentinelSet {
    /// Starts a primary, `replicas` of it and three Sentinels, which take a server for lost after `down_after`, and
    /// waits until all know of each other.
    ///
    /// # Errors
    /// When a server does not come up, or they do not find each other.
    pub fn start(replicas: usize, down_after: Duration) -> Result<Self> {
        let mut servers = vec![Redis::with_args(&["--save", "", "--repl-diskless-sync-delay", "0"])?];
        let primary = servers[0].port();
        for _ in 0..replicas {
            let of = format!("127.0.0.1 {primary}");
            servers.push(Redis::with_args(&["--save", "", "--replicaof", &of])?);
        }
        let set = Self { sentinels: sentinels(primary, down_after)?, servers };
        wait_for(PATIENCE, "the servers to find each other", || Ok(set.is_whole(replicas)))?;
        Ok(set)
    }

    fn is_whole(&self, replicas: usize) -> bool {
        let linked = |server: &Redis| {
            server.command(&["INFO", "replication"]).is_ok_and(|info| info.contains("master_link_status:up"))
        };
        let ready = |sentinel: &Sentinel| {
            let known = ask(sentinel.port, &["SENTINEL", "MASTER", MASTER]).unwrap_or_default();
            let number = |name: &str| {
                let mut lines = known.lines().skip_while(|line| *line != name).skip(2);
                lines.next().and_then(|number| number.parse().ok())
            };
            number("num-slaves") == Some(replicas)
                && number("num-other-sentinels") == Some(2)
                && ask(sentinel.port, &["SENTINEL", "CKQUORUM", MASTER]).is_ok()
        };
        self.servers[1..].iter().all(linked) && self.sentinels.iter().all(ready)
    }

    /// The address clients use.
    #[must_use]
    pub fn url(&self) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{}/{MASTER}", sentinels.join(","))
    }

    /// Every server, the first primary first.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// The process of a Sentinel, to kill and stop it.
    #[must_use]
    pub fn sentinel(&self, index: usize) -> &Process {
        &self.sentinels[index].process
    }

    /// Starts a server again after it was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn run(&mut self, index: usize) -> Result<()> {
        self.servers[index].run()
    }

    /// The server that most of the Sentinels call the primary, by its index.
    ///
    /// # Errors
    /// When they do not agree.
    pub fn primary(&self) -> Result<usize> {
        let says = |sentinel: &Sentinel| {
            let answer = ask(sentinel.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).ok()?;
            let port: u16 = answer.lines().last()?.parse().ok()?;
            self.servers.iter().position(|server| server.port() == port)
        };
        let answers: Vec<usize> = self.sentinels.iter().filter_map(says).collect();
        let most = |index: &usize| {
            answers.iter().filter(|answer| *answer == index).count() * 2 > self.sentinels.len()
        };
        answers.iter().copied().find(most).context("the Sentinels do not agree")
    }

    /// Waits until another server than `old` is the primary, says so itself, and gives its index.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn wait_failover(&self, old: usize) -> Result<usize> {
        let mut new = old;
        wait_for(PATIENCE, "a failover", || {
            new = self.primary().unwrap_or(old);
            let role = || self.servers[new].command(&["ROLE"]).unwrap_or_default();
            Ok(new != old && role().contains("master"))
        })?;
        Ok(new)
    }
}

fn sentinels(primary: u16, down_after: Duration) -> Result<Vec<Sentinel>> {
    let down_ms = down_after.as_millis();
    let one = |_| {
        let folder = tempfile::Builder::new().prefix("milepost-sentinel-").tempdir()?;
        let port = ports::free()?;
        // A Sentinel keeps what it learns in its own configuration file.
        let (file, dir) = (folder.path().join("sentinel.conf"), folder.path().display());
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\nsentinel monitor {MASTER} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {MASTER} {down_ms}\nsentinel failover-timeout {MASTER} 5000\n"
        );
        std::fs::write(&file, text)?;
        let command = ["redis-server".to_owned(), file.display().to_string(), "--sentinel".to_owned()];
        let process = Process::start(&command, &[], &folder.path().join("log"), "KILL")?;
        Ok(Sentinel { process, port, _folder: folder })
    };
    (0..3).map(one).collect()
}
