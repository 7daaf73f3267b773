//! `milepost simulator` as a process: what its flags say, and how much memory large clusters take.

use std::path::Path;

use anyhow::Result;
use milepost_harness::Process;
use tempfile::TempDir;

use super::kubectl::Kubectl;
use crate::support::until;

/// A simulator of its own process.
struct Command {
    process: Process,
    kubeconfig: String,
    _home: TempDir,
}

impl Command {
    async fn start(flags: &str) -> Result<Self> {
        let home = TempDir::new()?;
        let file = home.path().join("kubeconfig");
        let line = format!("simulator --listen 127.0.0.1:0 --kubeconfig {} {flags}", file.display());
        let mut command = vec![env!("CARGO_BIN_EXE_milepost").to_owned()];
        command.extend(line.split_whitespace().map(str::to_owned));
        let process = Process::start(&command, &[], &home.path().join("log"), "KILL")?;
        until("the simulator answers", async || Path::new(&file).exists()).await;
        Ok(Self { process, kubeconfig: std::fs::read_to_string(file)?, _home: home })
    }

    fn server(&self) -> &str {
        self.kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap()
    }

    /// Memory in use, in kB.
    fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn flags_say_what_the_cluster_is_like_and_what_goes_wrong() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), "- {verb: patch, path: /api/v1/nodes/node-005, fault: {status: 403}}")
        .unwrap();
    let flags = format!(
        "--nodes 6 --pods-per-node 4 --budgets 100 --taint-after 1ms --deny delete:pods --rules {}",
        rules.path().display()
    );
    let simulator = Command::start(&flags).await.unwrap();
    let kubectl = Kubectl::to(&simulator.kubeconfig).unwrap();
    let pods = kubectl.run("get pods -A -o name --field-selector spec.nodeName=node-004").await.unwrap();
    assert_eq!(pods.lines().count(), 4, "{pods}");
    assert!(kubectl.run("get pdb -A -o name").await.unwrap().lines().count() > 0);
    assert!(kubectl.run("label node node-005 a=b").await.is_err(), "by rule");
    let refused = kubectl.run(&format!("delete -n kube-system {}", pods.lines().next().unwrap())).await;
    assert!(refused.unwrap_err().to_string().contains("cannot delete resource"), "denied");
    kubectl.run("cordon node-004").await.unwrap();
    until("the taint follows", async || {
        let node = kubectl.run("get node node-004 -o json").await.unwrap();
        node.contains("node.kubernetes.io/unschedulable")
    })
    .await;
}

/// Two clusters of 1,000 nodes with 30 pods each, listed whole, in less than a gigabyte.
#[tokio::test]
async fn large_clusters_are_small() {
    let flags = "--nodes 1000 --pods-per-node 30";
    let (one, two) = tokio::join!(Command::start(flags), Command::start(flags));
    let mut total_kb = 0;
    for simulator in [one.unwrap(), two.unwrap()] {
        let answer = reqwest::get(format!("{}/api/v1/pods", simulator.server())).await.unwrap();
        let list: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 3 * 3 + 997 * 30);
        total_kb += simulator.resident_kb();
    }
    assert!(total_kb < 1_000_000, "{total_kb} kB");
}
