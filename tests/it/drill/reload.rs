//! Clusters come, change and go by SIGHUP, while processes run and tasks with them.

use std::path::Path;

use milepost_harness::{Hub, HubMode, HubSpec};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::seen::assert_changed_once;
use super::{Site, blocking, quick, slow};
use crate::support::{Api, until};

/// Writes the list of clusters into a configuration that has none, in place of what it had.
fn write(config: &Path, plain: &str, clusters: &Value) {
    std::fs::write(config, format!("{plain}clusters: {clusters}\n")).unwrap();
}

/// Has every process read the configuration again.
fn hang_up(hub: &Hub) {
    for replica in hub.gateways.iter().chain(&hub.workers) {
        replica.process().signal(Signal::SIGHUP).unwrap();
    }
}

/// Waits until every process has said this since its log was so long.
async fn said(hub: &Hub, since: &[usize], words: &str) {
    let all = || hub.gateways.iter().chain(&hub.workers);
    until(words, async || all().zip(since).all(|(replica, from)| replica.log()[*from..].contains(words)))
        .await;
}

fn logged(hub: &Hub) -> Vec<usize> {
    hub.gateways.iter().chain(&hub.workers).map(|replica| replica.log().len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_added_changed_and_removed_while_tasks_run() {
    let sites = [Site::start("one", quick(40, 0)).await, Site::start("one", quick(6, 0)).await];
    let other = Site::start("two", quick(6, 0)).await;
    let spec = HubSpec {
        gateways: 1,
        workers: 1,
        ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Postgres)
    };
    let hub = blocking(|| Hub::start(spec)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let entry = |name: &str, file: &str, site: &Site| {
        let path = folder.path().join(file);
        std::fs::write(&path, site.kubeconfig()).unwrap();
        // Every node of it is cordoned.
        json!({"name": name, "kubeconfig": path, "safety": {"control_plane_quorum": false, "last_node": false}})
    };
    let (old, new) = (entry("one", "old", &sites[0]), entry("one", "new", &sites[1]));
    let two = entry("two", "two", &other);
    let config = hub.folder().join("milepost.yaml");
    let plain = std::fs::read_to_string(&config).unwrap();
    let api = Api::new(&hub.urls()[0], &hub.token("ada", "operator").unwrap());
    let known = async || api.get("clusters").await["clusters"].clone();
    // One is always there: that of the `wait` action.
    let all = |names: &[&str]| json!([&["local"], names].concat());
    let cordon = |site: &Site| site.batch("cordon", &site.simulator.node_names(), &Value::Null);

    assert_eq!(api.call("POST", "tasks", Some(&cordon(&sites[0]))).await.0, 422, "it is not known yet");
    let since = logged(&hub);
    write(&config, &plain, &json!([old]));
    hang_up(&hub);
    said(&hub, &since, "clusters reloaded").await;
    sites[0].simulator.set_rules(vec![slow("patch", 500)]);
    let mut batch = cordon(&sites[0]);
    batch["concurrency"] = json!(4);
    let running = api.submit(&batch).await;
    until("it runs", async || api.get(&format!("tasks/{running}")).await["current"].as_u64() > Some(0)).await;

    let since = logged(&hub);
    write(&config, &plain, &json!([new, two]));
    hang_up(&hub);
    said(&hub, &since, "clusters reloaded").await;
    assert_eq!(known().await, all(&["one", "two"]));
    let (changed, added) = (api.submit(&cordon(&sites[1])).await, api.submit(&cordon(&other)).await);
    let still = api.get(&format!("tasks/{running}")).await;
    assert_eq!(still["status"], "running", "void: nothing ran on the cluster that changed");
    for (task, site) in [(&changed, &sites[1]), (&added, &other), (&running, &sites[0])] {
        let record = api.finished(task).await;
        assert_eq!(record["status"], "completed", "{record}");
        assert_changed_once(&site.simulator, task, &site.simulator.node_names());
    }

    for (clusters, words) in
        [(json!([new, new]), "the clusters stay as they are"), (json!([new]), "clusters reloaded")]
    {
        let since = logged(&hub);
        write(&config, &plain, &clusters);
        hang_up(&hub);
        said(&hub, &since, words).await;
        let left: &[_] = if words.contains("stay") { &["one", "two"] } else { &["one"] };
        assert_eq!(known().await, all(left));
    }
    assert_eq!(api.call("POST", "tasks", Some(&cordon(&other))).await.0, 422, "it is gone");
}
