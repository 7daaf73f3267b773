//! The rules of safety against the simulator: what is refused leaves no trace, and however many lanes, tasks and processes
//! act at once, the control plane keeps its quorum and the workers their last node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use milepost::action::{Actions, Context, Done, Target};
use milepost::clock::{Clock, SystemClock};
use milepost::simulator::{Behaviour, Denied, Fault, PodChange, Rule, Simulator, SimulatorConfig};
use milepost::store::Task;
use milepost::task::plan::{NodePlan, Outcome};
use milepost::task::safety::Rules;
use milepost::task::spec::TaskSpec;
use milepost::task::{Capabilities, Capability, Effect, ItemName, TaskId, UserId};
use serde_json::{Value, json};

use super::plan::{spec, spec_with};
use super::{Hub, task};

const CHANGED: Done = Done::Succeeded(Effect::Changed);
const CONTROL_PLANE: [&str; 3] = ["node-001", "node-002", "node-003"];

async fn simulator(nodes: u32, rules: Vec<Rule>) -> Simulator {
    let behaviour = Behaviour { ends_within: Duration::from_millis(50), ..Behaviour::default() };
    let config = SimulatorConfig { nodes, rules, behaviour, pods_per_node: 3, ..SimulatorConfig::default() };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

/// A process of its own, with the rules that hold when nothing is said.
fn process(simulator: &Simulator) -> Hub {
    Hub::with(simulator, |actions| actions.safety = Rules::default())
}

fn of(may: &[Capability], action: &str, parameters: Value) -> Task {
    Task { may: may.iter().copied().collect::<Capabilities>(), ..task("sim", action, parameters) }
}

async fn run(hub: &Hub, task: &Task, node: &str) -> Result<Done, String> {
    let action = hub.registry.prepare(task).await.map_err(|error| error.to_string())?;
    let name = ItemName::new(node).unwrap();
    let done = action.run(Target { index: 0, name: &name }, &Context::alone()).await;
    done.map_err(|error| error.to_string())
}

fn cordoned(simulator: &Simulator) -> BTreeSet<String> {
    let is_cordoned = |name: &String| simulator.node(name).unwrap()["spec"]["unschedulable"] == true;
    simulator.node_names().into_iter().filter(is_cordoned).collect()
}

fn drain() -> Value {
    json!({"ignore_daemonsets": true, "delete_emptydir_data": true, "force": true, "timeout_seconds": 30})
}

#[tokio::test]
async fn what_a_rule_refuses_names_it_and_leaves_no_trace() {
    let simulator = simulator(9, Vec::new()).await;
    let label = json!({"metadata": {"labels": {"milepost.dev/protected": ""}}});
    simulator.merge_patch("node-005", &label).unwrap();
    let hub = process(&simulator);
    let before: Vec<_> = simulator.node_names().iter().map(|name| simulator.node(name)).collect();
    let force = &[Capability::Force][..];
    let unlabel = json!({"keys": ["milepost.dev/protected"]});
    let no_execute = json!({"taints": [{"key": "a", "effect": "NoExecute"}]});
    for (action, parameters, node, sentence) in [
        (
            "drain",
            drain(),
            "node-001",
            "refused: control_plane: node-001 is of the control plane: drain takes the capability control-plane",
        ),
        (
            "taint",
            no_execute,
            "node-002",
            "refused: control_plane: node-002 is of the control plane: taint takes",
        ),
        (
            "cordon",
            json!({}),
            "node-005",
            "refused: protected: node-005 is protected by its label milepost.dev/protected: cordon takes",
        ),
        ("unlabel", unlabel, "node-005", "refused: protected: node-005 is protected by its label"),
        ("drain", json!({"bypass_pdb": true}), "node-006", "ada did not hold the capability bypass-pdb when"),
    ] {
        let refused = run(&hub, &of(force, action, parameters), node).await.unwrap_err();
        assert!(refused.starts_with(sentence), "{refused}");
    }
    let after: Vec<_> = simulator.node_names().iter().map(|name| simulator.node(name)).collect();
    assert_eq!(before, after);
    let acts = super::acts(&simulator);
    assert!(acts.iter().all(|request| request.path == "/api/v1/nodes"), "{acts:?}");
    let all = [Capability::Force, Capability::BypassPdb, Capability::ControlPlane];
    assert_eq!(run(&hub, &of(&all, "drain", drain()), "node-001").await, Ok(CHANGED));
    assert_eq!(run(&hub, &of(&all, "cordon", json!({})), "node-005").await, Ok(CHANGED));
    let refused = run(&hub, &of(&all, "drain", drain()), "node-002").await.unwrap_err();
    assert!(refused.contains("control plane of 3, of which 1 are out of service"), "{refused}");
}

#[tokio::test]
async fn lanes_and_tasks_of_a_process_together_take_no_more_than_may_be() {
    let slow = Fault::Latency { from: Duration::from_millis(1), to: Duration::from_millis(20) };
    let simulator = simulator(12, vec![Rule::on("patch", slow.clone()), Rule::on("get", slow)]).await;
    let hub = process(&simulator);
    let task = of(&[], "cordon", json!({}));
    let names = simulator.node_names();
    let results = join_all(names.iter().map(|name| run(&hub, &task, name))).await;
    let done = results.iter().filter(|result| **result == Ok(CHANGED)).count();
    let (control_plane, workers): (Vec<_>, Vec<_>) =
        cordoned(&simulator).into_iter().partition(|name| CONTROL_PLANE.contains(&name.as_str()));
    assert_eq!((control_plane.len(), workers.len(), done), (1, 8, 9), "{results:?}");
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    let last = |why: &&&String| why.contains("is the last of its workers in service");
    assert_eq!((refused.len(), refused.iter().filter(last).count()), (3, 1), "{refused:?}");
}

/// Both look before either has cordoned, because patches take long: only the second look can tell.
#[tokio::test]
async fn processes_that_drain_at_the_same_time_keep_the_quorum_and_evict_nothing_in_vain() {
    let slow = Fault::Latency { from: Duration::from_millis(200), to: Duration::from_millis(300) };
    for round in 0..3 {
        let simulator = simulator(9, vec![Rule::on("patch", slow.clone())]).await;
        let hubs = [(); 3].map(|()| process(&simulator));
        let task = of(&[Capability::Force, Capability::ControlPlane], "drain", drain());
        let drains = hubs.iter().zip(CONTROL_PLANE).map(|(hub, node)| run(hub, &task, node));
        let results = join_all(drains).await;
        let done: BTreeSet<String> = (CONTROL_PLANE.iter().zip(&results))
            .filter(|(_, result)| result.is_ok())
            .map(|(name, _)| (*name).to_owned())
            .collect();
        assert!(done.len() <= 1, "round {round}: {results:?}");
        assert_eq!(
            cordoned(&simulator),
            done,
            "round {round}: cordons that were refused are taken back: {results:?}"
        );
        let evicted = simulator.pod_events().into_iter().filter(|event| event.change == PodChange::Evicted);
        let evicted: BTreeSet<String> = evicted.map(|event| event.node).collect();
        assert!(evicted.is_subset(&done), "round {round}: {evicted:?} of {done:?}");
        let taken_back = results.iter().filter_map(|result| result.as_ref().err());
        let taken_back = taken_back.filter(|why| why.ends_with("it was cordoned for a moment")).count();
        assert!(taken_back >= 2, "void: nobody was too quick for the first look: {results:?}");
    }
}

#[tokio::test]
async fn processes_that_cordon_the_last_nodes_leave_one() {
    let slow = Fault::Latency { from: Duration::from_millis(50), to: Duration::from_millis(150) };
    let simulator = simulator(9, vec![Rule::on("patch", slow)]).await;
    let hubs = [(); 2].map(|()| process(&simulator));
    let task = of(&[], "cordon", json!({}));
    let names = simulator.node_names();
    let halves = names[3..].iter().enumerate().map(|(i, name)| run(&hubs[i % 2], &task, name));
    let results = join_all(halves).await;
    let workers = cordoned(&simulator);
    assert!(workers.len() < 6, "{workers:?}: {results:?}");
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(workers.len(), done, "{results:?}");
}

/// The cordon of many nodes by what the watch shows of them asks the same rules, and no request for that.
#[tokio::test]
async fn a_cordon_of_a_whole_cluster_leaves_what_must_stay_and_costs_one_request_for_each() {
    let simulator = simulator(30, Vec::new()).await;
    let hub = process(&simulator);
    let names = simulator.node_names();
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    let spec = TaskSpec { may: Capabilities::default(), ..spec("cordon", json!({}), &all) };
    let task = Task::accepted(TaskId::generate(), UserId::new("ada").unwrap(), &spec, SystemClock.now());
    let results = join_all(names.iter().map(|name| run(&hub, &task, name))).await;
    let out = cordoned(&simulator);
    assert_eq!(out.len(), 1 + 26, "one of three of the control plane, and all workers but one: {results:?}");
    let (quorum, last): (Vec<_>, Vec<_>) =
        results.into_iter().filter_map(Result::err).partition(|why| why.starts_with("refused: quorum: "));
    assert_eq!((quorum.len(), last.len()), (2, 1), "{quorum:?} {last:?}");
    assert!(last[0].starts_with("refused: last_node: "), "{last:?}");
    let acts = super::acts(&simulator);
    let of = |verb: &str| acts.iter().filter(|request| request.verb == verb).count();
    assert_eq!((of("list"), of("watch"), of("get"), of("patch")), (1, 1, 0, out.len()));
}

#[tokio::test]
async fn a_plan_says_what_the_rules_refuse_and_counts_what_it_takes_itself() {
    let simulator = simulator(9, Vec::new()).await;
    let hub = process(&simulator);
    simulator
        .merge_patch("node-004", &json!({"metadata": {"labels": {"milepost.dev/protected": ""}}}))
        .unwrap();
    let names = simulator.node_names();
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    let strategy = json!({"order": ["control_plane_last"]});
    let of_nobody = spec_with("cordon", json!({}), &all, strategy);
    let of_nobody = TaskSpec { may: Capabilities::default(), ..of_nobody };
    let plan = hub.plan(&of_nobody).await;
    let rule = |node: &NodePlan| Some(node.says.strip_prefix("refused: ")?.split_once(": ")?.0.to_owned());
    let (workers, control_plane) = plan.nodes.split_at(6);
    assert_eq!(workers[0].name, "node-004", "the control plane comes last: {plan:?}");
    let of = |nodes: &[NodePlan]| nodes.iter().map(rule).collect::<Vec<_>>();
    let word = |word: &str| Some(word.to_owned());
    assert_eq!(of(workers), [word("protected"), None, None, None, None, None], "the protected one stands in");
    assert_eq!(of(control_plane), [None, word("quorum"), word("quorum")]);
    assert_eq!((plan.summary.change, plan.summary.fail), (6, 3));
    assert!(plan.nodes.iter().all(|node| node.outcome == Outcome::Change || node.changes.is_empty()));

    let all_workers = ["node-005", "node-006", "node-007", "node-008", "node-009", "node-004"];
    let may = [Capability::ControlPlane].into_iter().collect();
    let of_holder = TaskSpec { may, ..spec("cordon", json!({}), &all_workers) };
    let plan = hub.plan(&of_holder).await;
    assert_eq!(of(&plan.nodes), [None, None, None, None, None, word("last_node")]);
    let run = hub.run_spec(&of_holder).await;
    assert!(run[..5].iter().all(|done| *done == super::CHANGED), "{run:?}");
    assert_eq!(run[5].as_ref().unwrap_err().to_string(), plan.nodes[5].says, "a run does what the plan said");
}

#[tokio::test]
async fn nodes_that_may_not_be_watched_are_left_alone_and_the_right_is_named() {
    let denied = vec![Denied::new("watch", "nodes")];
    let config = SimulatorConfig { nodes: 9, denied, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let hub = process(&simulator);
    let refused = run(&hub, &of(&[], "cordon", json!({})), "node-006").await.unwrap_err();
    assert_eq!(refused, "forbidden: needs watch on nodes in cluster sim");
    let plan = hub.plan(&spec("cordon", json!({}), &["node-006"])).await;
    assert_eq!(plan.refused.as_deref(), Some(refused.as_str()));
    assert_eq!(
        run(&hub, &of(&[], "uncordon", json!({})), "node-006").await,
        Ok(Done::Succeeded(Effect::Already))
    );
    assert!(cordoned(&simulator).is_empty());
}

#[tokio::test]
async fn nodes_that_cannot_be_seen_are_left_alone() {
    let simulator = simulator(9, vec![Rule::on("list", Fault::Status(403)).path("/api/v1/nodes")]).await;
    let refused = run(&process(&simulator), &of(&[], "cordon", json!({})), "node-006").await.unwrap_err();
    assert_eq!(refused, "cluster sim: its nodes are not known: forbidden: needs list on nodes");
    assert!(cordoned(&simulator).is_empty());
}
