//! The Milepost under test and how to look into it: two gateways and four workers of the real binary behind proxies, a real
//! Redis that keeps its data, a real Postgres, and a simulated cluster that answers as slowly as a real one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use milepost_harness::{FakeClock, Flow, Hub, HubMode, HubSpec, Redis, Replica, ReplicaSpec, Way};

/// Nodes of the simulated cluster.
pub const NODES: usize = 300;
/// How much later each answer of the cluster comes.
const CLUSTER_DELAY: Duration = Duration::from_millis(40);

/// Everything is kept on disk, in a file that stays small enough to be read in a moment.
const DURABLE: [&str; 8] =
    ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-min-size", "1mb"];

/// What is under test.
#[derive(Debug)]
pub struct World {
    /// The processes.
    pub hub: Hub,
    /// The clock of the last gateway and the last worker; `None` where libfaketime is not installed.
    pub clock: Option<FakeClock>,
}

impl World {
    /// Starts it. The cluster notes executions into `history`.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn start(binary: &Path, history: &Path) -> Result<Self> {
        let clock = FakeClock::new().ok();
        let odd = usize::from(clock.is_some());
        let mut spec = HubSpec::new(binary, HubMode::Redis).proxied();
        (spec.gateways, spec.workers, spec.nodes) = (2 - odd, 4 - odd, NODES);
        let spec = spec
            .set("MILEPOST_HISTORY", &history.display().to_string())
            .set("MILEPOST_LIMITS__SOCKETS_PER_USER", "100");
        let redis = Redis::with_args(&DURABLE)?;
        let mut hub = Hub::start_on(spec, Some(redis))?;
        if clock.is_some() {
            let replica = || ReplicaSpec { clock: clock.as_ref(), ..ReplicaSpec::default() };
            hub.add_gateway_with(&replica())?;
            hub.add_worker_with(&replica())?;
        }
        let cluster = hub.proxies.cluster.as_ref().context("the cluster is behind a proxy")?;
        cluster.set(Way::Down, Flow::Delay(CLUSTER_DELAY));
        Ok(Self { hub, clock })
    }

    /// The Redis.
    ///
    /// # Errors
    /// Never: this world has one.
    pub fn redis(&mut self) -> Result<&mut Redis> {
        self.hub.redis.as_mut().context("there is a Redis")
    }

    /// Every process of Milepost.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.hub.gateways.iter().chain(&self.hub.workers)
    }

    /// A number of the database.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn count(&self, statement: &str) -> Result<u64> {
        self.hub.sql(statement)?.trim().parse().with_context(|| statement.to_owned())
    }

    /// The integer that Redis answers.
    ///
    /// # Errors
    /// When it does not answer with one.
    pub fn ask(&mut self, words: &[&str]) -> Result<u64> {
        let reply = self.redis()?.command(words)?;
        reply.trim_start_matches(':').trim().parse().with_context(|| format!("{words:?} answers {reply:?}"))
    }
}

/// The binary to test: the one beside this program, or beside the folder of test programs.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folders = here.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("milepost")).find(|path| path.is_file());
    found.context("the milepost binary is not built: cargo build --workspace")
}
