//! Kubernetes: unmodified `kubectl` against the simulator, and our actions against the same one, compared.

mod kubectl;

use std::sync::Arc;

use milepost::clock::SystemClock;
use milepost::simulator::{Simulator, SimulatorConfig};

/// A simulator with a few nodes.
async fn simulator(nodes: u32) -> Simulator {
    let config = SimulatorConfig { nodes, ..SimulatorConfig::default() };
    Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap()
}
