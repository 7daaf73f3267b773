//! `tasks`: submit, list, and look at. Not here: what can be done about a task ([`super::control`]).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::strategy::{StrategyBody, WaveBody};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::{Body, Params, TaskPath};
use crate::gateway::submit::{TASK_FIELDS, submit};
use crate::store::{Created, ItemQuery, Retries, Task, TaskQuery};
use crate::task::{
    ClusterName, Counts, Draft, FailureBudget, Item, ItemState, Status, Strategy, StrategyDraft, TaskId,
    UserId, WaveMark,
};

/// Tasks on a page when the caller does not say.
const TASKS_PAGE: u32 = 50;
/// Most tasks on a page.
const TASKS_PAGE_MAX: u32 = 500;
/// Items on a page when the caller does not say.
const ITEMS_PAGE: u32 = 100;
/// Most items on a page.
const ITEMS_PAGE_MAX: u32 = 1_000;
/// Says that a submit returned a task that its key had made before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A task.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskBody {
    /// Its id.
    pub task_id: String,
    /// Who submitted it.
    pub owner: String,
    /// `queued`, `running`, `paused`, `cancelling`, `completed`, `completed_with_errors`, `failed` or `cancelled`.
    pub status: String,
    /// How many times a worker has claimed it.
    pub attempt: u32,
    /// What is done to each item.
    pub action: String,
    /// Parameters of the action.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// The cluster it acts on.
    pub cluster: String,
    /// Why, in the words of who submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Higher is started first among the owner's tasks.
    pub priority: i16,
    /// Most items at once, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u16>,
    /// Time-out of one item in milliseconds, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_timeout_ms: Option<u64>,
    /// How many workers may try before it is given up.
    pub max_attempts: u16,
    /// How many items may fail before it is stopped, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BudgetBody>)]
    pub failure_budget: Option<FailureBudget>,
    /// In which waves, order and windows, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<StrategyBody>)]
    pub strategy: Option<StrategyDraft>,
    /// Where it stands, if it runs in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WaveBody>)]
    pub wave: Option<WaveMark>,
    /// Why no item is started for now, while it waits for a time of its strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The task that it retries, if it is a retry. That one may be gone by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Items with a recorded result.
    pub current: u32,
    /// All items.
    pub total: u32,
    /// Items that ended well.
    pub succeeded: u32,
    /// Items that ended in an error.
    pub failed: u32,
    /// Items left alone on purpose.
    pub skipped: u32,
    /// Items not run because the task was cancelled.
    pub cancelled: u32,
    /// `current` in percent of `total`, rounded down.
    pub progress: u8,
    /// The worker that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Why its failure budget or its strategy paused it, or calls it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why the task itself failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was first claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl From<Task> for TaskBody {
    fn from(task: Task) -> Self {
        let (wave, waits_for) = (task.wave(), task.waits_for());
        Self {
            task_id: task.id.to_string(),
            owner: task.owner.to_string(),
            status: task.state.status.to_string(),
            attempt: task.state.attempt.0,
            action: task.action.name().to_owned(),
            parameters: task.action.parameters(),
            cluster: task.cluster.to_string(),
            reason: task.reason,
            priority: task.priority.0,
            concurrency: task.concurrency,
            item_timeout_ms: task.item_timeout.map(crate::config::duration::millis),
            max_attempts: task.max_attempts,
            failure_budget: task.budget,
            strategy: task.strategy.as_ref().map(Strategy::draft),
            wave,
            message: task.message.filter(|_| waits_for.is_none()),
            waits_for,
            parent_id: task.parent.map(|parent| parent.to_string()),
            current: task.counts.current(),
            total: task.counts.total,
            succeeded: task.counts.succeeded,
            failed: task.counts.failed,
            skipped: task.counts.skipped,
            cancelled: task.counts.cancelled,
            progress: task.counts.percent(),
            worker: task.worker.map(|worker| worker.to_string()),
            error: task.error,
            created_at: task.created_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
            updated_at: task.updated_at,
        }
    }
}

/// How many items of a task may fail before it is stopped. At least one limit is set; one failure more passes it.
#[derive(Debug, ToSchema)]
#[schema(as = FailureBudget)]
#[expect(dead_code, reason = "describes a part of bodies, which is read as the core's own")]
pub struct BudgetBody {
    /// Most items that may fail, 0 to 100,000.
    failed: Option<u32>,
    /// The same in percent of all items of the task, 0 to 99.
    percent: Option<u8>,
    /// Most items that may fail one right after the other, 0 to 100,000.
    consecutive: Option<u32>,
    /// `pause` (the default) or `abort`: the other items are cancelled, and the task ends as failed.
    #[schema(value_type = Option<String>)]
    then: crate::task::Then,
}

/// A task, and what came of it after its end.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskDetail {
    /// The task itself.
    #[serde(flatten)]
    pub task: TaskBody,
    /// Its retries, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<RetryOf>,
    /// Its items by their newest results, when it was retried: what a retry did not come to is as it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CountsBody>)]
    pub merged: Option<Counts>,
}

/// A retry of a task, in short.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RetryOf {
    /// Id of the retry.
    pub task_id: String,
    /// Its status.
    pub status: String,
    /// Its items.
    #[serde(flatten)]
    #[schema(value_type = CountsBody)]
    pub counts: Counts,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl From<&Task> for RetryOf {
    fn from(task: &Task) -> Self {
        let (task_id, status) = (task.id.to_string(), task.state.status.to_string());
        Self { task_id, status, counts: task.counts, created_at: task.created_at }
    }
}

/// Items by how they ended.
#[derive(Debug, ToSchema)]
#[schema(as = Counts)]
#[expect(dead_code, reason = "describes a part of answers, which is written from the core's own")]
pub struct CountsBody {
    /// All items.
    total: u32,
    /// Items that ended well.
    succeeded: u32,
    /// Items that ended in an error.
    failed: u32,
    /// Items left alone on purpose.
    skipped: u32,
    /// Items not run because the task was cancelled.
    cancelled: u32,
}

/// A page of tasks.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskList {
    /// Newest first.
    pub tasks: Vec<TaskBody>,
    /// Pass this as `before` for the next page; left out on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An item of a task.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ItemBody {
    /// Place of the item in the task, from 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `pending`, `succeeded`, `failed`, `skipped` or `cancelled`. That one is running is only seen live.
    pub state: String,
    /// For one that succeeded: `changed` or `already`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub effect: Option<crate::task::Effect>,
    /// For one that failed or was skipped: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many times its action was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u16>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

impl From<Item> for ItemBody {
    fn from(item: Item) -> Self {
        let result = item.result.as_ref();
        Self {
            index: item.index,
            name: item.name.to_string(),
            state: item.state().as_str().to_owned(),
            effect: result.and_then(|result| result.outcome.effect()),
            error: result.and_then(|result| result.outcome.message()).map(str::to_owned),
            tries: result.map(|result| result.tries),
            finished_at: result.map(|result| result.finished_at),
        }
    }
}

/// A page of items.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ItemList {
    /// In order of index.
    pub items: Vec<ItemBody>,
    /// Pass this as `after` for the next page; left out on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// A task of any action, with the parameters in an object of their own.
#[derive(Debug, ToSchema)]
#[schema(as = Draft)]
#[expect(dead_code, reason = "describes the request body, which is read as a draft of the core")]
pub struct DraftBody {
    /// `cordon`, `uncordon`, `label`, `unlabel`, `taint`, `untaint`, or `wait` where it is allowed.
    action: String,
    /// The cluster to act on.
    cluster: String,
    /// 1 to 100,000 unique names, in the order they should be started.
    items: Vec<String>,
    /// Parameters of the action.
    #[schema(value_type = Object, nullable)]
    parameters: Option<Value>,
    /// Why, for people and audit; at most 500 characters.
    reason: Option<String>,
    /// Higher is started first among your tasks: -100 to 100.
    priority: Option<i16>,
    /// Most items worked on at once.
    concurrency: Option<u16>,
    /// Time-out of one item, in milliseconds.
    item_timeout_ms: Option<u64>,
    /// How many workers may try before the task is given up.
    max_attempts: Option<u16>,
    /// How many items may fail before the task is stopped.
    failure_budget: Option<BudgetBody>,
    /// In which waves, order and windows; all at once, as given and at any time when left out.
    strategy: Option<StrategyBody>,
    /// The hash of a plan: refuse the task, with what is different, if it would do something else by now.
    plan_hash: Option<String>,
}

/// What to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskFilter {
    /// Only with these statuses, separated by commas.
    status: Option<String>,
    /// Only on this cluster.
    cluster: Option<String>,
    /// Of this user, or `*` for everyone's; for admins. Your own when left out.
    owner: Option<String>,
    /// Tasks on a page, 1 to 500; 50 when left out.
    limit: Option<u32>,
    /// Only older than this task: the `next` of the page before.
    before: Option<String>,
}

/// Which items to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ItemFilter {
    /// Only in this state.
    state: Option<String>,
    /// Only after this index: the `next` of the page before.
    after: Option<u32>,
    /// Items on a page, 1 to 1000; 100 when left out.
    limit: Option<u32>,
}

/// Submit a task
#[utoipa::path(post, path = "/api/v1/tasks", tag = "tasks", request_body = DraftBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating a submit with the same key and body returns the first task")),
    responses(
        (status = 202, description = "The task is recorded; Location is its address", body = TaskBody),
        (status = 200, description = "The key had made this task before", body = TaskBody),
        (status = 403, description = "You lack a role or a capability on the cluster", body = Problem),
        (status = 409, description = "The key was used with another body, or the plan is not what it was", body = Problem),
        (status = 413, description = "The body is too large", body = Problem),
        (status = 422, description = "The request breaks rules; each field is named", body = Problem),
        (status = 429, description = "Too many requests, or too many tasks that are not over", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    Body(draft): Body<Draft>,
) -> Result<Response, ApiError> {
    submit(&shared, &caller, &headers, draft, TASK_FIELDS).await.map(accepted)
}

/// The answer to a submit.
pub(crate) fn accepted(created: Created) -> Response {
    let (status, task) = match created {
        Created::New(task) => (StatusCode::ACCEPTED, task),
        Created::Existing(task) => (StatusCode::OK, task),
    };
    let location = HeaderValue::try_from(format!("/api/v1/tasks/{}", task.id)).expect("an id is ASCII");
    let mut response = (status, [(LOCATION, location)], Json(TaskBody::from(task))).into_response();
    if status == StatusCode::OK {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// List tasks, newest first
///
/// Of the tasks of others an admin sees those on clusters where they are admin, so a page may hold fewer than it could.
#[utoipa::path(get, path = "/api/v1/tasks", tag = "tasks", params(TaskFilter),
    responses(
        (status = 200, description = "A page of tasks", body = TaskList),
        (status = 400, description = "A filter cannot be read", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(filter): Params<TaskFilter>,
) -> Result<Json<TaskList>, ApiError> {
    let limit = limit(filter.limit, TASKS_PAGE, TASKS_PAGE_MAX)?;
    let query = query(&caller, &filter, limit)?;
    let mut tasks = shared.parts.store.list(&query).await?;
    let more = tasks.len() > limit as usize;
    tasks.truncate(limit as usize);
    let next = tasks.last().filter(|_| more).map(|task| task.id.to_string());
    tasks.retain(|task| caller.may_see(&shared, task));
    Ok(Json(TaskList { tasks: tasks.into_iter().map(TaskBody::from).collect(), next }))
}

/// Asks for one more than the page holds, to know whether there is a next one.
fn query(caller: &Caller, filter: &TaskFilter, limit: u32) -> Result<TaskQuery, ApiError> {
    let statuses = filter.status.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
    Ok(TaskQuery {
        owner: owner(caller, filter.owner.as_deref())?,
        statuses: statuses.map(|word| parse::<Status, _>("status", word)).collect::<Result<_, _>>()?,
        cluster: filter
            .cluster
            .as_deref()
            .map(|name| parse::<ClusterName, _>("cluster", name))
            .transpose()?,
        before: filter.before.as_deref().map(|id| parse::<TaskId, _>("before", id)).transpose()?,
        limit: limit + 1,
    })
}

fn owner(caller: &Caller, asked: Option<&str>) -> Result<Option<UserId>, ApiError> {
    let Some(asked) = asked else { return Ok(Some(caller.user.clone())) };
    if asked == caller.user.as_str() {
        return Ok(Some(caller.user.clone()));
    }
    match (caller.may_be_admin(), asked) {
        (true, "*") => Ok(None),
        (true, user) => parse("owner", user).map(Some),
        (false, _) => Err(ApiError::Forbidden("only admins may see the tasks of others")),
    }
}

pub(super) fn parse<T: std::str::FromStr<Err = E>, E: std::fmt::Display>(
    field: &str,
    text: &str,
) -> Result<T, ApiError> {
    text.parse().map_err(|error: E| ApiError::malformed(field, error.to_string()))
}

pub(super) fn limit(asked: Option<u32>, default: u32, max: u32) -> Result<u32, ApiError> {
    let limit = asked.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::malformed("limit", format!("must be 1 to {max}")))
}

/// Look at a task
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "Id of the task")),
    responses(
        (status = 200, description = "The task", body = TaskDetail),
        (status = 404, description = "There is no such task that you may see", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
) -> Result<Json<TaskDetail>, ApiError> {
    let task = find(&shared, &caller, id).await?;
    // Only what is over is ever retried.
    let retries = match task.state.status.is_terminal() {
        true => shared.parts.store.retries(id).await?,
        false => Retries::default(),
    };
    let in_short = retries.tasks.iter().map(RetryOf::from).collect();
    Ok(Json(TaskDetail { task: task.into(), retries: in_short, merged: retries.merged }))
}

/// A task the caller may see. One of somebody else is not told apart from one that does not exist.
pub(super) async fn find(shared: &Shared, caller: &Caller, id: TaskId) -> Result<Task, ApiError> {
    let task = shared.parts.store.find(id).await?;
    task.filter(|task| caller.may_see(shared, task)).ok_or(ApiError::NotFound("there is no such task"))
}

/// List the items of a task
#[utoipa::path(get, path = "/api/v1/tasks/{id}/items", tag = "tasks",
    params(("id" = String, Path, description = "Id of the task"), ItemFilter),
    responses(
        (status = 200, description = "A page of items", body = ItemList),
        (status = 404, description = "There is no such task that you may see", body = Problem)))]
pub(crate) async fn items(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    TaskPath(id): TaskPath,
    Params(filter): Params<ItemFilter>,
) -> Result<Json<ItemList>, ApiError> {
    let limit = limit(filter.limit, ITEMS_PAGE, ITEMS_PAGE_MAX)?;
    let state = filter.state.as_deref().map(|word| parse::<ItemState, _>("state", word)).transpose()?;
    let task = find(&shared, &caller, id).await?;
    let query = ItemQuery { state, after: filter.after, limit: limit + 1 };
    let mut items = shared.parts.store.items(task.id, &query).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(|item| item.index);
    Ok(Json(ItemList { items: items.into_iter().map(ItemBody::from).collect(), next }))
}
