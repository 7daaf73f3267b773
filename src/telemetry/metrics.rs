//! Every metric, in one place.
//!
//! Prometheus conventions: base units, `_total` on counters, ratios are computed in queries. No task, user or node is
//! ever a label. Known label values exist from the start at 0, so that rates work from the first scrape.
//!
//! The six that operators asked for: progress latency (`milepost_event_delivery_seconds`), completion arrival ratio
//! (`milepost_terminal_events_delivered_total` over `milepost_tasks_finished_total`), database reads and writes per
//! second (`milepost_db_queries_total{op}`), sockets (`milepost_sockets`), task success ratio
//! (`milepost_tasks_finished_total{status}`).

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::ages::Ages;
use crate::task::safety::Rule;
use crate::task::{ItemState, Status};

/// Buckets of latencies, in seconds.
const LATENCY: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A single label: what kind of thing was counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// The kind.
    pub kind: &'static str,
}

/// A single label: which rule refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// The rule.
    pub rule: &'static str,
}

/// A single label: `read` or `write`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Op {
    /// The operation.
    pub op: &'static str,
}

/// A single label: what was to be written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Write {
    /// The write.
    pub write: &'static str,
}

/// A write that carries a fence: it is refused once another attempt holds the task, or another worker the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// Results of items, into the record.
    Result,
    /// An event, into the owner's stream.
    Event,
    /// The end of a task.
    Terminal,
    /// A task stopped because its failure budget is used up.
    Halt,
    /// Nodes that no other task is to act on.
    Nodes,
    /// A task given back unfinished.
    HandOver,
    /// The renewal of a lease.
    Renewal,
    /// The ack of a dispatch token.
    Ack,
}

impl Fenced {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Result,
        Self::Event,
        Self::Terminal,
        Self::Halt,
        Self::Nodes,
        Self::HandOver,
        Self::Renewal,
        Self::Ack,
    ];

    fn label(self) -> Write {
        let write = match self {
            Self::Result => "result",
            Self::Event => "event",
            Self::Terminal => "terminal",
            Self::Halt => "halt",
            Self::Nodes => "nodes",
            Self::HandOver => "hand_over",
            Self::Renewal => "renewal",
            Self::Ack => "ack",
        };
        Write { write }
    }
}

/// A single label: how something ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The end.
    pub status: &'static str,
}

/// A cluster, as the configuration names it, and how calls to it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClusterCall {
    /// The cluster.
    pub cluster: String,
    /// `answered`, `overloaded` or `unanswered`.
    pub outcome: &'static str,
}

/// A single label: a cluster, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InCluster {
    /// The cluster.
    pub cluster: String,
}

/// All metrics of a process. Cheap to clone; a test makes its own.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Item done to socket write.
    pub event_delivery: Histogram,
    /// Terminal events written to sockets.
    pub terminal_delivered: Counter,
    /// Statements sent to Postgres, by `op`.
    pub db_queries: Family<Op, Counter>,
    /// Sockets now, by `kind` (`ws`, `sse`, `nodes`).
    pub sockets: Family<Kind, Gauge>,
    /// Tasks that ended, by `status`.
    pub tasks_finished: Family<Outcome, Counter>,
    /// Items that ended, by `status`.
    pub items_finished: Family<Outcome, Counter>,
    /// Tasks accepted.
    pub tasks_submitted: Counter,
    /// Tasks this process holds.
    pub tasks_held: Gauge,
    /// Writes refused because another attempt holds the task, by `write`. See [`Metrics::count_fenced`].
    pub fenced_writes: Family<Write, Counter>,
    /// Results that a new attempt found on the bus and recorded, instead of running their items again.
    pub results_inherited: Counter,
    /// Events published to the bus.
    pub events_published: Counter,
    /// Failed publishes, which are tried again.
    pub publish_errors: Counter,
    /// Events that stand for older ones in a socket's queue.
    pub events_coalesced: Counter,
    /// Sockets closed because they read too slowly.
    pub slow_sockets: Counter,
    /// Snapshots sent because a position could not be continued, by `kind` of loss.
    pub resyncs: Family<Kind, Counter>,
    /// Ends of tasks that were in the record and not in the stream, by `kind` of how a gateway told them: `published`
    /// again, or by a `resync`.
    pub lost_ends: Family<Kind, Counter>,
    /// Times a reader of streams had to find its place again, by `kind` of what was wrong.
    pub bus_repairs: Family<Kind, Counter>,
    /// News that a sweep found and no doorbell told of, not even a second later.
    pub doorbells_missed: Counter,
    /// Requests refused, by `kind`: `auth`, `rate`, `sockets`, `role`, and the capability that was missing.
    pub refused: Family<Kind, Counter>,
    /// Work done by maintenance duties, by `kind` of duty.
    pub upkeep: Family<Kind, Counter>,
    /// Tasks that wait for a worker.
    pub queue_depth: Gauge,
    /// Age of the oldest of them, in seconds.
    pub queue_oldest_seconds: Gauge,
    /// 1 while this process leads the maintenance.
    pub maintenance_leader: Gauge,
    /// Tasks that are held and in which no item finished for long.
    pub tasks_stalled: Gauge,
    /// Calls to Kubernetes, by `cluster` and `outcome`. Clusters come from the configuration, so they are few.
    pub cluster_calls: Family<ClusterCall, Counter>,
    /// Items that had to wait because another task acted on their node.
    pub node_conflicts: Counter,
    /// Nodes left alone because a rule of safety said so, by `rule`.
    pub safety_refusals: Family<Refused, Counter>,
    /// 0 while calls to a cluster fail at once because it does not answer, by `cluster`.
    pub cluster_up: Family<InCluster, Gauge>,
    /// 1 while the nodes of a cluster are known and watched, by `cluster`.
    pub node_watch_synced: Family<InCluster, Gauge>,
    /// Times the nodes of a cluster were listed anew because their watch could not go on, by `cluster`.
    pub node_watch_restarts: Family<InCluster, Counter>,
    /// How long a cluster has told nothing about its nodes, by `cluster`.
    pub node_watch_silence: Ages,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("milepost");
        let r = &mut registry;
        let metrics = Self {
            event_delivery: latency(r, "event_delivery_seconds", "Item done to socket write"),
            terminal_delivered: counter(r, "terminal_events_delivered", "Terminal events written to sockets"),
            db_queries: family(r, "db_queries", "Statements sent to Postgres"),
            sockets: family(r, "sockets", "Sockets now"),
            tasks_finished: family(r, "tasks_finished", "Tasks that ended"),
            items_finished: family(r, "items_finished", "Items that ended"),
            tasks_submitted: counter(r, "tasks_submitted", "Tasks accepted"),
            tasks_held: gauge(r, "tasks_held", "Tasks this process holds"),
            fenced_writes: family(
                r,
                "fenced_writes",
                "Writes refused because another attempt holds the task",
            ),
            results_inherited: counter(
                r,
                "results_inherited",
                "Results of a dead worker that its successor found on the bus and recorded",
            ),
            events_published: counter(r, "events_published", "Events published to the bus"),
            publish_errors: counter(r, "publish_errors", "Failed publishes, which are tried again"),
            events_coalesced: counter(
                r,
                "events_coalesced",
                "Events replaced by a newer one in a socket's queue",
            ),
            slow_sockets: counter(r, "slow_sockets_closed", "Sockets closed because they read too slowly"),
            resyncs: family(r, "resyncs", "Snapshots sent because a position could not be continued"),
            lost_ends: family(r, "lost_ends", "Ends of tasks that the bus had lost and a gateway told"),
            bus_repairs: family(r, "bus_repairs", "Times a reader of streams had to find its place again"),
            doorbells_missed: counter(
                r,
                "doorbells_missed",
                "News found by a sweep whose doorbell never rang",
            ),
            refused: family(r, "requests_refused", "Requests refused"),
            upkeep: family(r, "upkeep_actions", "Work done by maintenance duties"),
            queue_depth: gauge(r, "queue_depth", "Tasks that wait for a worker"),
            queue_oldest_seconds: gauge(r, "queue_oldest_age_seconds", "Age of the oldest waiting task"),
            maintenance_leader: gauge(r, "maintenance_leader", "1 while this process leads the maintenance"),
            tasks_stalled: gauge(r, "tasks_stalled", "Tasks held in which no item finished for long"),
            cluster_calls: family(r, "cluster_calls", "Calls to Kubernetes"),
            node_conflicts: counter(
                r,
                "node_conflicts",
                "Nodes that had to wait because another task acted on them",
            ),
            safety_refusals: family(
                r,
                "safety_refusals",
                "Nodes left alone because a rule of safety said so",
            ),
            cluster_up: family(r, "cluster_up", "0 while a cluster does not answer and is not asked"),
            node_watch_synced: family(
                r,
                "node_watch_synced",
                "1 while the nodes of a cluster are known and watched",
            ),
            node_watch_restarts: family(
                r,
                "node_watch_restarts",
                "Times the nodes of a cluster were listed anew because their watch could not go on",
            ),
            node_watch_silence: ages(
                r,
                "node_watch_silent_seconds",
                "How long a cluster has told nothing about its nodes",
            ),
            registry: Arc::new(Registry::default()),
        };
        metrics.create_labels();
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// The exposition text, OpenMetrics as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// Notes how a call to a cluster ended.
    pub fn count_call(&self, cluster: &str, outcome: &'static str) {
        self.cluster_calls.get_or_create(&ClusterCall { cluster: cluster.to_owned(), outcome }).inc();
    }

    /// Notes a node that a rule of safety has kept as it is.
    pub fn count_safety(&self, rule: Rule) {
        self.safety_refusals.get_or_create(&Refused { rule: rule.as_str() }).inc();
    }

    /// Notes whether a cluster is asked.
    pub fn cluster_reachable(&self, cluster: &str, reachable: bool) {
        self.cluster_up.get_or_create(&InCluster { cluster: cluster.to_owned() }).set(i64::from(reachable));
    }

    /// Notes whether the nodes of a cluster are known and watched.
    pub fn nodes_watched(&self, cluster: &str, synced: bool) {
        self.node_watch_synced
            .get_or_create(&InCluster { cluster: cluster.to_owned() })
            .set(i64::from(synced));
    }

    /// Notes how many times more the nodes of a cluster had to be listed.
    pub fn count_relists(&self, cluster: &str, n: u64) {
        self.node_watch_restarts.get_or_create(&InCluster { cluster: cluster.to_owned() }).inc_by(n);
    }

    /// Forgets a cluster that is configured no more.
    pub fn forget_cluster(&self, cluster: &str) {
        for outcome in ["answered", "overloaded", "unanswered"] {
            self.cluster_calls.remove(&ClusterCall { cluster: cluster.to_owned(), outcome });
        }
        let label = InCluster { cluster: cluster.to_owned() };
        self.cluster_up.remove(&label);
        self.node_watch_synced.remove(&label);
        self.node_watch_restarts.remove(&label);
        self.node_watch_silence.forget(cluster);
    }

    /// Notes how long an event took from item done to socket write. A clock that runs ahead counts as 0.
    pub fn observe_delivery(&self, done_us: i64, now_us: i64) {
        let us = u64::try_from(now_us - done_us).unwrap_or(0);
        self.event_delivery.observe(Duration::from_micros(us).as_secs_f64());
    }

    /// Notes statements sent to Postgres.
    pub fn count_reads(&self, n: u64) {
        self.db_queries.get_or_create(&Op { op: "read" }).inc_by(n);
    }

    /// Notes the end of a task. For whoever committed it: a worker, a gateway that cancels, or maintenance.
    pub fn count_end(&self, status: Status) {
        self.tasks_finished.get_or_create(&Outcome { status: status.as_str() }).inc();
    }

    /// Notes a write that was refused by its fence.
    pub fn count_fenced(&self, write: Fenced) {
        self.fenced_writes.get_or_create(&write.label()).inc();
    }

    /// Writes of one kind that were refused by their fence so far.
    #[must_use]
    pub fn fenced(&self, write: Fenced) -> u64 {
        self.fenced_writes.get_or_create(&write.label()).get()
    }

    /// Notes writing statements sent to Postgres.
    pub fn count_writes(&self, n: u64) {
        self.db_queries.get_or_create(&Op { op: "write" }).inc_by(n);
    }

    fn create_labels(&self) {
        self.count_reads(0);
        self.count_writes(0);
        for write in Fenced::ALL {
            let _ = self.fenced(write);
        }
        for kind in ["ws", "sse", "nodes"] {
            let _ = self.sockets.get_or_create(&Kind { kind });
        }
        for status in Status::ALL.into_iter().filter(|s| s.is_terminal()) {
            let _ = self.tasks_finished.get_or_create(&Outcome { status: status.as_str() });
        }
        for state in [ItemState::Succeeded, ItemState::Failed, ItemState::Skipped, ItemState::Cancelled] {
            let _ = self.items_finished.get_or_create(&Outcome { status: state.as_str() });
        }
        for kind in ["epoch", "trimmed", "ahead", "reader"] {
            let _ = self.resyncs.get_or_create(&Kind { kind });
        }
        for kind in ["group", "epoch", "trimmed", "ahead", "reader"] {
            let _ = self.bus_repairs.get_or_create(&Kind { kind });
        }
        for kind in ["published", "resync"] {
            let _ = self.lost_ends.get_or_create(&Kind { kind });
        }
        for rule in Rule::ALL {
            let _ = self.safety_refusals.get_or_create(&Refused { rule: rule.as_str() });
        }
        for kind in ["auth", "rate", "sockets", "role", "force", "bypass-pdb", "control-plane"] {
            let _ = self.refused.get_or_create(&Kind { kind });
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn ages(registry: &mut Registry, name: &'static str, help: &'static str) -> Ages {
    let ages = Ages::new(name, help);
    registry.register_collector(Box::new(ages.clone()));
    ages
}

fn latency(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::new(LATENCY);
    registry.register(name, help, histogram.clone());
    histogram
}

fn family<L, M>(registry: &mut Registry, name: &str, help: &str) -> Family<L, M>
where
    L: EncodeLabelSet + std::fmt::Debug + Clone + std::hash::Hash + Eq + Send + Sync + 'static,
    M: prometheus_client::metrics::TypedMetric
        + prometheus_client::encoding::EncodeMetric
        + std::fmt::Debug
        + Default
        + Send
        + Sync
        + 'static,
{
    let family = Family::<L, M>::default();
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_labels_exist_from_the_start() {
        let text = Metrics::new().text();
        for line in [
            "milepost_db_queries_total{op=\"write\"} 0",
            "milepost_sockets{kind=\"ws\"} 0",
            "milepost_fenced_writes_total{write=\"renewal\"} 0",
            "milepost_tasks_finished_total{status=\"completed_with_errors\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_cluster_that_is_forgotten_leaves_no_series() {
        let metrics = Metrics::new();
        for cluster in ["a", "b"] {
            metrics.count_call(cluster, "answered");
            metrics.cluster_reachable(cluster, true);
            metrics.nodes_watched(cluster, true);
            metrics.count_relists(cluster, 1);
            metrics.node_watch_silence.now(cluster);
        }
        assert!(metrics.text().contains("milepost_node_watch_silent_seconds{cluster=\"a\"} 0."));
        metrics.forget_cluster("a");
        let text = metrics.text();
        assert_eq!(
            (text.matches("cluster=\"a\"").count(), text.matches("cluster=\"b\"").count()),
            (0, 5),
            "{text}"
        );
    }

    #[test]
    fn a_clock_that_runs_ahead_counts_as_no_delay() {
        let metrics = Metrics::new();
        metrics.observe_delivery(1_000, 0);
        assert!(metrics.text().contains("milepost_event_delivery_seconds_sum 0.0"));
    }
}
