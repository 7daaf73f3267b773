//! What a caller is told when a request fails: an RFC 9457 problem document, and never an internal.
//!
//! Errors of ports become an [`ApiError`] here, once; what the caller cannot mend is logged here, once, with its
//! chain. Not here: close codes of live connections ([`super::live::close`]).

use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::routes::plans::PlanChangeBody;
use crate::BoxError;
use crate::action::ClusterError;
use crate::bus::BusError;
use crate::store::StoreError;
use crate::task::plan::Differences;
use crate::task::{ClusterName, Fault, Missing, PlanHash, UserId};
use crate::tickets::TicketError;

/// Characters of a field name or a reason that are sent back. Both may quote the request, which may be large.
const QUOTE_LEN_MAX: usize = 300;
/// When to come back after a 503.
const RETRY: Duration = Duration::from_secs(2);
/// When to come back with a further task.
const RETRY_FULL: Duration = Duration::from_secs(30);

/// Why a request failed, as far as the caller can act on it.
#[derive(Debug)]
pub enum ApiError {
    /// The request is not even readable.
    Malformed(Vec<Fault>),
    /// The request is readable and breaks rules.
    Invalid(Vec<Fault>),
    /// No token, or not a good one; the sentence says why.
    Unauthorized(&'static str),
    /// The caller is known and may not do this; the sentence says why.
    Forbidden(&'static str),
    /// The caller lacks something by name.
    Denied(Denied),
    /// There is nothing there that the caller may see.
    NotFound(&'static str),
    /// There is something there that does not take this method.
    Method,
    /// The request does not fit the state of things.
    Conflict(String),
    /// The plan that the request demands is another one by now.
    PlanChanged(Box<PlanChange>),
    /// The body has more bytes than this resource takes.
    TooLarge,
    /// The body is not JSON.
    MediaType,
    /// The caller asks too often, or for too much.
    TooMany(Duration, &'static str),
    /// Something needed does not answer.
    Unavailable(&'static str, Option<BoxError>),
    /// A mistake of ours.
    Internal(BoxError),
}

/// What somebody was refused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Who.
    pub user: UserId,
    /// What they lack.
    pub missing: Missing,
    /// Where.
    pub cluster: ClusterName,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, missing, cluster } = self;
        write!(
            f,
            "{user} needs {missing} on the cluster {cluster}; whoever runs Milepost (auth.grants) or issues its tokens \
             (claim clusters) can give it"
        )
    }
}

impl ApiError {
    /// A request that breaks one rule.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault::new(field, reason)])
    }

    /// A request of which one part cannot be read.
    pub fn malformed(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed(vec![Fault::new(field, reason)])
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) | Self::PlanChanged(_) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(..) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the caller may not do what they ask for.
    pub(crate) fn is_refusal(&self) -> bool {
        self.status() == StatusCode::FORBIDDEN
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Invalid(_) => "invalid",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) | Self::Denied(_) => "forbidden",
            Self::NotFound(_) => "not-found",
            Self::Method => "method-not-allowed",
            Self::Conflict(_) => "conflict",
            Self::PlanChanged(_) => "plan-changed",
            Self::TooLarge => "too-large",
            Self::MediaType => "media-type",
            Self::TooMany(..) => "too-many-requests",
            Self::Unavailable(..) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Malformed(faults) | Self::Invalid(faults) => sentence(faults),
            Self::Unauthorized(why) | Self::Forbidden(why) | Self::NotFound(why) => (*why).to_owned(),
            Self::Denied(denied) => denied.to_string(),
            Self::Method => "this resource does not take this method".to_owned(),
            Self::Conflict(why) => why.clone(),
            Self::PlanChanged(change) => change.sentence(),
            Self::TooLarge => "the body is larger than this resource takes".to_owned(),
            Self::MediaType => "send the body as JSON, with content-type application/json".to_owned(),
            Self::TooMany(_, why) => (*why).to_owned(),
            Self::Unavailable(what, _) => format!("{what}; try again shortly"),
            Self::Internal(_) => {
                "the request failed through no fault of yours; it has been logged".to_owned()
            }
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany(after, _) => Some(*after),
            Self::Unavailable(..) => Some(RETRY),
            _ => None,
        }
    }

    /// Logs what the caller cannot mend.
    fn log(&self) {
        match self {
            Self::Internal(error) => tracing::error!(error = chain(error), "a request failed"),
            Self::Unavailable(what, Some(error)) => {
                tracing::warn!(error = chain(error), "a request was refused: {what}");
            }
            _ => {}
        }
    }

    /// The document sent to the caller.
    pub fn problem(&self) -> Problem {
        let status = self.status();
        Problem {
            kind: format!("urn:milepost:problem:{}", self.slug()),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: self.detail(),
            errors: match self {
                Self::Malformed(faults) | Self::Invalid(faults) => {
                    faults.iter().map(FieldError::from).collect()
                }
                _ => Vec::new(),
            },
            plan: match self {
                Self::PlanChanged(change) => Some(PlanChange::clone(change)),
                _ => None,
            },
        }
    }
}

/// How a plan that was agreed to is another one by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    /// The hash of the plan of now.
    pub hash: PlanHash,
    /// What became different, where the plan from before is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<Differences>,
}

impl PlanChange {
    fn sentence(&self) -> String {
        let Some(differences) = &self.differences else {
            return "the plan is not what it was, and this gateway does not know that one any more: make a plan \
                    anew and compare"
                .to_owned();
        };
        let nodes = differences.nodes.len() + differences.more as usize;
        let count = match nodes {
            0 => None,
            1 => Some("something else would be done to 1 node".to_owned()),
            nodes => Some(format!("something else would be done to {nodes} nodes")),
        };
        let what = differences.task.iter().cloned().chain(count).collect::<Vec<_>>().join("; ");
        format!("the plan is not what it was: {what}")
    }
}

fn sentence(faults: &[Fault]) -> String {
    let words = |fault: &Fault| format!("{} {}", clipped(&fault.field), clipped(&fault.words()));
    match faults {
        [] => "the request is not valid".to_owned(),
        [fault] => words(fault),
        [first, rest @ ..] => format!("{} (and {} more)", words(first), rest.len()),
    }
}

/// The text, or its beginning if it is long.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(QUOTE_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A problem document (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem, as a URN that stays the same between releases.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// Each field that is wrong; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// How the plan that was demanded is another one by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PlanChangeBody>)]
    pub plan: Option<PlanChange>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field, such as `node_names[3]`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl From<&Fault> for FieldError {
    fn from(fault: &Fault) -> Self {
        Self { field: clipped(&fault.field), reason: clipped(&fault.words()) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let body = serde_json::to_vec(&self.problem()).unwrap_or_default();
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
        }
        if matches!(self, Self::Unauthorized(_)) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused { status, .. } => Self::Conflict(format!("the task is {status}")),
            StoreError::NotRetried { why, .. } => Self::Conflict(format!("the task is not retried: {why}")),
            StoreError::KeyConflict { .. } => {
                Self::Conflict("the Idempotency-Key was used before with another request".to_owned())
            }
            StoreError::TooManyOpen { .. } => Self::TooMany(
                RETRY_FULL,
                "as many of your tasks are not over as one user may have; wait for some to end, or cancel some",
            ),
            StoreError::Unavailable { .. } => {
                Self::Unavailable("the record cannot be reached", Some(error.into()))
            }
            StoreError::Fenced { .. } | StoreError::Corrupt { .. } => Self::Internal(error.into()),
        }
    }
}

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        Self::Unavailable("progress cannot be followed", Some(error.into()))
    }
}

impl From<TicketError> for ApiError {
    fn from(error: TicketError) -> Self {
        Self::Unavailable("tickets cannot be reached", Some(error.into()))
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Unknown(_) => Self::NotFound("there is no such cluster"),
            ClusterError::Unavailable { .. } => {
                Self::Unavailable("the cluster cannot be reached", Some(error.into()))
            }
        }
    }
}
