//! How workers hold, run and report tasks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// Workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Items this process works on at once.
    pub lanes: usize,
    /// Items of one task at once, unless the task asks for fewer.
    pub lanes_per_task: usize,
    /// Tasks this process holds at once.
    pub tasks_max: usize,
    /// Tasks held at once on one cluster, over all workers.
    pub per_cluster_max: u32,
    /// How long a claim lasts without a renewal.
    #[serde(with = "duration")]
    pub lease: Duration,
    /// Pause between renewals; at most a third of the lease. Changes by users are heard at once, or with a renewal where
    /// notifications do not arrive.
    #[serde(with = "duration")]
    pub renew_interval: Duration,
    /// Longest pause between looks for claimable tasks when no wake-up comes.
    #[serde(with = "duration")]
    pub poll_interval: Duration,
    /// Time-out of one item, unless the task has its own.
    #[serde(with = "duration")]
    pub item_timeout: Duration,
    /// Name of the node that this worker runs on, for tasks that are to leave that to the end.
    pub node: Option<String>,
    /// How long an item waits for a node that another task acts on before that is its failure.
    #[serde(with = "duration")]
    pub node_wait: Duration,
    /// How long a task waits until few enough nodes are out of service before it is paused.
    #[serde(with = "duration")]
    pub room_wait: Duration,
    /// Time without a finished item after which a held task is told of as stalled; zero for never.
    #[serde(with = "duration")]
    pub stall_after: Duration,
    /// Runs of one item before a transient error counts as its failure.
    pub item_tries: u16,
    /// Base of the full-jitter back-off between runs of one item.
    #[serde(with = "duration")]
    pub retry_base: Duration,
    /// Longest back-off between runs of one item.
    #[serde(with = "duration")]
    pub retry_max: Duration,
    /// Longest wait before progress is published; the first after a pause goes at once.
    #[serde(with = "duration")]
    pub flush_interval: Duration,
    /// Longest wait before results are recorded.
    #[serde(with = "duration")]
    pub record_interval: Duration,
    /// Results recorded at once.
    pub record_batch: usize,
    /// At SIGTERM: how long items in flight may finish before the task is handed over.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            lanes: 200,
            lanes_per_task: 20,
            tasks_max: 64,
            per_cluster_max: 32,
            lease: Duration::from_secs(5),
            renew_interval: Duration::from_secs(1),
            poll_interval: Duration::from_secs(5),
            item_timeout: Duration::from_secs(60),
            node: None,
            node_wait: Duration::from_secs(30),
            room_wait: Duration::from_secs(15 * 60),
            stall_after: Duration::from_secs(30),
            item_tries: 4,
            retry_base: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
            flush_interval: Duration::from_millis(10),
            record_interval: Duration::from_millis(250),
            record_batch: 500,
            grace: Duration::from_secs(20),
        }
    }
}
