//! An entry is acknowledged when the kernel has taken all of it for every socket, and not before: what a gateway has
//! acknowledged is on its way, whatever becomes of the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use milepost::bus::{
    AckSink, BusError, Entry, Feed, Following, Health, Inbox, Loss, MemoryBus, Receipt, Replay,
};
use milepost::gateway::auth::Role;
use milepost::task::{EntryId, Event, Position, TaskId, UserId};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, http::HeaderValue};

use crate::gateway_rig::{Rig, complete};
use crate::support::PATIENCE;

/// More than the kernel takes for a socket.
const ENTRIES: usize = 5_000;

/// Counts acknowledged entries.
#[derive(Default)]
struct Acked(AtomicUsize);

impl AckSink for Acked {
    fn ack(&self, _: &UserId, _: EntryId) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The streams of memory mode, with entries that want to be acknowledged, as those of Redis do.
struct Receipted {
    bus: Arc<MemoryBus>,
    acked: Arc<Acked>,
}

struct WithReceipts {
    inbox: Arc<dyn Inbox>,
    acked: Arc<Acked>,
}

impl Inbox for WithReceipts {
    fn deliver(&self, user: &UserId, entries: Vec<Entry>) {
        let receipt = |entry: &Entry| {
            Some(Arc::new(Receipt::new(user.clone(), entry.position.id, Arc::clone(&self.acked) as _)))
        };
        let entries = entries.into_iter().map(|entry| Entry { receipt: receipt(&entry), ..entry });
        self.inbox.deliver(user, entries.collect());
    }

    fn lost(&self, user: &UserId, loss: Loss) {
        self.inbox.lost(user, loss);
    }
}

#[async_trait]
impl Feed for Receipted {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        let acked = Arc::clone(&self.acked);
        self.bus.follow(user, Arc::new(WithReceipts { inbox, acked })).await
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        self.bus.head(user).await
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        self.bus.replay(user, after, limit).await
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        self.bus.live(user, tasks).await
    }

    fn health(&self) -> Health {
        self.bus.health()
    }
}

/// A client that reads nothing until asked, behind a small window.
struct Slow(WebSocketStream<tokio::net::TcpStream>);

impl Slow {
    async fn connect(rig: &Rig) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let stream = socket.connect(rig.gateway.address()).await.unwrap();
        let mut request =
            format!("ws://{}/api/v1/live/ws", rig.gateway.address()).into_client_request().unwrap();
        let bearer = format!("Bearer {}", rig.token("ada", Role::Operator));
        request.headers_mut().insert("authorization", HeaderValue::try_from(bearer).unwrap());
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        Self(socket)
    }

    /// The next frame, or `None` when nothing whole is left to read.
    async fn frame(&mut self) -> Option<Value> {
        use futures_util::StreamExt;
        match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame or the end in time")? {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_can_be_read_even_when_the_gateway_is_gone() {
    let acked = Arc::new(Acked::default());
    let counted = Arc::clone(&acked);
    let bus = Arc::new(MemoryBus::new(&milepost::config::BusConfig::default()));
    let feed_bus = Arc::clone(&bus);
    // The gateway is a process of its own as far as that goes: all it holds is dropped at once with its runtime.
    let process = tokio::runtime::Runtime::new().unwrap();
    let start = Rig::with(|parts| {
        parts.publisher = Arc::clone(&feed_bus) as _;
        parts.feed = Arc::new(Receipted { bus: feed_bus, acked: counted });
        parts.live.write_timeout = Duration::from_secs(120);
    });
    let rig = process.spawn(start).await.unwrap();
    let mut slow = Slow::connect(&rig).await;
    for kind in ["hello", "snapshot"] {
        assert_eq!(slow.frame().await.unwrap()["type"], kind);
    }

    let published = fill(&bus, &acked).await;
    let acknowledged = acked.0.load(Ordering::SeqCst);
    assert!(
        (1..published).contains(&acknowledged),
        "{acknowledged} of {published}: the socket takes all or none"
    );
    // Gone without a goodbye: what the process still held is lost, what the kernel has taken is not.
    tokio::task::spawn_blocking(move || process.shutdown_timeout(PATIENCE)).await.unwrap();
    let mut received = 0;
    while slow.frame().await.is_some() {
        received += 1;
    }
    assert!(received >= acknowledged, "{acknowledged} were acknowledged, and {received} arrived");
}

/// Publishes entries one by one until one is not acknowledged, because the socket takes no more of it.
async fn fill(bus: &MemoryBus, acked: &Acked) -> usize {
    use milepost::bus::Publisher;
    let user = UserId::new("ada").unwrap();
    for published in 1..=ENTRIES {
        let event = Event { error: Some("e".repeat(6_000)), ..complete(TaskId::generate(), 1) };
        bus.publish(&user, &event).await.unwrap();
        let taken = async {
            while acked.0.load(Ordering::SeqCst) < published {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(3), taken).await.is_err() {
            return published;
        }
    }
    ENTRIES
}
