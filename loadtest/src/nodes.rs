//! Node operations: a batch on every node of a simulated cluster, by Milepost, by `kubectl`, and by a client that asks five
//! times a second as client libraries do by default.
//!
//! The cluster is in this process and answers each request after the same time, so it knows who asked for what: a run counts
//! only when every node was changed exactly once, and when the socket that watched was told of each, once. All take turns in
//! each run. Not here: drains, whose time is that of their pods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use milepost::clock::SystemClock;
use milepost::simulator::{Fault, Rule, Simulator, SimulatorConfig};
use milepost_harness::{Hub, HubMode, HubSpec};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::check::Checker;
use crate::machine::{Machine, load_average};
use crate::socket::{Incoming, Socket};

/// Items of one batch at once, and processes of `kubectl`.
const LANES: usize = 20;
/// Nodes for those who ask five times a second, as one `kubectl cordon` does too: more would take minutes and show the same.
const SLOW_NODES: usize = 40;

/// What to measure, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct NodesArgs {
    /// Runs; the table shows medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 1_000)]
    nodes: u32,
    /// How long the API server takes for each answer, in milliseconds.
    #[arg(long, default_value_t = 5)]
    latency_ms: u64,
    /// The `milepost` binary; the one beside this program by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where results go.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// Who changes the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A hub; as fast as it can, or at its default pace.
    Milepost(HubMode, bool),
    /// One `kubectl` with all names.
    Kubectl,
    /// As many at once as Milepost has lanes.
    Kubectls,
    /// A client with the default limit of client libraries: five requests a second after a burst of ten.
    FivePerSecond,
}

impl By {
    fn name(self) -> String {
        match self {
            Self::Milepost(mode, true) => format!("milepost, {}", mode.name()),
            Self::Milepost(mode, false) => format!("milepost, {}, default pace", mode.name()),
            Self::Kubectl => "kubectl".to_owned(),
            Self::Kubectls => format!("kubectl, {LANES} at once"),
            Self::FivePerSecond => "5 requests a second".to_owned(),
        }
    }
}

/// One run.
#[derive(Debug, Clone, Serialize)]
struct Run {
    action: &'static str,
    by: String,
    load_before: f64,
    nodes: usize,
    seconds: f64,
    nodes_per_second: f64,
    requests_per_node: f64,
    requests: BTreeMap<String, usize>,
}

/// Every run.
#[derive(Debug, Serialize)]
struct Report {
    scenario: &'static str,
    work: String,
    machine: Machine,
    runs: Vec<Run>,
}

/// Measures, and writes the figures.
///
/// # Errors
/// When a run was not exact, or something does not start.
pub async fn run(args: &NodesArgs) -> Result<()> {
    let binary = crate::place::binary(args.binary.as_deref())?;
    let work = format!(
        "{} nodes, {} ms for each answer of the API server, {LANES} nodes at once",
        args.nodes, args.latency_ms
    );
    let mut report = Report { scenario: "nodes", work, machine: Machine::here(), runs: Vec::new() };
    for _ in 0..args.runs {
        for (action, by) in contenders() {
            let run = Bench::start(args).await?.run(action, by, &binary).await;
            let run = run.with_context(|| format!("{action} by {}", by.name()))?;
            eprintln!(
                "{action} by {}: {:.0} nodes/s, {:.2} requests per node",
                run.by, run.nodes_per_second, run.requests_per_node
            );
            report.runs.push(run);
        }
    }
    report.write(&args.results)
}

fn contenders() -> Vec<(&'static str, By)> {
    let modes = [HubMode::Memory, HubMode::Postgres, HubMode::Redis];
    let mut all: Vec<_> = modes.iter().map(|mode| ("cordon", By::Milepost(*mode, true))).collect();
    all.push(("cordon", By::Milepost(HubMode::Memory, false)));
    all.extend([By::Kubectl, By::Kubectls, By::FivePerSecond].map(|by| ("cordon", by)));
    all.extend(["label", "taint"].map(|action| (action, By::Milepost(HubMode::Redis, true))));
    all
}

/// A cluster that nobody has touched.
struct Bench {
    simulator: Simulator,
    kubeconfig: tempfile::NamedTempFile,
}

impl Bench {
    async fn start(args: &NodesArgs) -> Result<Self> {
        let latency = Duration::from_millis(args.latency_ms);
        let rule = Rule { verb: None, ..Rule::on("", Fault::Latency { from: latency, to: latency }) };
        let config = SimulatorConfig {
            nodes: args.nodes,
            log_max: 100_000,
            rules: vec![rule],
            ..SimulatorConfig::default()
        };
        let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await?;
        let kubeconfig = tempfile::NamedTempFile::new()?;
        std::fs::write(kubeconfig.path(), simulator.kubeconfig_yaml())?;
        Ok(Self { simulator, kubeconfig })
    }

    async fn run(&self, action: &'static str, by: By, binary: &Path) -> Result<Run> {
        let mut nodes = self.simulator.node_names();
        if matches!(by, By::FivePerSecond | By::Kubectl) {
            nodes.truncate(SLOW_NODES);
        }
        let load_before = load_average();
        let seconds = match by {
            By::Milepost(mode, free) => self.milepost(action, &nodes, (mode, free), binary).await?,
            By::Kubectl => self.kubectl(&nodes, nodes.len()).await?,
            By::Kubectls => self.kubectl(&nodes, nodes.len().div_ceil(LANES)).await?,
            By::FivePerSecond => self.five_per_second(&nodes).await?,
        };
        let requests = self.exact(&nodes)?;
        let all: usize = requests.values().sum();
        let count = f64::from(u32::try_from(nodes.len())?);
        Ok(Run {
            action,
            by: by.name(),
            load_before,
            nodes: nodes.len(),
            seconds,
            nodes_per_second: count / seconds,
            requests_per_node: f64::from(u32::try_from(all)?) / count,
            requests,
        })
    }

    /// The requests by verb, when every node was changed exactly once.
    fn exact(&self, nodes: &[String]) -> Result<BTreeMap<String, usize>> {
        let (mut verbs, mut changed) = (BTreeMap::new(), BTreeMap::<String, u32>::new());
        for request in self.simulator.requests() {
            *verbs.entry(request.verb.to_owned()).or_default() += 1;
            if let Some(node) =
                request.path.strip_prefix("/api/v1/nodes/").filter(|_| request.verb == "patch")
            {
                ensure!(request.status == Some(200), "a patch was refused: {request:?}");
                *changed.entry(node.to_owned()).or_default() += 1;
            }
        }
        ensure!(changed.len() == nodes.len(), "{} of {} nodes were changed", changed.len(), nodes.len());
        ensure!(changed.values().all(|times| *times == 1), "a node was changed more than once");
        Ok(verbs)
    }

    /// From the submit to the arrival of the end at a socket.
    async fn milepost(
        &self,
        action: &str,
        nodes: &[String],
        (mode, free): (HubMode, bool),
        binary: &Path,
    ) -> Result<f64> {
        let clusters = json!([{"name": "sim", "kubeconfig": self.kubeconfig.path()}]).to_string();
        let mut spec = HubSpec { gateways: 1, workers: 1, ..HubSpec::new(binary, mode) }
            .set("MILEPOST_CLUSTERS", &clusters)
            .set("MILEPOST_WORKER__LANES_PER_TASK", &LANES.to_string());
        if free {
            spec = spec.set("MILEPOST_ACTIONS__CALLS_PER_SECOND", "100000");
        }
        let hub = tokio::task::spawn_blocking(move || Hub::start(spec)).await??;
        let (base, token) = (hub.urls()[0].clone(), hub.token("ada", "operator")?);
        let mut socket = Socket::connect(&base, &token).await?;
        let body =
            json!({"action": action, "cluster": "sim", "items": nodes, "parameters": parameters(action)});
        let request =
            reqwest::Client::new().post(format!("{base}/api/v1/tasks")).bearer_auth(&token).json(&body);
        let began = Instant::now();
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        let mut checker = Checker::default();
        while !checker.is_done() {
            match socket.next().await? {
                Incoming::Event(event, _) => drop(checker.frame(&event)),
                Incoming::Broken(why) => bail!("the socket broke: {why}"),
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let verdict = checker.finish(u32::try_from(nodes.len())?);
        ensure!(verdict.faults.is_clean(), "delivery was not exact: {:?}", verdict.faults);
        let task = answer["task_id"].as_str().context("no task id")?;
        let record = reqwest::Client::new().get(format!("{base}/api/v1/tasks/{task}")).bearer_auth(&token);
        let record: Value = record.send().await?.error_for_status()?.json().await?;
        ensure!(record["succeeded"] == nodes.len(), "the record says {record}");
        drop(tokio::task::spawn_blocking(move || drop(hub)).await);
        Ok(seconds)
    }

    /// Processes of `kubectl cordon` side by side, each with so many names.
    async fn kubectl(&self, nodes: &[String], each: usize) -> Result<f64> {
        let began = Instant::now();
        let mut running = Vec::new();
        for names in nodes.chunks(each) {
            let mut command = Command::new("kubectl");
            command.arg("cordon").args(names).env("KUBECONFIG", self.kubeconfig.path());
            running.push(command.stdout(Stdio::null()).spawn().context("is kubectl installed?")?);
        }
        let ended = tokio::task::spawn_blocking(move || {
            running.iter_mut().map(std::process::Child::wait).collect::<Result<Vec<_>, _>>()
        });
        ensure!(ended.await??.iter().all(std::process::ExitStatus::success), "kubectl failed");
        Ok(began.elapsed().as_secs_f64())
    }

    /// Reads and patches one node after the other, with a token for each request.
    async fn five_per_second(&self, nodes: &[String]) -> Result<f64> {
        let (http, mut tokens, mut burst) =
            (reqwest::Client::new(), interval(Duration::from_millis(200)), 10);
        tokens.set_missed_tick_behavior(MissedTickBehavior::Burst);
        tokens.tick().await;
        let began = Instant::now();
        for node in nodes {
            let url = format!("http://{}/api/v1/nodes/{node}", self.simulator.addr);
            let patch = json!({"spec": {"unschedulable": true}}).to_string();
            let patch = http.patch(&url).header("content-type", "application/merge-patch+json").body(patch);
            for request in [http.get(&url), patch] {
                if burst > 0 {
                    burst -= 1;
                } else {
                    tokens.tick().await;
                }
                request.send().await?.error_for_status()?.bytes().await?;
            }
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// A label is guarded by the version of its node, because it is not to overwrite another value; a taint always is.
fn parameters(action: &str) -> Value {
    match action {
        "label" => json!({"labels": {"load": "on"}, "overwrite": false}),
        "taint" => json!({"taints": [{"key": "load", "value": "on", "effect": "NoSchedule"}]}),
        _ => Value::Null,
    }
}

impl Report {
    fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("nodes.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let text = self.text();
        std::fs::write(folder.join("nodes.md"), &text)?;
        eprintln!("\n{text}");
        Ok(())
    }

    fn text(&self) -> String {
        let Machine { cpu, cores, kernel, commit } = &self.machine;
        format!(
            "# nodes\n\n{}.\n\n{cores} x {cpu}, Linux {kernel}, commit {commit}. Medians of the runs, all in turn in each run; \
             the API server\nand this program share the machine. Every run changed every node exactly once by the log of the API \
             server, and\nMilepost's had each event once at their socket. Milepost asks without its limit, or at its default pace \
             of 200 writes a\nsecond after a burst of 400. One `kubectl` asks 5 times a second, as the client in the last of the \
             cordons does; these two\nhad {SLOW_NODES} nodes.\n\n{}\n",
            self.work,
            self.table()
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["action", "by", "nodes/s", "seconds", "requests/node", "load", "runs"]);
        table.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let mut seen = Vec::new();
        for run in &self.runs {
            let key = (run.action, run.by.as_str());
            if !seen.contains(&key) {
                seen.push(key);
            }
        }
        for (action, by) in seen {
            let runs: Vec<&Run> =
                self.runs.iter().filter(|run| (run.action, run.by.as_str()) == (action, by)).collect();
            let median = |pick: fn(&Run) -> f64| {
                let mut values: Vec<f64> = runs.iter().map(|run| pick(run)).collect();
                values.sort_by(f64::total_cmp);
                values.get(values.len() / 2).copied().unwrap_or_default()
            };
            table.add_row([
                action.to_owned(),
                by.to_owned(),
                format!("{:.1}", median(|run| run.nodes_per_second)),
                format!("{:.1}", median(|run| run.seconds)),
                format!("{:.2}", median(|run| run.requests_per_node)),
                format!("{:.2}", median(|run| run.load_before)),
                runs.len().to_string(),
            ]);
        }
        table
    }
}
