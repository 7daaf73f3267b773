//! A cluster that is away, has too much to do, or moves: its items fail fast and come back, and nothing else is held up.

use std::time::Duration;

use milepost::action::{ActionError, Actions, KubeClusters, Registry};
use milepost::clock::SystemClock;
use milepost::config::{ActionsConfig, ClusterConfig};
use milepost::simulator::{Fault, Rule, Simulator};
use serde_json::Value;
use tokio::time::Instant;

use super::{CHANGED, Hub, labels, simulator, task};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_cluster_that_is_away_is_not_asked_until_a_probe_is_answered() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    simulator.set_rules(vec![Rule::on("get", Fault::Reset), Rule::on("list", Fault::Reset)]);
    for _ in 0..5 {
        let error = hub.run("label", labels("a", "b", false), "node-001").await.unwrap_err();
        assert!(error.to_string().starts_with("cluster sim cannot be reached: "), "{error}");
    }
    let (asked, began) = (simulator.requests().len(), Instant::now());
    let mut later = 0;
    for _ in 0..200 {
        let error = hub.run("label", labels("a", "b", false), "node-001").await.unwrap_err();
        if let ActionError::Later { message, retry_after } = error {
            assert!(message.starts_with("cluster sim: no answer for "), "{message}");
            assert!(retry_after <= Duration::from_secs(15));
            later += 1;
        }
    }
    let probes = simulator.requests().len() - asked;
    assert!(later >= 190 && probes <= 10, "{later} of 200 were not sent, {probes} probes");
    assert!(began.elapsed() < PATIENCE);
    simulator.set_rules(Vec::new());
    tokio::time::timeout(PATIENCE, async {
        while hub.run("label", labels("a", "b", false), "node-001").await != CHANGED {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is asked again by itself");
}

#[tokio::test]
async fn a_cluster_with_too_much_to_do_is_asked_less() {
    let simulator = simulator(1).await;
    let hub = Hub::with(&simulator, |actions| actions.calls_per_second = 40);
    simulator.set_rules(vec![Rule::on("get", Fault::Throttle { retry_after_secs: 1 }).times(1)]);
    hub.run("uncordon", Value::Null, "node-001").await.unwrap_err();
    let began = Instant::now();
    for _ in 0..20 {
        hub.run("uncordon", Value::Null, "node-001").await.unwrap();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500), "the burst is gone and the rate is half: {took:?}");
}

#[tokio::test]
async fn a_changed_kubeconfig_is_picked_up() {
    let (before, after) = (simulator(1).await, simulator(2).await);
    let hub = Hub::new(&before);
    assert_eq!(hub.run("cordon", Value::Null, "node-001").await, CHANGED);
    let path = hub.home.path().join("kubeconfig");
    std::fs::write(&path, "no: kubeconfig").unwrap();
    std::fs::write(&path, after.kubeconfig_yaml() + "# moved\n").unwrap();
    tokio::time::timeout(PATIENCE, async {
        while hub.run("cordon", Value::Null, "node-002").await != CHANGED {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("the new cluster is found");
    assert_eq!(after.node("node-002").unwrap()["spec"]["unschedulable"], true);
}

#[tokio::test]
async fn a_kubeconfig_that_runs_a_program_is_refused_unless_it_is_allowed() {
    let simulator = simulator(1).await;
    let home = tempfile::TempDir::new().unwrap();
    let (path, ran) = (home.path().join("kubeconfig"), home.path().join("ran"));
    std::fs::write(&path, with_exec(&simulator, &ran)).unwrap();
    for allow_exec in [false, true] {
        let cluster = ClusterConfig {
            name: "sim".into(),
            kubeconfig: Some(path.clone()),
            allow_exec,
            ..ClusterConfig::default()
        };
        let clusters = KubeClusters::new(&[cluster], &ActionsConfig::default()).unwrap();
        let registry = Registry::new(clusters, false, std::sync::Arc::new(SystemClock));
        let prepared = registry.prepare(&task("sim", "cordon", Value::Null)).await;
        assert_eq!(ran.exists(), allow_exec, "the program was started");
        let refusal = prepared.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(refusal.contains("allow_exec: true"), !allow_exec, "{refusal}");
    }
}

/// A kubeconfig whose user gets its token from a program that leaves a file behind.
fn with_exec(simulator: &Simulator, ran: &std::path::Path) -> String {
    let token =
        r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"t"}}"#;
    let script = format!("touch {} && echo '{token}'", ran.display());
    let exec = serde_json::json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1",
        "command": "/bin/sh", "args": ["-c", script], "interactiveMode": "Never"}});
    simulator.kubeconfig_yaml().replace("user: {}", &format!("user: {exec}"))
}
