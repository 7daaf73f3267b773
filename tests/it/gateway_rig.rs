//! A gateway in this process, on a real port, over memory backends, and clients that speak to it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use milepost::action::{
    ClusterError, Clusters, Freshness, NodeChanges, NodeDetail, NodePods, NodeView, NodeViews, Nodes, Planner,
};
use milepost::bus::Publisher;
use milepost::bus::memory::MemoryBus;
use milepost::clock::SystemClock;
use milepost::config::{AuthConfig, BusConfig, LimitsConfig, LiveConfig, ServerConfig};
use milepost::dispatch::memory::MemoryDispatch;
use milepost::gateway::auth::Role;
use milepost::gateway::{self, Gateway, Parts};
use milepost::lifecycle::Lifecycle;
use milepost::store::memory::MemoryStore;
use milepost::store::{TaskQuery, TaskStore};
use milepost::task::plan::{Outcome, Survey};
use milepost::task::{
    ActionSpec, Attempt, ClusterName, Counts, Event, EventKind, Fault, ItemName, ReplicaId, Seq, Status,
    TaskId, TaskSpec, UserId,
};
use milepost::telemetry::metrics::Metrics;
use milepost::templates::memory::MemoryTemplates;
use milepost::tickets::memory::MemoryTickets;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, Response};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::PATIENCE;

/// One cluster called `prod`, with one node.
struct OneCluster;

#[async_trait]
impl Clusters for OneCluster {
    fn names(&self) -> Vec<ClusterName> {
        vec![ClusterName::new("prod").unwrap()]
    }

    async fn nodes(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        if cluster.as_str() != "prod" {
            return Err(ClusterError::Unknown(cluster.clone()));
        }
        Ok(Nodes::fresh([NodeView { name: "node-1".into(), ready: true, ..NodeView::default() }]))
    }

    async fn nodes_now(&self, cluster: &ClusterName) -> Result<Nodes, ClusterError> {
        self.nodes(cluster).await
    }
}

#[async_trait]
impl NodeViews for OneCluster {
    fn freshness(&self, _: &ClusterName) -> Option<Freshness> {
        Some(Freshness::default())
    }

    async fn node(&self, cluster: &ClusterName, name: &str) -> Result<Option<NodeDetail>, ClusterError> {
        let nodes = self.nodes(cluster).await?;
        let node = nodes.nodes.into_iter().find(|node| node.name == name);
        Ok(node.map(|node| NodeDetail { node, more: Arc::default(), freshness: nodes.freshness }))
    }

    async fn pods_on(&self, _: &ClusterName, _: &str) -> Result<NodePods, ClusterError> {
        Ok(NodePods::default())
    }

    async fn follow(&self, cluster: &ClusterName) -> Result<(Nodes, NodeChanges), ClusterError> {
        Ok((self.nodes(cluster).await?, NodeChanges::never()))
    }
}

#[async_trait]
impl Planner for OneCluster {
    fn faults(&self, _: &ActionSpec) -> Vec<Fault> {
        Vec::new()
    }

    async fn survey(&self, spec: &TaskSpec, _: &UserId) -> Result<Survey, ClusterError> {
        Ok(Survey::alike(&spec.items, Outcome::Change, "as asked"))
    }
}

/// A running gateway and what is behind it.
pub struct Rig {
    pub gateway: Gateway,
    pub store: Arc<MemoryStore>,
    pub bus: Arc<MemoryBus>,
    pub metrics: Metrics,
    pub life: Lifecycle,
    pub http: reqwest::Client,
}

impl Rig {
    /// A gateway with default settings, the `wait` action allowed, and a limit on requests that no test meets.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, changed.
    pub async fn with(change: impl FnOnce(&mut Parts)) -> Self {
        let bus = Arc::new(MemoryBus::new(&BusConfig::default()));
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let mut parts = parts(&bus, &store);
        let metrics = parts.metrics.clone();
        change(&mut parts);
        let life = Lifecycle::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = gateway::serve(parts, listener, &life).unwrap();
        Self { gateway, store, bus, metrics, life, http: reqwest::Client::new() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address())
    }

    pub fn token(&self, user: &str, role: Role) -> String {
        self.gateway.development_token(&user_id(user), role).unwrap()
    }

    /// A request by an operator.
    pub fn request(&self, method: reqwest::Method, path: &str, user: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(self.token(user, Role::Operator))
    }

    pub async fn get(&self, path: &str, user: &str) -> Answer {
        Answer::of(self.request(reqwest::Method::GET, path, user)).await
    }

    pub async fn post(&self, path: &str, user: &str, body: &Value) -> Answer {
        Answer::of(self.request(reqwest::Method::POST, path, user).json(body)).await
    }

    /// How many tasks are recorded.
    pub async fn recorded(&self) -> usize {
        let query = TaskQuery { limit: 1_000, ..TaskQuery::default() };
        self.store.list(&query).await.unwrap().len()
    }

    /// A live connection with a bearer header.
    pub async fn live(&self, user: &str, position: Option<&str>) -> Live {
        let query = position.map(|position| format!("?position={position}")).unwrap_or_default();
        let mut request =
            format!("ws://{}/api/v1/live/ws{query}", self.gateway.address()).into_client_request().unwrap();
        let bearer = format!("Bearer {}", self.token(user, Role::Operator));
        request.headers_mut().insert("authorization", HeaderValue::try_from(bearer).unwrap());
        Live::open(request).await.unwrap()
    }

    /// Publishes an event as a worker would.
    pub async fn publish(&self, user: &str, event: &Event) {
        self.bus.publish(&user_id(user), event).await.unwrap();
    }

    pub async fn stop(self) {
        self.life.shut_down(PATIENCE).await;
    }
}

/// What a gateway over these backends is made of.
pub fn parts(bus: &Arc<MemoryBus>, store: &Arc<MemoryStore>) -> Parts {
    Parts {
        store: Arc::clone(store) as _,
        publisher: Arc::clone(bus) as _,
        feed: Arc::clone(bus) as _,
        dispatcher: Arc::new(MemoryDispatch::new()),
        tickets: Arc::new(MemoryTickets::new()),
        templates: Arc::new(MemoryTemplates::new(Arc::new(SystemClock), store.audit())),
        clusters: Arc::new(OneCluster),
        clock: Arc::new(SystemClock),
        metrics: Metrics::new(),
        server: ServerConfig { close_spread: Duration::from_millis(50), ..ServerConfig::default() },
        live: LiveConfig::default(),
        limits: LimitsConfig { requests_per_second: 10_000, ..LimitsConfig::default() },
        auth: AuthConfig::default(),
        lanes_per_task: 20,
        wait_action: true,
        replica: ReplicaId::new("test-1").unwrap(),
        mode: "memory".into(),
    }
}

pub fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A progress event with `current` of 1,000 items done.
pub fn progress(task: TaskId, seq: u64, current: u32) -> Event {
    let mut event = Event {
        task_id: task,
        attempt: Attempt(1),
        seq: Seq(seq),
        kind: EventKind::Progress,
        status: Status::Running,
        action: "cordon".into(),
        cluster: ClusterName::new("prod").unwrap(),
        parent_id: None,
        concurrency: None,
        current: 0,
        counts: Counts::default(),
        progress: 0,
        current_node: Some(ItemName::new(format!("node-{current}")).unwrap()),
        items: Vec::new(),
        stalled_since: None,
        wave: None,
        waits_for: None,
        message: None,
        error: None,
        timestamp: jiff::Timestamp::UNIX_EPOCH,
    };
    event.set_counts(Counts { total: 1_000, succeeded: current, ..Counts::default() });
    event
}

/// The event that ends a task.
pub fn complete(task: TaskId, seq: u64) -> Event {
    Event { kind: EventKind::Complete, status: Status::Completed, ..progress(task, seq, 1_000) }
}

/// An answer with its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = tokio::time::timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.json().await.unwrap_or(Value::Null);
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {self:?}"))
    }

    /// The fields named by a problem document.
    pub fn fields(&self) -> Vec<&str> {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["field"].as_str()).collect()
    }
}

/// The client's end of a WebSocket.
pub struct Live {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// A batch of two nodes.
pub fn cordon() -> Value {
    json!({"cluster_name": "prod", "node_names": ["node-1", "node-2"]})
}

/// Numbers of the events of one task in a list of frames.
pub fn seqs(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect()
}

impl Live {
    pub async fn open(request: impl IntoClientRequest + Unpin) -> Result<Self, tungstenite::Error> {
        let (socket, _) =
            tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async(request)).await.unwrap()?;
        Ok(Self { socket })
    }

    /// The next frame, or the close code.
    pub async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(1005, |frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("the socket broke: {error}"),
                None => return Err(1006),
            }
        }
    }

    pub async fn frame(&mut self) -> Value {
        self.next().await.expect("a frame, not a close")
    }

    /// The next `n` frames.
    pub async fn frames(&mut self, n: usize) -> Vec<Value> {
        let mut frames = Vec::new();
        while frames.len() < n {
            frames.push(self.frame().await);
        }
        frames
    }

    /// Reads hello and snapshot; returns both.
    pub async fn snapshot(&mut self) -> (Value, Value) {
        let hello = self.frame().await;
        assert_eq!((&hello["type"], &hello["recovered"]), (&"hello".into(), &false.into()), "{hello}");
        let snapshot = self.frame().await;
        assert_eq!(snapshot["type"], "snapshot", "{snapshot}");
        (hello, snapshot)
    }

    /// The close code, after whatever frames come before it.
    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    /// Whether the connection ends without a goodbye.
    pub async fn cut(&mut self) -> bool {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(_))) => return false,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return true,
            }
        }
    }

    pub async fn send(&mut self, message: Message) {
        use futures_util::SinkExt;
        self.socket.send(message).await.unwrap();
    }
}

/// The request that opens a WebSocket.
pub fn ws_request(rig: &Rig, query: &str) -> Request<()> {
    format!("ws://{}/api/v1/live/ws{query}", rig.gateway.address()).into_client_request().unwrap()
}

/// The same with one more header.
pub fn with_header(mut request: Request<()>, name: &'static str, value: &str) -> Request<()> {
    request.headers_mut().insert(name, HeaderValue::try_from(value).unwrap());
    request
}

/// The answer to a WebSocket that is not let in.
pub async fn refusal(request: Request<()>) -> Response<Option<Vec<u8>>> {
    match Live::open(request).await {
        Err(tungstenite::Error::Http(response)) => *response,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

/// The status of that answer.
pub async fn refused(request: Request<()>) -> u16 {
    refusal(request).await.status().as_u16()
}

/// Events of an SSE stream, field by field.
pub struct Sse {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Sse {
    pub async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = tokio::time::timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next event as `(id, event, data)`; comments and `retry:` are passed over. `None` at the end.
    pub async fn next(&mut self) -> Option<(Option<String>, String, Value)> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field =
                    |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (id, event, data) = (field("id: "), field("event: "), field("data: "));
                self.text = rest.to_owned();
                if let (Some(event), Some(data)) = (event, data) {
                    return Some((id, event, serde_json::from_str(&data).unwrap()));
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("an event in time")?;
            self.text.push_str(std::str::from_utf8(&chunk.ok()?).unwrap());
        }
    }
}
