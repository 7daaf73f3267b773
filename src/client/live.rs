//! The live connection: one WebSocket at a time to any of several gateways, for as long as the caller asks.
//!
//! There is no task and no queue behind it: [`Live::next`] drives the connection, so a caller that is slow slows the
//! socket, and the gateway merges. After a break it resumes at the last position on the next gateway. Not here: what
//! was seen ([`super::session`]) and when to come back ([`super::reconnect`]).

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{Request, Response, header};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use super::frame::Frame;
use super::history::SocketHistory;
use super::reconnect::{Ending, Reconnect};
use super::session::{Received, Session, Taken};
use super::types::Problem;
use crate::task::Snapshot;

/// The largest frame that is accepted, in bytes: a snapshot of some ten thousand tasks.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Read buffer of a socket, in bytes. The library's default is 128 kB, too much for thousands of sockets.
const READ_BUFFER_BYTES: usize = 8 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Socket, Ending>> + Send>>;

/// How to connect.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// Addresses of gateways, such as `http://127.0.0.1:8080`; tried in turn. At least one.
    pub servers: Vec<String>,
    /// Bearer token.
    pub token: Option<SecretString>,
    /// Where to continue an earlier session.
    pub position: Option<String>,
    /// Whose tasks, for an admin; the token's own user when `None`.
    pub owner: Option<String>,
    /// How long one connect may take, up to the first frame.
    pub connect_timeout: Duration,
    /// Silence after which a connection is taken for dead; a ping is sent after half of it.
    pub idle_timeout: Duration,
    /// How long to try before the first connection.
    pub connect_within: Duration,
    /// How long to try after a connection was lost.
    pub reconnect_within: Duration,
}

impl LiveSettings {
    /// Settings for interactive use.
    #[must_use]
    pub fn new(servers: Vec<String>, token: Option<SecretString>) -> Self {
        Self {
            servers,
            token,
            position: None,
            owner: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            connect_within: Duration::from_secs(10),
            reconnect_within: Duration::from_secs(300),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A gateway greeted us.
    Connected {
        /// Its address.
        server: String,
        /// Whether nothing was lost since the last position; otherwise a snapshot follows.
        recovered: bool,
    },
    /// The state of all tasks was replaced: see [`Live::snapshot`].
    Snapshot,
    /// An event that was not seen before, already folded into [`Live::snapshot`].
    Event(Box<Received>),
    /// The connection, or an attempt at one, is over, and the next attempt follows after a wait.
    Disconnected {
        /// Why.
        reason: String,
        /// How long until the next attempt.
        retry_in: Duration,
    },
}

/// Why there will be no further update.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The server does not want us back: a wrong token, a wrong address, or a final close code.
    #[error("{server}: {ending}")]
    Refused {
        /// Which server.
        server: String,
        /// How it ended.
        ending: Ending,
    },
    /// No gateway could be reached for too long.
    #[error("no gateway could be reached for {after:?}; the last, {server}: {ending}")]
    GaveUp {
        /// The server tried last.
        server: String,
        /// How that ended.
        ending: Ending,
        /// How long we tried.
        after: Duration,
    },
}

enum Link {
    Waiting(Instant),
    Connecting(Connecting),
    Open(Open),
}

struct Open {
    socket: Box<Socket>,
    since: Instant,
    heard: Instant,
    greeted: bool,
    pinged: bool,
}

/// A user's tasks, live. Dropping it closes the connection.
pub struct Live {
    settings: LiveSettings,
    session: Session,
    link: Link,
    reconnect: Reconnect,
    server: usize,
    up_at: Instant,
    was_up: bool,
    history: Option<SocketHistory>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("server", &self.server()).field("stats", &self.session.stats()).finish()
    }
}

impl Live {
    /// A connection that is opened by the first [`Self::next`].
    #[must_use]
    pub fn new(settings: LiveSettings) -> Self {
        let now = Instant::now();
        Self {
            session: Session::resume(settings.position.clone()),
            link: Link::Waiting(now),
            reconnect: Reconnect::default(),
            server: 0,
            up_at: now,
            was_up: false,
            history: None,
            settings,
        }
    }

    /// The same connection, which notes what it receives.
    #[must_use]
    pub fn noting(self, history: SocketHistory) -> Self {
        Self { history: Some(history), ..self }
    }

    /// Closes the connection and opens another at the next gateway after a wait, where this one left off.
    pub fn hang_up(&mut self, wait: Duration) {
        if let Some(history) = self.history.as_ref().filter(|_| matches!(self.link, Link::Open(_))) {
            history.lost("hung up");
        }
        let now = Instant::now();
        self.up_at = now;
        self.link = Link::Waiting(now + wait);
        self.server = self.server.wrapping_add(1);
    }

    /// The state of the tasks, as of the last update.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        self.session.snapshot()
    }

    /// What was seen: position and counts.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The gateway in use, or to be tried next.
    #[must_use]
    pub fn server(&self) -> &str {
        let servers = &self.settings.servers;
        servers.get(self.server % servers.len().max(1)).map_or("", String::as_str)
    }

    /// Waits for the next update. Cancel-safe: nothing is lost by dropping the call, and a connect goes on with the
    /// next one. Call it often enough that pings are answered.
    ///
    /// # Errors
    /// When there is no use in going on; calling again tries again.
    pub async fn next(&mut self) -> Result<Update, LiveError> {
        loop {
            let step = match &mut self.link {
                Link::Waiting(until) => {
                    sleep_until(*until).await;
                    self.link = Link::Connecting(self.connect());
                    continue;
                }
                Link::Connecting(connecting) => connecting.await.map(|socket| Step::Opened(Box::new(socket))),
                Link::Open(open) => open.read(&self.settings).await,
            };
            match step {
                Ok(Step::Opened(socket)) => self.link = Link::Open(Open::new(socket)),
                Ok(Step::Quiet) => {}
                Ok(Step::Frame(frame, text)) => {
                    if let Some(update) = self.take(*frame, &text) {
                        return Ok(update);
                    }
                }
                Err(ending) => return self.end(&ending),
            }
        }
    }

    fn take(&mut self, frame: Frame, text: &str) -> Option<Update> {
        let server = self.server().to_owned();
        let taken = match &self.history {
            Some(history) => history.taken(&mut self.session, &server, frame, text),
            None => self.session.take(frame),
        };
        match taken {
            Taken::Hello { recovered } => {
                if let Link::Open(open) = &mut self.link {
                    open.greeted = true;
                }
                self.was_up = true;
                Some(Update::Connected { server, recovered })
            }
            Taken::Snapshot => Some(Update::Snapshot),
            Taken::Event(received) => Some(Update::Event(received)),
            Taken::Nothing => None,
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<Update, LiveError> {
        let now = Instant::now();
        let held = match &self.link {
            Link::Open(open) if open.greeted => {
                self.up_at = now;
                now - open.since
            }
            _ => Duration::ZERO,
        };
        let server = self.server().to_owned();
        if let Some(history) = self.history.as_ref().filter(|_| held > Duration::ZERO) {
            history.lost(&ending.to_string());
        }
        let retry_in = self.reconnect.wait(ending, held, rand::random());
        self.link = Link::Waiting(now + retry_in);
        self.server = self.server.wrapping_add(1);
        if ending.is_final() {
            return Err(LiveError::Refused { server, ending: ending.clone() });
        }
        let within = if self.was_up { self.settings.reconnect_within } else { self.settings.connect_within };
        let after = now - self.up_at;
        if after + retry_in > within {
            self.up_at = now;
            return Err(LiveError::GaveUp { server, ending: ending.clone(), after });
        }
        Ok(Update::Disconnected { reason: ending.to_string(), retry_in })
    }

    fn connect(&self) -> Connecting {
        let request = request(self.server(), self.session.position(), &self.settings);
        let within = self.settings.connect_timeout;
        Box::pin(async move {
            let mut config = WebSocketConfig::default();
            config.read_buffer_size = READ_BUFFER_BYTES;
            config.max_message_size = Some(FRAME_BYTES_MAX);
            config.max_frame_size = Some(FRAME_BYTES_MAX);
            let connect = connect_async_tls_with_config(request?, Some(config), true, None);
            match timeout(within, connect).await {
                Ok(Ok((socket, _))) => Ok(socket),
                Ok(Err(WsError::Http(response))) => Err(answered(&response)),
                Ok(Err(error)) => Err(Ending::Broken(error.to_string())),
                Err(_) => Err(Ending::Broken(format!("no answer within {within:?}"))),
            }
        })
    }
}

enum Step {
    Opened(Box<Socket>),
    Frame(Box<Frame>, Utf8Bytes),
    Quiet,
}

impl Open {
    fn new(socket: Box<Socket>) -> Self {
        let now = Instant::now();
        Self { socket, since: now, heard: now, greeted: false, pinged: false }
    }

    /// Reads one message, pings after half of the idle time, and ends after all of it.
    async fn read(&mut self, settings: &LiveSettings) -> Result<Step, Ending> {
        let idle = if self.greeted { settings.idle_timeout } else { settings.connect_timeout };
        let patience = if self.pinged { idle } else { idle / 2 };
        tokio::select! {
            message = self.socket.next() => {
                self.heard = Instant::now();
                self.pinged = false;
                read_message(message)
            }
            () = sleep_until(self.heard + patience) => self.ping(idle).await,
        }
    }

    async fn ping(&mut self, idle: Duration) -> Result<Step, Ending> {
        if self.pinged {
            return Err(Ending::Broken(format!("nothing heard for {idle:?}")));
        }
        self.pinged = true;
        match timeout(idle / 2, self.socket.send(Message::Ping(bytes::Bytes::new()))).await {
            Ok(Ok(())) => Ok(Step::Quiet),
            Ok(Err(error)) => Err(Ending::Broken(error.to_string())),
            Err(_) => Err(Ending::Broken("a ping could not be sent".into())),
        }
    }
}

fn read_message(message: Option<Result<Message, WsError>>) -> Result<Step, Ending> {
    match message {
        Some(Ok(Message::Text(text))) => match Frame::parse(&text) {
            Ok(frame) => Ok(Step::Frame(Box::new(frame), text)),
            Err(error) => Err(Ending::Broken(format!("a frame cannot be read: {error}"))),
        },
        Some(Ok(Message::Close(frame))) => Err(closed(frame)),
        Some(Ok(_)) => Ok(Step::Quiet),
        Some(Err(WsError::ConnectionClosed)) | None => {
            Err(Ending::Broken("the connection was closed".into()))
        }
        Some(Err(error)) => Err(Ending::Broken(error.to_string())),
    }
}

fn closed(frame: Option<CloseFrame>) -> Ending {
    let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
    Ending::Closed { code, reason }
}

fn answered(response: &Response<Option<Vec<u8>>>) -> Ending {
    let status = response.status().as_u16();
    let problem = Problem::read(status, response.body().as_deref().unwrap_or_default());
    let header = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    Ending::Answered { status, reason: problem.to_string(), retry_after }
}

/// The request of a live connection to the gateway at `server`.
fn request(server: &str, position: Option<&str>, settings: &LiveSettings) -> Result<Request<()>, Ending> {
    let broken = |what: String| Ending::Answered { status: 400, reason: what, retry_after: None };
    let mut url = reqwest::Url::parse(server).map_err(|e| broken(format!("is not an address: {e}")))?;
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    url.set_scheme(scheme).map_err(|()| broken("must begin with http:// or https://".into()))?;
    url.set_path(&format!("{}/api/v1/live/ws", url.path().trim_end_matches('/')));
    let owner = settings.owner.as_deref().map(|owner| ("owner", owner));
    let asked: Vec<_> = position.map(|position| ("position", position)).into_iter().chain(owner).collect();
    if !asked.is_empty() {
        url.query_pairs_mut().extend_pairs(asked);
    }
    let mut request = url.as_str().into_client_request().map_err(|error| broken(error.to_string()))?;
    if let Some(token) = &settings.token {
        let value = format!("Bearer {}", token.expose_secret()).parse();
        let value = value.map_err(|_| broken("the token holds characters that no token has".into()))?;
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
