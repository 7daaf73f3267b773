//! Asks whether a caller may do something on a cluster, and counts it when they may not.
//!
//! Not here: what roles and capabilities are ([`crate::task::access`]).

use super::Shared;
use super::auth::Caller;
use super::error::{ApiError, Denied};
use crate::action::ClusterError;
use crate::task::{Access, ActionSpec, Capability, ClusterName, Missing};
use crate::telemetry::metrics::Kind;

/// What a caller may do on a cluster on which they may act.
pub(crate) fn may_act(shared: &Shared, caller: &Caller, cluster: &ClusterName) -> Result<Access, ApiError> {
    let access = caller.access(shared, cluster);
    or_denied(shared, caller, cluster, access.may_act()).map(|()| access)
}

/// Refuses an action with parameters that a caller may not use.
pub(crate) fn may_submit(
    shared: &Shared,
    caller: &Caller,
    cluster: &ClusterName,
    action: &ActionSpec,
) -> Result<Access, ApiError> {
    let access = caller.access(shared, cluster);
    or_denied(shared, caller, cluster, access.may_submit(action)).map(|()| access)
}

/// Refuses a cluster that is not there for a caller, as one that is not there at all.
pub(crate) fn may_see(shared: &Shared, caller: &Caller, cluster: &ClusterName) -> Result<(), ApiError> {
    match caller.access(shared, cluster).may_see() {
        true => Ok(()),
        false => Err(ClusterError::Unknown(cluster.clone()).into()),
    }
}

fn or_denied(
    shared: &Shared,
    caller: &Caller,
    cluster: &ClusterName,
    asked: Result<(), Missing>,
) -> Result<(), ApiError> {
    asked.map_err(|missing| {
        shared.parts.metrics.refused.get_or_create(&Kind { kind: label(missing) }).inc();
        ApiError::Denied(Denied { user: caller.user.clone(), missing, cluster: cluster.clone() })
    })
}

/// The `kind` under which a refusal is counted.
fn label(missing: Missing) -> &'static str {
    match missing {
        Missing::Role(_) => "role",
        Missing::Capability(capability) => Capability::as_str(capability),
    }
}
