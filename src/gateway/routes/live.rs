//! `live/ws`, `live/sse` and the tickets that open them from a browser.
//!
//! A browser cannot send a header when it opens a live connection, and a token in an address ends up in logs. So it
//! trades its token for a ticket: 32 random bytes, good once and for seconds, bound to the user, the role, the end of
//! the token and the origin. Only a hash of it is kept.

use std::sync::Arc;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::tasks::parse;
use crate::gateway::Shared;
use crate::gateway::auth::caller::{authenticate, bearer, refuse};
use crate::gateway::auth::{Caller, Role};
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::{OptionalBody, Params};
use crate::gateway::hub::{JoinError, count_refused};
use crate::gateway::live::close::Close;
use crate::gateway::live::session::Session;
use crate::gateway::live::{sse, websocket};
use crate::http::ConnectionPermit;
use crate::task::access::Claim;
use crate::task::{Origin, Position, UserId};

/// How an origin that is the gateway's own is written into a grant: replicas may be reached under several names.
const OWN: &str = "own";

/// Where to begin, and a ticket for those who cannot send a header.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LiveParams {
    /// A ticket of `POST live/tickets`, in place of an Authorization header.
    ticket: Option<String>,
    /// The position of the last frame received: events after it follow, without a snapshot where that is possible.
    position: Option<String>,
    /// Whose tasks: your own when left out, those of this user for who is admin on every cluster.
    owner: Option<String>,
}

/// What to bind a ticket to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TicketRequest {
    /// The origin of the page that will use the ticket, for servers that fetch one on behalf of a browser. The
    /// request's own Origin when left out.
    pub origin: Option<String>,
}

/// A ticket.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Ticket {
    /// Pass it as `?ticket=` once.
    pub ticket: String,
    /// How long it is good for, in milliseconds.
    pub expires_in_ms: u64,
}

/// What a ticket grants.
#[derive(Debug, Serialize, Deserialize)]
struct Grant {
    user: UserId,
    role: Role,
    #[serde(default)]
    clusters: Claim,
    expires_s: i64,
    origin: Option<String>,
}

/// Get a ticket for a live connection
#[utoipa::path(post, path = "/api/v1/live/tickets", tag = "live", request_body(content = Option<TicketRequest>),
    responses(
        (status = 201, description = "A ticket, good once", body = Ticket),
        (status = 403, description = "The origin is not allowed", body = Problem),
        (status = 503, description = "Tickets cannot be kept right now", body = Problem)))]
pub(crate) async fn ticket(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    OptionalBody(request): OptionalBody<TicketRequest>,
) -> Result<(StatusCode, Json<Ticket>), ApiError> {
    let origin = match &request.origin {
        Some(origin) => Some(known_origin(&shared, &headers, origin)?),
        None => origin(&shared, &headers)?,
    };
    let Caller { user, role, clusters, expires_s, .. } = caller;
    let grant = Grant { user, role, clusters, expires_s, origin };
    let grant = crate::gateway::live::protocol::json(&grant);
    let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let ttl = shared.parts.live.ticket_ttl;
    shared.parts.tickets.issue(hash(&ticket), grant, ttl).await?;
    let expires_in_ms = crate::config::duration::millis(ttl);
    Ok((StatusCode::CREATED, Json(Ticket { ticket, expires_in_ms })))
}

fn hash(ticket: &str) -> [u8; 32] {
    Sha256::digest(ticket).into()
}

/// Watch tasks over a WebSocket
#[utoipa::path(get, path = "/api/v1/live/ws", tag = "live", params(LiveParams),
    responses(
        (status = 101, description = "The frames of docs/protocol.md follow"),
        (status = 401, description = "Neither a good token nor a good ticket", body = Problem),
        (status = 403, description = "The origin is not allowed", body = Problem)))]
pub(crate) async fn ws(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Params(params): Params<LiveParams>,
    permit: Option<Extension<ConnectionPermit>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let from = position(params.position.as_deref(), "position")?;
    let upgrade = upgrade.map_err(|_| ApiError::malformed("Upgrade", "this resource is a WebSocket"))?;
    let caller = admit(&shared, &headers, params.ticket.as_deref()).await?;
    let permit = permit.map(|Extension(permit)| permit);
    let owner = match owner(&shared, &caller, params.owner.as_deref()) {
        Err(ApiError::Forbidden(_)) => {
            return Ok(websocket::refuse(upgrade, Close::NotYours, &shared, permit));
        }
        owner => owner?,
    };
    match join(&shared, owner, caller.expires_s, from).await {
        Ok(session) => Ok(websocket::upgrade(upgrade, session, permit)),
        Err(JoinError::TooMany) => Ok(websocket::refuse(upgrade, Close::TooManySockets, &shared, permit)),
        Err(JoinError::Unavailable(error)) => Err(error.into()),
    }
}

/// Watch tasks as server-sent events
#[utoipa::path(get, path = "/api/v1/live/sse", tag = "live",
    params(LiveParams, ("Last-Event-ID" = Option<String>, Header, description = "Takes the place of `position`")),
    responses(
        (status = 200, description = "The frames of docs/protocol.md follow", content_type = "text/event-stream", body = String),
        (status = 401, description = "Neither a good token nor a good ticket", body = Problem),
        (status = 403, description = "The origin is not allowed, or the tasks of others are not yours to watch", body = Problem),
        (status = 429, description = "Too many live connections of this user", body = Problem)))]
pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Params(params): Params<LiveParams>,
) -> Result<Response, ApiError> {
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    let from = match last {
        Some(last) => position(Some(last), "Last-Event-ID")?,
        None => position(params.position.as_deref(), "position")?,
    };
    let caller = admit(&shared, &headers, params.ticket.as_deref()).await?;
    let owner = owner(&shared, &caller, params.owner.as_deref())?;
    match join(&shared, owner, caller.expires_s, from).await {
        Ok(session) => Ok(sse::respond(session)),
        Err(JoinError::TooMany) => Err(ApiError::TooMany(
            shared.parts.live.ping_interval,
            "you have too many live connections; close one first",
        )),
        Err(JoinError::Unavailable(error)) => Err(error.into()),
    }
}

fn position(text: Option<&str>, field: &'static str) -> Result<Option<Position>, ApiError> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| ApiError::malformed(field, format!("{error}")))).transpose()
}

/// Whose tasks a caller watches.
fn owner(shared: &Shared, caller: &Caller, asked: Option<&str>) -> Result<UserId, ApiError> {
    match asked.filter(|&asked| asked != caller.user.as_str()) {
        None => Ok(caller.user.clone()),
        Some(other) if caller.is_admin_everywhere(shared) => parse("owner", other),
        Some(_) => {
            Err(ApiError::Forbidden("only who is admin on every cluster may watch the tasks of others"))
        }
    }
}

async fn join(
    shared: &Arc<Shared>,
    owner: UserId,
    expires_s: i64,
    from: Option<Position>,
) -> Result<Session, JoinError> {
    if shared.stopping.is_cancelled() {
        return Err(JoinError::Unavailable(crate::bus::BusError::Unavailable {
            doing: "stopping",
            source: "this replica is stopping".into(),
        }));
    }
    let joined = shared.hub.join(&owner, expires_s).await;
    let membership = joined.inspect_err(|error| {
        if matches!(error, JoinError::TooMany) {
            count_refused(&shared.parts.metrics);
        }
    })?;
    Ok(Session { shared: Arc::clone(shared), user: owner, membership, from })
}

/// Who opens a live connection, by header or by ticket, from an origin that may.
pub(crate) async fn admit(
    shared: &Shared,
    headers: &HeaderMap,
    ticket: Option<&str>,
) -> Result<Caller, ApiError> {
    let origin = origin(shared, headers)?;
    if let Some(token) = bearer(headers) {
        return authenticate(shared, token);
    }
    let ticket =
        ticket.ok_or_else(|| refuse(shared, "send a bearer token, or a ticket of POST live/tickets"))?;
    if origin.is_none() {
        return Err(refuse(shared, "a ticket is good only from the page it was made for: send an Origin"));
    }
    let grant = shared.parts.tickets.redeem(hash(ticket)).await?;
    let grant: Option<Grant> = grant.and_then(|grant| serde_json::from_str(&grant).ok());
    let now_s = shared.parts.clock.now().as_second();
    match grant {
        Some(grant) if grant.origin == origin && grant.expires_s > now_s => {
            let Grant { user, role, clusters, expires_s, .. } = grant;
            Ok(Caller { user, role, clusters, expires_s, origin: Origin::default() })
        }
        _ => Err(refuse(shared, "the ticket is unknown, used, over, or was made for another page")),
    }
}

/// The origin a request comes from, in the form kept in grants; `None` for one that no browser sent.
///
/// A browser leaves the Origin out of a GET to the page's own origin, and says so in a header no script can set.
fn origin(shared: &Shared, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    match headers.get(ORIGIN) {
        Some(origin) => known_origin(shared, headers, origin.to_str().unwrap_or_default()).map(Some),
        None if headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin") => {
            Ok(Some(OWN.to_owned()))
        }
        None => Ok(None),
    }
}

fn known_origin(shared: &Shared, headers: &HeaderMap, origin: &str) -> Result<String, ApiError> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin_host = origin.split_once("://").map(|(_, host)| host).unwrap_or_default();
    if !host.is_empty() && origin_host.eq_ignore_ascii_case(host) {
        return Ok(OWN.to_owned());
    }
    if shared.parts.server.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return Ok(origin.to_ascii_lowercase());
    }
    Err(ApiError::Forbidden(
        "this origin is not allowed; the setting server.allowed_origins names those that are",
    ))
}
