//! The accept loop: HTTP/1.1 on loopback, a bounded number of connections, resets on order.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Reset};

/// Most connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 2_000;
/// How long a request's head may take to arrive.
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, so that a lack of file descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until stopped. Connections end with the token as well.
pub(super) async fn run(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (api, stop) = (Arc::clone(&api), stop.clone());
            tokio::spawn(async move {
                let _ = stop.run_until_cancelled(serve(stream, api)).await;
                drop(permit);
            });
        }
    };
    let _ = stop.run_until_cancelled(accept).await;
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Reset>> + Send>>;

async fn serve(stream: TcpStream, api: Arc<Api>) {
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&reset);
    let service = service_fn(move |request: Request<Incoming>| -> Answer {
        let (api, flag) = (Arc::clone(&api), Arc::clone(&flag));
        Box::pin(async move {
            let answer = api.answer(request).await;
            flag.fetch_or(answer.is_err(), Ordering::SeqCst);
            answer
        })
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let _ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let stream = connection.into_parts().io.into_inner();
    if reset.load(Ordering::SeqCst) {
        // Without lingering, the close below sends RST instead of FIN.
        let _ = stream.set_zero_linger();
    }
}
