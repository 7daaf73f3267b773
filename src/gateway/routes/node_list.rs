//! `GET clusters/{cluster}/nodes`, one of them, and their changes as they happen: for people who look and pickers.
//!
//! All of it is answered from what this replica knows of the cluster, however many ask, and says how current that is. Only
//! the pods of a node are read when somebody asks for them. Not here: how changes are streamed ([`crate::gateway::live::nodes`]).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::clusters::ClusterPath;
use super::live::admit;
use crate::action::nodes::{FilterDraft, NodeFilter, NodeMore, Summary};
use crate::action::{Freshness, NodePods, NodeView, Nodes};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::Params;
use crate::gateway::live;
use crate::gateway::rights::may_see;
use crate::task::ClusterName;

/// Nodes of a page, unless asked otherwise, and at most.
const PAGE: u32 = 500;
const PAGE_MAX: u32 = 1_000;
/// How long the pods of a node are waited for. A node is shown without them past that.
const PODS_DEADLINE: Duration = Duration::from_secs(5);
/// Seconds since the cluster last said something, as caches say how old an answer is.
const AGE: HeaderName = HeaderName::from_static("age");

/// Which nodes to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NodeParams {
    /// `ready`, `not-ready`, `cordoned`, `schedulable`; several with commas, all of which must hold.
    status: Option<String>,
    /// Roles, with commas; a node needs one of them. `none` for nodes without a role.
    role: Option<String>,
    /// A label selector as kubectl takes it: `app=web,tier!=gold,zone in (a,b),!old`.
    selector: Option<String>,
    /// `key`, `key=value`, `key:effect` or `key=value:effect`; several with commas, all of which must be there.
    taint: Option<String>,
    /// Part of the reason of a cordon, in any case.
    reason: Option<String>,
    /// Part of the name, in any case.
    name: Option<String>,
    /// At most so many nodes: 1 to 1,000, 500 when left out.
    limit: Option<u32>,
    /// Nodes after this name: the `next` of the page before.
    after: Option<String>,
}

/// Which nodes to follow, and a ticket for those who cannot send a header.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FollowParams {
    /// As for the list.
    status: Option<String>,
    /// As for the list.
    role: Option<String>,
    /// As for the list.
    selector: Option<String>,
    /// As for the list.
    taint: Option<String>,
    /// As for the list.
    reason: Option<String>,
    /// As for the list.
    name: Option<String>,
    /// A ticket of `POST live/tickets`, in place of an Authorization header.
    ticket: Option<String>,
}

/// A page of the nodes of a cluster.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// By name.
    pub nodes: Vec<NodeView>,
    /// What to ask for next: nodes after this name. Left out on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many nodes the filter lets pass, on all pages.
    pub matching: u32,
    /// How many nodes the cluster has, of each kind, whatever the filter.
    pub summary: Summary,
    /// How current all of this is. Old data says so here, and in the header `Age`.
    pub freshness: Freshness,
}

/// A node with its particulars.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeBody {
    /// What lists show.
    #[serde(flatten)]
    pub node: NodeView,
    /// The rest.
    #[serde(flatten)]
    pub more: NodeMore,
    /// The pods on it, as they are now; left out when they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NodePods>,
    /// How current the node is.
    pub freshness: Freshness,
}

impl NodeParams {
    fn filter(self) -> Result<NodeFilter, ApiError> {
        let Self { status, role, selector, taint, reason, name, .. } = self;
        read(&FilterDraft { status, role, selector, taint, reason, name })
    }
}

impl FollowParams {
    fn filter(self) -> Result<NodeFilter, ApiError> {
        let Self { status, role, selector, taint, reason, name, .. } = self;
        read(&FilterDraft { status, role, selector, taint, reason, name })
    }
}

fn read(draft: &FilterDraft) -> Result<NodeFilter, ApiError> {
    NodeFilter::new(draft).map_err(ApiError::Invalid)
}

/// List the nodes of a cluster
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/nodes", tag = "clusters",
    params(("cluster" = String, Path, description = "Name of the cluster"), NodeParams),
    responses(
        (status = 200, description = "Its nodes, a page of them", body = NodeList),
        (status = 400, description = "A parameter cannot be read, or there is none of that name", body = Problem),
        (status = 404, description = "There is no such cluster", body = Problem),
        (status = 422, description = "A filter breaks rules; each field is named", body = Problem),
        (status = 503, description = "The cluster was never reached", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    ClusterPath(cluster): ClusterPath,
    Params(params): Params<NodeParams>,
) -> Result<(HeaderMap, Json<NodeList>), ApiError> {
    may_see(&shared, &caller, &cluster)?;
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be from 1 to {PAGE_MAX}")));
    }
    let after = params.after.clone().unwrap_or_default();
    let filter = params.filter()?;
    let nodes = shared.parts.clusters.nodes(&cluster).await?;
    let list = page(nodes, &filter, &after, limit as usize);
    Ok((aged(&list.freshness), Json(list)))
}

fn page(nodes: Nodes, filter: &NodeFilter, after: &str, limit: usize) -> NodeList {
    let summary = Summary::of(nodes.nodes.iter().map(AsRef::as_ref));
    let asked: Vec<&NodeView> =
        nodes.nodes.iter().map(AsRef::as_ref).filter(|node| filter.matches(node)).collect();
    let from = asked.partition_point(|node| node.name.as_str() <= after && !after.is_empty());
    let page: Vec<NodeView> = asked[from..].iter().take(limit).copied().cloned().collect();
    let next = (from + page.len() < asked.len()).then(|| page.last().map(|node| node.name.clone())).flatten();
    let matching = u32::try_from(asked.len()).unwrap_or(u32::MAX);
    NodeList { nodes: page, next, matching, summary, freshness: nodes.freshness }
}

fn aged(freshness: &Freshness) -> HeaderMap {
    HeaderMap::from_iter([(AGE, HeaderValue::from(freshness.silent().as_secs()))])
}

/// The cluster and the node of a path.
pub(crate) struct NodePath(ClusterName, String);

impl<S: Send + Sync> FromRequestParts<S> for NodePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((cluster, node)) = path.map_err(|_| ApiError::malformed("node", "cannot be read"))?;
        let cluster =
            ClusterName::new(cluster).map_err(|error| ApiError::malformed("cluster", error.to_string()))?;
        Ok(Self(cluster, node))
    }
}

/// Look at one node
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/nodes/{node}", tag = "clusters",
    params(
        ("cluster" = String, Path, description = "Name of the cluster"),
        ("node" = String, Path, description = "Name of the node")),
    responses(
        (status = 200, description = "The node, and the pods on it", body = NodeBody),
        (status = 404, description = "There is no such cluster or node", body = Problem),
        (status = 503, description = "The cluster was never reached", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    NodePath(cluster, name): NodePath,
) -> Result<(HeaderMap, Json<NodeBody>), ApiError> {
    may_see(&shared, &caller, &cluster)?;
    let clusters = &shared.parts.clusters;
    let found = clusters.node(&cluster, &name).await?;
    let found = found.ok_or(ApiError::NotFound("the cluster has no such node"))?;
    // A node can be looked at while its pods cannot be read.
    let pods = tokio::time::timeout(PODS_DEADLINE, clusters.pods_on(&cluster, &name)).await;
    let pods = pods.ok().and_then(Result::ok);
    let node = NodeView::clone(&found.node);
    let body = NodeBody { node, more: NodeMore::clone(&found.more), pods, freshness: found.freshness };
    Ok((aged(&body.freshness), Json(body)))
}

/// Follow the nodes of a cluster as server-sent events
#[utoipa::path(get, path = "/api/v1/live/nodes/{cluster}", tag = "live",
    params(("cluster" = String, Path, description = "Name of the cluster"), FollowParams),
    responses(
        (status = 200, description = "The events of docs/protocol.md, section nodes, follow", content_type = "text/event-stream", body = String),
        (status = 401, description = "Neither a good token nor a good ticket", body = Problem),
        (status = 403, description = "The origin is not allowed", body = Problem),
        (status = 404, description = "There is no such cluster", body = Problem),
        (status = 422, description = "A filter breaks rules; each field is named", body = Problem),
        (status = 429, description = "Too many live connections of this user", body = Problem),
        (status = 503, description = "The cluster was never reached", body = Problem)))]
pub(crate) async fn follow(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    ClusterPath(cluster): ClusterPath,
    Params(params): Params<FollowParams>,
) -> Result<Response, ApiError> {
    let ticket = params.ticket.clone();
    let filter = params.filter()?;
    let caller = admit(&shared, &headers, ticket.as_deref()).await?;
    may_see(&shared, &caller, &cluster)?;
    live::nodes::respond(&shared, caller, cluster, filter).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_what_matches_once_and_the_summary_covers_all() {
        let node = |n: u32| NodeView {
            name: format!("n{n:02}"),
            ready: true,
            unschedulable: n.is_multiple_of(3),
            ..NodeView::default()
        };
        let draft = FilterDraft { status: Some("cordoned".into()), ..FilterDraft::default() };
        let filter = NodeFilter::new(&draft).unwrap();
        let (mut after, mut names) = (String::new(), Vec::new());
        loop {
            let list = page(Nodes::fresh((0..30).map(node)), &filter, &after, 4);
            assert_eq!((list.matching, list.summary.total, list.summary.cordoned), (10, 30, 10));
            names.extend(list.nodes.into_iter().map(|node| node.name));
            let Some(next) = list.next else { break };
            after = next;
        }
        assert_eq!(names, ["n00", "n03", "n06", "n09", "n12", "n15", "n18", "n21", "n24", "n27"]);
    }
}
