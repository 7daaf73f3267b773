//! `templates`: labels, taints and annotations under a name, for everybody; and applying them to nodes.
//!
//! Whoever may submit may change them. Applying one is an ordinary submit with the parameters that come of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::nodes::TaintEffectBody;
use super::strategy::StrategyBody;
use super::tasks::{BudgetBody, TaskBody, accepted};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::{Body, path_text};
use crate::gateway::refusals::told;
use crate::gateway::submit::{BATCH_FIELDS, submit};
use crate::store::audit::Asked;
use crate::task::template::{TemplateAction, TemplateEntry, TemplateName, TemplateSpec};
use crate::task::{Draft, FailureBudget, StrategyDraft};
use crate::templates::{Expected, Template, TemplateError};

/// What a template is to say.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateDraft {
    /// What it is for; at most 500 characters.
    #[serde(default)]
    pub description: String,
    /// What it sets.
    #[schema(value_type = TemplateActionBody)]
    pub action: TemplateAction,
    /// Labels, taints or annotations, 1 to 32.
    #[schema(value_type = Vec<TemplateEntryBody>)]
    pub entries: Vec<TemplateEntry>,
    /// The version that this is meant to change; 0 when there is to be none yet. Whatever there is when left out.
    pub version: Option<i64>,
}

/// What a template sets.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateActionBody {
    /// Labels.
    Label,
    /// Taints.
    Taint,
    /// Annotations.
    Annotate,
}

/// One label, taint or annotation of a template.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TemplateEntryBody {
    /// Its key.
    pub key: String,
    /// Its value; of several one is picked when the template is applied.
    pub values: Vec<String>,
    /// For a taint: what it does to pods.
    pub effect: Option<TaintEffectBody>,
}

/// A template.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TemplateBody {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What it sets.
    #[schema(value_type = TemplateActionBody)]
    pub action: TemplateAction,
    /// Labels, taints or annotations.
    #[schema(value_type = Vec<TemplateEntryBody>)]
    pub entries: Vec<TemplateEntry>,
    /// Grows with every change.
    pub version: i64,
    /// Who changed it last.
    pub updated_by: String,
    /// When that was.
    #[schema(value_type = String)]
    pub updated_at: Timestamp,
}

impl From<Template> for TemplateBody {
    fn from(template: Template) -> Self {
        let Template { name, spec, version, updated_by, updated_at } = template;
        let TemplateSpec { description, action, entries } = spec;
        let (name, updated_by) = (name.to_string(), updated_by.to_string());
        Self { name, description, action, entries, version, updated_by, updated_at }
    }
}

/// All templates.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TemplateList {
    /// By name.
    pub templates: Vec<TemplateBody>,
}

/// A template, applied to nodes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyTemplate {
    /// The cluster, as `GET clusters` names it.
    pub cluster_name: String,
    /// Names of 1 to 100,000 nodes, in the order they should be started.
    pub node_names: Vec<String>,
    /// The value of each key that has several.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Whether what is there with another value may be changed.
    #[serde(default)]
    pub overwrite: bool,
    /// Why, for people and audit; at most 500 characters.
    pub reason: Option<String>,
    /// Higher is started first among your tasks: -100 to 100.
    pub priority: Option<i16>,
    /// Most nodes worked on at once.
    pub concurrency: Option<u16>,
    /// Time-out of one node, in milliseconds.
    pub item_timeout_ms: Option<u64>,
    /// How many workers may try before the task is given up.
    pub max_attempts: Option<u16>,
    /// How many nodes may fail before the task is stopped.
    #[schema(value_type = Option<BudgetBody>)]
    pub failure_budget: Option<FailureBudget>,
    /// In which waves, order and windows; all at once, as given and at any time when left out.
    #[schema(value_type = Option<StrategyBody>)]
    pub strategy: Option<StrategyDraft>,
    /// The plan that this must still be: the `hash` of `POST plans`. Another one by now is a 409 with what is different.
    pub plan_hash: Option<String>,
}

/// The template's name in a path.
pub(crate) struct NamePath(TemplateName);

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_text(parts, state, "name").await?;
        text.parse().map(Self).map_err(|why: String| ApiError::malformed("name", why))
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Conflict => Self::Conflict(error.to_string()),
            TemplateError::Full => Self::Conflict(format!("{error}; remove some first")),
            TemplateError::Unavailable { .. } => {
                Self::Unavailable("templates cannot be reached", Some(error.into()))
            }
        }
    }
}

/// List templates
#[utoipa::path(get, path = "/api/v1/templates", tag = "templates",
    responses(
        (status = 200, description = "All templates", body = TemplateList),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    _caller: Caller,
) -> Result<Json<TemplateList>, ApiError> {
    let templates = shared.parts.templates.list().await?;
    Ok(Json(TemplateList { templates: templates.into_iter().map(Into::into).collect() }))
}

/// Look at a template
#[utoipa::path(get, path = "/api/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "Name of the template")),
    responses(
        (status = 200, description = "The template", body = TemplateBody),
        (status = 404, description = "There is none of that name", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    _caller: Caller,
    NamePath(name): NamePath,
) -> Result<Json<TemplateBody>, ApiError> {
    Ok(Json(find(&shared, &name).await?.into()))
}

async fn find(shared: &Shared, name: &TemplateName) -> Result<Template, ApiError> {
    shared.parts.templates.get(name).await?.ok_or(ApiError::NotFound("there is no such template"))
}

/// Make or change a template
#[utoipa::path(put, path = "/api/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "Name of the template")), request_body = TemplateDraft,
    responses(
        (status = 200, description = "The template as it is kept", body = TemplateBody),
        (status = 403, description = "The role viewer may only read", body = Problem),
        (status = 409, description = "It is another version than the one that was meant, or there are too many", body = Problem),
        (status = 422, description = "The template breaks rules; each field is named", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    NamePath(name): NamePath,
    Body(draft): Body<TemplateDraft>,
) -> Result<Json<TemplateBody>, ApiError> {
    told(&shared, &caller, || asked(&name), caller.may_write()).await?;
    let expected = match draft.version {
        None => Expected::Any,
        Some(0) => Expected::Missing,
        Some(version) => Expected::Version(version),
    };
    let spec = TemplateSpec { description: draft.description, action: draft.action, entries: draft.entries };
    spec.check().map_err(ApiError::Invalid)?;
    let kept = shared.parts.templates.put(&name, &spec, &caller.by(), expected).await?;
    tracing::info!(template = %name, version = kept.version, user.id = %caller.user, "a template was changed");
    Ok(Json(kept.into()))
}

/// Remove a template
#[utoipa::path(delete, path = "/api/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "Name of the template")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 403, description = "The role viewer may only read", body = Problem),
        (status = 404, description = "There is none of that name", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    NamePath(name): NamePath,
) -> Result<StatusCode, ApiError> {
    told(&shared, &caller, || asked(&name), caller.may_write()).await?;
    if !shared.parts.templates.delete(&name, &caller.by()).await? {
        return Err(ApiError::NotFound("there is no such template"));
    }
    tracing::info!(template = %name, user.id = %caller.user, "a template was removed");
    Ok(StatusCode::NO_CONTENT)
}

fn asked(name: &TemplateName) -> Asked {
    Asked::of(format!("template {name}"))
}

/// Apply a template to nodes
#[utoipa::path(post, path = "/api/v1/templates/{name}/apply", tag = "templates",
    params(
        ("name" = String, Path, description = "Name of the template"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating a submit with the same key and body returns the first task")),
    request_body = ApplyTemplate,
    responses(
        (status = 202, description = "The task is recorded", body = TaskBody),
        (status = 200, description = "The key had made this task before", body = TaskBody),
        (status = 404, description = "There is no such template", body = Problem),
        (status = 409, description = "The key was used with another body, or the template has changed since", body = Problem),
        (status = 422, description = "The request breaks rules; each field is named", body = Problem),
        (status = 429, description = "Too many requests, or too many tasks that are not over", body = Problem),
        (status = 503, description = "The record cannot be reached", body = Problem)))]
pub(crate) async fn apply(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    NamePath(name): NamePath,
    Body(body): Body<ApplyTemplate>,
) -> Result<Response, ApiError> {
    let spec = find(&shared, &name).await?.spec;
    let parameters = spec.resolve(&body.set, body.overwrite).map_err(ApiError::Invalid)?;
    let draft = Draft {
        action: spec.action.as_str().to_owned(),
        cluster: body.cluster_name,
        items: body.node_names,
        parameters,
        reason: body.reason,
        priority: body.priority,
        concurrency: body.concurrency,
        item_timeout_ms: body.item_timeout_ms,
        max_attempts: body.max_attempts,
        failure_budget: body.failure_budget,
        strategy: body.strategy,
        plan_hash: body.plan_hash,
    };
    submit(&shared, &caller, &headers, draft, BATCH_FIELDS).await.map(accepted)
}
