//! Actions on Kubernetes nodes.
//!
//! Each action is a pure decision over the node as it was just read; one driver reads, asks for the decision, sends at
//! most one patch, and begins again when another writer was faster. Labels and taints that others write meanwhile are
//! never lost: a label patch names only its own keys, and a patch that depends on what was read carries the version that
//! was read. Evictions are in [`drain`], what is known of all nodes in [`reflector`]. Not here: retries of failed items and time-outs of whole items (worker).

pub mod agent;
mod annotate;
mod annotations;
mod breaker;
mod busy;
mod cluster;
mod clusters;
mod copy;
mod cordon;
mod drain;
mod driver;
mod errors;
mod guard;
mod holder;
mod label;
mod meter;
mod node;
mod pace;
mod protected;
mod reflector;
mod rights;
mod survey;
mod taint;
mod views;

#[cfg(test)]
mod wire_tests;

pub use clusters::{ClustersError, KubeClusters};

/// What a decision comes to.
#[derive(Debug, Clone, PartialEq)]
enum Decision {
    /// The node is as asked; nothing is sent.
    Already,
    /// The JSON merge patch that makes it so.
    Patch(serde_json::Value),
    /// The node is left alone on purpose; a sentence says why.
    Skip(String),
}
