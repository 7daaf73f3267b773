//! Kubernetes: unmodified `kubectl` against the simulator, and our actions against the same one, compared.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod actions;
mod budgets_hold;
mod client;
mod drain_faults;
mod drain_kubectl;
mod drain_oracle;
mod faults;
mod kubectl;
mod life;
mod nodes;
mod oracle;
mod outage;
mod plan;
mod plan_run;
mod pods;
mod safety;
mod simulator_command;

use std::sync::Arc;
use std::time::Duration;

use milepost::action::{
    Action, ActionError, Actions, Clusters, Context, Done, KubeClusters, NodeView, Registry, Target,
};
use milepost::clock::{Clock, SystemClock};
use milepost::config::{ActionsConfig, ClusterConfig};
use milepost::simulator::{LoggedRequest, Simulator, SimulatorConfig};
use milepost::store::Task;
use milepost::task::safety::Rules;
use milepost::task::spec::{Draft, TaskSpec};
use milepost::task::{Capabilities, ClusterName, Effect, ItemName, TaskId, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;

const CHANGED: Result<Done, ActionError> = Ok(Done::Succeeded(Effect::Changed));
const ALREADY: Result<Done, ActionError> = Ok(Done::Succeeded(Effect::Already));

/// A simulator with a few nodes.
async fn simulator(nodes: u32) -> Simulator {
    let config = SimulatorConfig { nodes, ..SimulatorConfig::default() };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}

/// Our side: a registry with the simulator as its cluster `sim`.
struct Hub {
    registry: Registry,
    home: TempDir,
}

impl Hub {
    fn new(simulator: &Simulator) -> Self {
        Self::with(simulator, |_| {})
    }

    /// With settings other than the usual ones.
    fn with(simulator: &Simulator, set: impl FnOnce(&mut ActionsConfig)) -> Self {
        let home = TempDir::new().unwrap();
        let kubeconfig = home.path().join("kubeconfig");
        std::fs::write(&kubeconfig, simulator.kubeconfig_yaml()).unwrap();
        let cluster =
            ClusterConfig { name: "sim".into(), kubeconfig: Some(kubeconfig), ..ClusterConfig::default() };
        // kubectl knows no such rules, and single nodes are handy; `safety` has tests with them.
        let safety = Rules { control_plane_quorum: false, last_node: false, ..Rules::default() };
        let call_timeout = Duration::from_secs(30);
        let mut actions = ActionsConfig { call_timeout, safety, ..ActionsConfig::default() };
        set(&mut actions);
        let clusters = KubeClusters::new(&[cluster], &actions).unwrap();
        Self { registry: Registry::new(clusters, actions.wait, Arc::new(SystemClock)), home }
    }

    /// A node as its reflector knows it, once it is as awaited.
    async fn seen(&self, name: &str, holds: impl Fn(&NodeView) -> bool) -> Arc<NodeView> {
        let look = async || {
            let nodes = self.registry.nodes(&cluster("sim")).await.unwrap().nodes;
            nodes.into_iter().find(|node| node.name == name && holds(node))
        };
        eventually("the node is seen as awaited", look).await
    }

    async fn prepare(&self, action: &str, parameters: Value) -> Result<Arc<dyn Action>, ActionError> {
        self.registry.prepare(&task("sim", action, parameters)).await
    }

    /// Does an action to one node.
    async fn run(&self, action: &str, parameters: Value, node: &str) -> Result<Done, ActionError> {
        let name = ItemName::new(node).unwrap();
        self.prepare(action, parameters).await?.run(Target { index: 0, name: &name }, &Context::alone()).await
    }
}

/// A task as a worker gets it, of somebody who holds every capability.
fn task(cluster: &str, action: &str, parameters: Value) -> Task {
    let draft = Draft {
        action: action.into(),
        cluster: cluster.into(),
        items: vec!["unused".into()],
        parameters,
        reason: Some("disk".into()),
        ..Draft::default()
    };
    let spec = TaskSpec { may: Capabilities::all(), ..TaskSpec::new(draft).unwrap() };
    Task::accepted(TaskId::generate(), UserId::new("ada").unwrap(), &spec, SystemClock.now())
}

/// The requests that are no questions about rights.
fn acts(simulator: &Simulator) -> Vec<LoggedRequest> {
    let asks = |request: &LoggedRequest| request.path.ends_with("/selfsubjectaccessreviews");
    simulator.requests().into_iter().filter(|request| !asks(request)).collect()
}

fn labels(key: &str, value: &str, overwrite: bool) -> Value {
    json!({"labels": {key: value}, "overwrite": overwrite})
}

fn taints(key: &str, value: &str, effect: &str) -> Value {
    json!({"taints": [{"key": key, "value": value, "effect": effect}]})
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}
