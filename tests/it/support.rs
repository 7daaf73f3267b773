//! A strict client for tests: raw frames and raw answers, nothing retried, nothing removed.
//!
//! The product's own client (`milepost::client`) hides repeats and reconnects by itself; tests of what a gateway really
//! sends must not.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks again and again until there is something to give back.
///
/// # Panics
/// When nothing has come of it within [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks again and again until a condition holds.
///
/// # Panics
/// As [`eventually`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually(what, async || holds().await.then_some(())).await;
}

/// One user at one gateway.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Api {
    pub fn new(base: &str, token: &str) -> Self {
        Self { base: base.to_owned(), token: token.to_owned(), http: reqwest::Client::new() }
    }

    /// Sends a request and gives back status and body; `Null` for a body that is not JSON.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("{}/api/v1/{path}", self.base);
        let mut request = self.http.request(method.parse().unwrap(), url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Submits a batch and gives back the task's id.
    pub async fn submit(&self, body: &Value) -> String {
        let (status, task) = self.call("POST", "tasks", Some(body)).await;
        assert_eq!(status, 202, "{task}");
        task["task_id"].as_str().unwrap_or_else(|| panic!("no id in {task}")).to_owned()
    }

    /// Sends a batch that is to be refused: the status, the whole seconds of Retry-After, and the problem.
    pub async fn refused(&self, path: &str, body: &Value) -> (u16, Option<u64>, Value) {
        let url = format!("{}/api/v1/{path}", self.base);
        let request = self.http.post(url).bearer_auth(&self.token).json(body);
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        let after = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        (answer.status().as_u16(), after, answer.json().await.unwrap_or(Value::Null))
    }

    /// Submits a batch under an idempotency key, once. No status when there is no answer.
    pub async fn submit_with_key(&self, key: &str, body: &Value) -> (Option<u16>, Value) {
        let request = self.http.post(format!("{}/api/v1/tasks", self.base)).bearer_auth(&self.token);
        match request.header("idempotency-key", key).json(body).timeout(PATIENCE).send().await {
            Ok(answer) => (Some(answer.status().as_u16()), answer.json().await.unwrap_or(Value::Null)),
            Err(_) => (None, Value::Null),
        }
    }

    /// Waits until the record says that the task is over, and gives it back.
    pub async fn finished(&self, task: &str) -> Value {
        let record = async || Some(self.get(&format!("tasks/{task}")).await).filter(is_terminal);
        eventually("the task is over", record).await
    }
}

pub fn is_terminal(task_or_event: &Value) -> bool {
    let status = task_or_event["status"].as_str().unwrap_or_default();
    matches!(status, "completed" | "completed_with_errors" | "failed" | "cancelled")
}

/// A body for `POST tasks` whose items only wait.
pub fn wait_batch(items: &[String], duration_ms: u64, fail_every: u32) -> Value {
    serde_json::json!({
        "action": "wait", "cluster": "local", "items": items,
        "parameters": {"duration_ms": duration_ms, "fail_every": fail_every},
    })
}

pub fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{prefix}-{i:03}")).collect()
}

/// A socket, frame by frame.
pub struct Watcher {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The first frame.
    pub hello: Value,
    /// The second frame, if the position was not continued.
    pub snapshot: Option<Value>,
}

impl Watcher {
    /// Connects and reads up to the snapshot, or up to the hello when the position was continued.
    pub async fn connect(base: &str, token: &str, position: Option<&str>) -> Self {
        Self::try_connect(base, token, position).await.expect("a connection")
    }

    /// As [`Self::connect`]; `None` when it is refused or ended before that.
    pub async fn try_connect(base: &str, token: &str, position: Option<&str>) -> Option<Self> {
        let query = position.map(|p| format!("?position={p}")).unwrap_or_default();
        let address = format!("{}/api/v1/live/ws{query}", base.replacen("http", "ws", 1));
        let mut request = address.into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let connect = tokio_tungstenite::connect_async(request);
        let (stream, _) = tokio::time::timeout(PATIENCE, connect).await.expect("in time").ok()?;
        let mut watcher = Self { stream, hello: Value::Null, snapshot: None };
        watcher.hello = watcher.try_next().await?;
        assert_eq!(watcher.hello["type"], "hello", "{}", watcher.hello);
        if watcher.hello["recovered"] == false {
            let snapshot = watcher.try_next().await?;
            assert_eq!(snapshot["type"], "snapshot", "{snapshot}");
            watcher.snapshot = Some(snapshot);
        }
        Some(watcher)
    }

    /// The next frame.
    pub async fn next(&mut self) -> Value {
        self.try_next().await.expect("the socket is open")
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn try_next(&mut self) -> Option<Value> {
        let text = async {
            loop {
                match self.stream.next().await?.ok()? {
                    Message::Text(text) => return Some(text),
                    Message::Close(_) => return None,
                    _ => {}
                }
            }
        };
        let text = tokio::time::timeout(PATIENCE, text).await.expect("a frame in time")?;
        Some(serde_json::from_str(text.as_str()).unwrap())
    }

    /// The events of `task` up to and including the first for which `last` holds. Events of other tasks are an error.
    pub async fn events_until(&mut self, task: &str, last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            assert_eq!(event["task_id"], task, "an event of a task that is not ours: {event}");
            let done = last(&event);
            events.push(event);
            if done {
                return events;
            }
        }
    }
}

/// `(attempt, seq)` of an event.
pub fn order(event: &Value) -> (u64, u64) {
    (event["attempt"].as_u64().unwrap(), event["seq"].as_u64().unwrap())
}

/// Asserts what every watcher may rely on: numbers are dense inside an attempt and only grow, counts never fall, and
/// the counts add up.
pub fn assert_orderly(events: &[Value]) {
    for pair in events.windows(2) {
        let ((a, s), (b, t)) = (order(&pair[0]), order(&pair[1]));
        let merged = pair[1]["merged"].as_u64().unwrap_or(1);
        assert!((a == b && t == s + merged) || (b > a && t == merged), "{} then {}", pair[0], pair[1]);
        if a == b {
            assert!(
                pair[1]["current"].as_u64() >= pair[0]["current"].as_u64(),
                "{} then {}",
                pair[0],
                pair[1]
            );
        }
    }
    for event in events {
        let count = |field: &str| event[field].as_u64().unwrap();
        let sum = count("succeeded") + count("failed") + count("skipped") + count("cancelled");
        assert_eq!(sum, count("current"), "{event}");
    }
}

/// Names of the items that ended in these events, in the order of their ending.
pub fn ended(events: &[Value]) -> Vec<String> {
    let items = events.iter().filter_map(|event| event["items"].as_array()).flatten();
    let done = items.filter(|item| item["done_us"].is_number());
    done.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

/// No cluster at all, for workers whose items are no nodes.
pub fn no_clusters() -> std::sync::Arc<dyn milepost::action::Clusters> {
    let clusters =
        milepost::action::KubeClusters::new(&[], &milepost::config::ActionsConfig::default()).unwrap();
    let clock = std::sync::Arc::new(milepost::clock::SystemClock);
    std::sync::Arc::new(milepost::action::Registry::new(clusters, true, clock))
}
