//! F18: items that never end, that answer with far too much, or that kill whoever runs them, and entries that nobody can
//! read. The batch ends, and everybody else's work goes on.
//!
//! An action that panics is caught in the worker (`worker::tests`); no action of a release does.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use milepost::clock::SystemClock;
use milepost::simulator::{Simulator, SimulatorConfig};
use milepost_harness::Replica;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::stage::{Stage, blocking, spec};
use crate::support::{names, wait_batch};

/// The node about which the cluster has 10 MiB to say.
const WORDY: &str = "node-005";
/// The node whose touch is death.
const DEADLY: &str = "node-006";
/// Bytes of an error that are kept, with room to spare.
const KEPT_MAX: u64 = 64 * 1024;

/// Stands before the simulated cluster and answers for two of its nodes.
struct Front {
    address: SocketAddr,
    /// Rings when the deadly node was touched.
    touched: mpsc::Receiver<()>,
}

impl Front {
    async fn start(cluster: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (touch, touched) = mpsc::channel(16);
        let http = reqwest::Client::new();
        let answer = move |method: Method, uri: Uri, body: Bytes| {
            let (http, touch) = (http.clone(), touch.clone());
            async move {
                if uri.path().ends_with(WORDY) {
                    return wordy();
                }
                if uri.path().ends_with(DEADLY) {
                    touch.send(()).await.unwrap();
                    std::future::pending::<()>().await;
                }
                pass_on(&http, cluster, method, &uri, body).await
            }
        };
        let app = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, touched }
    }
}

fn wordy() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid",
        "code": 422, "message": "no! ".repeat(10 * 1024 * 1024 / 4)});
    (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(status)).into_response()
}

async fn pass_on(http: &reqwest::Client, to: SocketAddr, method: Method, uri: &Uri, body: Bytes) -> Response {
    let patch = method == Method::PATCH;
    let request = http.request(method, format!("http://{to}{uri}")).body(body);
    let kind = if patch { "application/merge-patch+json" } else { "application/json" };
    let answer = request.header("content-type", kind).send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}

fn label(nodes: &[&str], value: &str) -> Value {
    json!({
        "action": "label", "cluster": "sim", "items": nodes, "max_attempts": 3, "concurrency": 2,
        "parameters": {"labels": {"stage": value}, "overwrite": true},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_poison_batch() {
    let config = SimulatorConfig { nodes: 20, ..SimulatorConfig::default() };
    let cluster = Simulator::bind(config, 0, Arc::new(SystemClock)).await.unwrap();
    let mut front = Front::start(cluster.addr).await;
    let (real, shown) = (cluster.addr.to_string(), front.address.to_string());
    let mut stage = Stage::with_kubeconfig(spec(), &cluster.kubeconfig_yaml().replace(&real, &shown));
    stage.watch("ann", 2).await;

    let wordy = stage.submit("ann", &label(&["node-004", WORDY, "node-007"], "wordy")).await;
    let mut endless = wait_batch(&names("endless", 10), 60_000, 0);
    endless["item_timeout_ms"] = 200.into();
    let endless = stage.submit("ann", &endless).await;
    let mut deadly = label(&["node-008", DEADLY, "node-009"], "deadly");
    deadly["reason"] = "poison".into();
    let deadly = stage.submit("ann", &deadly).await;
    let fault = stage.fault("poison");
    let mut healthy = wait_batch(&names("healthy", 200), 300, 0);
    healthy["concurrency"] = 4.into();
    let healthy = stage.submit("bob", &healthy).await;
    unreadable(&stage);

    for attempt in 1..=3 {
        front.touched.recv().await.unwrap();
        kill_holder_of(&mut stage, &deadly).await;
        assert_eq!(stage.row("attempt", &deadly).await, attempt.to_string());
    }
    fault.bit("three workers died of it");
    fault.healed();
    stage.ended(&deadly).await;
    assert_eq!(stage.row("status, tries", &deadly).await, "failed|3", "it was given up at its last attempt");
    assert!(front.touched.try_recv().is_err(), "it was tried once more");
    stage.ended(&wordy).await;
    stage.ended(&endless).await;
    stage.ended(&healthy).await;
    assert_eq!(stage.row("status, succeeded, failed", &wordy).await, "completed_with_errors|2|1");
    let kept = stage.number("SELECT max(octet_length(message)) FROM items").await;
    assert!(kept < KEPT_MAX, "{kept} bytes of an error are kept");
    assert_eq!(stage.row("status, failed", &endless).await, "failed|10");
    assert_eq!(stage.row("status, succeeded", &healthy).await, "completed|200");
    stage.judge().await;
}

/// Puts entries into the streams that no release has written.
fn unreadable(stage: &Stage) {
    let redis = stage.hub.redis.as_ref().unwrap();
    let ask = |words: &[&str]| blocking(|| redis.command(words)).unwrap();
    ask(&["XADD", "mp:dispatch", "*", "t", "not a task"]);
    ask(&["XADD", "mp:dispatch", "*", "x", "y"]);
    let keys = ask(&["KEYS", "*:u:ann:events"]);
    let key = keys.lines().find(|line| line.starts_with("mp:")).expect("a stream");
    ask(&["XADD", key, "*", "t", "not a task", "n", "1-1", "e", "0", "p", "0-0", "d", "{"]);
    ask(&["XADD", key, "*", "x", "y"]);
}

/// What an abort inside the action does: the worker that holds the task is gone, and is started again.
async fn kill_holder_of(stage: &mut Stage, task: &str) {
    let name = stage.row("worker", task).await;
    let holds = |worker: &Replica| worker.page().is_ok_and(|page| page.contains(&name));
    let holder = blocking(|| stage.hub.workers.iter().position(holds)).expect("a worker holds the task");
    let worker = &mut stage.hub.workers[holder];
    blocking(|| worker.kill().and_then(|()| worker.run())).unwrap();
}
