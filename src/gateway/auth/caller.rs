//! The extractor every route uses to know who calls. Having a [`Caller`] means: verified, and within the rate.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::verify::{Identity, Role};
use crate::gateway::Shared;
use crate::gateway::error::ApiError;
use crate::task::UserId;
use crate::telemetry::metrics::Kind;

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who they are.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// When their token ends, in seconds since the Unix epoch.
    pub expires_s: i64,
}

impl Caller {
    /// Refuses a caller who may only read.
    pub(crate) fn may_write(&self) -> Result<(), ApiError> {
        if self.role >= Role::Operator {
            return Ok(());
        }
        Err(ApiError::Forbidden("the role viewer may only read"))
    }

    /// Whether this caller may see what `owner` owns.
    pub(crate) fn may_see(&self, owner: &UserId) -> bool {
        self.role == Role::Admin || self.user == *owner
    }
}

impl From<Identity> for Caller {
    fn from(identity: Identity) -> Self {
        Self { user: identity.user, role: identity.role, expires_s: identity.expires_s }
    }
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers)
            .ok_or_else(|| refuse(shared, "send a token in the header Authorization: Bearer <token>"))?;
        authenticate(shared, token)
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
