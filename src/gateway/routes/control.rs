//! `tasks/{id}/*`: what a user can do about a task that is there: end it, hold it, let it go on, run more or less of it at
//! once, and try again what did not end well.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::strategy::StrategyBody;
use super::tasks::{BudgetBody, TaskBody, accepted, find};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::{Body, OptionalBody, TaskPath};
use crate::gateway::refusals::told;
use crate::gateway::rights::may_act;
use crate::gateway::submit::{announce_committed, announce_control, submit_retry, wake_worker};
use crate::store::audit::Asked;
use crate::store::{AuditKind, Control, Task};
use crate::task::spec::{CONCURRENCY_MAX, is_concurrency};
use crate::task::{EventKind, RetryDraft, TaskId};

/// How many items may be worked on at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyBody {
    /// 1 to 1000, within what the worker allows one task; null for as many as it allows.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, nullable)]
    concurrency: Option<u16>,
}

/// A retry. What is left out is as it was in the task that is retried.
#[derive(Debug, ToSchema)]
#[schema(as = Retry)]
#[expect(dead_code, reason = "describes the request body, which is read as a draft of the core")]
pub struct RetryBody {
    /// Items that ended so: `failed`, `skipped`, `cancelled`; those that failed when left out.
    include: Option<Vec<String>>,
    /// Why, for people and audit; at most 500 characters.
    reason: Option<String>,
    /// Higher is started first among your tasks: -100 to 100.
    priority: Option<i16>,
    /// Most items worked on at once.
    concurrency: Option<u16>,
    /// Time-out of one item, in milliseconds.
    item_timeout_ms: Option<u64>,
    /// How many workers may try before the retry is given up.
    max_attempts: Option<u16>,
    /// How many items may fail before it is stopped.
    failure_budget: Option<BudgetBody>,
    /// In which waves, order and windows; an empty one for none.
    strategy: Option<StrategyBody>,
}

/// Cancel a task: items in flight finish, no other is started
#[utoipa::path(post, path = "/api/v1/tasks/{id}/cancel", tag = "tasks",
    params(("id" = String, Path, description = "Id of the task")),
    responses(
        (status = 200, description = "The task as it is now", body = TaskBody),
        (status = 403, description = "You may not act on its cluster", body = Problem),
        (status = 404, description = "There is no such task that you may see", body = Problem),
        (status = 409, description = "The task is over", body = Problem)))]
pub(crate) async fn cancel(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
) -> Result<Json<TaskBody>, ApiError> {
    control(&shared, &caller, id, Control::Cancel).await
}

/// Pause a task: no further item is started
#[utoipa::path(post, path = "/api/v1/tasks/{id}/pause", tag = "tasks",
    params(("id" = String, Path, description = "Id of the task")),
    responses(
        (status = 200, description = "The task as it is now", body = TaskBody),
        (status = 403, description = "You may not act on its cluster", body = Problem),
        (status = 404, description = "There is no such task that you may see", body = Problem),
        (status = 409, description = "The task cannot be paused", body = Problem)))]
pub(crate) async fn pause(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
) -> Result<Json<TaskBody>, ApiError> {
    control(&shared, &caller, id, Control::Pause).await
}

/// Resume a paused task
///
/// Its failure budget, if it has one, begins anew. One that waits at a gate goes on with its next wave.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/resume", tag = "tasks",
    params(("id" = String, Path, description = "Id of the task")),
    responses(
        (status = 200, description = "The task as it is now", body = TaskBody),
        (status = 403, description = "You may not act on its cluster", body = Problem),
        (status = 404, description = "There is no such task that you may see", body = Problem),
        (status = 409, description = "The task is not paused", body = Problem)))]
pub(crate) async fn resume(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
) -> Result<Json<TaskBody>, ApiError> {
    control(&shared, &caller, id, Control::Resume).await
}

/// Change how many items of a task are worked on at once
///
/// A worker that runs the task starts more at once, or lets the ones too many finish.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/concurrency", tag = "tasks", request_body = ConcurrencyBody,
    params(("id" = String, Path, description = "Id of the task")),
    responses(
        (status = 200, description = "The task as it is now", body = TaskBody),
        (status = 403, description = "You may not act on its cluster", body = Problem),
        (status = 404, description = "There is no such task that you may see", body = Problem),
        (status = 409, description = "The task is over", body = Problem),
        (status = 422, description = "The number is not one that a task may have", body = Problem)))]
pub(crate) async fn concurrency(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
    Body(body): Body<ConcurrencyBody>,
) -> Result<Json<TaskBody>, ApiError> {
    if body.concurrency.is_some_and(|n| !is_concurrency(n)) {
        let reason = format!("must be from 1 to {CONCURRENCY_MAX}, or null");
        return Err(ApiError::invalid("concurrency", reason));
    }
    control(&shared, &caller, id, Control::Concurrency(body.concurrency)).await
}

/// Retry what did not end well, as a further task
///
/// For a task that is over, by who submitted it. Items are chosen by their newest results, those of earlier retries
/// included.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/retry", tag = "tasks", request_body = Option<RetryBody>,
    params(
        ("id" = String, Path, description = "Id of the task to retry"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating a retry with the same key and body returns the first one")),
    responses(
        (status = 202, description = "The retry is recorded; Location is its address", body = TaskBody),
        (status = 200, description = "The key had made this retry before", body = TaskBody),
        (status = 403, description = "The task is somebody else's, or you lack a role or a capability that it takes", body = Problem),
        (status = 404, description = "There is no such task that you may see", body = Problem),
        (status = 409, description = "The task or a retry of it is not over, or nothing is left to retry", body = Problem),
        (status = 422, description = "The request breaks rules; each field is named", body = Problem),
        (status = 429, description = "Too many requests, or too many tasks that are not over", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn retry(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
    headers: HeaderMap,
    OptionalBody(draft): OptionalBody<RetryDraft>,
) -> Result<Response, ApiError> {
    let retried = async {
        let parent = find(&shared, &caller, id).await?;
        submit_retry(&shared, &caller, &headers, &parent, draft).await.map(accepted)
    };
    told(&shared, &caller, || Asked::about("retry", id), retried.await).await
}

async fn control(
    shared: &Shared,
    caller: &Caller,
    id: TaskId,
    control: Control,
) -> Result<Json<TaskBody>, ApiError> {
    let outcome = ordered(shared, caller, id, control).await;
    told(shared, caller, || Asked::about(AuditKind::from(control).as_str(), id), outcome).await
}

async fn ordered(
    shared: &Shared,
    caller: &Caller,
    id: TaskId,
    control: Control,
) -> Result<Json<TaskBody>, ApiError> {
    let before = find(shared, caller, id).await?;
    may_act(shared, caller, &before.cluster)?;
    let controlled = shared.parts.store.control(id, control, &caller.by()).await?;
    let controlled = controlled.ok_or(ApiError::NotFound("there is no such task"))?;
    if let Some(row) = &controlled.outbox {
        shared.parts.metrics.count_end(row.event.status);
        announce_committed(shared, row).await;
    }
    // A worker that held the task numbers its events, also of a pause that is over before the worker has heard of it.
    if before.worker.is_none() {
        announce_to_watchers(shared, &controlled.task, control).await;
    }
    if control == Control::Resume {
        wake_worker(shared, id).await;
    }
    Ok(Json(controlled.task.into()))
}

async fn announce_to_watchers(shared: &Shared, task: &Task, control: Control) {
    match control {
        Control::Cancel => {}
        Control::Pause => announce_control(shared, task, EventKind::Paused).await,
        Control::Resume => announce_control(shared, task, EventKind::Resumed).await,
        Control::Concurrency(_) => announce_control(shared, task, EventKind::ConcurrencyChanged).await,
    }
}
