//! Bounded time: whatever stands still behind a gateway or a worker, every request is answered and every item ends.

use std::time::Duration;

use futures_util::StreamExt;
use milepost_harness::{Flow, HubSpec};
use nix::sys::signal::Signal;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::stage::{Stage, blocking, spec};
use crate::support::{PATIENCE, names, wait_batch};

/// No request takes longer, by the default of `server.request_timeout`.
const REQUEST_MAX: Duration = Duration::from_secs(15);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(5);

/// An answer to one request, or the end of a live connection.
#[derive(Debug)]
struct Answer {
    route: String,
    /// 101 and 200 of a live connection stand for one that was opened and then closed.
    status: u16,
    retry_after: bool,
    took: Duration,
}

/// Every route of the documented API, as method and path with this task and cluster filled in.
fn routes(task: &str) -> Vec<(Method, String)> {
    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let path = path.replace("{id}", task).replace("{cluster}", "sim");
        let path = path.replace("{node}", "node-001").replace("{name}", "tiers");
        let methods = methods.as_object().unwrap().keys().map(|method| method.to_uppercase());
        methods.map(|method| (method.parse().unwrap(), path.clone())).collect::<Vec<_>>()
    };
    let routes: Vec<_> = paths.iter().flat_map(of_path).collect();
    assert!(routes.len() >= 18, "the document lists {} routes", routes.len());
    routes
}

/// What a route wants to be sent.
fn body(path: &str) -> Option<Value> {
    let action = path.strip_prefix("/api/v1/nodes/batch/");
    let Some(action) = action else {
        return match path.rsplit('/').next() {
            Some("plans") => Some(json!({"action": "cordon", "cluster": "sim", "items": ["node-001"]})),
            Some("tasks") => Some(wait_batch(&names("late", 3), 10, 0)),
            Some("concurrency") => Some(json!({"concurrency": 3})),
            Some("tiers") => Some(json!({"action": "label", "entries": [{"key": "a", "values": ["b"]}]})),
            Some("apply") => Some(json!({"cluster_name": "sim", "node_names": ["node-001"]})),
            _ => None,
        };
    };
    let mut body = json!({"cluster_name": "sim", "node_names": ["node-001"]});
    match action {
        "label" => body["labels"] = json!({"a": "b"}),
        "unlabel" | "unannotate" => body["keys"] = json!(["a"]),
        "annotate" => body["annotations"] = json!({"a": "b"}),
        "copy_taints" => body["from"] = json!("node-2"),
        "taint" => body["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]),
        "untaint" => body["taints"] = json!([{"key": "a"}]),
        _ => {}
    }
    Some(body)
}

/// Asks every route at once; gives back the answers of those that answer.
async fn ask_all(stage: &mut Stage, task: &str) -> Vec<Answer> {
    let (token, base) = (stage.token("ann"), stage.hub.gateways[0].url());
    let mut asked = JoinSet::new();
    for (method, path) in routes(task) {
        let (token, url, route) = (token.clone(), format!("{base}{path}"), format!("{method} {path}"));
        asked.spawn(async move {
            let began = Instant::now();
            let answer = timeout(2 * PATIENCE, async {
                match path.ends_with("/live/ws") {
                    true => socket(&url, &token).await,
                    false => request(method, &url, &token, body(&path)).await,
                }
            });
            let (status, retry_after) = answer.await.unwrap_or_else(|_| panic!("{route} hangs"));
            Answer { route, status, retry_after, took: began.elapsed() }
        });
    }
    let answers = asked.join_all().await;
    for answer in &answers {
        assert!(answer.took < REQUEST_MAX + SLACK, "{answer:?}");
        assert!(answer.status != 503 || answer.retry_after, "no Retry-After: {answer:?}");
    }
    answers
}

/// A request up to the end of its answer; of an event stream up to its first event.
async fn request(method: Method, url: &str, token: &str, body: Option<Value>) -> (u16, bool) {
    let mut request = Client::new().request(method, url).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let mut bytes = answer.bytes_stream();
    let live = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    while let Some(Ok(chunk)) = bytes.next().await {
        if live && String::from_utf8_lossy(&chunk).contains("event: ") {
            break;
        }
    }
    (status, headers.contains_key("retry-after"))
}

/// A socket up to its first frame, or its refusal.
async fn socket(url: &str, token: &str) -> (u16, bool) {
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    match connect_async(request).await {
        Ok((mut socket, answer)) => {
            socket.next().await.expect("a frame").expect("a frame");
            (answer.status().as_u16(), false)
        }
        Err(WsError::Http(answer)) => {
            (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn stage_with_a_task() -> (Stage, String) {
    let small = HubSpec { gateways: 1, workers: 1, ..spec() };
    let mut stage = Stage::with_cluster(small, 5, Duration::ZERO).await;
    stage.watch("ann", 1).await;
    let task = stage.submit("ann", &wait_batch(&names("early", 5), 10, 0)).await;
    stage.ended(&task).await;
    (stage, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_in_time_while_postgres_stands_still() {
    let (mut stage, task) = stage_with_a_task().await;
    let fault = stage.fault("stop-postgres");
    stage.hub.postgres.as_ref().unwrap().freeze().unwrap();
    let answers = ask_all(&mut stage, &task).await;
    stage.hub.postgres.as_ref().unwrap().thaw().unwrap();
    let needs_the_record =
        |route: &str| ["/tasks", "/nodes/batch/", "/templates"].iter().any(|part| route.contains(part));
    for answer in &answers {
        if needs_the_record(&answer.route) {
            assert_eq!(answer.status, 503, "{answer:?}");
        }
    }
    if answers.iter().any(|answer| answer.took > Duration::from_secs(1)) {
        fault.bit("a request had to wait");
    }
    fault.healed();
    stage.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_in_time_while_redis_stands_still() {
    let (mut stage, task) = stage_with_a_task().await;
    let redis = |stage: &Stage, signal| stage.hub.redis.as_ref().unwrap().process().signal(signal).unwrap();
    let fault = stage.fault("stop-redis");
    redis(&stage, Signal::SIGSTOP);
    let answers = ask_all(&mut stage, &task).await;
    redis(&stage, Signal::SIGCONT);
    for answer in &answers {
        let control = answer.route.contains(&task);
        let wanted: &[u16] = match answer.route.as_str() {
            route if route.contains("/live/") => &[101, 200, 503],
            // It is made, read and removed all at once.
            route if route.contains("/templates/") => &[200, 202, 204, 404],
            route if route.ends_with("/plans") => &[200],
            route if route.starts_with("POST") && !control => &[202],
            // It is over, and nothing of it failed.
            _ if control => &[200, 409, 422],
            _ => &[200],
        };
        assert!(wanted.contains(&answer.status), "{answer:?} instead of one of {wanted:?}");
    }
    if answers.iter().any(|answer| answer.took > Duration::from_secs(1)) {
        fault.bit("a request had to wait");
    }
    fault.healed();
    stage.judge().await;
}

/// A Kubernetes API that takes requests and never answers costs an item its own limits, and nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_ends_by_its_own_limits_while_kubernetes_stands_still() {
    let limits = HubSpec { gateways: 1, workers: 1, nodes: 5, ..spec() }
        .set("MILEPOST_ACTIONS__CALL_TIMEOUT", "1s")
        .set("MILEPOST_WORKER__ITEM_TIMEOUT", "5s");
    let mut stage = Stage::start(limits.proxied());
    stage.watch("ann", 1).await;
    let nodes: Vec<String> = (1..=5).map(|n| format!("node-{n:03}")).collect();
    let batch = json!({"action": "cordon", "cluster": "sim", "items": nodes});
    let fault = stage.fault("stall-cluster");
    stage.hub.proxies.cluster.as_ref().unwrap().set_both(Flow::Stall);
    let began = Instant::now();
    let stuck = stage.submit("ann", &batch).await;
    let healthy = stage.submit("ann", &wait_batch(&names("healthy", 20), 50, 0)).await;
    stage.ended(&healthy).await;
    assert_eq!(stage.row("status", &healthy).await, "completed");
    let (status, problem) = stage.api("ann", 0).call("GET", "clusters/sim/nodes", None).await;
    assert_eq!(status, 503, "{problem}");
    stage.ended(&stuck).await;
    assert!(began.elapsed() < SLACK + SLACK, "void or too late: {:?}", began.elapsed());
    assert_eq!(stage.row("status, failed", &stuck).await, "failed|5");
    fault.bit("every item ran out of time");
    stage.hub.proxies.cluster.as_ref().unwrap().heal();
    fault.healed();
    let again = stage.submit("ann", &batch).await;
    stage.ended(&again).await;
    assert_eq!(stage.row("status, succeeded", &again).await, "completed|5");
    blocking(|| stage.hub.simulator.as_ref().unwrap().is_alive().then_some(())).expect("the cluster lives");
    stage.judge().await;
}
