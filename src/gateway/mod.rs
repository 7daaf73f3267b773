//! The gateway role: takes tasks in, and pushes their progress to whoever watches.
//!
//! Reading order: this file (what it needs, routes, start and stop) · [`auth`] · `submit` · `routes` · `hub` ·
//! [`live`] · `ends`. A gateway keeps nothing that another replica would miss. Not here: running tasks (worker) and keeping
//! records and streams (ports).

pub mod auth;
mod ends;
pub mod error;
mod extract;
mod hub;
mod limits;
pub mod live;
pub mod openapi;
mod origin;
mod plan;
mod refusals;
mod rights;
pub mod routes;
mod submit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use self::auth::{AuthError, Role, Verifier, dev};
use self::error::ApiError;
use self::hub::Hub;
use self::limits::Limits;
use self::live::nodes::Streams;
use self::live::outbox::Bounds;
use self::live::snapshot::Snapshots;
use self::plan::Plans;
use crate::action::Planner;
use crate::bus::{Feed, Publisher};
use crate::clock::Clock;
use crate::config::network::Network;
use crate::config::{AuthConfig, LimitsConfig, LiveConfig, ServerConfig};
use crate::dispatch::Dispatcher;
use crate::http::Stops;
use crate::lifecycle::Lifecycle;
use crate::store::TaskStore;
use crate::task::{ReplicaId, UserId};
use crate::telemetry::metrics::Metrics;
use crate::templates::Templates;
use crate::tickets::Tickets;

/// What pages may load and do: their own files and their own API, nothing inline, in no frame.
const CONTENT_POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Submits read and recorded at once. Bounds the memory of their bodies; others wait, within the request time-out.
const SUBMITS_MAX: usize = 32;
/// While draining: pause between looks for sockets that joined late.
const LATE_INTERVAL: Duration = Duration::from_millis(250);

/// What a gateway is made of.
#[derive(Clone)]
pub struct Parts {
    /// The record.
    pub store: Arc<dyn TaskStore>,
    /// Where events of submits and cancels go.
    pub publisher: Arc<dyn Publisher>,
    /// Where progress comes from.
    pub feed: Arc<dyn Feed>,
    /// Wakes workers.
    pub dispatcher: Arc<dyn Dispatcher>,
    /// Keeps tickets of browsers.
    pub tickets: Arc<dyn Tickets>,
    /// Keeps templates.
    pub templates: Arc<dyn Templates>,
    /// Knows clusters and their nodes.
    pub clusters: Arc<dyn Planner>,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Metrics,
    /// Time-outs, origins, connections.
    pub server: ServerConfig,
    /// Sockets.
    pub live: LiveConfig,
    /// What one caller may do.
    pub limits: LimitsConfig,
    /// Keys.
    pub auth: AuthConfig,
    /// Items of one task that a worker has in hand at once, for estimates.
    pub lanes_per_task: u32,
    /// Whether the `wait` action may be submitted.
    pub wait_action: bool,
    /// This replica.
    pub replica: ReplicaId,
    /// The mode, for people: `memory`, `postgres` or `redis`.
    pub mode: String,
}

/// What every request and every live connection shares.
pub struct Shared {
    parts: Parts,
    verifier: Verifier,
    hub: Arc<Hub>,
    limits: Limits,
    plans: Plans,
    snapshots: Snapshots,
    streams: Streams,
    /// Proxies whose word about a client's address is believed.
    proxies: Vec<Network>,
    /// Every connection and session; empty when all have ended.
    tracker: TaskTracker,
    stopping: CancellationToken,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Without keys anyone who can connect could make themselves admin.
    #[error("no keys are configured (section auth), so the gateway serves loopback only and not {0}")]
    OpenWithoutKeys(SocketAddr),
    /// The listener is of no use.
    #[error("the listener has no address")]
    Listener(#[source] std::io::Error),
}

/// A gateway that runs.
#[derive(Clone)]
pub struct Gateway {
    address: SocketAddr,
    auth: AuthConfig,
    development: bool,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether no keys are configured, so that only [`Gateway::development_token`] makes tokens.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// A token that this gateway accepts for 12 hours. `None` when keys are configured of which Milepost has only
    /// the public half.
    #[must_use]
    pub fn development_token(&self, user: &UserId, role: Role) -> Option<String> {
        dev::sign(&self.auth, user, role, self.clock.now() + dev::TOKEN_TTL)
    }
}

/// Starts a gateway on a bound listener. It runs on `life` until that stops: then it accepts no more connections,
/// closes sockets over `server.close_spread`, and lets requests finish.
///
/// # Errors
/// Keys that cannot be used, or none on an address that others can reach.
pub fn serve(mut parts: Parts, listener: TcpListener, life: &Lifecycle) -> Result<Gateway, StartError> {
    let address = listener.local_addr().map_err(StartError::Listener)?;
    let mut verifier = Verifier::load(&parts.auth)?;
    let development = verifier.is_empty();
    if development {
        if !address.ip().is_loopback() {
            return Err(StartError::OpenWithoutKeys(address));
        }
        parts.auth = dev::random_keys(parts.auth);
        verifier = Verifier::load(&parts.auth)?;
    }
    let gateway = Gateway { address, auth: parts.auth.clone(), development, clock: Arc::clone(&parts.clock) };
    let shared = Arc::new(Shared::new(parts, verifier, life.soft().clone()));
    life.spawn("gateway", run(shared, listener, life.clone()));
    tracing::info!(%address, "the gateway listens");
    Ok(gateway)
}

impl Shared {
    fn new(parts: Parts, verifier: Verifier, stopping: CancellationToken) -> Self {
        let bounds =
            Bounds { coalesce_bytes: parts.live.coalesce_bytes, bytes_max: parts.live.queue_bytes_max };
        let hub =
            Hub::new(Arc::clone(&parts.feed), parts.metrics.clone(), bounds, parts.limits.sockets_per_user);
        let limits = Limits::new(&parts.limits);
        let streams = Streams::new(parts.limits.sockets_per_user);
        let (feed, store) = (Arc::clone(&parts.feed), Arc::clone(&parts.store));
        let snapshots = Snapshots::new(feed, store, parts.live.snapshot_recent);
        let proxies = parts.server.trusted_proxies.iter().filter_map(|text| Network::parse(text)).collect();
        let (hub, plans, tracker) = (Arc::new(hub), Plans::new(), TaskTracker::new());
        Self { parts, verifier, hub, limits, plans, snapshots, streams, proxies, tracker, stopping }
    }
}

/// Accepts until the soft stop, then drains.
async fn run(shared: Arc<Shared>, listener: TcpListener, life: Lifecycle) {
    let tracker = shared.tracker.clone();
    tracker.spawn(live::pulse::run(Arc::clone(&shared), life.soft().clone()));
    tracker.spawn(ends::run(Arc::clone(&shared), life.soft().clone()));
    let stops = Stops { soft: life.soft().clone(), hard: life.hard().clone() };
    let connections_max = shared.parts.server.connections_max;
    crate::http::accept(listener, router(Arc::clone(&shared)), connections_max, &tracker, &stops).await;
    tracker.close();
    let drained = async {
        hub::close_all(&shared.hub, shared.parts.server.close_spread).await;
        while tokio::time::timeout(LATE_INTERVAL, tracker.wait()).await.is_err() {
            hub::close_late(&shared.hub);
        }
    };
    tokio::select! {
        () = drained => tracing::info!("the gateway has drained"),
        () = life.hard().cancelled() => {
            shared.hub.sockets().iter().for_each(|socket| socket.outbox.close(live::close::Close::Gone));
        }
    }
}

/// Every route. Live connections are outside the request time-out.
fn router(shared: Arc<Shared>) -> Router {
    use routes::{audit, clusters, control, live, node_list, nodes, openapi, plans, tasks, templates};
    let submits = Router::new()
        .route("/tasks", post(tasks::create))
        .route("/plans", post(plans::create))
        .route("/nodes/batch/cordon", post(nodes::cordon))
        .route("/nodes/batch/uncordon", post(nodes::uncordon))
        .route("/nodes/batch/drain", post(nodes::drain))
        .route("/nodes/batch/label", post(nodes::label))
        .route("/nodes/batch/unlabel", post(nodes::unlabel))
        .route("/nodes/batch/taint", post(nodes::taint))
        .route("/nodes/batch/untaint", post(nodes::untaint))
        .route("/nodes/batch/copy_taints", post(nodes::copy_taints))
        .route("/nodes/batch/annotate", post(nodes::annotate))
        .route("/nodes/batch/unannotate", post(nodes::unannotate))
        .route("/templates/{name}/apply", post(templates::apply))
        .layer(DefaultBodyLimit::max(shared.parts.limits.submit_bytes_max))
        .layer(GlobalConcurrencyLimitLayer::new(SUBMITS_MAX));
    let others = Router::new()
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::get))
        .route("/tasks/{id}/items", get(tasks::items))
        .route("/tasks/{id}/cancel", post(control::cancel))
        .route("/tasks/{id}/pause", post(control::pause))
        .route("/tasks/{id}/resume", post(control::resume))
        .route("/tasks/{id}/concurrency", post(control::concurrency))
        .route("/tasks/{id}/retry", post(control::retry))
        .route("/clusters", get(clusters::list))
        .route("/clusters/{cluster}/nodes", get(node_list::list))
        .route("/clusters/{cluster}/nodes/{node}", get(node_list::get))
        .route("/audit", get(audit::list))
        .route("/audit/tasks/{id}/nodes", get(audit::nodes))
        .route("/templates", get(templates::list))
        .route("/templates/{name}", get(templates::get).put(templates::put).delete(templates::delete))
        .route("/live/tickets", post(live::ticket))
        .route("/openapi.json", get(openapi::document))
        .layer(DefaultBodyLimit::max(shared.parts.limits.body_bytes_max));
    let bounded = submits.merge(others).layer(from_fn_with_state(Arc::clone(&shared), in_time));
    let endless = Router::new()
        .route("/live/ws", get(live::ws))
        .route("/live/sse", get(live::events))
        .route("/live/nodes/{cluster}", get(node_list::follow));
    let app = Router::new()
        .nest("/api/v1", bounded.merge(endless))
        .merge(routes::dashboard::router())
        .fallback(|| async { ApiError::NotFound("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { ApiError::Method })
        .with_state(shared);
    wrapped(app)
}

/// What all answers have in common: an id, a log line, headers, and that a panic becomes a 500.
fn wrapped(app: Router) -> Router {
    let header = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    app.layer(
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(axum::middleware::from_fn(logged))
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(header(X_FRAME_OPTIONS, "DENY"))
            .layer(header(REFERRER_POLICY, "no-referrer"))
            .layer(header(CONTENT_SECURITY_POLICY, CONTENT_POLICY))
            .layer(CatchPanicLayer::custom(|_| {
                ApiError::Internal("a handler panicked".into()).into_response()
            })),
    )
}

/// Puts a request into a span and says how it went. The query is left out: it may hold a ticket.
async fn logged(request: Request, next: Next) -> Response {
    use tracing::Instrument;
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path(), request.id = id);
    async {
        let response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), "answered");
        response
    }
    .instrument(span)
    .await
}

/// Ends a request that takes too long. Whether a submit happened is then unknown, as with any lost answer.
async fn in_time(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(shared.parts.server.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::Unavailable("the request took too long", None).into_response(),
    }
}
