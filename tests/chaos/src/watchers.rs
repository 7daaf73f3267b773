//! Sockets that watch their users' tasks all along, through both gateways, and note everything.
//!
//! Most use the product's client; some are raw: every frame is noted as it came, and only the position is kept between
//! connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use milepost::client::frame::Frame;
use milepost::client::{ClientHistory, Live, LiveSettings, SocketHistory};
use milepost::task::TaskView;
use milepost::verify::record::TaskSeen;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::dice::Dice;

/// A raw socket gives a connection up after so much silence; gateways ping every 25 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// How long a connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A user with everything that a client of theirs needs.
#[derive(Debug, Clone)]
pub struct User {
    /// Their name.
    pub name: String,
    /// Their token.
    pub token: SecretString,
    /// The gateways.
    pub servers: Vec<String>,
    /// Where their clients note.
    pub history: ClientHistory,
}

impl User {
    /// A live connection that begins at the nth gateway.
    #[must_use]
    pub fn live(&self, nth: usize) -> Live {
        let mut servers = self.servers.clone();
        servers.rotate_left(nth % self.servers.len());
        let mut settings = LiveSettings::new(servers, Some(self.token.clone()));
        settings.connect_within = Duration::from_secs(300);
        settings.reconnect_within = Duration::from_secs(300);
        Live::new(settings).noting(self.history.socket(&format!("{}-{nth}", self.name), false))
    }
}

/// Watches with the product's client until told to stop. `open` is kept at the number of tasks that are not over.
///
/// # Errors
/// When the client gives up.
pub async fn watch(
    user: User,
    nth: usize,
    open: Arc<AtomicUsize>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut live = user.live(nth);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            update = live.next() => drop(update?),
        }
        let tasks = live.snapshot().tasks();
        open.store(tasks.filter(|task| !task.status.is_terminal()).count(), Ordering::Relaxed);
    }
}

/// Watches frame by frame until told to stop.
pub async fn watch_raw(user: User, nth: usize, mut dice: Dice, mut stop: watch::Receiver<bool>) {
    let history = user.history.socket(&format!("{}-{nth}-raw", user.name), true);
    let mut raw = Raw { user, history, position: None };
    let forever = async {
        for turn in nth.. {
            raw.connection(turn).await;
            sleep(Duration::from_millis(dice.between(100, 1_500))).await;
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = forever => {}
    }
}

struct Raw {
    user: User,
    history: SocketHistory,
    position: Option<String>,
}

impl Raw {
    /// One connection, from its greeting to its end.
    async fn connection(&mut self, turn: usize) {
        let server = self.user.servers[turn % self.user.servers.len()].clone();
        let query = self.position.as_ref().map(|place| format!("?position={place}")).unwrap_or_default();
        let address = format!("{}/api/v1/live/ws{query}", server.replacen("http", "ws", 1));
        let Ok(mut request) = address.into_client_request() else { return };
        let Ok(bearer) = format!("Bearer {}", self.user.token.expose_secret()).parse() else { return };
        request.headers_mut().insert("authorization", bearer);
        let connect = tokio_tungstenite::connect_async(request);
        let Ok(Ok((mut socket, _))) = timeout(CONNECT_MAX, connect).await else { return };
        let (mut parts, mut greeted) = (Vec::new(), false);
        while let Ok(Some(Ok(message))) = timeout(SILENCE_MAX, socket.next()).await {
            match message {
                Message::Text(text) => greeted |= self.frame(&server, &text, &mut parts),
                Message::Close(_) => break,
                _ => {}
            }
        }
        if greeted {
            self.history.lost("the connection ended");
        }
    }

    /// Notes a frame; `true` for a greeting.
    fn frame(&mut self, server: &str, text: &str, parts: &mut Vec<TaskView>) -> bool {
        match Frame::parse(text) {
            Ok(Frame::Hello(hello)) => {
                parts.clear();
                self.history.greeted(server, self.position.as_deref(), hello.recovered);
                return true;
            }
            Ok(Frame::Snapshot(frame)) => {
                parts.extend(frame.tasks);
                if !frame.more {
                    let tasks = std::mem::take(parts);
                    self.history.snapshot(&frame.position, tasks.iter().map(TaskSeen::from).collect());
                    self.position = Some(frame.position);
                }
            }
            Ok(Frame::Event(frame)) => {
                self.history.event(&frame, text, false);
                self.position = Some(frame.position);
            }
            Ok(Frame::Unknown) | Err(_) => {}
        }
        false
    }
}
