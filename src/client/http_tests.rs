//! The API client against a small server of the test's own. The real gateway is met in `tests/it`.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

/// What one call saw: method and path, key, body.
type Seen = Arc<std::sync::Mutex<Vec<(String, Option<String>, Vec<u8>)>>>;

/// Answers with each of these in turn, then with the last one for ever.
struct Server {
    url: String,
    seen: Seen,
}

type Answers = Vec<(u16, serde_json::Value)>;

async fn serve(answers: Answers) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let app = Router::new().fallback(answer).with_state((Arc::new(answers), Arc::clone(&seen)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Server { url, seen }
}

async fn answer(State((answers, seen)): State<(Arc<Answers>, Seen)>, request: Request) -> impl IntoResponse {
    let what = format!("{} {}", request.method(), request.uri());
    let key = request.headers().get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap().to_vec();
    let mut seen = seen.lock().unwrap();
    let (status, json) = &answers[seen.len().min(answers.len() - 1)];
    seen.push((what, key, body));
    let put_off = json["retry_after"].as_str().unwrap_or("0").to_owned();
    (StatusCode::from_u16(*status).unwrap(), [("retry-after", put_off)], json.to_string())
}

impl Server {
    fn api(&self) -> Api {
        Api::new(std::slice::from_ref(&self.url), None).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(what, ..)| what.clone()).collect()
    }
}

fn task(n: u32) -> serde_json::Value {
    json!({
        "task_id": format!("0190a000-0000-7000-8000-{n:012}"), "attempt": 0, "seq": 0, "status": "queued",
        "action": "cordon", "cluster": "prod", "current": 0, "total": 2, "succeeded": 0, "failed": 0, "skipped": 0,
        "cancelled": 0, "progress": 0, "updated_at": "2026-11-23T08:00:00Z", "something_new": 1,
    })
}

fn draft() -> Draft {
    Draft { action: "cordon".into(), cluster: "prod".into(), items: vec!["a".into()], ..Draft::default() }
}

#[tokio::test]
async fn a_submit_is_repeated_with_the_same_key_until_the_server_can_take_it() {
    let busy = json!({"title": "Service Unavailable", "status": 503, "detail": "no database"});
    let server = serve(vec![(503, busy.clone()), (502, json!("a proxy's words")), (202, task(1))]).await;
    let info = server.api().submit(&draft(), "key-1").await.unwrap();
    assert_eq!(info.view.status, Status::Queued);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|one| one == &seen[0]), "{seen:?}");
    assert_eq!((seen[0].0.as_str(), seen[0].1.as_deref()), ("POST /api/v1/tasks", Some("key-1")));
}

#[tokio::test]
async fn refusals_are_the_servers_problem_and_are_not_repeated() {
    let problem = json!({"title": "Conflict", "status": 409, "detail": "the task is completed"});
    let server = serve(vec![(409, problem)]).await;
    let error = server.api().control(TaskId::generate(), Control::Resume).await.unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (Some(409), "the task is completed"));
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn who_is_put_off_for_long_is_told_at_once() {
    let full = json!({"status": 429, "detail": "too many open tasks", "retry_after": "30"});
    let server = serve(vec![(429, full), (202, task(1))]).await;
    let error = server.api().submit(&draft(), "key-1").await.unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (Some(429), "too many open tasks"));
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn a_control_is_sent_once_even_when_the_server_is_busy() {
    let server = serve(vec![(503, json!({})), (202, task(1))]).await;
    let error = server.api().control(TaskId::generate(), Control::Cancel).await.unwrap_err();
    assert_eq!(error.status(), Some(503));
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn several_faults_are_all_told() {
    let errors = json!([{"field": "items[0]", "reason": "is bad"}, {"field": "reason", "reason": "is long"}]);
    let server = serve(vec![(422, json!({"title": "Unprocessable", "status": 422, "errors": errors}))]).await;
    let error = server.api().submit(&draft(), "k").await.unwrap_err().to_string();
    assert!(error.contains("items[0] is bad") && error.contains("reason is long"), "{error}");
}

#[tokio::test]
async fn pages_are_followed_up_to_the_limit() {
    let id = |n: u32| format!("0190a000-0000-7000-8000-{n:012}");
    let server = serve(vec![
        (200, json!({"tasks": [task(3), task(2)], "next": id(2)})),
        (200, json!({"tasks": [task(1)], "next": null})),
    ])
    .await;
    let filter =
        TaskFilter { statuses: vec![Status::Queued, Status::Running], limit: 100, ..TaskFilter::default() };
    let tasks = server.api().tasks(&filter).await.unwrap();
    assert_eq!(tasks.len(), 3);
    let second = format!("GET /api/v1/tasks?limit=98&status=queued%2Crunning&before={}", id(2));
    assert_eq!(server.calls()[1], second);

    let item = json!({"index": 4, "name": "a", "state": "failed", "error": "no"});
    let server = serve(vec![(200, json!({"items": [item.clone(), item], "next": 4}))]).await;
    let items = server.api().items(TaskId::generate(), Some(ItemState::Failed), 3).await.unwrap();
    assert_eq!(items.len(), 3);
    assert!(server.calls()[1].ends_with("/items?limit=1&state=failed&after=4"), "{:?}", server.calls());
}

#[tokio::test]
async fn the_next_server_answers_when_one_is_gone() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = serve(vec![(200, task(1))]).await;
    let api = Api::new(&[format!("http://{gone}"), server.url.clone()], None).unwrap();
    assert!(api.task(TaskId::generate()).await.is_ok());
    let alone = Api::new(&[format!("http://{gone}")], None).unwrap();
    let error = alone.task(TaskId::generate()).await.unwrap_err();
    assert!(matches!(error, ApiError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_not_ours_is_told_apart_from_a_server_that_is_gone() {
    let server = serve(vec![(200, json!({"hello": "world"}))]).await;
    let error = server.api().task(TaskId::generate()).await.unwrap_err();
    assert!(matches!(error, ApiError::Malformed { .. }), "{error}");
}

#[test]
fn addresses_are_checked_before_any_call() {
    for bad in ["localhost:8080", "ftp://a", "", "http://"] {
        assert!(Api::new(&[bad.to_owned()], None).is_err(), "{bad:?}");
    }
    assert!(Api::new(&[], None).is_err());
}
