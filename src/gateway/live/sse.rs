//! A live connection over server-sent events: the same frames, one per event, with the position as `id`.
//!
//! A session writes into a channel of a few chunks that is the body of the response; the pace of the reader is the
//! pace of the session. Not here: frames and their order ([`super::session`]).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::sync::mpsc;

use super::close::Close;
use super::protocol::{Control, Frame, Goodbye, json, sse_event};
use super::session::Session;
use super::wire::{Gone, Wire};
use crate::gateway::Shared;
use crate::gateway::hub::Socket;

/// Chunks between the session and the connection.
const CHUNKS: usize = 1;
/// Bytes gathered before they become a chunk.
const CHUNK_BYTES: usize = 16 * 1024;
/// How long the goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client waits before it connects again, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// Answers with a stream of events and runs the session behind it.
pub(crate) fn respond(session: Session) -> Response {
    let (chunks, body) = mpsc::channel(CHUNKS);
    let place = Arc::clone(session.membership.socket());
    let wire = SseWire::new(chunks, Arc::clone(&session.shared), Arc::clone(&place));
    let tracker = session.shared.tracker.clone();
    tracker.spawn(session.run(wire));
    let mut response =
        Body::from_stream(stream::unfold(Reader { body, place }, Reader::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The receiving side; dropped with the connection, which ends the session.
struct Reader {
    body: mpsc::Receiver<Bytes>,
    place: Arc<Socket>,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        let chunk = self.body.recv().await?;
        Some((Ok(chunk), self))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.place.outbox.close(Close::Gone);
    }
}

struct SseWire {
    chunks: mpsc::Sender<Bytes>,
    buffer: BytesMut,
    shared: Arc<Shared>,
    place: Arc<Socket>,
}

impl SseWire {
    fn new(chunks: mpsc::Sender<Bytes>, shared: Arc<Shared>, place: Arc<Socket>) -> Self {
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(format!("retry: {RETRY_MS}\n\n").as_bytes());
        Self { chunks, buffer, shared, place }
    }

    async fn put(&mut self, event: &[u8]) -> Result<(), Gone> {
        self.buffer.extend_from_slice(event);
        if self.buffer.len() >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }
}

impl Wire for SseWire {
    const KIND: &'static str = "sse";

    async fn control(&mut self, frame: Control) -> Result<(), Gone> {
        let event = sse_event(frame.kind, frame.position.as_ref(), &frame.text);
        self.put(&event).await
    }

    async fn event(&mut self, frame: &Frame, merged: u32) -> Result<(), Gone> {
        self.put(&frame.sse(merged)).await
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.put(b": still here\n\n").await
    }

    /// Hands the chunk over. That there was room for it is this transport's sign of life.
    async fn flush(&mut self) -> Result<(), Gone> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer).freeze();
        self.chunks.send(chunk).await.map_err(|_| Gone)?;
        self.shared.hub.saw(&self.place);
        Ok(())
    }

    async fn close(mut self, close: Close) {
        let Some(code) = close.code() else { return };
        let goodbye = Goodbye { code, reason: close.reason(), reconnect: close.reconnect() };
        let last = async {
            self.put(&sse_event("close", None, &json(&goodbye))).await?;
            self.flush().await
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, last).await;
    }
}
