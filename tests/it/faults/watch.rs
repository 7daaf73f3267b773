//! Sockets that watch and note all that they see: raw ones, which take every frame as it comes, and the product's own
//! client. Both come back to the next gateway whenever a connection ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use milepost::client::frame::Frame;
use milepost::client::{Live, LiveSettings, Update};
use milepost::task::{Event, Status, TaskId, TaskView};
use milepost::verify::Record;
use milepost::verify::record::{EventSeen, Link, SnapshotSeen, SocketStep, frame_fingerprint};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::notes::Notes;
use crate::support::PATIENCE;

/// Addresses of the gateways, in the order in which sockets try them.
pub type Servers = Arc<Mutex<Vec<String>>>;

/// Between attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// Something that happened to a connection, or an event that came over it.
#[derive(Debug, Clone)]
pub enum Sight {
    Connected { recovered: bool },
    Event(Box<Event>),
    Lost { code: Option<u16> },
}

/// One watcher over all of its connections.
#[derive(Debug)]
pub struct Socket {
    pub user: String,
    /// Whether frames are noted as they came, repeats included.
    pub raw: bool,
    name: String,
    notes: Notes,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sights: Vec<(Instant, Sight)>,
    up: bool,
    /// The newest of each task: its status, and items that ended.
    tasks: HashMap<TaskId, (Status, u32)>,
    position: Option<String>,
}

impl Socket {
    fn new(user: &str, raw: bool, notes: &Notes) -> Arc<Self> {
        let name = format!("{user}-{}", notes.next_id());
        let state = Mutex::default();
        Arc::new(Self { user: user.to_owned(), raw, name, notes: notes.clone(), state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn step(&self, link: Link, recovered: bool, reason: Option<String>) {
        self.notes.add(Record::Socket(SocketStep {
            at_us: self.notes.now(),
            socket: self.name.clone(),
            user: self.user.clone(),
            link,
            server: None,
            position: None,
            recovered,
            raw: self.raw,
            reason,
        }));
    }

    fn connected(&self, recovered: bool) {
        self.step(Link::Connected, recovered, None);
        let mut state = self.lock();
        state.up = recovered;
        state.sights.push((Instant::now(), Sight::Connected { recovered }));
    }

    fn lost(&self, code: Option<u16>) {
        self.step(Link::Lost, false, code.map(|code| code.to_string()));
        let mut state = self.lock();
        state.up = false;
        state.sights.push((Instant::now(), Sight::Lost { code }));
    }

    fn snapshot(&self, views: &[TaskView], position: &str) {
        self.notes.add(Record::Snapshot(SnapshotSeen {
            at_us: self.notes.now(),
            socket: self.name.clone(),
            position: position.to_owned(),
            tasks: views.iter().map(Into::into).collect(),
        }));
        let mut state = self.lock();
        state.up = true;
        state.tasks.extend(views.iter().map(|view| (view.task_id, (view.status, view.current))));
    }

    fn event(&self, event: Event, position: &str, merged: u64, body: Option<String>) {
        let seen = EventSeen::of(&event, &self.name, position, merged, self.notes.now());
        self.notes.add(Record::Event(EventSeen { body, ..seen }));
        let mut state = self.lock();
        state.tasks.insert(event.task_id, (event.status, event.current));
        state.sights.push((Instant::now(), Sight::Event(Box::new(event))));
    }

    /// Whether it is connected and up to date.
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Items of a task that it knows to have ended.
    pub fn current(&self, task: &str) -> u32 {
        self.lock().tasks.get(&task.parse().unwrap()).map_or(0, |(_, current)| *current)
    }

    /// Whether it knows the end of a task.
    pub fn has_end(&self, task: &str) -> bool {
        self.lock().tasks.get(&task.parse().unwrap()).is_some_and(|(status, _)| status.is_terminal())
    }

    /// The events that are like this, with when they came.
    pub fn events(&self, is: impl Fn(&Event) -> bool) -> Vec<(Instant, Event)> {
        let like = |(at, sight): &(Instant, Sight)| match sight {
            Sight::Event(event) if is(event) => Some((*at, Event::clone(event))),
            _ => None,
        };
        self.lock().sights.iter().filter_map(like).collect()
    }

    /// Close codes of the connections lost after `since`.
    pub fn losses(&self, since: Instant) -> Vec<Option<u16>> {
        let lost = |(at, sight): &(Instant, Sight)| match sight {
            Sight::Lost { code } if *at > since => Some(*code),
            _ => None,
        };
        self.lock().sights.iter().filter_map(lost).collect()
    }

    /// When it was told, after `since`, that its position could not be continued.
    pub fn resynced(&self, since: Instant) -> Option<Instant> {
        let told = |(at, sight): &&(Instant, Sight)| {
            *at > since && matches!(sight, Sight::Connected { recovered: false })
        };
        self.lock().sights.iter().find(told).map(|(at, _)| *at)
    }

    /// When it was back after the first connection lost after `since`.
    pub fn back(&self, since: Instant) -> Option<Instant> {
        let state = self.lock();
        let mut after = state
            .sights
            .iter()
            .skip_while(|(at, sight)| *at <= since || !matches!(sight, Sight::Lost { .. }));
        after.find(|(_, sight)| matches!(sight, Sight::Connected { .. })).map(|(at, _)| *at)
    }
}

/// A socket at work.
pub struct Watching {
    socket: Arc<Socket>,
    work: JoinHandle<()>,
}

impl Watching {
    /// Takes every frame as it comes. Begins with the `first` gateway. With a gate it has small buffers and reads only
    /// while the gate is open.
    pub fn raw(
        servers: &Servers,
        notes: &Notes,
        (user, token): (&str, &str),
        first: usize,
        gate: Option<watch::Receiver<bool>>,
    ) -> Self {
        let socket = Socket::new(user, true, notes);
        let (servers, token) = (Arc::clone(servers), token.to_owned());
        let raw = Raw { servers, token, socket: Arc::clone(&socket), gate };
        Self { socket, work: tokio::spawn(raw.run(first)) }
    }

    /// The product's own client.
    pub fn product(servers: &Servers, notes: &Notes, (user, token): (&str, &str)) -> Self {
        let socket = Socket::new(user, false, notes);
        let settings = LiveSettings {
            connect_within: PATIENCE,
            ..LiveSettings::new(servers.lock().unwrap().clone(), Some(token.into()))
        };
        let work = tokio::spawn(follow(Live::new(settings), Arc::clone(&socket)));
        Self { socket, work }
    }

    pub fn socket(&self) -> Arc<Socket> {
        Arc::clone(&self.socket)
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it has panicked meanwhile.
    pub async fn stop(self) {
        self.work.abort();
        if let Err(error) = self.work.await {
            assert!(error.is_cancelled(), "{error}");
        }
    }
}

async fn follow(mut live: Live, socket: Arc<Socket>) {
    loop {
        match live.next().await.expect("the client does not give up") {
            Update::Connected { recovered, .. } => socket.connected(recovered),
            Update::Snapshot => {
                let views: Vec<TaskView> = live.snapshot().tasks().cloned().collect();
                socket.snapshot(&views, live.session().position().unwrap_or_default());
            }
            Update::Event(received) => {
                let position = live.session().position().unwrap_or_default();
                socket.event(received.event, position, received.merged, None);
            }
            Update::Disconnected { .. } => socket.lost(None),
        }
    }
}

struct Raw {
    servers: Servers,
    token: String,
    socket: Arc<Socket>,
    gate: Option<watch::Receiver<bool>>,
}

impl Raw {
    async fn run(self, first: usize) {
        for n in first.. {
            let server = {
                let servers = self.servers.lock().unwrap();
                servers[n % servers.len()].clone()
            };
            let wait = self.connection(&server).await.unwrap_or(RETRY);
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection to its end. The time that the gateway asked to wait.
    async fn connection(&self, server: &str) -> Option<Duration> {
        let position = self.socket.lock().position.clone();
        let query = position.map(|position| format!("?position={position}")).unwrap_or_default();
        let address = format!("{}/api/v1/live/ws{query}", server.replacen("http", "ws", 1));
        let mut request = address.into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        let connect = async { client_async(request, self.stream(server).await?).await };
        let (mut stream, _) = timeout(PATIENCE, connect).await.ok()?.ok()?;
        let mut snapshot = Vec::new();
        let (code, wait) = loop {
            if let Some(mut gate) = self.gate.clone() {
                gate.wait_for(|open| *open).await.unwrap();
            }
            match stream.next().await {
                Some(Ok(Message::Text(text))) => self.frame(&text, &mut snapshot),
                Some(Ok(Message::Close(Some(close)))) => {
                    break (Some(close.code.into()), asked(&close.reason));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break (None, None),
            }
        };
        self.socket.lost(code);
        wait
    }

    async fn stream(&self, server: &str) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.gate.is_some() {
            socket.set_recv_buffer_size(4 * 1024)?;
        }
        let address = server.strip_prefix("http://").unwrap();
        socket.connect(address.parse().unwrap()).await
    }

    fn frame(&self, text: &str, snapshot: &mut Vec<TaskView>) {
        match Frame::parse(text).unwrap() {
            Frame::Hello(hello) => self.socket.connected(hello.recovered),
            Frame::Snapshot(part) => {
                snapshot.extend(part.tasks);
                if !part.more {
                    self.socket.snapshot(&std::mem::take(snapshot), &part.position);
                    self.socket.lock().position = Some(part.position);
                }
            }
            Frame::Event(frame) => {
                // A merged frame is the last of those that it stands for, without what they said of items.
                let body = if frame.merged == 1 { frame_fingerprint(text) } else { None };
                self.socket.event(frame.event, &frame.position, frame.merged, body);
                self.socket.lock().position = Some(frame.position);
            }
            Frame::Unknown => panic!("an unknown frame: {text}"),
        }
    }
}

fn asked(reason: &str) -> Option<Duration> {
    let (_, ms) = reason.split_once("retry_ms=")?;
    ms.trim().parse().ok().map(Duration::from_millis)
}
