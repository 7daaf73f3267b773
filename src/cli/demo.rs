//! `milepost demo`: everything in one process, a simulated cluster, one batch, and its progress.
//!
//! Nothing is staged: the batch goes through the real HTTP API, a real worker sends real Kubernetes requests, and the
//! bars are fed by the real WebSocket. What goes wrong was ordered from the simulated cluster, and is explained.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use secrecy::SecretString;
use serde_json::json;

use super::exit::Exit;
use super::output::{Output, Paint, say};
use super::serve::{dashboard, development_token};
use super::watch::{self, Wanted};
use super::wiring::{self, Roles, Running};
use crate::client::Api;
use crate::clock::SystemClock;
use crate::config::{ClusterConfig, Config};
use crate::lifecycle::Lifecycle;
use crate::simulator::{Fault, Rule, Simulator, SimulatorConfig};
use crate::task::safety::Rules;
use crate::task::{Draft, ItemState, TaskId};

const CLUSTER: &str = "demo";
/// Nodes worked on at once: few enough that there is something to see.
const CONCURRENCY: u16 = 4;
/// How long the parts may take to stop.
const GRACE: Duration = Duration::from_secs(3);
/// What goes wrong on purpose: node, HTTP status, and what a person should read into it.
const ORDERED: [(&str, u16, &str); 3] = [
    ("node-013", 403, "forbidden: the account has no rights on it"),
    ("node-042", 404, "gone: somebody deleted it"),
    ("node-077", 409, "contested: another writer always comes first"),
];
/// A node that is cordoned before the batch begins.
const CORDONED: &str = "node-007";

/// Flags of `milepost demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How many nodes the simulated cluster has.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_000))]
    nodes: u32,

    /// Address of the API and the dashboard; a free port of this machine by default.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Keep everything running after the batch, to look around.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. The exit code is 0 when exactly what was ordered went wrong.
///
/// # Errors
/// When a port cannot be had, or a part does not do its work.
pub async fn run(args: &DemoArgs, out: Output) -> Result<Exit> {
    let simulator = simulator(args.nodes).await?;
    let folder = Folder::new()?;
    let kubeconfig = folder.0.join("kubeconfig");
    std::fs::write(&kubeconfig, simulator.kubeconfig_yaml()).context("write a kubeconfig")?;
    let life = Lifecycle::new();
    let running = wiring::start(&config(args, kubeconfig), Roles::ALL, &life).await?;
    let exit = show(&running, &simulator, args, out).await;
    if args.keep && exit.as_ref().is_ok_and(|exit| *exit != Exit::Detached) {
        life.run(GRACE).await;
    } else {
        life.shut_down(GRACE).await;
    }
    running.close().await;
    exit
}

async fn simulator(nodes: u32) -> Result<Simulator> {
    let slow = Fault::Latency { from: Duration::from_millis(100), to: Duration::from_millis(500) };
    let mut rules = vec![Rule::on("patch", slow)];
    rules.extend(ORDERED.map(|(node, status, _)| {
        Rule::on("patch", Fault::Status(status)).path(format!("/api/v1/nodes/{node}"))
    }));
    let config = SimulatorConfig { cluster: CLUSTER.into(), nodes, rules, ..SimulatorConfig::default() };
    let simulator =
        Simulator::bind(config, 0, Arc::new(SystemClock)).await.context("start the simulated cluster")?;
    simulator.merge_patch(CORDONED, &json!({ "spec": { "unschedulable": true } }));
    Ok(simulator)
}

fn config(args: &DemoArgs, kubeconfig: PathBuf) -> Config {
    let mut config = Config::default();
    config.server.listen = args.listen;
    config.server.admin_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.close_spread = Duration::ZERO;
    config.actions.wait = true;
    config.clusters = vec![ClusterConfig {
        name: CLUSTER.into(),
        kubeconfig: Some(kubeconfig),
        // It is there to be cordoned, every node of it.
        safety: Some(Rules { control_plane_quorum: false, last_node: false, ..Rules::default() }),
        ..ClusterConfig::default()
    }];
    config
}

async fn show(running: &Running, simulator: &Simulator, args: &DemoArgs, out: Output) -> Result<Exit> {
    let gateway = running.gateway.as_ref().context("the demo has a gateway")?;
    let url = format!("http://{}", gateway.address());
    let token = development_token(running)?.context("a gateway without keys makes a token")?;
    let names = simulator.node_names();
    introduce(&url, &token, names.len(), out);
    let api = Api::new(std::slice::from_ref(&url), Some(SecretString::from(token.clone())))
        .map_err(|error| anyhow::anyhow!(error))?;
    let draft = Draft {
        action: "cordon".into(),
        cluster: CLUSTER.into(),
        items: names.clone(),
        reason: Some("kernel update".into()),
        concurrency: Some(CONCURRENCY),
        ..Draft::default()
    };
    let id = api.submit(&draft, &uuid::Uuid::new_v4().to_string()).await.context("submit")?.view.task_id;
    let (exit, _) = watch::follow_until_detached(&api, Wanted::Tasks(vec![id]), out).await?;
    if exit == Exit::Detached {
        // Memory mode: the task is held by this process.
        say("the demo has ended, and its task with it");
        return Ok(Exit::Detached);
    }
    let as_ordered = went_as_ordered(&api, id, &names).await?;
    conclude(as_ordered, &names, out);
    if args.keep {
        invite(&url, &token, names.len(), out);
    }
    Ok(if as_ordered { Exit::Succeeded } else { Exit::Failed })
}

fn introduce(url: &str, token: &str, nodes: usize, out: Output) {
    let address = dashboard(url, token);
    if out.json {
        return out.object(&json!({ "type": "demo", "api": url, "token": token, "dashboard": address }));
    }
    let paint = Paint::new();
    out.line(paint.bold("Milepost demo: one process, nothing else needed"));
    out.line(format_args!("A simulated cluster of {nodes} nodes, a gateway, a worker, maintenance.\n"));
    out.line("Watch it in a browser too:");
    out.line(format_args!("{}\n", paint.green(address)));
    out.line(format_args!(
        "Cordon {nodes} nodes, {CONCURRENCY} at a time, over the HTTP API and the WebSocket:\n"
    ));
}

/// The ordered failures that the cluster is large enough to have.
fn ordered(names: &[String]) -> impl Iterator<Item = &'static (&'static str, u16, &'static str)> {
    ORDERED.iter().filter(|(node, ..)| names.iter().any(|name| name == node))
}

/// Whether the failures in the record are those that were ordered, and the cordoned node was left alone.
async fn went_as_ordered(api: &Api, id: TaskId, names: &[String]) -> Result<bool> {
    let failed = api.items(id, Some(ItemState::Failed), names.len()).await.context("read the outcome")?;
    let mut failed: Vec<&str> = failed.iter().map(|item| item.name.as_str()).collect();
    failed.sort_unstable();
    Ok(failed == ordered(names).map(|(node, ..)| *node).collect::<Vec<_>>())
}

fn conclude(as_ordered: bool, names: &[String], out: Output) {
    if out.json {
        return out.object(&json!({ "type": "demo", "as_ordered": as_ordered }));
    }
    if !as_ordered {
        return out.line(Paint::new().red("\nSomething else than ordered went wrong; see above."));
    }
    if ordered(names).next().is_some() {
        out.line("\nThese failures were ordered for the demo, so all is well:");
    }
    for (node, _, meaning) in ordered(names) {
        out.line(format_args!("  {node} {meaning}"));
    }
    if names.iter().any(|name| name == CORDONED) {
        out.line(format_args!("  {CORDONED} had been cordoned before by somebody else: it was skipped"));
    }
}

fn invite(url: &str, token: &str, nodes: usize, out: Output) {
    if out.json {
        return;
    }
    out.line("\nIt all keeps running until Ctrl-C. In another terminal:");
    out.line(format_args!("  export MILEPOST_SERVER_URL={url}"));
    out.line(format_args!("  export MILEPOST_TOKEN={token}"));
    out.line(format_args!("  milepost submit uncordon --cluster {CLUSTER} 'node-[001-{nodes:03}]' --watch"));
}

/// A folder of this process that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("milepost-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
