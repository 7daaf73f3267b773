//! Workers that are killed between an eviction and its record: the next attempt goes on, and does nothing twice.

use std::collections::BTreeSet;
use std::time::Duration;

use milepost::simulator::{PodChange, Simulator};
use milepost_harness::HubMode;
use serde_json::json;

use super::seen::{assert_changed_once, assert_drained, assert_evicted_once, is_eviction, node_of, pods};
use super::{Site, Stage, blocking, drain, quick, slow};
use crate::support::{eventually, until};

const WITHIN: Duration = Duration::from_secs(60);

/// Evictions that were asked for and not answered.
fn unanswered(simulator: &Simulator) -> usize {
    let requests = simulator.requests();
    requests.iter().filter(|request| is_eviction(request) && request.status.is_none()).count()
}

/// UIDs of pods that were evicted and are not gone.
fn leaving(simulator: &Simulator) -> BTreeSet<String> {
    let uids = |change| pods(simulator, change).into_iter().map(|event| event.uid).collect::<BTreeSet<_>>();
    &uids(PodChange::Evicted) - &uids(PodChange::Gone)
}

/// Nodes whose last question of a drain is answered: whether the node is still the same when its pods are gone.
fn through(simulator: &Simulator, task: &str) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    let mut through = BTreeSet::new();
    for request in simulator.requests().iter().filter(|request| request.user_agent.contains(task)) {
        let Some(node) = node_of(request) else { continue };
        if request.verb == "get" && request.status.is_some() && !asked.insert(node.to_owned()) {
            through.insert(node.to_owned());
        }
    }
    through
}

/// One worker dies with an eviction on its way and others granted, the next when nodes are empty and not recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_eviction_and_record_costs_nothing_but_time() {
    let mut config = quick(30, 8);
    config.behaviour.ends_within = Duration::from_millis(700);
    let site = Site::start("prod", config).await;
    let simulator = &site.simulator;
    simulator.set_rules(vec![slow("create", 150)]);
    // Results wait long for their record, so that a death in between is no matter of luck.
    let settings = [("MILEPOST_WORKER__RECORD_INTERVAL", "5s"), ("MILEPOST_WORKER__LANES_PER_TASK", "4")];
    let stage = Stage::start(HubMode::Postgres, 3, &[&site], &settings).await;
    let (user, nodes) = (stage.user("ada"), &simulator.node_names()[4..24]);
    let task = user.api.submit(&site.batch("drain", nodes, &drain())).await;

    until("an eviction is on its way and others are granted", async || {
        unanswered(simulator) > 0 && !leaving(simulator).is_empty()
    })
    .await;
    let holder = stage.holder().await;
    // The worker is caught in the act: when it is gone, what it asked for is still not answered.
    let caught = eventually("it is caught", async || {
        let on_their_way = leaving(simulator);
        (unanswered(simulator) > 0 && !on_their_way.is_empty()).then_some(on_their_way)
    })
    .await;
    blocking(|| stage.hub.workers[holder].kill()).unwrap();
    let path = format!("tasks/{task}");
    until("another attempt runs", async || user.api.get(&path).await["attempt"] == 2).await;
    let gone = pods(simulator, PodChange::Gone);
    assert!(caught.iter().any(|uid| gone.iter().any(|event| event.uid == *uid)), "void: {caught:?}");

    let second = stage.holder().await;
    assert_ne!(second, holder);
    let unrecorded = async || {
        let recorded = user.items(&task).await.into_iter().filter(|item| item["state"] == "succeeded");
        let recorded: BTreeSet<_> = recorded.map(|item| item["name"].as_str().unwrap().to_owned()).collect();
        &through(simulator, &format!("{task}; attempt 2")) - &recorded
    };
    until("nodes are empty and not recorded", async || unrecorded().await.len() >= 2).await;
    blocking(|| stage.hub.workers[second].kill()).unwrap();
    assert!(!unrecorded().await.is_empty(), "void: all that was through is recorded");

    let record = user.ended(&task, WITHIN).await;
    assert_eq!(
        (&record["status"], &record["succeeded"]),
        (&json!("completed"), &json!(nodes.len())),
        "{record}"
    );
    assert_eq!(record["attempt"], 3, "{record}");
    assert_drained(simulator, nodes);
    assert!(assert_evicted_once(simulator) >= 5 * nodes.len());
    assert_changed_once(simulator, &task, nodes);
}
