//! Accepts connections and serves HTTP/1.1 on them, with the bounds that a ready-made server leaves out.
//!
//! Each connection has a deadline for its headers (also while it idles between requests), counts against a limit for
//! as long as its socket lives (upgraded or not), and is told when the process stops. An answer that comes before the
//! body was read still reaches its client ([`unread`]); a stop waits for requests and not for connections without one
//! ([`working`]). Not here: routes, and what is sent over upgraded sockets.

mod unread;
mod working;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use working::Working;

/// How long a client may take to send the head of a request, and how long a connection may idle before one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// At a stop: how long a connection may be without a request before it is dropped, half a head or not.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
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

/// The address at the other end of a connection. In the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

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
    while let Some(((stream, peer), permit)) = next(&listener, &places, &stops.soft).await {
        let permit = ConnectionPermit(Arc::new(permit));
        tracker.spawn(connection(stream, app.clone(), (peer, permit), stops.clone()));
    }
}

/// The next connection with its place, or `None` once the process stops.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    soft: &CancellationToken,
) -> Option<((TcpStream, Peer), OwnedSemaphorePermit)> {
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
async fn accept_one(listener: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, Peer(peer.ip().to_canonical())),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, app: Router, from: (Peer, ConnectionPermit), stops: Stops) {
    tune(&stream);
    let working = Working::default();
    let at_work = working.clone();
    let service = service_fn(move |request| answer(app.clone(), request, from.clone(), at_work.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stops.soft.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = working.ceased(STOP_TIMEOUT) => return,
                () = stops.hard.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Passes a request on, and reads off what was left of its body.
async fn answer(
    app: Router,
    mut request: Request<Incoming>,
    (peer, permit): (Peer, ConnectionPermit),
    working: Working,
) -> Result<Response, Infallible> {
    let at_work = working.begin();
    request.extensions_mut().insert(permit);
    request.extensions_mut().insert(peer);
    let (request, rest) = unread::lend(request);
    let response = app.oneshot(request).await?;
    rest.read_off().await;
    Ok(response.map(|body| Body::new(at_work.until_sent(body))))
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;
    use tokio::time::{Instant, timeout};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    /// How long a test waits for what must come, beside the deadlines it tests.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// `/` answers a GET and refuses a POST at once, whatever its body; `/slow` answers when it is let go.
    struct Rig {
        address: std::net::SocketAddr,
        stops: Stops,
        tracker: TaskTracker,
        /// Rings when a handler of `/slow` runs.
        begun: Arc<Notify>,
        let_go: Arc<Notify>,
    }

    impl Rig {
        async fn start(connections_max: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stops = Stops { soft: CancellationToken::new(), hard: CancellationToken::new() };
            let (tracker, begun, let_go) = (TaskTracker::new(), Arc::default(), Arc::default());
            let (began, wait): (Arc<Notify>, Arc<Notify>) = (Arc::clone(&begun), Arc::clone(&let_go));
            let slow = move || async move {
                began.notify_one();
                wait.notified().await;
            };
            let refuse = axum::routing::post(|| async { axum::http::StatusCode::UNAUTHORIZED });
            let app =
                Router::new().route("/", get(|| async { "ok" }).merge(refuse)).route("/slow", get(slow));
            let (connections, ends) = (tracker.clone(), stops.clone());
            tokio::spawn(async move { accept(listener, app, connections_max, &connections, &ends).await });
            Self { address, stops, tracker, begun, let_go }
        }

        async fn connect(&self, send: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(send).await.unwrap();
            stream
        }

        /// A request that is being handled.
        async fn busy(&self) -> TcpStream {
            let stream = self.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
            timeout(PATIENCE, self.begun.notified()).await.expect("the handler runs");
            stream
        }
    }

    /// The next answer's bytes; empty at the end.
    async fn next_bytes(stream: &mut TcpStream) -> String {
        let mut bytes = vec![0; 4_096];
        let n = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer in time").unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_sends_no_whole_head_is_closed_at_the_deadline() {
        let rig = Rig::start(10).await;
        for sent in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
            let began = Instant::now();
            let mut stream = rig.connect(sent).await;
            assert_eq!(next_bytes(&mut stream).await, "", "{sent:?}");
            assert!((HEADER_TIMEOUT..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
        let mut stream = rig.connect(REQUEST).await;
        assert!(next_bytes(&mut stream).await.starts_with("HTTP/1.1 200"));
        assert_eq!(next_bytes(&mut stream).await, "", "idle after an answer is bounded as well");
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let rig = Rig::start(10).await;
        let head =
            format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES_MAX));
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        // The server may close before all of it is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        assert!(next_bytes(&mut stream).await.starts_with("HTTP/1.1 431"));
    }

    #[tokio::test]
    async fn past_the_limit_a_connection_waits_until_another_ends() {
        let rig = Rig::start(2).await;
        let (mut one, mut two) = (rig.connect(REQUEST).await, rig.connect(REQUEST).await);
        assert!(next_bytes(&mut one).await.starts_with("HTTP/1.1 200"));
        assert!(next_bytes(&mut two).await.starts_with("HTTP/1.1 200"));
        let mut third = rig.connect(REQUEST).await;
        assert!(timeout(Duration::from_millis(300), third.readable()).await.is_err(), "there is no place");
        drop(one);
        assert!(next_bytes(&mut third).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_stop_ends_silent_connections_at_once_and_lets_a_request_finish() {
        let rig = Rig::start(10).await;
        let mut fresh = rig.connect(b"").await;
        let mut idle = rig.connect(REQUEST).await;
        assert!(next_bytes(&mut idle).await.starts_with("HTTP/1.1 200"));
        let mut busy = rig.busy().await;
        rig.stops.soft.cancel();
        let began = Instant::now();
        assert_eq!(
            (next_bytes(&mut fresh).await, next_bytes(&mut idle).await),
            (String::new(), String::new())
        );
        assert!(began.elapsed() < HEADER_TIMEOUT, "silent connections are not waited for");
        rig.let_go.notify_one();
        assert!(next_bytes(&mut busy).await.starts_with("HTTP/1.1 200"));
        rig.tracker.close();
        timeout(PATIENCE, rig.tracker.wait()).await.expect("all connections end");
    }

    /// One that never ends its head would otherwise hold a stop up for as long as a head may take.
    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_the_rest_of_a_head() {
        let rig = Rig::start(10).await;
        let mut half = rig.connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
        let mut second = rig.connect(REQUEST).await;
        assert!(next_bytes(&mut second).await.starts_with("HTTP/1.1 200"));
        second.write_all(b"GET / HT").await.unwrap();
        let mut busy = rig.busy().await;
        let began = Instant::now();
        rig.stops.soft.cancel();
        assert_eq!(
            (next_bytes(&mut half).await, next_bytes(&mut second).await),
            (String::new(), String::new())
        );
        assert!(began.elapsed() < 3 * STOP_TIMEOUT, "{:?}", began.elapsed());
        tokio::time::sleep(3 * STOP_TIMEOUT).await;
        rig.let_go.notify_one();
        assert!(next_bytes(&mut busy).await.starts_with("HTTP/1.1 200"), "a request is waited for");
    }

    fn post(headers: &str) -> Vec<u8> {
        format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n").into_bytes()
    }

    /// A client that writes all of its request before it reads is not cut off while it writes.
    #[tokio::test]
    async fn an_answer_before_the_end_of_a_large_body_reaches_its_client() {
        let rig = Rig::start(10).await;
        let len = 32 * 1024 * 1024;
        let mut stream = rig.connect(&post(&format!("Content-Length: {len}"))).await;
        timeout(PATIENCE, stream.write_all(&vec![b'x'; len]))
            .await
            .expect("in time")
            .expect("it is read off");
        assert!(next_bytes(&mut stream).await.starts_with("HTTP/1.1 401"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_holds_an_answer_up_for_a_short_time_only() {
        let rig = Rig::start(10).await;
        let began = Instant::now();
        let mut stream = rig.connect(&post("Content-Length: 1000")).await;
        assert!(next_bytes(&mut stream).await.starts_with("HTTP/1.1 401"));
        assert!(began.elapsed() < HEADER_TIMEOUT, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_client_that_asks_first_is_not_told_to_send_a_body_that_nobody_reads() {
        let rig = Rig::start(10).await;
        let mut stream = rig.connect(&post("Content-Length: 1000\r\nExpect: 100-continue")).await;
        assert!(next_bytes(&mut stream).await.starts_with("HTTP/1.1 401"), "and not 100 before it");
    }

    #[tokio::test]
    async fn a_hard_stop_drops_what_is_not_finished() {
        let rig = Rig::start(10).await;
        let mut busy = rig.busy().await;
        rig.stops.soft.cancel();
        rig.stops.hard.cancel();
        assert_eq!(next_bytes(&mut busy).await, "");
        rig.tracker.close();
        timeout(PATIENCE, rig.tracker.wait()).await.expect("all connections end");
    }
}
