//! The HTTP API of a gateway: what it takes, who may do what, and how answers look. Not here: bodies that must be refused
//! ([`crate::bad_input`]) and ports that are away ([`crate::gateway_outage`]).

use std::sync::Arc;

use milepost::bus::memory::MemoryBus;
use milepost::clock::{Clock, SystemClock};
use milepost::config::BusConfig;
use milepost::gateway;
use milepost::gateway::auth::Role;
use milepost::store::memory::MemoryStore;
use reqwest::Method;
use serde_json::{Value, json};

use crate::gateway_rig::{Answer, Rig, parts};

fn cordon() -> Value {
    json!({"cluster_name": "prod", "node_names": ["node-1", "node-2"], "reason": "kernel update"})
}

fn draft() -> Value {
    json!({"action": "cordon", "cluster": "prod", "items": ["node-1"]})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[tokio::test]
async fn a_batch_is_recorded_and_can_be_looked_at() {
    let rig = Rig::start().await;
    let answer = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/api/v1/tasks/{}", answer.text("task_id")));
    assert_eq!(
        (answer.text("status"), answer.text("action"), &answer.body["total"]),
        ("queued", "cordon", &json!(2))
    );

    let task = rig.get(&location, "ada").await;
    assert_eq!((task.status, &task.body), (200, &answer.body));
    let items = rig.get(&format!("{location}/items?limit=1"), "ada").await;
    assert_eq!(items.body["items"], json!([{"index": 0, "name": "node-1", "state": "pending"}]));
    assert_eq!(items.body["next"], 0);
    let rest = rig.get(&format!("{location}/items?after=0"), "ada").await;
    assert_eq!((rest.body["items"][0]["name"].as_str(), rest.body.get("next")), (Some("node-2"), None));
    rig.stop().await;
}

#[tokio::test]
async fn every_action_has_a_route_of_its_own() {
    let rig = Rig::start().await;
    let bodies = [
        ("cordon", json!({})),
        ("uncordon", json!({})),
        ("drain", json!({"ignore_daemonsets": true, "timeout_seconds": 60, "pod_selector": "app=web"})),
        ("label", json!({"labels": {"tier": "gold"}, "overwrite": true})),
        ("unlabel", json!({"keys": ["tier"]})),
        ("taint", json!({"taints": [{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]})),
        ("untaint", json!({"taints": [{"key": "dedicated"}]})),
    ];
    for (action, parameters) in bodies {
        let mut body = cordon();
        body.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        let answer = rig.post(&format!("/api/v1/nodes/batch/{action}"), "ada", &body).await;
        assert_eq!((answer.status, answer.body["action"].as_str()), (202, Some(action)), "{answer:?}");
        for (name, value) in parameters.as_object().unwrap() {
            assert!(
                answer.body["parameters"][name].to_string().len() >= value.to_string().len(),
                "{answer:?}"
            );
        }
    }
    assert_eq!(rig.recorded().await, 7);
    rig.stop().await;
}

#[tokio::test]
async fn a_content_type_may_name_its_character_set() {
    let rig = Rig::start().await;
    let request = rig.request(Method::POST, "/api/v1/tasks", "ada").body(draft().to_string());
    let request = request.header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(Answer::of(request).await.status, 202);
    rig.stop().await;
}

#[tokio::test]
async fn addresses_ids_and_cursors_that_cannot_be_read_are_named() {
    let rig = Rig::start().await;
    let table = [
        ("/api/v1/tasks/17", 400, "id"),
        ("/api/v1/tasks/17/items", 400, "id"),
        ("/api/v1/tasks?before=xyz", 400, "before"),
        ("/api/v1/tasks?limit=0", 400, "limit"),
        ("/api/v1/tasks?limit=many", 400, "limit"),
        ("/api/v1/tasks?status=queued,odd", 400, "status"),
        ("/api/v1/tasks?cluster=a/b", 400, "cluster"),
        ("/api/v1/tasks?stauts=queued", 400, "stauts"),
        ("/api/v1/tasks/0190a000-0000-7000-8000-000000000001/items?after=-1", 400, "after"),
        ("/api/v1/tasks/0190a000-0000-7000-8000-000000000001/items?state=odd", 400, "state"),
        ("/api/v1/tasks/0190a000-0000-7000-8000-000000000001/items?limit=1001", 400, "limit"),
        ("/api/v1/clusters/a%20b/nodes", 400, "cluster"),
        ("/api/v1/live/sse?position=nowhere", 400, "position"),
    ];
    for (path, status, field) in table {
        let answer = rig.get(path, "ada").await;
        assert_eq!((answer.status, answer.fields()), (status, vec![field]), "{path}: {}", answer.body);
    }
    for (path, status) in [
        ("/api/v1/tasks/0190a000-0000-7000-8000-000000000001", 404),
        ("/api/v1/clusters/other/nodes", 404),
        ("/api/v1/nothing", 404),
        ("/api/v1/nodes/batch/cordon", 405),
    ] {
        let answer = rig.get(path, "ada").await;
        assert_eq!((answer.status, answer.fields().len()), (status, 0), "{path}: {}", answer.body);
    }
    rig.stop().await;
}

#[tokio::test]
async fn only_good_tokens_pass() {
    let rig = Rig::with(|parts| {
        parts.auth.hs256_secret = Some(SECRET.to_owned().into());
        parts.auth.issuer = Some("https://login.example.com".into());
        parts.auth.audience = Some("milepost".into());
    })
    .await;
    let now = SystemClock.now().as_second();
    let good = json!({"sub": "ada", "role": "operator", "exp": now + 60, "iss": "https://login.example.com", "aud": "milepost"});
    let without = |claim: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(claim);
        claims
    };
    let status = async |token: &str| {
        Answer::of(rig.http.get(rig.url("/api/v1/tasks")).bearer_auth(token)).await.status
    };
    assert_eq!(status(&signed(&good, SECRET)).await, 200);
    for claim in ["sub", "role", "exp", "iss", "aud"] {
        assert_eq!(status(&signed(&without(claim), SECRET)).await, 401, "without {claim}");
    }
    for (claim, value) in [
        ("exp", json!(now - 60)),
        ("exp", json!("soon")),
        ("nbf", json!(now + 3_600)),
        ("iss", json!("https://other.example.com")),
        ("aud", json!("other")),
        ("role", json!("root")),
        ("sub", json!("a b")),
        ("sub", json!("")),
    ] {
        assert_eq!(
            status(&signed(&with(good.clone(), claim, value.clone()), SECRET)).await,
            401,
            "{claim}: {value}"
        );
    }
    assert_eq!(status(&signed(&good, "another secret of thirty-two bytes")).await, 401);
    assert_eq!(status(&signed_with(&good, SECRET, jsonwebtoken::Algorithm::HS512)).await, 401);
    assert_eq!(status(&unsigned(&good)).await, 401);
    assert_eq!(status("nonsense").await, 401);
    let none = Answer::of(rig.http.get(rig.url("/api/v1/tasks"))).await;
    assert_eq!((none.status, none.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(
        rig.metrics.text().lines().find(|line| line.contains("refused_total{kind=\"auth\"}")),
        Some("milepost_requests_refused_total{kind=\"auth\"} 18")
    );
    rig.stop().await;
}

const SECRET: &str = "a secret for tests of at least thirty-two bytes";

fn signed(claims: &Value, secret: &str) -> String {
    signed_with(claims, secret, jsonwebtoken::Algorithm::HS256)
}

fn signed_with(claims: &Value, secret: &str, algorithm: jsonwebtoken::Algorithm) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm), claims, &key).unwrap()
}

/// A token that says of itself that nobody signed it.
fn unsigned(claims: &Value) -> String {
    use base64::Engine;
    let part = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(claims))
}

#[tokio::test]
async fn a_viewer_reads_and_nothing_else() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let task = made.text("task_id");
    let viewer = rig.token("ada", Role::Viewer);
    let send = |method: Method, path: String| {
        let request = rig.http.request(method.clone(), rig.url(&path)).bearer_auth(&viewer);
        Answer::of(if method == Method::POST { request.json(&draft()) } else { request })
    };
    assert_eq!(send(Method::GET, format!("/api/v1/tasks/{task}")).await.status, 200);
    let clusters = json!({"clusters": ["prod"], "access": {"prod": {"role": "viewer", "may": []}}});
    assert_eq!(send(Method::GET, "/api/v1/clusters".into()).await.body, clusters);
    for path in ["/api/v1/tasks".to_owned(), format!("/api/v1/tasks/{task}/cancel")] {
        let answer = send(Method::POST, path).await;
        assert_eq!((answer.status, answer.fields().len()), (403, 0));
    }
    assert_eq!(rig.recorded().await, 1);
    assert_eq!(rig.get(&format!("/api/v1/tasks/{task}"), "ada").await.text("status"), "queued");
    rig.stop().await;
}

#[tokio::test]
async fn the_tasks_of_others_do_not_exist_but_for_admins() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let path = format!("/api/v1/tasks/{}", made.text("task_id"));
    assert_eq!(rig.get(&path, "bob").await.status, 404);
    assert_eq!(rig.get(&format!("{path}/items"), "bob").await.status, 404);
    for change in ["cancel", "pause", "resume"] {
        assert_eq!(rig.post(&format!("{path}/{change}"), "bob", &json!({})).await.status, 404);
    }
    assert_eq!(rig.get("/api/v1/tasks", "bob").await.body, json!({"tasks": []}));
    assert_eq!(rig.get("/api/v1/tasks?owner=ada", "bob").await.status, 403);
    assert_eq!(rig.get("/api/v1/tasks?owner=*", "bob").await.status, 403);

    let admin = rig.token("root", Role::Admin);
    let get = |path: &str| Answer::of(rig.http.get(rig.url(path)).bearer_auth(&admin));
    assert_eq!(get(&path).await.text("owner"), "ada");
    assert_eq!(get("/api/v1/tasks?owner=*").await.body["tasks"][0]["owner"], "ada");
    assert_eq!(
        get("/api/v1/tasks?owner=ada&status=queued&cluster=prod").await.body["tasks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(get("/api/v1/tasks?owner=ada&status=running").await.body, json!({"tasks": []}));
    let cancelled = Answer::of(rig.http.post(rig.url(&format!("{path}/cancel"))).bearer_auth(&admin)).await;
    assert_eq!((cancelled.status, cancelled.text("status")), (200, "cancelled"));
    rig.stop().await;
}

#[tokio::test]
async fn tasks_come_in_pages_newest_first() {
    let rig = Rig::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(rig.post("/api/v1/tasks", "ada", &draft()).await.text("task_id").to_owned());
    }
    let (mut seen, mut path) = (Vec::new(), "/api/v1/tasks?limit=2".to_owned());
    loop {
        let page = rig.get(&path, "ada").await;
        let ids = page.body["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["task_id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/api/v1/tasks?limit=2&before={next}");
    }
    made.reverse();
    assert_eq!(seen, made);
    rig.stop().await;
}

#[tokio::test]
async fn the_same_key_and_body_return_the_same_task() {
    let rig = Rig::start().await;
    let send = |key: &str, body: &Value, user: &str| {
        Answer::of(
            rig.request(Method::POST, "/api/v1/nodes/batch/cordon", user)
                .header("Idempotency-Key", key)
                .json(body),
        )
    };
    let first = send("k-1", &cordon(), "ada").await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, None));
    let again = send("k-1", &cordon(), "ada").await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(
        (again.text("task_id"), again.header("location")),
        (first.text("task_id"), first.header("location"))
    );
    let same = json!({"action": "cordon", "cluster": "prod", "items": ["node-1", "node-2"], "reason": "kernel update"});
    let other_route =
        rig.request(Method::POST, "/api/v1/tasks", "ada").header("Idempotency-Key", "k-1").json(&same);
    assert_eq!(Answer::of(other_route).await.text("task_id"), first.text("task_id"));
    assert_eq!(send("k-1", &with(cordon(), "reason", json!("other")), "ada").await.status, 409);
    assert_eq!(send("k-2", &cordon(), "ada").await.status, 202);
    assert_eq!(send("k-1", &cordon(), "bob").await.status, 202, "keys of two users do not meet");
    for bad in ["", "a b", &"k".repeat(256)] {
        let answer = send(bad, &cordon(), "ada").await;
        assert_eq!((answer.status, answer.fields()), (400, vec!["Idempotency-Key"]), "{bad}");
    }
    assert_eq!(rig.recorded().await, 3);
    rig.stop().await;
}

#[tokio::test]
async fn a_task_is_paused_resumed_and_cancelled_once() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/tasks", "ada", &draft()).await;
    let path = format!("/api/v1/tasks/{}", made.text("task_id"));
    let change = async |word: &str| {
        let answer = rig.post(&format!("{path}/{word}"), "ada", &json!({})).await;
        (answer.status, answer.body["status"].as_str().map(str::to_owned))
    };
    assert_eq!(change("resume").await.0, 409);
    assert_eq!(change("pause").await, (200, Some("paused".into())));
    assert_eq!(change("pause").await, (200, Some("paused".into())));
    assert_eq!(change("resume").await, (200, Some("queued".into())));
    assert_eq!(change("cancel").await, (200, Some("cancelled".into())));
    assert_eq!(change("cancel").await, (200, Some("cancelled".into())));
    let ended = rig.metrics.text();
    assert!(ended.contains("milepost_tasks_finished_total{status=\"cancelled\"} 1"), "{ended}");
    assert_eq!(change("resume").await.0, 409);
    rig.stop().await;
}

#[tokio::test]
async fn the_wait_action_needs_no_cluster_and_a_setting() {
    let wait =
        json!({"action": "wait", "cluster": "anywhere", "items": ["a"], "parameters": {"duration_ms": 5}});
    let rig = Rig::start().await;
    assert_eq!(rig.post("/api/v1/tasks", "ada", &wait).await.status, 202);
    rig.stop().await;
    let rig = Rig::with(|parts| parts.wait_action = false).await;
    let answer = rig.post("/api/v1/tasks", "ada", &wait).await;
    assert_eq!((answer.status, answer.fields()), (422, vec!["action"]));
    rig.stop().await;
}

#[tokio::test]
async fn a_user_with_too_many_open_tasks_is_told_so_and_may_go_on_when_one_has_ended() {
    let rig = Rig::with(|parts| parts.limits.open_tasks_per_user = 1).await;
    let body = json!({"action": "cordon", "cluster": "prod", "items": ["a"]});
    let first = rig.post("/api/v1/tasks", "ada", &body).await;
    let second = rig.post("/api/v1/tasks", "ada", &body).await;
    assert_eq!((first.status, second.status, rig.recorded().await), (202, 429, 1));
    assert!(second.header("retry-after").is_some() && second.text("detail").contains("cancel some"));
    assert_eq!(rig.post("/api/v1/tasks", "bob", &body).await.status, 202);
    let cancel = format!("/api/v1/tasks/{}/cancel", first.text("task_id"));
    assert_eq!(rig.post(&cancel, "ada", &json!({})).await.status, 200);
    assert_eq!(rig.post("/api/v1/tasks", "ada", &body).await.status, 202);
    rig.stop().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let rig = Rig::with(|parts| parts.limits.requests_per_second = 1).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(rig.get("/api/v1/clusters", "ada").await);
    }
    assert_eq!(statuses.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 429]);
    assert!(statuses[2].header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(rig.get("/api/v1/clusters", "bob").await.status, 200);
    rig.stop().await;
}

#[tokio::test]
async fn every_answer_says_how_it_may_be_used() {
    let rig = Rig::start().await;
    let document = Answer::of(rig.http.get(rig.url("/api/v1/openapi.json"))).await;
    assert_eq!(document.status, 200);
    assert!(document.body["paths"]["/api/v1/nodes/batch/label"]["post"].is_object());
    for answer in [document, rig.get("/api/v1/tasks/17", "ada").await] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("content-security-policy").unwrap().contains("default-src 'self'"));
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_gateway_without_keys_serves_loopback_only() {
    let rig = Rig::start().await;
    assert!(rig.gateway.is_development());
    rig.stop().await;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let life = milepost::lifecycle::Lifecycle::new();
    let bus = Arc::new(MemoryBus::new(&BusConfig::default()));
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let refused = gateway::serve(parts(&bus, &store), listener, &life);
    assert!(matches!(refused, Err(gateway::StartError::OpenWithoutKeys(_))));
}
