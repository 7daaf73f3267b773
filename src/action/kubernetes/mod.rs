//! Actions on Kubernetes nodes.
//!
//! Each action is a pure decision over the node as it was just read; one driver reads, asks for the decision, sends at
//! most one patch, and begins again when another writer was faster. Labels and taints that others write meanwhile are
//! never lost: a label patch names only its own keys, and a patch that depends on what was read carries the version that
//! was read. Evictions are in [`drain`]. Not here: retries of failed items and time-outs of whole items (worker).

pub mod agent;
mod annotations;
mod busy;
mod cluster;
mod clusters;
mod cordon;
mod drain;
mod driver;
mod errors;
mod holder;
mod label;
mod node;
mod taint;

#[cfg(test)]
mod wire_tests;

pub use clusters::{ClustersError, KubeClusters};

use crate::action::ActionError;

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

/// Label and taint keys whose prefix belongs to Kubernetes itself: the kubelet and the node controller write them, and
/// would write them again.
fn check_not_protected(what: &str, key: &str, prefixes: &[&str]) -> Result<(), ActionError> {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    if prefixes.contains(&prefix) {
        return Err(ActionError::permanent(format!(
            "the {what} {key} belongs to Kubernetes and is not changed"
        )));
    }
    Ok(())
}
