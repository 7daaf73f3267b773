//! `milepost simulator`: a Kubernetes API on loopback with virtual nodes, to try Milepost and `kubectl` on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::net::TcpListener;

use super::exit::Exit;
use super::history;
use super::output::{Output, say};
use crate::action::kubernetes::agent::Sender;
use crate::clock::{Clock, SystemClock};
use crate::lifecycle::Lifecycle;
use crate::simulator::{Observer, Simulator, SimulatorConfig};
use crate::verify::record::Execution;
use crate::verify::{HistoryLog, Record};

/// How long the simulator may take to stop.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// Flags of `milepost simulator`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulatorArgs {
    /// How many nodes there are: node-001 and on.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,

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
    let config = SimulatorConfig { nodes: args.nodes, ..SimulatorConfig::default() };
    let simulator =
        Simulator::start(config, listener, Arc::new(SystemClock)).context("start the simulator")?;
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
fn write_whole(file: &std::path::Path, text: &str) -> std::io::Result<()> {
    let half = file.with_extension("part");
    std::fs::write(&half, text)?;
    std::fs::rename(half, file)
}
