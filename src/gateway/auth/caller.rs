//! The extractor every route uses to know who calls. Having a [`Caller`] means: verified, and within the rate.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::verify::Identity;
use crate::gateway::Shared;
use crate::gateway::error::ApiError;
use crate::gateway::origin;
use crate::store::Task;
use crate::task::access::{Claim, is_admin_everywhere};
use crate::task::{Access, By, ClusterName, Origin, Role, UserId};
use crate::telemetry::metrics::Kind;

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who they are.
    pub user: UserId,
    /// What they may do, where nothing else is said of a cluster.
    pub role: Role,
    /// What their token says of single clusters.
    pub clusters: Claim,
    /// When their token ends, in seconds since the Unix epoch.
    pub expires_s: i64,
    /// From where they call.
    pub(crate) origin: Origin,
}

impl Caller {
    /// Refuses a caller who may only read, for what is of no cluster.
    pub(crate) fn may_write(&self) -> Result<(), ApiError> {
        if self.role >= Role::Operator {
            return Ok(());
        }
        Err(ApiError::Forbidden("the role viewer may only read"))
    }

    /// What this caller may do on a cluster.
    pub(crate) fn access(&self, shared: &Shared, cluster: &ClusterName) -> Access {
        Access::of(&self.user, self.role, &self.clusters, &shared.parts.auth.grants, cluster)
    }

    /// Whether this caller may see a task.
    pub(crate) fn may_see(&self, shared: &Shared, task: &Task) -> bool {
        self.user == task.owner || self.access(shared, &task.cluster).role == Role::Admin
    }

    /// Whether there may be clusters on which this caller sees what others do.
    pub(crate) fn may_be_admin(&self) -> bool {
        self.role == Role::Admin || self.clusters.values().any(|said| said.role == Some(Role::Admin))
    }

    /// Whether this caller sees what everybody does, wherever it is.
    pub(crate) fn is_admin_everywhere(&self, shared: &Shared) -> bool {
        is_admin_everywhere(&self.user, self.role, &self.clusters, &shared.parts.auth.grants)
    }

    /// Who it is, for the audit.
    pub(crate) fn by(&self) -> By {
        By { user: self.user.clone(), origin: self.origin() }
    }

    /// From where they call, and as what.
    pub(crate) fn origin(&self) -> Origin {
        Origin { role: Some(self.role.as_str().to_owned()), ..self.origin.clone() }
    }
}

impl From<Identity> for Caller {
    fn from(identity: Identity) -> Self {
        let Identity { user, role, clusters, expires_s } = identity;
        Self { user, role, clusters, expires_s, origin: Origin::default() }
    }
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers)
            .ok_or_else(|| refuse(shared, "send a token in the header Authorization: Bearer <token>"))?;
        let caller = authenticate(shared, token)?;
        Ok(Self { origin: origin::of(parts, &shared.proxies), ..caller })
    }
}

/// Verifies a token and takes one request off the user's rate.
pub(crate) fn authenticate(shared: &Shared, token: &str) -> Result<Caller, ApiError> {
    let identity = shared.verifier.verify(token).map_err(|why| refuse(shared, why))?;
    let caller = Caller::from(identity);
    shared.limits.request(&caller.user).inspect_err(|_| count(shared, "rate"))?;
    Ok(caller)
}

/// The bearer token of a request, if it has one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A 401, counted.
pub(crate) fn refuse(shared: &Shared, why: &'static str) -> ApiError {
    count(shared, "auth");
    ApiError::Unauthorized(why)
}

fn count(shared: &Shared, kind: &'static str) {
    shared.parts.metrics.refused.get_or_create(&Kind { kind }).inc();
}
