//! One socket: raw frames with the time each was received, and how to come back to where it was. It judges nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::check::EventFrame;
use crate::clock::now_us;

/// Longest silence of a socket that waits for something before a run is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes read at once: this program has as many of these buffers as sockets.
const READ_LEN: usize = 4 * 1024;

/// What a gateway says before events.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Begin {
    /// Whether the place was continued; else a snapshot follows.
    Hello { recovered: bool },
    /// Tasks as they are now; other parts may follow.
    Snapshot {
        position: String,
        #[serde(default)]
        more: bool,
        tasks: Vec<EventFrame>,
    },
}

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    /// An event and when it was there, in microseconds since the Unix epoch.
    Event(EventFrame, i64),
    /// The connection broke, or was closed by the gateway.
    Broken(String),
}

/// An open live connection.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    token: String,
    position: String,
}

/// How a socket came back.
pub struct Back {
    /// Tasks as they were then, if the place could not be continued.
    pub resynced: Option<Vec<EventFrame>>,
}

impl Socket {
    /// Connects and waits until the snapshot has come, so that nothing after it is missed.
    pub async fn connect(base: &str, token: &str) -> Result<Self> {
        let stream = open(base, token, None).await?;
        let mut socket = Self { stream, token: token.to_owned(), position: String::new() };
        socket.back().await?;
        Ok(socket)
    }

    /// Connects again, to go on after the last event.
    pub async fn reconnect(&mut self, base: &str) -> Result<Back> {
        self.stream = open(base, &self.token, Some(&self.position)).await?;
        self.back().await
    }

    async fn back(&mut self) -> Result<Back> {
        match self.begin().await? {
            Begin::Hello { recovered: true } => return Ok(Back { resynced: None }),
            Begin::Hello { recovered: false } => {}
            Begin::Snapshot { .. } => bail!("a snapshot without a hello"),
        }
        let mut all = Vec::new();
        loop {
            let Begin::Snapshot { position, more, tasks } = self.begin().await? else {
                bail!("no snapshot after a hello")
            };
            all.extend(tasks);
            self.position = position;
            if !more {
                return Ok(Back { resynced: Some(all) });
            }
        }
    }

    async fn begin(&mut self) -> Result<Begin> {
        let text = self.text().await?;
        serde_json::from_str(&text).with_context(|| format!("neither hello nor snapshot: {text}"))
    }

    /// The next event, or the end of the connection.
    ///
    /// # Errors
    /// When the gateway says something that cannot be read, or begins again by itself.
    pub async fn next(&mut self) -> Result<Incoming> {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Ok(Incoming::Broken(error.to_string())),
                None => return Ok(Incoming::Broken("the connection ended".to_owned())),
            };
            let at = now_us();
            match message {
                Message::Text(text) => return Ok(Incoming::Event(self.event(text.as_str())?, at)),
                Message::Close(frame) => return Ok(Incoming::Broken(format!("closed: {frame:?}"))),
                _ => {}
            }
        }
    }

    fn event(&mut self, text: &str) -> Result<EventFrame> {
        let event = serde_json::from_str::<EventFrame>(text);
        let mut event = event
            .with_context(|| format!("the gateway lost the place of a socket that never left: {text}"))?;
        self.position = event.position.take().context("an event without its position")?;
        Ok(event)
    }

    /// Events that still come although all that was expected has come: those that are on their way before the
    /// gateway answers a ping.
    pub async fn late(&mut self) -> Result<Vec<EventFrame>> {
        self.stream.send(Message::Ping("late".into())).await?;
        let mut late = Vec::new();
        loop {
            match self.message().await? {
                Message::Text(text) => late.push(self.event(text.as_str())?),
                Message::Pong(_) => return Ok(late),
                Message::Close(frame) => bail!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    async fn text(&mut self) -> Result<String> {
        loop {
            match self.message().await? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(frame) => bail!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<Message> {
        let next = tokio::time::timeout(SILENCE_MAX, self.stream.next()).await;
        Ok(next.with_context(|| format!("no frame for {SILENCE_MAX:?}"))?.context("the socket ended")??)
    }
}

async fn open(
    base: &str,
    token: &str,
    position: Option<&str>,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let place = position.map(|position| format!("?position={position}")).unwrap_or_default();
    let address = format!("{}/api/v1/live/ws{place}", base.replacen("http", "ws", 1));
    let mut request = address.into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let config = WebSocketConfig::default().read_buffer_size(READ_LEN).write_buffer_size(0);
    let connect = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
    let (stream, _) = tokio::time::timeout(SILENCE_MAX, connect).await.context("connect")??;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_events_is_told_apart() {
        let read = |text: &str| serde_json::from_str::<Begin>(text).unwrap();
        let hello = read(r#"{"type":"hello","recovered":true,"position":"a","replica":"r"}"#);
        assert!(matches!(hello, Begin::Hello { recovered: true }));
        let snapshot = read(r#"{"type":"snapshot","position":"p","tasks":[]}"#);
        assert!(matches!(snapshot, Begin::Snapshot { more: false, tasks, .. } if tasks.is_empty()));
        assert!(serde_json::from_str::<EventFrame>(r#"{"type":"hello","recovered":false}"#).is_err());
    }
}
