//! Reads off what a handler leaves of a request's body before the answer is sent.
//!
//! A connection that is closed while its client still sends is reset, and a reset may overtake the answer: the client
//! would see a broken connection in place of a 413 or a 401. Bounded in bytes and in time; past that the answer is sent
//! all the same. Not here: how large a body may be (each route).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::header::EXPECT;
use axum::http::{HeaderMap, Request};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

/// Most bytes read off.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long reading off may hold up an answer.
const TIME_MAX: Duration = Duration::from_secs(2);

/// A body on loan to a handler. On drop, what is unread goes back.
pub(super) struct Loan {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
    /// Whether nothing is to come before somebody asks for it.
    waits: bool,
}

/// Where the unread part of a body comes back.
pub(super) struct Rest(oneshot::Receiver<Incoming>);

/// Lends the body of a request to its handler.
pub(super) fn lend(request: Request<Incoming>) -> (Request<Loan>, Rest) {
    let (back, rest) = oneshot::channel();
    let waits = waits(request.headers());
    (request.map(|body| Loan { body: Some(body), back: Some(back), waits }), Rest(rest))
}

/// Whether the client sends its body only when it is told to go on. It is told by the first read.
fn waits(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body for Loan {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        match &mut self.body {
            Some(body) => Poll::Ready(ready!(Pin::new(body).poll_frame(context))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.waits || self.is_end_stream() {
            return;
        }
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Nobody waits for it when the connection has ended.
            let _ = back.send(body);
        }
    }
}

impl Rest {
    /// Reads off what came back, within the bounds.
    pub(super) async fn read_off(mut self) {
        if let Ok(body) = self.0.try_recv() {
            let _ = tokio::time::timeout(TIME_MAX, read_off(body)).await;
        }
    }
}

async fn read_off(mut body: Incoming) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        let len = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(len) {
            Some(less) => left = less,
            None => return,
        }
    }
}
