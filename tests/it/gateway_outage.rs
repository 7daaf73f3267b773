//! What callers are told while something that a gateway needs is away: a refusal that says when to come back, never a
//! false success and never what a backend said.

use std::sync::Arc;
use std::time::Duration;

use milepost::config::DatabaseConfig;
use milepost::faulty::{Fault, Plan, WORDS};
use milepost::gateway::auth::Role;
use milepost::postgres::Database;
use milepost::store::PostgresStore;
use milepost::telemetry::Metrics;
use milepost_harness::Postgres;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::gateway_faults::{Losing, wrap};
use crate::gateway_rig::{Answer, Live, Rig, Sse, progress, refusal, with_header, ws_request};
use crate::support::{PATIENCE, until};

fn draft() -> Value {
    json!({"action": "cordon", "cluster": "prod", "items": ["node-1"]})
}

/// A gateway with faults in front of every port, and one queued task.
async fn faulty(change: impl FnOnce(&mut milepost::gateway::Parts)) -> (Rig, Plan, String) {
    let faults = Plan::new();
    let rig = Rig::with(|parts| {
        wrap(&faults, parts);
        change(parts);
    })
    .await;
    let task = rig.post("/api/v1/tasks", "ada", &draft()).await.text("task_id").to_owned();
    (rig, faults, task)
}

/// Every route that asks a port before it answers, with the call it depends on.
fn routes(task: &str) -> Vec<(&'static str, Method, String)> {
    let (get, post) = (Method::GET, Method::POST);
    vec![
        ("store.create", post.clone(), "/api/v1/tasks".into()),
        ("store.create", post.clone(), "/api/v1/nodes/batch/cordon".into()),
        ("store.list", get.clone(), "/api/v1/tasks".into()),
        ("store.find", get.clone(), format!("/api/v1/tasks/{task}")),
        ("store.find", get.clone(), format!("/api/v1/tasks/{task}/items")),
        ("store.items", get.clone(), format!("/api/v1/tasks/{task}/items")),
        ("store.find", post.clone(), format!("/api/v1/tasks/{task}/pause")),
        ("store.control", post.clone(), format!("/api/v1/tasks/{task}/pause")),
        ("store.control", post.clone(), format!("/api/v1/tasks/{task}/resume")),
        ("store.audited", get.clone(), "/api/v1/audit".into()),
        ("store.audited_nodes", get.clone(), format!("/api/v1/audit/tasks/{task}/nodes")),
        ("clusters.nodes", get, "/api/v1/clusters/prod/nodes".into()),
        ("tickets.issue", post, "/api/v1/live/tickets".into()),
    ]
}

async fn ask(rig: &Rig, method: &Method, path: &str) -> Answer {
    let request = rig.request(method.clone(), path, "ada");
    Answer::of(match path {
        "/api/v1/nodes/batch/cordon" => {
            request.json(&json!({"cluster_name": "prod", "node_names": ["node-1"]}))
        }
        "/api/v1/tasks" if method == Method::POST => request.json(&draft()),
        _ => request,
    })
    .await
}

/// A problem document of this status and kind that names no field and tells nothing of the inside.
fn assert_refused(answer: &Answer, status: u16, kind: &str, what: &str) {
    assert_eq!((answer.status, answer.fields().len()), (status, 0), "{what}: {answer:?}");
    assert_eq!(answer.text("type"), format!("urn:milepost:problem:{kind}"), "{what}");
    assert!(!answer.body.to_string().contains(WORDS), "{what}: {answer:?}");
    let again = answer.header("retry-after").map(|after| after.parse::<u64>().unwrap() >= 1);
    assert_eq!(again, (status == 503).then_some(true), "{what}: {answer:?}");
}

#[tokio::test]
async fn a_port_that_fails_is_a_503_with_retry_after_and_leaves_no_trace() {
    let (rig, faults, task) = faulty(|_| {}).await;
    for (call, method, path) in routes(&task) {
        faults.always(call, Fault::Before);
        let answer = ask(&rig, &method, &path).await;
        assert_refused(&answer, 503, "unavailable", &format!("{call}: {method} {path}"));
        faults.clear();
    }
    assert_eq!(rig.recorded().await, 1, "the one made before");
    assert_eq!(rig.get(&format!("/api/v1/tasks/{task}"), "ada").await.text("status"), "queued");
    for (_, method, path) in routes(&task) {
        assert!(ask(&rig, &method, &path).await.status < 300, "{method} {path} works again");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_request_past_its_time_is_a_503_with_retry_after() {
    let (rig, faults, task) = faulty(|parts| parts.server.request_timeout = Duration::from_millis(200)).await;
    for (call, method, path) in routes(&task) {
        faults.always(call, Fault::Hang);
        let answer = ask(&rig, &method, &path).await;
        assert_refused(&answer, 503, "unavailable", &format!("{call}: {method} {path}"));
        assert!(answer.text("detail").starts_with("the request took too long"), "{answer:?}");
        faults.clear();
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_lets_a_request_finish_and_takes_no_other() {
    let (rig, faults, _) = faulty(|parts| parts.server.request_timeout = Duration::from_secs(1)).await;
    let request = || rig.request(Method::GET, "/api/v1/tasks", "ada");
    faults.always("store.list", Fault::Hang);
    let asked = tokio::spawn(Answer::of(request()));
    until("the request is at work", async || faults.met("store.list") > 0).await;
    rig.life.stop();
    assert_refused(&asked.await.unwrap(), 503, "unavailable", "what was begun is answered");
    faults.clear();
    let late = request().timeout(PATIENCE);
    rig.stop().await;
    // Somebody else may have the port by now, and would not know the token.
    assert!(late.send().await.map_or(true, |answer| answer.status() == 401), "nobody listens any more");
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_the_time_of_the_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rig = Rig::with(|parts| parts.server.request_timeout = Duration::from_millis(200)).await;
    let mut stream = tokio::net::TcpStream::connect(rig.gateway.address()).await.unwrap();
    let head = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{\"action\":",
        rig.token("ada", Role::Operator)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = String::new();
    // The answer, and then the end of the connection: what is left of the body is not waited for.
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("retry-after: "), "{said}");
    assert_eq!(rig.recorded().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_mistake_of_ours_is_a_500_that_tells_nothing_and_harms_nobody_else() {
    let (rig, faults, task) = faulty(|_| {}).await;
    for (call, method, path) in routes(&task) {
        faults.always(call, Fault::Panic);
        let answer = ask(&rig, &method, &path).await;
        assert_refused(&answer, 500, "internal", &format!("{call}: {method} {path}"));
        faults.clear();
    }
    let mut other = rig.live("bob", None).await;
    other.snapshot().await;
    faults.always("store.snapshot", Fault::Panic);
    let mut live = Live::open(bearer(&rig, "ada", "")).await.unwrap();
    assert!(live.cut().await, "a session that panics cuts its own socket");
    faults.clear();
    rig.publish("bob", &progress(milepost::task::TaskId::generate(), 1, 1)).await;
    assert_eq!(other.frame().await["seq"], 1);
    until("one socket is left", async || rig.metrics.text().contains("milepost_sockets{kind=\"ws\"} 1"))
        .await;
    rig.stop().await;
}

/// Once the record has the task, the answer is a 2xx: watchers and workers learn of it from the record.
#[tokio::test]
async fn a_submit_that_nobody_could_be_told_of_is_still_accepted() {
    let (rig, faults, _) = faulty(|_| {}).await;
    faults.always("publisher.publish", Fault::Before);
    faults.always("dispatcher.notify", Fault::Before);
    let made = rig.post("/api/v1/tasks", "ada", &draft()).await;
    assert_eq!(made.status, 202, "{made:?}");
    assert!(rig.metrics.text().contains("milepost_publish_errors_total 1"), "{}", rig.metrics.text());
    let (_, snapshot) = rig.live("ada", None).await.snapshot().await;
    let tasks = snapshot["tasks"].as_array().unwrap();
    assert!(tasks.iter().any(|task| task["task_id"] == made.text("task_id")), "{snapshot}");
    rig.stop().await;
}

fn bearer(rig: &Rig, user: &str, query: &str) -> tokio_tungstenite::tungstenite::http::Request<()> {
    let token = format!("Bearer {}", rig.token(user, Role::Operator));
    with_header(ws_request(rig, query), "authorization", &token)
}

/// Before the connection begins there is an HTTP answer to give.
#[tokio::test]
async fn a_live_connection_that_cannot_begin_is_a_503_with_retry_after() {
    let (rig, faults, _) = faulty(|_| {}).await;
    for fault in [Fault::Before, Fault::Hang] {
        faults.always("feed.follow", fault);
        let (ws, sse) = tokio::join!(refusal(bearer(&rig, "ada", "")), rig.get("/api/v1/live/sse", "bob"));
        assert_eq!(ws.status(), 503, "{fault:?}");
        assert_eq!(ws.headers()["content-type"], "application/problem+json");
        assert!(ws.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        assert_refused(&sse, 503, "unavailable", &format!("{fault:?}"));
    }
    faults.clear();
    faults.always("tickets.redeem", Fault::Before);
    let request = rig.http.get(rig.url("/api/v1/live/sse?ticket=x")).header("sec-fetch-site", "same-origin");
    assert_refused(&Answer::of(request).await, 503, "unavailable", "tickets");
    faults.clear();
    rig.live("ada", None).await.snapshot().await;
    rig.live("bob", None).await.snapshot().await;
    rig.stop().await;
}

/// Connections that were given up take no place: a client that were told of too many would not come back.
#[tokio::test]
async fn an_outage_does_not_use_up_the_sockets_of_a_user() {
    let (rig, faults, _) = faulty(|parts| parts.limits.sockets_per_user = 4).await;
    faults.always("feed.follow", Fault::Hang);
    let refused = || async { refusal(bearer(&rig, "ada", "")).await.status() };
    let all = futures_util::future::join_all([refused(), refused(), refused(), refused()]).await;
    assert!(all.iter().all(|status| *status == 503), "{all:?}");
    faults.clear();
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut live = rig.live("ada", None).await;
        live.snapshot().await;
        open.push(live);
    }
    let mut fifth = rig.live("ada", None).await;
    assert_eq!(fifth.closed().await, 4504);
    rig.stop().await;
}

/// After it there are close codes.
#[tokio::test]
async fn a_live_connection_that_cannot_be_brought_up_to_date_is_closed_with_4011() {
    let (rig, faults, _) = faulty(|_| {}).await;
    let (_, snapshot) = rig.live("ada", None).await.snapshot().await;
    let resume = format!("?position={}", snapshot["position"].as_str().unwrap());
    for (call, query) in [
        ("feed.head", ""),
        ("store.snapshot", ""),
        ("feed.live", ""),
        ("feed.replay", ""),
        ("feed.replay", resume.as_str()),
    ] {
        faults.always(call, Fault::Before);
        let mut live = Live::open(bearer(&rig, "ada", query)).await.unwrap();
        assert_eq!(live.closed().await, 4011, "{call} {query}");
        let path = format!("/api/v1/live/sse{query}");
        let mut sse = Sse::open(rig.request(Method::GET, &path, "ada")).await;
        let mut last = None;
        while let Some((_, event, data)) = sse.next().await {
            last = Some((event, data["code"].as_u64(), data["reconnect"].as_bool()));
        }
        assert_eq!(last, Some(("close".to_owned(), Some(4011), Some(true))), "{call} {query}");
        faults.clear();
        assert!(
            Live::open(bearer(&rig, "ada", query)).await.unwrap().next().await.is_ok(),
            "{call}: it works again"
        );
    }
    rig.stop().await;
}

/// A stream that is lost again while the snapshot is on its way is tried anew, but not for ever.
#[tokio::test]
async fn a_stream_that_is_lost_at_every_start_ends_the_connection() {
    let rig = Rig::with(|parts| parts.feed = Arc::new(Losing(Arc::clone(&parts.feed)))).await;
    let mut live = Live::open(bearer(&rig, "ada", "")).await.unwrap();
    let mut starts = Vec::new();
    let code = loop {
        match live.next().await {
            Ok(frame) if frame["type"] == "hello" => starts.push(frame["reason"].clone()),
            Ok(frame) => assert_eq!(frame["type"], "snapshot"),
            Err(code) => break code,
        }
    };
    assert_eq!((code, starts.len(), &starts[0], &starts[1]), (4011, 10, &Value::Null, &json!("epoch")));
    rig.stop().await;
}

#[tokio::test]
async fn an_open_socket_takes_a_place_under_the_connection_limit() {
    let rig = Rig::with(|parts| parts.server.connections_max = 1).await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    let mut waiting = Box::pin(rig.get("/api/v1/tasks", "ada"));
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(),
        "no place is free"
    );
    live.send(Message::Close(None)).await;
    drop(live);
    assert_eq!(waiting.await.status, 200);
    rig.stop().await;
}

/// The real record: a server that is killed, and one that is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_submit_while_postgres_is_gone_is_a_503_and_works_when_it_is_back() {
    let mut postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let config = DatabaseConfig { url: Some(url.clone().into()), ..DatabaseConfig::default() };
    let database = Database::connect(&config, "milepost-test", &Metrics::new()).await.unwrap();
    database.migrate().await.unwrap();
    let store = PostgresStore::new(database);
    let rig = Rig::with(|parts| parts.store = std::sync::Arc::new(store)).await;
    assert_eq!(rig.post("/api/v1/tasks", "ada", &draft()).await.status, 202);
    postgres.process().kill().unwrap();
    for _ in 0..3 {
        let answer = rig.post("/api/v1/tasks", "ada", &draft()).await;
        assert_refused(&answer, 503, "unavailable", "submit");
    }
    let mut live = Live::open(bearer(&rig, "ada", "")).await.unwrap();
    assert_eq!(live.closed().await, 4011);
    postgres.run().unwrap();
    until("a submit works again", async || rig.post("/api/v1/tasks", "ada", &draft()).await.status == 202)
        .await;
    let name = url.rsplit('/').next().unwrap();
    assert_eq!(
        postgres.sql(name, "SELECT count(*) FROM tasks").unwrap(),
        "2",
        "what was refused is not there"
    );
    rig.stop().await;
}
