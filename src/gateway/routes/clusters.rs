//! `GET clusters`, for pickers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::ApiError;
use crate::gateway::extract::path_text;
use crate::task::{Access, ClusterName};

/// The configured clusters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterList {
    /// Names of those that you may see, sorted.
    pub clusters: Vec<String>,
    /// What you may do on each, by its name.
    #[serde(default)]
    pub access: BTreeMap<String, AccessBody>,
}

/// What the caller may do on a cluster.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Access)]
pub struct AccessBody {
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// Some of `force`, `bypass-pdb` and `control-plane`.
    pub may: Vec<String>,
}

impl From<Access> for AccessBody {
    fn from(access: Access) -> Self {
        let may = access.may.iter().map(|capability| capability.as_str().to_owned()).collect();
        Self { role: access.role.as_str().to_owned(), may }
    }
}

/// The cluster name of a path.
pub(crate) struct ClusterPath(pub(crate) ClusterName);

impl<S: Send + Sync> FromRequestParts<S> for ClusterPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_text(parts, state, "cluster").await?;
        ClusterName::new(text).map(Self).map_err(|error| ApiError::malformed("cluster", error.to_string()))
    }
}

/// List clusters
#[utoipa::path(get, path = "/api/v1/clusters", tag = "clusters",
    responses((status = 200, description = "The configured clusters that you may see", body = ClusterList)))]
pub(crate) async fn list(State(shared): State<Arc<Shared>>, caller: Caller) -> Json<ClusterList> {
    let mut names = shared.parts.clusters.names();
    names.retain(|name| caller.access(&shared, name).may_see());
    let access = |name: &ClusterName| (name.to_string(), caller.access(&shared, name).into());
    Json(ClusterList {
        clusters: names.iter().map(ToString::to_string).collect(),
        access: names.iter().map(access).collect(),
    })
}
