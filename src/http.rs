//! Accepts connections and serves HTTP/1.1 on them, with the bounds that a ready-made server leaves out.
//!
//! Each connection has a deadline for its headers (also while it idles between requests), counts against a limit for
//! as long as its socket lives (upgraded or not), and is told when the process stops. Not here: routes, and what is
//! sent over upgraded sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// How long a client may take to send the head of a request, and how long a connection may idle before one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Unsent bytes past which a socket reports that it is full, so that what waits can still be merged here.
#[cfg(target_os = "linux")]
const NOTSENT_BYTES: u32 = 16 * 1024;
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// The place a connection takes under the limit. In the extensions of every request; an upgraded socket keeps a clone.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(#[expect(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

/// What ends an accept loop and its connections.
#[derive(Debug, Clone)]
pub struct Stops {
    /// No connection is accepted any more; those that are open finish their request.
    pub soft: CancellationToken,
    /// Open connections are dropped.
    pub hard: CancellationToken,
}

/// Accepts connections until the soft stop and serves `app` on each, at most `connections_max` at once. Connections
/// run on `tracker`; wait for it to know that all have ended.
pub async fn accept(
    listener: TcpListener,
    app: Router,
    connections_max: usize,
    tracker: &TaskTracker,
    stops: &Stops,
) {
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    while let Some((stream, permit)) = next(&listener, &places, &stops.soft).await {
        let permit = ConnectionPermit(Arc::new(permit));
        tracker.spawn(connection(stream, app.clone(), permit, stops.clone()));
    }
}

/// The next connection with its place, or `None` once the process stops.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    soft: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = tokio::select! {
        () = soft.cancelled() => return None,
        permit = Arc::clone(places).acquire_owned() => permit.ok()?,
    };
    tokio::select! {
        () = soft.cancelled() => None,
        stream = accept_one(listener) => Some((stream, permit)),
    }
}

/// Accepts until it works: an error such as "too many open files" passes with time.
async fn accept_one(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, app: Router, permit: ConnectionPermit, stops: Stops) {
    tune(&stream);
    let service = app.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        request
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stops.soft.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = stops.hard.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Sets what keeps latency low and stalled clients cheap. A socket that refuses works without it.
fn tune(stream: &TcpStream) {
    let mut set = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        set = set
            .and_then(|()| socket.set_tcp_notsent_lowat(NOTSENT_BYTES))
            .and_then(|()| socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX)));
    }
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option could not be set");
    }
}
