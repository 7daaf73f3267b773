//! One user's socket: raw frames with the time each was received and understood.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::check::EventFrame;
use crate::clock::now_us;

/// Longest silence before a run is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// An open live connection.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Connects and waits until the snapshot has come, so that nothing after it is missed.
    pub async fn connect(base: &str, token: &str) -> Result<Self> {
        let address = format!("{}/api/v1/live/ws", base.replacen("http", "ws", 1));
        let mut request = address.into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let connect = tokio_tungstenite::connect_async(request);
        let (stream, _) = tokio::time::timeout(SILENCE_MAX, connect).await.context("connect")??;
        let mut socket = Self { stream };
        while socket.frame().await?.0["type"] != "snapshot" {}
        Ok(socket)
    }

    /// The next event, with the time it was understood in microseconds since the Unix epoch.
    pub async fn event(&mut self) -> Result<(EventFrame, i64)> {
        let (value, at) = self.frame().await?;
        Ok((event(value)?, at))
    }

    /// Events that still come although all that was expected has come: those that are on their way before the
    /// gateway answers a ping.
    pub async fn late(&mut self) -> Result<Vec<EventFrame>> {
        self.stream.send(Message::Ping("late".into())).await?;
        let mut late = Vec::new();
        loop {
            match self.message().await? {
                Message::Text(text) => late.push(event(serde_json::from_str(text.as_str())?)?),
                Message::Pong(_) => return Ok(late),
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> Result<(Value, i64)> {
        loop {
            if let Message::Text(text) = self.message().await? {
                let value = serde_json::from_str(text.as_str())?;
                return Ok((value, now_us()));
            }
        }
    }

    async fn message(&mut self) -> Result<Message> {
        let next = tokio::time::timeout(SILENCE_MAX, self.stream.next()).await;
        match next.context("no frame for 30 s")?.context("the socket ended")?? {
            Message::Close(frame) => bail!("closed: {frame:?}"),
            message => Ok(message),
        }
    }
}

fn event(frame: Value) -> Result<EventFrame> {
    if frame["type"] == "hello" || frame["type"] == "snapshot" {
        bail!("the gateway lost the place of a socket that never left: {frame}");
    }
    Ok(serde_json::from_value(frame)?)
}
