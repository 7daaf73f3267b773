//! A live connection over a WebSocket.
//!
//! The socket is split: a task of its own reads, so that a push does not poll the read half. Buffers are small: the
//! library's default read buffer costs 134 kB per socket and is zeroed on every poll. Not here: frames and their
//! order ([`super::session`]).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::close::Close;
use super::protocol::{Control, FRAME_BYTES_MAX, Frame};
use super::session::Session;
use super::wire::{Gone, Wire};
use crate::gateway::Shared;
use crate::gateway::hub::Socket;
use crate::http::ConnectionPermit;

/// Bytes read at once. Clients send control frames only.
const READ_BUFFER: usize = 1024;
/// Bytes gathered before a write happens by itself: some sixteen events, each write of which would cost as much as all of them.
/// A socket keeps as much as it ever gathered.
const WRITE_BUFFER: usize = 8 * 1024;
/// Bytes that may wait inside the library: one frame, and what was gathered before it.
const WRITE_BUFFER_MAX: usize = FRAME_BYTES_MAX + 2 * WRITE_BUFFER;
/// Largest message a client may send.
const INBOUND_MAX: usize = 16 * 1024;
/// How long the goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts the upgrade and runs the session on it.
pub(crate) fn upgrade(
    upgrade: WebSocketUpgrade,
    session: Session,
    permit: Option<ConnectionPermit>,
) -> Response {
    let token = session.shared.tracker.token();
    configured(upgrade).on_upgrade(move |socket| async move {
        let (_token, _permit) = (token, permit);
        let wire = WsWire::new(socket, Arc::clone(&session.shared), Arc::clone(session.membership.socket()));
        session.run(wire).await;
    })
}

/// Accepts the upgrade only to close with a code: a browser cannot see why an upgrade was refused. The socket keeps its
/// place under the connection limit until it is gone.
pub(crate) fn refuse(
    upgrade: WebSocketUpgrade,
    close: Close,
    shared: &Shared,
    permit: Option<ConnectionPermit>,
) -> Response {
    let token = shared.tracker.token();
    configured(upgrade).on_upgrade(move |mut socket| async move {
        let (_token, _permit) = (token, permit);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.send(close_message(close))).await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, drained(&mut socket)).await;
    })
}

async fn drained(socket: &mut WebSocket) {
    while let Some(Ok(_)) = socket.recv().await {}
}

fn configured(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(INBOUND_MAX)
        .max_frame_size(INBOUND_MAX)
}

fn close_message(close: Close) -> Message {
    let frame = close.code().map(|code| CloseFrame { code, reason: close.reason().into() });
    Message::Close(frame)
}

/// The writing half, and the task that reads, which holds the other half and ends with this one: a socket that nobody
/// writes to any more must not stay open.
struct WsWire {
    sink: SplitSink<WebSocket, Message>,
    reader: AbortOnDropHandle<()>,
}

impl WsWire {
    fn new(socket: WebSocket, shared: Arc<Shared>, place: Arc<Socket>) -> Self {
        let (sink, stream) = socket.split();
        let reader = AbortOnDropHandle::new(tokio::spawn(read(stream, shared, place)));
        Self { sink, reader }
    }

    async fn feed(&mut self, message: Message) -> Result<(), Gone> {
        self.sink.feed(message).await.map_err(|_| Gone)
    }
}

/// Reads until the client goes. Anything read is a sign of life; the library answers pings by itself.
async fn read(mut stream: SplitStream<WebSocket>, shared: Arc<Shared>, place: Arc<Socket>) {
    while let Some(Ok(message)) = stream.next().await {
        shared.hub.saw(&place);
        match message {
            Message::Text(_) | Message::Binary(_) => place.outbox.close(Close::Unexpected),
            // The library answers both while it is polled on.
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    place.outbox.close(Close::Gone);
}

impl Wire for WsWire {
    const KIND: &'static str = "ws";

    async fn control(&mut self, frame: Control) -> Result<(), Gone> {
        self.feed(Message::Text(frame.text.into())).await
    }

    async fn event(&mut self, frame: &Frame, merged: u32) -> Result<(), Gone> {
        self.feed(Message::Text(frame.text(merged))).await
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.feed(Message::Ping(bytes::Bytes::new())).await
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        self.sink.flush().await.map_err(|_| Gone)
    }

    /// Sends the close frame and waits for the client's, so that what was written before is not cut off.
    async fn close(mut self, close: Close) {
        if close != Close::Gone {
            let goodbye = async {
                if self.sink.send(close_message(close)).await.is_ok() {
                    let _ = (&mut self.reader).await;
                }
            };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
        }
    }
}
