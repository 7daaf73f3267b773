//! `GET clusters`, for pickers.

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
use crate::task::ClusterName;

/// The configured clusters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterList {
    /// Their names, sorted.
    pub clusters: Vec<String>,
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
    responses((status = 200, description = "The configured clusters", body = ClusterList)))]
pub(crate) async fn list(State(shared): State<Arc<Shared>>, _caller: Caller) -> Json<ClusterList> {
    let names = shared.parts.clusters.names();
    Json(ClusterList { clusters: names.iter().map(ToString::to_string).collect() })
}
