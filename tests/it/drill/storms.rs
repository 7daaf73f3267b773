//! Storms: every write meets another writer, every request is turned away. That costs time, and no item.

use std::collections::BTreeMap;
use std::time::Duration;

use milepost::simulator::{Fault, Meddler, Rule};
use milepost_harness::HubMode;
use serde_json::{Value, json};

use super::seen::{answered, assert_changed_once, assert_drained, assert_evicted_once, node_of};
use super::{Site, Stage, drain, quick};
use crate::support::until;

/// How long what was held up may take in the end.
const WITHIN: Duration = Duration::from_secs(90);
/// Evictions that are turned away once the rest of the storm is over.
const EVICTIONS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn storms_of_conflicts_and_refusals_cost_time_and_no_item() {
    let contended = Site::start("contended", quick(40, 0)).await;
    let busy = Site::start("busy", quick(20, 4)).await;
    let broken = Site::start("broken", quick(20, 4)).await;
    let lanes = [("MILEPOST_WORKER__LANES_PER_TASK", "8")];
    let stage = Stage::start(HubMode::Postgres, 2, &[&contended, &busy, &broken], &lanes).await;
    tokio::join!(
        another_writer(&stage, &contended),
        turned_away(&stage, &busy, Fault::Throttle { retry_after_secs: 1 }, 429),
        turned_away(&stage, &broken, Fault::Status(503), 503),
    );
}

/// Labels, taints and cordons of the same nodes, while somebody else writes labels and taints to them all the time.
async fn another_writer(stage: &Stage, site: &Site) {
    let (simulator, nodes) = (&site.simulator, site.simulator.node_names());
    simulator.set_rules(vec![Rule::on("patch", Fault::Contend).probability(0.3)]);
    let meddler = simulator.meddle(Duration::from_millis(1));
    let label = site.batch("label", &nodes, &json!({"labels": {"drill": "on"}}));
    let taints = json!({"taints": [{"key": "drill", "value": "on", "effect": "NoSchedule"}]});
    let (taint, cordon) = (site.batch("taint", &nodes, &taints), site.batch("cordon", &nodes, &json!({})));
    let (mut tasks, user) = (Vec::new(), stage.user("ada"));
    for batch in [label, taint, cordon] {
        tasks.push(user.api.submit(&batch).await);
    }
    for task in &tasks {
        let record = user.ended(task, WITHIN).await;
        assert_eq!((&record["status"], &record["succeeded"]), (&json!("completed"), &json!(40)), "{record}");
        assert_changed_once(simulator, task, &nodes);
    }
    let (conflicts, writes) = (answered(simulator, "patch", 409), meddler.writes());
    assert!(conflicts >= 20 && writes >= 100, "void: {conflicts} conflicts, {writes} writes of another");
    drop(meddler);
    for name in &nodes {
        let node = simulator.node(name).unwrap();
        let (label, taint) = Meddler::marks(&node);
        assert!(label.is_some() && label == taint, "{name}: a write of another is lost: {node}");
        let taints = node["spec"]["taints"].as_array().unwrap();
        assert_eq!(node["metadata"]["labels"]["drill"], "on");
        assert!(taints.iter().any(|taint| taint["key"] == "drill" && taint["value"] == "on"), "{node}");
        assert_eq!(node["spec"]["unschedulable"], true);
    }
}

/// How often each node's requests were answered with this status.
fn refusals(site: &Site, status: u16) -> BTreeMap<String, u32> {
    let mut refusals = BTreeMap::new();
    for request in site.simulator.requests().iter().filter(|request| request.status == Some(status)) {
        if let Some(node) = node_of(request) {
            *refusals.entry(node.to_owned()).or_default() += 1;
        }
    }
    refusals
}

/// Every request about a node is turned away until each item was more often than an item may be tried. The list of all gets
/// through: without it, what takes nodes out of service waits and asks for none.
async fn turned_away(stage: &Stage, site: &Site, fault: Fault, status: u16) {
    let (simulator, nodes) = (&site.simulator, site.simulator.node_names());
    let about_nodes = ["get", "patch", "create"].map(|verb| Rule::on(verb, fault.clone()));
    simulator.set_rules(about_nodes.into());
    let (cordoned, drained) = (&nodes[4..10], &nodes[10..14]);
    let user = stage.user("bob");
    let cordons = user.api.submit(&site.batch("cordon", cordoned, &Value::Null)).await;
    let drains = user.api.submit(&site.batch("drain", drained, &drain())).await;
    let tries = 4;
    until("every item was turned away more often than it has tries", async || {
        let refusals = refusals(site, status);
        refusals.len() == 10 && refusals.values().all(|times| *times > tries)
    })
    .await;
    simulator.set_rules(vec![Rule::on("create", fault).path("*/eviction").times(EVICTIONS)]);
    for task in [&cordons, &drains] {
        user.ended_unharmed(task, WITHIN).await;
    }
    assert_eq!(answered(simulator, "create", status), EVICTIONS as usize, "void: not all that were to come");
    assert_changed_once(simulator, &cordons, cordoned);
    assert_changed_once(simulator, &drains, drained);
    assert_drained(simulator, drained);
    assert!(assert_evicted_once(simulator) >= drained.len(), "void: nothing to evict");
}
