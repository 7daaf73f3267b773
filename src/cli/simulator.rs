//! `milepost simulator`: a Kubernetes API on loopback with virtual nodes, to try Milepost and `kubectl` on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::net::TcpListener;

use super::exit::Exit;
use super::history;
use super::output::{Output, say};
use crate::action::kubernetes::agent::Sender;
use crate::clock::{Clock, SystemClock};
use crate::config::duration;
use crate::lifecycle::Lifecycle;
use crate::simulator::{Behaviour, Denied, Observer, Rule, Simulator, SimulatorConfig};
use crate::verify::record::Execution;
use crate::verify::{HistoryLog, Record};

/// How long the simulator may take to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Flags of `milepost simulator`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulatorArgs {
    /// How many nodes there are: node-001 and on.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,

    /// How many pods each worker node has, of the sorts that a drain must tell apart.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=250))]
    pods_per_node: u32,

    /// How many of a hundred replicated apps have a PodDisruptionBudget.
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    budgets: u8,

    /// When a pod that is told to end is gone at the latest.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration::parse)]
    ends_within: Duration,

    /// How long after its placing a new pod is ready.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration::parse)]
    ready_after: Duration,

    /// Give a cordoned node the taint that a real cluster gives it, this long after.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    taint_after: Option<Duration>,

    /// What goes wrong: a YAML or JSON file with a list of rules (docs/operations.md).
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// A right that nobody has, for instance create:pods/eviction. Can be given several times.
    #[arg(long, value_name = "VERB:RESOURCE", value_parser = denied)]
    deny: Vec<Denied>,

    /// Address to listen on. Nobody is asked who they are, so think twice before naming another one.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Address that the kubeconfig names, when it is another one than that to listen on.
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,

    /// Write a kubeconfig to this file, once the API answers.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Note what tasks do to nodes into this file, for `milepost verify`.
    #[arg(long, env = "MILEPOST_HISTORY", value_name = "FILE")]
    history: Option<PathBuf>,
}

/// Serves until it is told to stop.
///
/// # Errors
/// When the address cannot be had or the kubeconfig cannot be written.
pub async fn run(args: &SimulatorArgs, out: Output) -> Result<Exit> {
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
    let simulator =
        Simulator::start(config(args)?, listener, Arc::new(SystemClock)).context("start the simulator")?;
    if let Some(file) = &args.history {
        simulator.observe(noting(history::open(file)?));
    }
    if let Some(file) = &args.kubeconfig {
        write_whole(file, &kubeconfig(&simulator, args.advertise.as_deref()))
            .with_context(|| format!("write {}", file.display()))?;
    }
    let address = simulator.addr;
    if out.json {
        out.object(&json!({ "type": "simulator", "address": address, "nodes": args.nodes }));
    } else {
        out.line(format_args!("a simulated cluster of {} nodes answers on http://{address}", args.nodes));
        match &args.kubeconfig {
            Some(file) => say(format_args!("try it: kubectl --kubeconfig {} get nodes", file.display())),
            None => say(format_args!("try it: kubectl --server http://{address} get nodes")),
        }
    }
    let life = Lifecycle::new();
    Ok(if life.run(GRACE).await { Exit::Succeeded } else { Exit::Failed })
}

fn config(args: &SimulatorArgs) -> Result<SimulatorConfig> {
    let behaviour = Behaviour {
        ends_within: args.ends_within,
        ready_after: args.ready_after,
        taint_after: args.taint_after,
        ..Behaviour::default()
    };
    Ok(SimulatorConfig {
        nodes: args.nodes,
        pods_per_node: args.pods_per_node,
        budgets_percent: args.budgets,
        behaviour,
        rules: args.rules.as_deref().map(rules).transpose()?.unwrap_or_default(),
        denied: args.deny.clone(),
        ..SimulatorConfig::default()
    })
}

/// JSON is YAML, so one reader does for both.
fn rules(file: &Path) -> Result<Vec<Rule>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    // By way of a plain value: rules are written in the notation of JSON, without the tags of YAML.
    let value: serde_json::Value =
        serde_norway::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_value(value).with_context(|| format!("read the rules in {}", file.display()))
}

fn denied(text: &str) -> Result<Denied, String> {
    let (verb, resource) =
        text.split_once(':').ok_or("write VERB:RESOURCE, for instance create:pods/eviction")?;
    Ok(Denied::new(verb, resource))
}

/// Notes what tasks do to nodes.
fn noting(log: HistoryLog) -> Observer {
    Box::new(move |request| {
        let Some(node) = request.path.strip_prefix("/api/v1/nodes/") else { return };
        let Some(sender) = Sender::read(&request.user_agent) else { return };
        log.note(&Record::Execution(Execution {
            at_us: SystemClock.now().as_microsecond(),
            task: sender.task,
            item: node.to_owned(),
            attempt: Some(sender.attempt),
            worker: Some(sender.worker),
            did: Some(request.verb.to_owned()),
        }));
    })
}

fn kubeconfig(simulator: &Simulator, advertise: Option<&str>) -> String {
    let yaml = simulator.kubeconfig_yaml();
    match advertise {
        Some(url) => yaml.replace(&format!("http://{}", simulator.addr), url),
        None => yaml,
    }
}

/// Writes a file so that whoever waits for it never sees half of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let half = file.with_extension("part");
    std::fs::write(&half, text)?;
    std::fs::rename(half, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::Fault;

    #[test]
    fn rules_are_read_from_yaml_and_from_json() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ended =
            vec![Rule::on("list", Fault::Cut { after: Duration::from_secs(1) }).path("/api/*").times(2)];
        for text in [
            "- verb: list\n  path: /api/*\n  times: 2\n  fault: {cut: {after: 1s}}\n",
            r#"[{"verb": "list", "path": "/api/*", "times": 2, "fault": {"cut": {"after": "1s"}}}]"#,
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(rules(file.path()).unwrap(), ended);
        }
        std::fs::write(file.path(), "- fault: explode").unwrap();
        assert!(format!("{:#}", rules(file.path()).unwrap_err()).contains("explode"));
    }

    #[test]
    fn a_right_is_a_verb_and_a_resource() {
        assert_eq!(denied("create:pods/eviction"), Ok(Denied::new("create", "pods/eviction")));
        assert!(denied("pods").is_err());
    }
}
