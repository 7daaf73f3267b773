//! Unmodified `kubectl` finds in the simulator what it would find in a cluster.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use milepost::simulator::Simulator;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// How long one step of `kubectl` may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// `kubectl` with a home of its own, bound to one simulator.
pub(super) struct Kubectl {
    home: TempDir,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(super) fn new(simulator: &Simulator) -> Result<Self> {
        Self::to(&simulator.kubeconfig_yaml())
    }

    /// Bound to whatever a kubeconfig names.
    pub(super) fn to(kubeconfig_yaml: &str) -> Result<Self> {
        let home = TempDir::new()?;
        let kubeconfig = home.path().join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_yaml)?;
        Ok(Self { home, kubeconfig })
    }

    /// A command line ready to run. The process ends with its handle.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(line.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.home.path());
        command.kill_on_drop(true);
        command
    }

    /// Runs it and returns what it printed; an error holds what it complained about.
    pub(super) async fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output();
        let output = tokio::time::timeout(LIMIT, output).await?.context("is kubectl installed?")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

#[tokio::test]
async fn nodes_are_listed_as_a_table_and_as_objects() {
    let simulator = super::simulator(7).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let table = kubectl.run("get nodes --chunk-size=3").await.unwrap();
    let first: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    );
    assert_eq!(first, ["node-001", "Ready", "control-plane", "30d", "v1.33.4"]);
    assert_eq!(table.lines().count(), 8, "{table}");
    let workers = kubectl.run("get nodes -l !node-role.kubernetes.io/control-plane -o name").await.unwrap();
    assert_eq!(
        workers.split_whitespace().collect::<Vec<_>>(),
        ["node/node-004", "node/node-005", "node/node-006", "node/node-007"]
    );
    let one = kubectl.run("get nodes --field-selector metadata.name=node-002 -o json").await.unwrap();
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["items"][0]["metadata"]["name"], "node-002");
}

#[tokio::test]
async fn nodes_are_changed_as_asked() {
    let simulator = super::simulator(3).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    kubectl.run("cordon node-001 node-002").await.unwrap();
    assert!(kubectl.run("cordon node-001").await.unwrap().contains("already cordoned"));
    kubectl.run("uncordon node-002").await.unwrap();
    kubectl.run("label node node-001 tier=gold").await.unwrap();
    assert!(kubectl.run("label node node-001 tier=silver").await.is_err());
    kubectl.run("label node node-001 tier=silver --overwrite").await.unwrap();
    kubectl.run("taint node node-001 role=db:NoSchedule role=db:NoExecute").await.unwrap();
    kubectl.run("taint node node-001 role:NoSchedule-").await.unwrap();
    let nodes = [1, 2, 3].map(|i| simulator.node(&format!("node-00{i}")).unwrap());
    let cordoned = nodes.each_ref().map(|node| node["spec"].get("unschedulable").cloned());
    assert_eq!(cordoned, [Some(Value::Bool(true)), None, None]);
    assert_eq!(nodes[0]["metadata"]["labels"]["tier"], "silver");
    let taints = nodes[0]["spec"]["taints"].to_string();
    assert!(taints.contains("NoExecute") && taints.matches("role\"").count() == 1, "{taints}");
    assert!(kubectl.run("get nodes node-001").await.unwrap().contains("Ready,SchedulingDisabled"));
}

#[tokio::test]
async fn refusals_reach_kubectl_as_sentences() {
    let simulator = super::simulator(2).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let missing = kubectl.run("cordon node-999").await.unwrap_err().to_string();
    assert!(missing.contains("nodes \"node-999\" not found"), "{missing}");
    let held = kubectl.run("label node node-001 kubernetes.io/os=plan9").await.unwrap_err().to_string();
    assert!(held.contains("--overwrite"), "{held}");
}

#[tokio::test]
async fn a_watch_shows_changes() {
    let simulator = super::simulator(2).await;
    let kubectl = Kubectl::new(&simulator).unwrap();
    let mut watching = kubectl.command("get nodes --watch").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let (mut seen, mut cordoned) = (Vec::new(), false);
    while seen.len() < 4 {
        if seen.len() == 3 && !cordoned {
            kubectl.run("cordon node-002").await.unwrap();
            cordoned = true;
        }
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        seen.push(line.expect("the watch goes on"));
    }
    assert!(seen[3].starts_with("node-002") && seen[3].contains("SchedulingDisabled"), "{seen:?}");
}
