//! What goes over the wire, request by request, against a scripted server: paths, content types, bodies, and how many.

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response};
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};
use tower_test::mock::{Handle, SendResponse, pair};

use super::annotations::{Annotations, note};
use super::busy;
use super::cluster::Cluster;
use super::driver::{Change, NodeAction};
use crate::action::{Action, ActionError, Context, Done, Target};
use crate::clock::ManualClock;
use crate::task::spec::{LabelParameters, Taint, TaintEffect, TaintParameters};
use crate::task::{Effect, ItemName};

type Server = Handle<Request<Body>, Response<Body>>;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a change on node `n1` while `script` answers, and checks that nothing else was asked.
async fn run(change: Change, script: impl AsyncFnOnce(&mut Server)) -> Result<Done, ActionError> {
    let (service, mut server) = pair::<Request<Body>, Response<Body>>();
    let cluster = Cluster::with_client(busy::client(ClientBuilder::new(service, "default")), CALL_TIMEOUT);
    let action = NodeAction {
        cluster: cluster.into(),
        nodes: None,
        change,
        clock: std::sync::Arc::new(ManualClock::default()),
        sender: super::agent::of_nobody(),
    };
    let name = ItemName::new("n1").unwrap();
    let acting = async {
        let result = action.run(Target { index: 0, name: &name }, &Context::alone()).await;
        drop(action);
        result
    };
    let serving = async {
        script(&mut server).await;
        assert!(server.next_request().await.is_none(), "a request too many");
    };
    tokio::join!(acting, serving).0
}

/// The next request: "METHOD path", its content type, its body, and the way to answer.
async fn next(server: &mut Server) -> (String, String, Value, SendResponse<Response<Body>>) {
    let (request, send) = server.next_request().await.expect("a request was due");
    let line = format!("{} {}", request.method(), request.uri());
    let content_type =
        request.headers().get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap()).to_owned();
    let body = request.into_body().collect_bytes().await.unwrap();
    (line, content_type, serde_json::from_slice(&body).unwrap_or_default(), send)
}

/// Answers the next request, which must be the reading of node `n1`.
async fn read(server: &mut Server, node: Value) {
    let (line, _, _, send) = next(server).await;
    assert_eq!(line, "GET /api/v1/nodes/n1");
    send.send_response(answer(200, &node));
}

/// Answers the next request, which must be a merge patch of node `n1`, and returns its body.
async fn patched(server: &mut Server, code: u16) -> Value {
    let (line, content_type, body, send) = next(server).await;
    assert_eq!(line, "PATCH /api/v1/nodes/n1?&fieldManager=milepost");
    assert_eq!(content_type, "application/merge-patch+json");
    let status =
        json!({"kind": "Status", "code": code, "status": "Failure", "reason": "Conflict", "message": "no"});
    send.send_response(answer(code, if code == 200 { &METADATA } else { &status }));
    body
}

static METADATA: std::sync::LazyLock<Value> = std::sync::LazyLock::new(
    || json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "n1"}}),
);

fn answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = code.try_into().unwrap();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn node(version: &str, taints: &Value) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "resourceVersion": version},
        "spec": {"taints": taints},
    })
}

fn cordon() -> Change {
    Change::Cordon(Annotations::new("milepost.dev", &[]), note(Some("disk")))
}

fn taint() -> Change {
    let taint = Taint { key: "a".into(), value: "1".into(), effect: TaintEffect::NoSchedule };
    Change::Taint(TaintParameters { taints: vec![taint], overwrite: false })
}

#[tokio::test(start_paused = true)]
async fn a_cordon_is_one_read_and_one_merge_patch() {
    let result = run(cordon(), async |server| {
        read(server, node("5", &json!([]))).await;
        let patch = patched(server, 200).await;
        assert_eq!(patch["spec"], json!({"unschedulable": true}));
        assert_eq!(patch["metadata"]["annotations"]["milepost.dev/cordon-reason"], "disk");
        assert_eq!(patch["metadata"].get("resourceVersion"), None);
    });
    assert_eq!(result.await, Ok(Done::Succeeded(Effect::Changed)));
}

#[tokio::test(start_paused = true)]
async fn what_is_done_already_is_one_read() {
    let ours = json!({"milepost.dev/cordon-task": "018f0000-0000-7000-8000-000000000001"});
    let cordoned = json!({"metadata": {"name": "n1", "annotations": ours}, "spec": {"unschedulable": true}});
    let result = run(cordon(), async |server| read(server, cordoned).await).await;
    assert_eq!(result, Ok(Done::Succeeded(Effect::Already)));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_decided_again_from_a_fresh_read() {
    let theirs = json!({"key": "x", "effect": "NoExecute"});
    let ours = json!({"key": "a", "value": "1", "effect": "NoSchedule"});
    let result = run(taint(), async |server| {
        read(server, node("5", &json!([]))).await;
        assert_eq!(patched(server, 409).await["metadata"]["resourceVersion"], "5");
        read(server, node("6", &json!([theirs]))).await;
        let second = patched(server, 200).await;
        assert_eq!(second["metadata"]["resourceVersion"], "6");
        assert_eq!(second["spec"]["taints"], json!([theirs, ours]));
    });
    assert_eq!(result.await, Ok(Done::Succeeded(Effect::Changed)));
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_given_up_after_five_tries() {
    let result = run(taint(), async |server| {
        for version in 1..=5 {
            read(server, node(&version.to_string(), &json!([]))).await;
            patched(server, 409).await;
        }
    });
    assert_eq!(result.await, Err(ActionError::transient("node n1 kept changing while it was being changed")));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_plain_text_keeps_its_retry_after_and_is_not_retried() {
    let result = run(cordon(), async |server| {
        let (_, _, _, send) = next(server).await;
        let mut busy = Response::new(Body::from(b"Too many requests, please try again later.\n".to_vec()));
        *busy.status_mut() = hyper::StatusCode::TOO_MANY_REQUESTS;
        busy.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        busy.headers_mut().insert(RETRY_AFTER, 3.into());
        send.send_response(busy);
    });
    let (message, retry_after) =
        ("cluster prod is busy and asks to come back later".into(), Duration::from_secs(3));
    assert_eq!(result.await, Err(ActionError::Later { message, retry_after }));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_costs_one_call_timeout() {
    let start = tokio::time::Instant::now();
    let result = run(cordon(), async |server| {
        let (_, _, _, send) = next(server).await;
        tokio::time::sleep(CALL_TIMEOUT * 10).await;
        drop(send);
    });
    let acting = tokio::time::timeout(CALL_TIMEOUT * 20, result).await.unwrap();
    let (message, retry_after) = ("cluster prod: no answer within 10s".into(), Duration::from_secs(1));
    assert_eq!(acting, Err(ActionError::Later { message, retry_after }));
    assert_eq!(start.elapsed(), CALL_TIMEOUT * 10, "only the script waited longer");
}

#[tokio::test(start_paused = true)]
async fn a_label_that_must_not_be_overwritten_is_guarded_by_the_version() {
    let labels = [("tier".to_owned(), "gold".to_owned())].into();
    let change = |overwrite| {
        Change::Label(LabelParameters { labels: std::collections::BTreeMap::clone(&labels), overwrite })
    };
    for (overwrite, version) in [(false, Some("5")), (true, None)] {
        let result = run(change(overwrite), async |server| {
            read(server, node("5", &json!([]))).await;
            let patch = patched(server, 200).await;
            assert_eq!(patch["metadata"].get("resourceVersion").and_then(Value::as_str), version);
            assert_eq!(patch["metadata"]["labels"], json!({"tier": "gold"}));
        });
        assert_eq!(result.await, Ok(Done::Succeeded(Effect::Changed)));
    }
}
