//! Clusters that are away for half a minute, one that takes no connection and one that says nothing, next to one that is
//! well: nothing fails, no try is used up, nothing is done twice, and the third is as fast as before.

use std::time::Duration;

use milepost::simulator::Simulator;
use milepost_harness::{Flow, HubMode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::seen::{assert_changed_once, assert_drained, assert_evicted_once, changes, node_of};
use super::{Site, Stage, User, drain, quick, slow};
use crate::support::until;

/// How long the clusters are away.
const AWAY: Duration = Duration::from_secs(30);
/// How long the well one is measured before.
const BEFORE: Duration = Duration::from_secs(6);
/// What a breaker adds to an outage at most, and then the rest of the work.
const WITHIN: Duration = Duration::from_secs(60);
/// The least that is left of the throughput of the cluster that is well, on a machine with much else to do.
const LEAST: f64 = 0.7;

/// What runs on a cluster that will be away.
struct Work<'a> {
    site: &'a Site,
    user: User,
    cordoned: Vec<String>,
    drained: Vec<String>,
    cordons: String,
    drains: String,
}

impl<'a> Work<'a> {
    /// Submits a cordon and a drain, each of which takes some seconds.
    async fn begin(stage: &Stage, site: &'a Site) -> Self {
        site.simulator.set_rules(vec![slow("patch", 100), slow("create", 200)]);
        let (user, nodes) = (stage.user(site.name), site.simulator.node_names());
        let (cordoned, drained) = (nodes[4..64].to_vec(), nodes[64..84].to_vec());
        let of = |action: &str, nodes: &[String], parameters: &Value| {
            let mut batch = site.batch(action, nodes, parameters);
            batch["concurrency"] = json!(3);
            batch
        };
        let cordons = user.api.submit(&of("cordon", &cordoned, &Value::Null)).await;
        let drains = user.api.submit(&of("drain", &drained, &drain())).await;
        Self { site, user, cordoned, drained, cordons, drains }
    }

    /// Waits until both are in the middle of it.
    async fn is_under_way(&self) {
        let begun = |task: &str| changes(&self.site.simulator, task).len();
        until("both are under way", async || begun(&self.cordons) >= 5 && begun(&self.drains) >= 3).await;
    }

    /// Asserts that an outage hit both in the middle.
    async fn was_hit(&self) {
        for task in [&self.cordons, &self.drains] {
            let record = self.user.api.get(&format!("tasks/{task}")).await;
            let left = record["total"].as_u64() > record["current"].as_u64();
            assert!(
                record["status"] == "running" && left && record["failed"] == 0,
                "void, or it failed: {record}"
            );
        }
    }

    /// Asserts that both end as if nothing had been. A request that waited in a dead connection may arrive when it is over;
    /// as many nodes as were in work may then have been changed twice, to the same.
    async fn ends_unharmed(&self, late: bool) {
        self.user.ended_unharmed(&self.cordons, WITHIN).await;
        self.user.ended_unharmed(&self.drains, WITHIN).await;
        let simulator = &self.site.simulator;
        for (task, nodes) in [(&self.cordons, &self.cordoned), (&self.drains, &self.drained)] {
            match late {
                false => assert_changed_once(simulator, task, nodes),
                true => assert!(changes(simulator, task).values().map(|n| n - 1).sum::<u32>() <= 3),
            }
        }
        assert_drained(simulator, &self.drained);
        assert!(assert_evicted_once(simulator) >= self.drained.len());
    }
}

/// Nodes that were changed per second between two moments of a simulator's time.
fn rate(simulator: &Simulator, from: Duration, to: Duration) -> f64 {
    let requests = simulator.requests();
    let done = requests.iter().filter(|r| r.verb == "patch" && node_of(r).is_some() && r.status == Some(200));
    done.filter(|request| from <= request.at && request.at < to).count() as f64 / (to - from).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_without_an_api_server_costs_time_and_nobody_else_anything() {
    let (refusing, silent) =
        (Site::start("refusing", quick(100, 5)).await, Site::start("silent", quick(100, 5)).await);
    let (began, well) = (Instant::now(), Site::start("well", quick(1_000, 0)).await);
    // An answer of the cluster that is well takes so long that its throughput depends on lanes and not on this machine.
    well.simulator.set_rules(vec![slow("patch", 300)]);
    let settings = [("MILEPOST_ACTIONS__CALL_TIMEOUT", "3s"), ("MILEPOST_WORKER__LANES_PER_TASK", "6")];
    let stage = Stage::start(HubMode::Postgres, 2, &[&refusing, &silent, &well], &settings).await;
    let user = stage.user("wendy");
    let nodes = well.simulator.node_names();
    let steady = user.api.submit(&well.batch("label", &nodes, &json!({"labels": {"drill": "on"}}))).await;
    until("it is under way", async || changes(&well.simulator, &steady).len() >= 20).await;
    let before = began.elapsed();
    sleep(BEFORE).await;
    let usual = rate(&well.simulator, before, began.elapsed());

    let works = [Work::begin(&stage, &refusing).await, Work::begin(&stage, &silent).await];
    tokio::join!(works[0].is_under_way(), works[1].is_under_way());
    refusing.proxy.refuse(true);
    refusing.proxy.reset();
    silent.proxy.set_both(Flow::Stall);
    let gone = began.elapsed();
    sleep(AWAY).await;
    let meanwhile = rate(&well.simulator, gone, began.elapsed());
    for work in &works {
        // Requests that had arrived are still done; then there is nothing.
        let done = rate(&work.site.simulator, gone + Duration::from_secs(2), began.elapsed());
        assert!(done == 0.0, "void: {} was changed while it was away", work.site.name);
        work.was_hit().await;
    }
    refusing.proxy.heal();
    silent.proxy.heal();

    assert!(usual > 10.0, "void: {usual} nodes a second are no throughput");
    assert!(meanwhile >= LEAST * usual, "{meanwhile} nodes a second instead of {usual}");
    tokio::join!(works[0].ends_unharmed(false), works[1].ends_unharmed(true));
    user.ended_unharmed(&steady, WITHIN).await;
    assert_changed_once(&well.simulator, &steady, &nodes);
}
