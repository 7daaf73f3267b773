//! Requests that must be refused: each gets the right status and a problem document that names the field, and leaves
//! the record exactly as it was. The same table runs over memory and over a real Postgres with every port in it.

use std::sync::Arc;

use milepost::bus::{PostgresFeed, PostgresPublisher};
use milepost::clock::{Clock, SystemClock};
use milepost::config::{AuthConfig, BusConfig};
use milepost::dispatch::PostgresDispatch;
use milepost::gateway::Parts;
use milepost::gateway::auth::{Role, dev};
use milepost::lifecycle::Lifecycle;
use milepost::postgres::Database;
use milepost::store::{ItemQuery, PostgresStore, TaskQuery, TaskStore};
use milepost::tickets::PostgresTickets;
use milepost_harness::Postgres;
use reqwest::Method;
use serde_json::{Value, json};

use crate::database::migrated;
use crate::gateway_rig::{Answer, Rig, user_id};

const SECRET: &str = "a secret for tests of at least thirty-two bytes";
const OTHER_SECRET: &str = "another secret for tests of thirty-two bytes";
const BATCH: &str = "/api/v1/nodes/batch/cordon";
const TASKS: &str = "/api/v1/tasks";
const SUBMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

fn keys(secret: &str) -> AuthConfig {
    AuthConfig { hs256_secret: Some(secret.to_owned().into()), ..AuthConfig::default() }
}

/// An Authorization header for a token that ends so many seconds from now.
fn bearer(user: &str, role: Role, ends_in_s: i64, secret: &str) -> String {
    let end = SystemClock.now() + jiff::SignedDuration::from_secs(ends_in_s);
    format!("Bearer {}", dev::sign(&keys(secret), &user_id(user), role, end).unwrap())
}

/// A request and what must come of it.
struct Case {
    name: String,
    method: Method,
    path: String,
    /// The Authorization header.
    auth: Option<String>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    fields: Vec<String>,
}

impl Case {
    /// Operator `ada` posts this body.
    fn post(name: &str, path: &str, body: &Value, status: u16, field: &str) -> Self {
        Self::raw(name, path, body.to_string(), status, field)
    }

    fn raw(name: &str, path: &str, body: impl Into<Vec<u8>>, status: u16, field: &str) -> Self {
        Self {
            name: name.to_owned(),
            method: Method::POST,
            path: path.to_owned(),
            auth: Some(bearer("ada", Role::Operator, 60, SECRET)),
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.into(),
            status,
            fields: if field.is_empty() { Vec::new() } else { vec![field.to_owned()] },
        }
    }

    fn with_auth(self, auth: Option<String>) -> Self {
        Self { auth, ..self }
    }

    fn with_method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    async fn send(&self, rig: &Rig) -> Answer {
        let mut request = rig.http.request(self.method.clone(), rig.url(&self.path));
        if let Some(auth) = &self.auth {
            request = request.header("authorization", auth);
        }
        request = self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        Answer::of(request.body(self.body.clone())).await
    }
}

fn cordon() -> Value {
    json!({"cluster_name": "prod", "node_names": ["node-1", "node-2"]})
}

fn draft() -> Value {
    json!({"action": "cordon", "cluster": "prod", "items": ["node-1"]})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

/// The rules of a task, over both routes: `(what, field of a batch, field of a draft, value, item of the fault)`.
fn rules() -> Vec<Case> {
    let many: Vec<String> = (0..=100_000).map(|i| format!("n{i}")).collect();
    let table = [
        ("an empty list", "node_names", "items", json!([]), ""),
        ("a name twice", "node_names", "items", json!(["a", "b", "a"]), "[2]"),
        ("100,001 items", "node_names", "items", json!(many), ""),
        ("an empty name", "node_names", "items", json!(["a", ""]), "[1]"),
        ("a long name", "node_names", "items", json!(["n".repeat(254)]), "[0]"),
        ("a name with a line break", "node_names", "items", json!(["a\nb"]), "[0]"),
        ("a number for a name", "node_names", "items", json!(["a", 7]), "[1]"),
        ("null for a name", "node_names", "items", json!([null]), "[0]"),
        ("a list in the list", "node_names", "items", json!([["a"]]), "[0]"),
        ("a text for the list", "node_names", "items", json!("a"), ""),
        ("an object for the list", "node_names", "items", json!({"a": 1}), ""),
        ("null for the list", "node_names", "items", json!(null), ""),
        ("an unknown cluster", "cluster_name", "cluster", json!("nowhere"), ""),
        ("an empty cluster", "cluster_name", "cluster", json!(""), ""),
        ("a cluster that is a path", "cluster_name", "cluster", json!("../prod"), ""),
        ("a number for the cluster", "cluster_name", "cluster", json!(1), ""),
        ("a long reason", "reason", "reason", json!("r".repeat(501)), ""),
        ("a list for the reason", "reason", "reason", json!([]), ""),
        ("too high a priority", "priority", "priority", json!(101), ""),
        ("a broken priority", "priority", "priority", json!(1.5), ""),
        ("no lane at all", "concurrency", "concurrency", json!(0), ""),
        ("fewer lanes than none", "concurrency", "concurrency", json!(-1), ""),
        ("a time-out of nothing", "item_timeout_ms", "item_timeout_ms", json!(0), ""),
        ("a time-out in words", "item_timeout_ms", "item_timeout_ms", json!("30s"), ""),
        ("no attempt", "max_attempts", "max_attempts", json!(0), ""),
        ("too many attempts", "max_attempts", "max_attempts", json!(70_000), ""),
        ("an unknown field", "dry_run", "dry_run", json!(true), ""),
    ];
    let both = table.into_iter().flat_map(|(name, in_batch, in_draft, value, item)| {
        [(BATCH, cordon(), in_batch), (TASKS, draft(), in_draft)].map(|(path, body, field)| {
            Case::post(name, path, &with(body, field, value.clone()), 422, &format!("{field}{item}"))
        })
    });
    both.collect()
}

/// What belongs to one route or one action.
fn shapes() -> Vec<Case> {
    let batch = |action: &str| format!("/api/v1/nodes/batch/{action}");
    let label = |labels: Value| with(cordon(), "labels", labels);
    let taint = |taints: Value| with(cordon(), "taints", taints);
    let twice =
        json!([{"key": "k", "effect": "NoExecute"}, {"key": "k", "value": "v", "effect": "NoExecute"}]);
    vec![
        Case::post("no names", BATCH, &json!({"cluster_name": "prod"}), 422, "node_names"),
        Case::post("no cluster", BATCH, &json!({"node_names": ["a"]}), 422, "cluster_name"),
        Case::post("no action", TASKS, &json!({"cluster": "prod", "items": ["a"]}), 422, "action"),
        Case::post("an unknown action", TASKS, &with(draft(), "action", json!("reboot")), 422, "action"),
        Case::post("an action's wrong case", TASKS, &with(draft(), "action", json!("Cordon")), 422, "action"),
        Case::post(
            "parameters for none",
            TASKS,
            &with(draft(), "parameters", json!({"x": 1})),
            422,
            "parameters",
        ),
        Case::post(
            "a text for parameters",
            TASKS,
            &with(draft(), "parameters", json!("x")),
            422,
            "parameters",
        ),
        Case::post("a list", BATCH, &json!([]), 422, "body"),
        Case::post("a number", TASKS, &json!(7), 422, "body"),
        Case::raw("null", TASKS, "null", 422, "body"),
        Case::raw("a field twice", TASKS, r#"{"action":"cordon","action":"cordon"}"#, 422, "action"),
        Case::post("no labels", &batch("label"), &cordon(), 422, "labels"),
        Case::post("empty labels", &batch("label"), &label(json!({})), 422, "labels"),
        Case::post("a bad label key", &batch("label"), &label(json!({"-": "x"})), 422, "labels.-"),
        Case::post("a bad label value", &batch("label"), &label(json!({"tier": "a b"})), 422, "labels.tier"),
        Case::post("a number as label", &batch("label"), &label(json!({"tier": 1})), 422, "labels.tier"),
        Case::post("no keys", &batch("unlabel"), &with(cordon(), "keys", json!([])), 422, "keys"),
        Case::post(
            "a bad key",
            &batch("unlabel"),
            &with(cordon(), "keys", json!(["a", "/"])),
            422,
            "keys[1]",
        ),
        Case::post(
            "an unknown effect",
            &batch("taint"),
            &taint(json!([{"key": "a", "effect": "Never"}])),
            422,
            "taints[0].effect",
        ),
        Case::post("no effect", &batch("taint"), &taint(json!([{"key": "a"}])), 422, "taints[0].effect"),
        Case::post("a taint twice", &batch("taint"), &taint(twice), 422, "taints[1]"),
        Case::post("no taint", &batch("untaint"), &taint(json!([])), 422, "taints"),
        Case::post("a taint without key", &batch("untaint"), &taint(json!([{}])), 422, "taints[0].key"),
        Case::post("a batch of wait", &batch("wait"), &cordon(), 404, ""),
        Case::post("a GET of a batch", BATCH, &json!({}), 405, "").with_method(Method::GET),
        Case::post("a DELETE of tasks", TASKS, &json!({}), 405, "").with_method(Method::DELETE),
    ]
}

/// What cannot be read at all.
fn unreadable() -> Vec<Case> {
    let large = with(draft(), "reason", json!("r".repeat(2 * SUBMIT_BYTES_MAX))).to_string();
    let good = draft().to_string();
    vec![
        Case::raw("broken JSON", TASKS, r#"{"action": "cordon", "#, 400, "body"),
        Case::raw("no body", TASKS, "", 400, "body"),
        Case::raw("words after the JSON", TASKS, format!("{good} x"), 400, "body"),
        Case::raw("two documents", TASKS, format!("{good}{good}"), 400, "body"),
        Case::raw("no UTF-8", TASKS, b"{\"action\": \"\xff\"}", 400, "body"),
        Case::raw("deep nesting", TASKS, format!("{{\"parameters\":{}", "[".repeat(10_000)), 400, "body"),
        Case::raw("an oversize body", TASKS, large.clone(), 413, ""),
        Case::raw("an oversize batch", BATCH, large, 413, ""),
        Case::raw("an oversize ticket request", "/api/v1/live/tickets", "x".repeat(70_000), 413, ""),
        Case::raw("a form", TASKS, "action=cordon", 415, "")
            .with_header("content-type", "application/x-www-form-urlencoded"),
        Case::raw("JSON under another name", TASKS, good.clone(), 415, "")
            .with_header("content-type", "text/plain"),
        Case::raw("a long key", TASKS, good.clone(), 400, "Idempotency-Key")
            .with_header("idempotency-key", &"k".repeat(256)),
        Case::raw("a key with a space", TASKS, good.clone(), 400, "Idempotency-Key")
            .with_header("idempotency-key", "a b"),
        Case::raw("a key used for another body", TASKS, good, 409, "").with_header("idempotency-key", "used"),
    ]
}

/// Who is not let in, or may not do this. The body is a good one, so that only the caller is wrong.
fn strangers(task: &str) -> Vec<Case> {
    let submit = |name: &str, auth: Option<String>, status| {
        Case::post(name, BATCH, &cordon(), status, "").with_auth(auth)
    };
    let good = bearer("ada", Role::Operator, 60, SECRET);
    let forged = bearer("ada", Role::Admin, 60, OTHER_SECRET);
    let mut cases = vec![
        submit("no token", None, 401),
        submit("an empty token", Some("Bearer ".into()), 401),
        submit("a word for a token", Some("Bearer nonsense".into()), 401),
        submit("another scheme", Some(good.replacen("Bearer", "Basic", 1)), 401),
        submit("a token cut short", Some(good[..good.len() - 4].to_owned()), 401),
        submit("a forged token", Some(forged), 401),
        submit("a token that ended", Some(bearer("ada", Role::Operator, -60, SECRET)), 401),
        submit("a viewer", Some(bearer("ada", Role::Viewer, 60, SECRET)), 403),
    ];
    let foreign = |name: &str, method: Method, path: String, status| {
        let case = Case::post(name, &path, &json!({}), status, "");
        case.with_method(method).with_auth(Some(bearer("bob", Role::Operator, 60, SECRET)))
    };
    for word in ["cancel", "pause", "resume"] {
        let path = format!("/api/v1/tasks/{task}/{word}");
        cases.push(foreign(&format!("another user's {word}"), Method::POST, path.clone(), 404));
        let viewer = bearer("ada", Role::Viewer, 60, SECRET);
        cases.push(
            Case::post(&format!("a viewer's {word}"), &path, &json!({}), 403, "").with_auth(Some(viewer)),
        );
        cases.push(Case::post(&format!("a stranger's {word}"), &path, &json!({}), 401, "").with_auth(None));
    }
    for rest in ["", "/items"] {
        let path = format!("/api/v1/tasks/{task}{rest}");
        cases.push(foreign(&format!("another user's task{rest}"), Method::GET, path, 404));
    }
    for owner in ["ada", "*"] {
        let path = format!("/api/v1/tasks?owner={owner}");
        cases.push(foreign(&format!("the list of {owner}"), Method::GET, path, 403));
    }
    let path = "/api/v1/tasks/0190a000-0000-7000-8000-000000000001/cancel";
    cases.push(Case::post("a task that is not", path, &json!({}), 404, ""));
    cases.push(Case::post("an id that is none", "/api/v1/tasks/17/cancel", &json!({}), 400, "id"));
    cases
}

/// Sends every case and compares the whole record before and after.
async fn refused_without_a_trace(rig: &Rig, record: impl AsyncFn() -> String) {
    let seed = Case::post("the seed", BATCH, &cordon(), 202, "").with_header("idempotency-key", "used");
    let seed = seed.send(rig).await;
    assert_eq!(seed.status, 202, "{seed:?}");
    let before = record().await;
    let cases = [rules(), shapes(), unreadable(), strangers(seed.text("task_id"))];
    for case in cases.iter().flatten() {
        let answer = case.send(rig).await;
        let what = format!("{}: {} {}", case.name, case.method, case.path);
        assert_eq!(answer.status, case.status, "{what}: {answer:?}");
        assert_eq!(answer.fields(), case.fields, "{what}: {answer:?}");
        assert!(
            !answer.text("detail").is_empty() && answer.body.to_string().len() < 2_000,
            "{what}: {answer:?}"
        );
        assert_eq!(answer.header("www-authenticate"), (case.status == 401).then_some("Bearer"), "{what}");
        assert_eq!(record().await, before, "{what} left a trace");
    }
}

fn settings(parts: &mut Parts) {
    parts.auth = keys(SECRET);
    parts.limits.submit_bytes_max = SUBMIT_BYTES_MAX;
}

#[tokio::test]
async fn bad_input_is_refused_with_its_field_and_leaves_no_trace_in_memory() {
    let rig = Rig::with(settings).await;
    refused_without_a_trace(&rig, async || {
        let query = TaskQuery { limit: 1_000, ..TaskQuery::default() };
        let mut record = String::new();
        for task in rig.store.list(&query).await.unwrap() {
            let items = ItemQuery { limit: 1_000, ..ItemQuery::default() };
            let items = rig.store.items(task.id, &items).await.unwrap();
            record.push_str(&format!("{task:?} {items:?}\n"));
        }
        record
    })
    .await;
    rig.stop().await;
}

/// Every port over one database, as in Postgres mode.
fn on_postgres(parts: &mut Parts, database: &Database, life: &Lifecycle) {
    let bus = BusConfig::default();
    parts.store = Arc::new(PostgresStore::new(database.clone()));
    parts.publisher = Arc::new(PostgresPublisher::new(database.clone(), &bus));
    parts.feed = Arc::new(PostgresFeed::start(database.clone(), &bus, life));
    parts.dispatcher = Arc::new(PostgresDispatch::new(database.clone(), &bus, life));
    parts.tickets = Arc::new(PostgresTickets::new(database.clone()));
}

/// Every row of every table but the audit, which tells who was refused what.
async fn rows(database: &Database) -> String {
    const TABLES: &str = "SELECT tablename::text FROM pg_tables \
                          WHERE schemaname = 'public' AND tablename <> 'audit' ORDER BY 1";
    let tables: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(database.pool()).await.unwrap();
    assert!(tables.iter().any(|table| table == "tasks"), "{tables:?}");
    let mut record = String::new();
    for table in tables {
        let query = format!("SELECT t::text FROM {table} t ORDER BY 1");
        let rows: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(database.pool()).await.unwrap();
        record.push_str(&format!("{table}: {rows:?}\n"));
    }
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_its_field_and_leaves_no_trace_in_postgres() {
    let postgres = Postgres::start().unwrap();
    let (database, life) = (migrated(&postgres).await, Lifecycle::new());
    let rig = Rig::with(|parts| {
        settings(parts);
        on_postgres(parts, &database, &life);
    })
    .await;
    refused_without_a_trace(&rig, async || rows(&database).await).await;
    assert_eq!(rig.recorded().await, 0, "the record is the database and not the rig's memory");
    rig.stop().await;
    life.stop();
}
