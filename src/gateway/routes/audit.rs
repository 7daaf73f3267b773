//! `audit`: who did what, why, from where, and what came of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::tasks::{ItemBody, limit, parse};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::{Params, TaskPath};
use crate::store::audit::AUDIT_PAGE_MAX;
use crate::store::{AuditKind, AuditPlace, AuditQuery, AuditRow, AuditedNode, AuditedTask};
use crate::task::{Role, TaskId, UserId};

/// Rows on a page, when the caller does not say.
const PAGE: u32 = 100;
/// Most rows on a page; one more is read, to know whether there is a next one.
const PAGE_MAX: u32 = AUDIT_PAGE_MAX - 1;

/// Which rows to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilter {
    /// Only what this user did.
    user: Option<String>,
    /// Only on this cluster.
    cluster: Option<String>,
    /// Only tasks on this node; each row tells what came of it there.
    node: Option<String>,
    /// Only of this task; which worker claimed it when is told then too.
    task: Option<String>,
    /// Only of this action, such as `drain`.
    action: Option<String>,
    /// Only of this kind: `submit`, `retry`, `cancel`, `pause`, `resume`, `concurrency`, `refused`, `template`,
    /// `template_removed` or `claim`.
    kind: Option<String>,
    /// Only from this time on, such as `2026-01-02T03:04:05Z`.
    since: Option<String>,
    /// Only before this time.
    until: Option<String>,
    /// Only older rows: the `next` of the page before.
    before: Option<String>,
    /// Rows on a page, 1 to 999; 100 when left out.
    limit: Option<u32>,
}

/// Which nodes to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditNodeFilter {
    /// Only after this index: the `next` of the page before.
    after: Option<u32>,
    /// Nodes on a page, 1 to 999; 100 when left out.
    limit: Option<u32>,
}

/// A row of the audit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditRow)]
pub struct AuditBody {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it tells of: see the filter `kind`.
    pub kind: String,
    /// What came of it at once: `accepted`, the status of the task after an order, `refused`, `kept`, `removed` or `claimed`.
    pub outcome: String,
    /// Who; left out when a worker claimed a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The role they had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Address of their client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What their client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Id of the request, as in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whose task it is; of what has no task, who asked.
    pub owner: String,
    /// On which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What is done to nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Which task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// How many nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// Why, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of a claim: which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Of a claim: which worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Parameters and whatever else was asked for.
    #[schema(value_type = Object)]
    pub detail: Value,
    /// Of a submit or a retry: what came of the task by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<AuditTaskBody>,
    /// Of a submit or a retry, when a node is asked for: what came of that node by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<AuditNodeBody>,
}

/// What came of a task by now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditTask)]
pub struct AuditTaskBody {
    /// Its status.
    pub status: String,
    /// All nodes.
    pub total: u32,
    /// Nodes that ended well.
    pub succeeded: u32,
    /// Nodes that ended in an error.
    pub failed: u32,
    /// Nodes left alone on purpose.
    pub skipped: u32,
    /// Nodes not acted on because the task was cancelled.
    pub cancelled: u32,
    /// Why the task itself failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// A node of a task, with what came of it by now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditNode)]
pub struct AuditNodeBody {
    /// The node and its result.
    #[serde(flatten)]
    pub item: ItemBody,
    /// The attempt that recorded the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The worker of that attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// A page of the audit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditList {
    /// Newest first.
    pub rows: Vec<AuditBody>,
    /// Pass this as `before` for the next page; left out on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of the nodes of a task.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditNodeList {
    /// In order of index.
    pub nodes: Vec<AuditNodeBody>,
    /// Pass this as `after` for the next page; left out on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

impl From<AuditRow> for AuditBody {
    fn from(AuditRow { place, entry, task, node }: AuditRow) -> Self {
        let (user, origin) = entry.by.map(|by| (by.user.to_string(), by.origin)).unzip();
        let origin = origin.unwrap_or_default();
        let (attempt, worker) = entry.claim.map(|(n, worker)| (n.0, worker.to_string())).unzip();
        Self {
            at: place.at,
            kind: entry.kind.as_str().to_owned(),
            outcome: entry.outcome,
            user,
            role: origin.role,
            address: origin.address.map(|address| address.to_string()),
            agent: origin.agent,
            request_id: origin.request,
            owner: entry.owner.to_string(),
            cluster: entry.cluster.map(|cluster| cluster.to_string()),
            action: entry.action,
            task_id: entry.task.map(|task| task.to_string()),
            items: entry.items,
            reason: entry.reason,
            message: entry.message,
            attempt,
            worker,
            detail: entry.detail,
            task: task.map(Into::into),
            node: node.map(Into::into),
        }
    }
}

impl From<AuditedTask> for AuditTaskBody {
    fn from(AuditedTask { status, counts, error, finished_at }: AuditedTask) -> Self {
        let (succeeded, failed) = (counts.succeeded, counts.failed);
        let (skipped, cancelled, total) = (counts.skipped, counts.cancelled, counts.total);
        let status = status.to_string();
        Self { status, total, succeeded, failed, skipped, cancelled, error, finished_at }
    }
}

impl From<AuditedNode> for AuditNodeBody {
    fn from(AuditedNode { item, attempt, worker }: AuditedNode) -> Self {
        let worker = worker.map(|worker| worker.to_string());
        Self { item: item.into(), attempt: attempt.map(|attempt| attempt.0), worker }
    }
}

/// Read the audit, newest first
///
/// Rows of your tasks, whoever did it, and of what you did. As an admin everyone's; as one of some clusters only what is about those, so
/// a page may hold fewer rows than it could.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(AuditFilter),
    responses(
        (status = 200, description = "A page of the audit", body = AuditList),
        (status = 400, description = "A filter cannot be read", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(filter): Params<AuditFilter>,
) -> Result<Json<AuditList>, ApiError> {
    let limit = limit(filter.limit, PAGE, PAGE_MAX)?;
    let query = AuditQuery { owner: scope(&caller), ..query(&filter, limit + 1)? };
    let mut rows = shared.parts.store.audited(&query).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|row| cursor(row.place));
    rows.retain(|row| may_read(&shared, &caller, row));
    Ok(Json(AuditList { rows: rows.into_iter().map(AuditBody::from).collect(), next }))
}

/// Read what came of each node of a task
///
/// Also of a task that is gone, for as long as the audit tells of it.
#[utoipa::path(get, path = "/api/v1/audit/tasks/{id}/nodes", tag = "audit",
    params(("id" = String, Path, description = "Id of the task"), AuditNodeFilter),
    responses(
        (status = 200, description = "A page of the nodes", body = AuditNodeList),
        (status = 400, description = "A filter cannot be read", body = Problem),
        (status = 404, description = "The audit tells of no such task that you may see", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn nodes(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
    Params(filter): Params<AuditNodeFilter>,
) -> Result<Json<AuditNodeList>, ApiError> {
    let limit = limit(filter.limit, PAGE, PAGE_MAX)?;
    if !may_see(&shared, &caller, id).await? {
        return Err(ApiError::NotFound("the audit tells of no such task"));
    }
    let mut nodes = shared.parts.store.audited_nodes(id, filter.after, limit + 1).await?;
    let more = nodes.len() > limit as usize;
    nodes.truncate(limit as usize);
    let next = nodes.last().filter(|_| more).map(|node| node.item.index);
    Ok(Json(AuditNodeList { nodes: nodes.into_iter().map(Into::into).collect(), next }))
}

/// Whether a caller may read what came of a task: by the row that made it, for others may tell of it what they like.
async fn may_see(shared: &Shared, caller: &Caller, task: TaskId) -> Result<bool, ApiError> {
    for kind in [AuditKind::Submit, AuditKind::Retry] {
        let (owner, task, kind) = (scope(caller), Some(task), Some(kind));
        let query = AuditQuery { owner, task, kind, limit: 1, ..AuditQuery::default() };
        let made = shared.parts.store.audited(&query).await?;
        if made.iter().any(|row| may_read(shared, caller, row)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whose rows to ask for on behalf of a caller; `None` for everyone's.
fn scope(caller: &Caller) -> Option<UserId> {
    Some(caller.user.clone()).filter(|_| !caller.may_be_admin())
}

/// Whether a caller may read a row: their own, of a cluster where they are admin, or of no cluster as an admin of all.
fn may_read(shared: &Shared, caller: &Caller, row: &AuditRow) -> bool {
    let role = |cluster| caller.access(shared, cluster).role;
    row.entry.owner == caller.user || row.entry.cluster.as_ref().map_or(caller.role, role) == Role::Admin
}

fn query(filter: &AuditFilter, limit: u32) -> Result<AuditQuery, ApiError> {
    Ok(AuditQuery {
        owner: None,
        user: read("user", filter.user.as_deref())?,
        cluster: read("cluster", filter.cluster.as_deref())?,
        node: read("node", filter.node.as_deref())?,
        task: read("task", filter.task.as_deref())?,
        action: filter.action.clone().filter(|action| !action.contains('\0')),
        kind: read("kind", filter.kind.as_deref())?,
        since: read("since", filter.since.as_deref())?,
        until: read("until", filter.until.as_deref())?,
        before: filter.before.as_deref().map(place).transpose()?,
        limit,
    })
}

fn read<T: std::str::FromStr<Err = E>, E: std::fmt::Display>(
    field: &str,
    text: Option<&str>,
) -> Result<Option<T>, ApiError> {
    text.map(|text| parse(field, text)).transpose()
}

/// A place as text: microseconds since 1970 and the number.
fn cursor(place: AuditPlace) -> String {
    format!("{}-{}", place.at.as_microsecond(), place.id)
}

fn place(text: &str) -> Result<AuditPlace, ApiError> {
    let read = || {
        let (at, id) = text.split_once('-')?;
        Some(AuditPlace { at: Timestamp::from_microsecond(at.parse().ok()?).ok()?, id: id.parse().ok()? })
    };
    read().ok_or_else(|| ApiError::malformed("before", "must be the `next` of a page"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let at = Timestamp::from_microsecond(1_790_000_000_123_456).unwrap();
        let written = AuditPlace { at, id: 77 };
        assert_eq!(place(&cursor(written)).unwrap(), written);
        for bad in ["", "1", "a-b", "1-", "99999999999999999999-1"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
