//! The audit: who did what to which task and node, why, from where, and what came of it. Over HTTP, from the command line, and
//! through real processes that die.

use std::collections::BTreeSet;
use std::process::Command;

use milepost::gateway::auth::Role;
use milepost_harness::{Hub, HubMode, HubSpec};
use reqwest::Method;
use serde_json::{Value, json};

use crate::gateway_rig::{Answer, Rig};
use crate::support::{Api, Watcher, is_terminal, names, until, wait_batch};

const BINARY: &str = env!("CARGO_BIN_EXE_milepost");

/// Two nodes, for a reason.
fn batch() -> Value {
    json!({"action": "cordon", "cluster": "prod", "items": ["node-1", "node-2"], "reason": "new kernel"})
}

/// A request as somebody with a role, from a client with a name, behind proxies that say so.
fn asks(rig: &Rig, user: &str, role: Role, method: Method, path: &str) -> reqwest::RequestBuilder {
    let request = rig.http.request(method, rig.url(path)).bearer_auth(rig.token(user, role));
    request.header("user-agent", "test/1").header("x-forwarded-for", "198.51.100.9, 203.0.113.7")
}

async fn rows_of(rig: &Rig, user: &str, role: Role, query: &str) -> Vec<Value> {
    let answer = Answer::of(asks(rig, user, role, Method::GET, &format!("/api/v1/audit{query}"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["rows"].as_array().unwrap().clone()
}

fn kinds(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_submit_is_told_with_who_what_why_and_from_where() {
    let rig = Rig::start().await;
    let made = asks(&rig, "ann", Role::Operator, Method::POST, "/api/v1/tasks").json(&batch());
    let made = Answer::of(made.header("x-request-id", "request-7")).await;
    assert_eq!(made.status, 202, "{made:?}");
    let rows = rows_of(&rig, "ann", Role::Operator, "").await;
    let [row] = &rows[..] else { panic!("{rows:?}") };
    let wanted = json!({"kind": "submit", "outcome": "accepted", "user": "ann", "owner": "ann", "role": "operator",
        "address": "127.0.0.1", "agent": "test/1", "request_id": "request-7", "cluster": "prod", "action": "cordon",
        "items": 2, "reason": "new kernel", "task_id": made.body["task_id"]});
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(row[name], *value, "{name}: {row}");
    }
    assert_eq!((&row["task"]["status"], &row["task"]["total"]), (&json!("queued"), &json!(2)));
    rig.stop().await;
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_address_is_told() {
    let rig = Rig::with(|parts| parts.server.trusted_proxies = vec!["127.0.0.0/8".into()]).await;
    Answer::of(asks(&rig, "ann", Role::Operator, Method::POST, "/api/v1/tasks").json(&batch())).await;
    let rows = rows_of(&rig, "ann", Role::Operator, "").await;
    assert_eq!(rows[0]["address"], "203.0.113.7", "the nearest that is no proxy");
    rig.stop().await;
}

#[tokio::test]
async fn people_read_what_is_theirs_and_admins_everything() {
    let rig = Rig::start().await;
    let task = rig.post("/api/v1/tasks", "ann", &batch()).await.text("task_id").to_owned();
    rig.post("/api/v1/tasks", "bob", &batch()).await;
    let cancel = format!("/api/v1/tasks/{task}/cancel");
    assert_eq!(Answer::of(asks(&rig, "boss", Role::Admin, Method::POST, &cancel)).await.status, 200);
    let of_ann = rows_of(&rig, "ann", Role::Operator, "").await;
    assert_eq!(kinds(&of_ann), ["cancel", "submit"], "also what the admin did to her task");
    assert_eq!((&of_ann[0]["user"], &of_ann[0]["outcome"]), (&json!("boss"), &json!("cancelled")));
    assert_eq!(of_ann[1]["task"]["cancelled"], 2, "what came of it");
    assert_eq!(rows_of(&rig, "bob", Role::Operator, &format!("?task={task}")).await, [] as [Value; 0]);
    assert_eq!(rows_of(&rig, "boss", Role::Operator, "").await, [] as [Value; 0], "the task is not theirs");
    assert_eq!(rows_of(&rig, "bob", Role::Operator, "?user=ann").await, [] as [Value; 0]);
    let all = rows_of(&rig, "boss", Role::Admin, "").await;
    assert_eq!(kinds(&all), ["cancel", "submit", "submit"]);
    assert_eq!(kinds(&rows_of(&rig, "boss", Role::Admin, "?user=boss").await), ["cancel"]);
    let nodes = format!("/api/v1/audit/tasks/{task}/nodes");
    assert_eq!(rig.get(&nodes, "bob").await.status, 404);
    let seen = rig.get(&nodes, "ann").await;
    let states: Vec<&Value> =
        seen.body["nodes"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
    assert_eq!(states, ["cancelled", "cancelled"]);
    rig.stop().await;
}

#[tokio::test]
async fn who_is_refused_is_told_and_gains_no_sight_by_it() {
    let rig = Rig::start().await;
    let task = rig.post("/api/v1/tasks", "ann", &batch()).await.text("task_id").to_owned();
    let vic = |method, path: &str| asks(&rig, "vic", Role::Viewer, method, path);
    assert_eq!(Answer::of(vic(Method::POST, "/api/v1/tasks").json(&batch())).await.status, 403);
    let cancel = format!("/api/v1/tasks/{task}/cancel");
    let answer = Answer::of(vic(Method::POST, &cancel)).await;
    assert!(matches!(answer.status, 403 | 404), "{answer:?}");
    let template = json!({"action": "label", "entries": [{"key": "a", "values": ["b"]}]});
    assert_eq!(Answer::of(vic(Method::PUT, "/api/v1/templates/x").json(&template)).await.status, 403);
    let rows = rows_of(&rig, "boss", Role::Admin, "?kind=refused&user=vic").await;
    let submit = rows.last().unwrap();
    let wanted = json!({"kind": "refused", "outcome": "refused", "user": "vic", "role": "viewer", "action": "cordon",
        "cluster": "prod", "items": 2, "reason": "new kernel", "detail": {"asked": "submit"}});
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(submit[name], *value, "{name}: {submit}");
    }
    assert!(submit["message"].as_str().unwrap().contains("operator"), "{submit}");
    assert_eq!(rows[0]["detail"]["asked"], "template x");
    // A refusal names a task as the one who was refused did; that opens nothing.
    let nodes = format!("/api/v1/audit/tasks/{task}/nodes");
    assert_eq!(Answer::of(vic(Method::GET, &nodes)).await.status, 404);
    let of_task = rows_of(&rig, "vic", Role::Viewer, &format!("?task={task}")).await;
    assert!(of_task.iter().all(|row| row["kind"] == "refused"), "{of_task:?}");
    rig.stop().await;
}

#[tokio::test]
async fn changes_of_templates_are_told() {
    let rig = Rig::start().await;
    let template = json!({"action": "label", "entries": [{"key": "a", "values": ["b"]}]});
    let put = rig.request(Method::PUT, "/api/v1/templates/tiers", "ann").json(&template);
    assert_eq!(Answer::of(put).await.status, 200);
    let delete = || rig.request(Method::DELETE, "/api/v1/templates/tiers", "bob");
    assert_eq!(Answer::of(delete()).await.status, 204);
    assert_eq!(Answer::of(delete()).await.status, 404);
    let rows = rows_of(&rig, "boss", Role::Admin, "").await;
    assert_eq!(kinds(&rows), ["template_removed", "template"]);
    assert_eq!((&rows[0]["user"], &rows[1]["user"]), (&json!("bob"), &json!("ann")));
    assert_eq!(rows[1]["detail"], json!({"template": "tiers", "version": 1}));
    rig.stop().await;
}

#[tokio::test]
async fn pages_and_filters_are_as_they_say() {
    let rig = Rig::start().await;
    for n in 0..5 {
        let mut batch = batch();
        batch["items"] = json!(["node-1", format!("node-{n}{n}")]);
        assert_eq!(rig.post("/api/v1/tasks", "ann", &batch).await.status, 202);
    }
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let page = rig.get(&format!("/api/v1/audit?limit=2{next}"), "ann").await;
        let rows = page.body["rows"].as_array().unwrap();
        assert!((1..=2).contains(&rows.len()), "{page:?}");
        seen.extend(rows.iter().map(|row| row["task_id"].as_str().unwrap().to_owned()));
        let Some(before) = page.body["next"].as_str() else { break };
        next = format!("&before={before}");
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (5, 5));
    let of_node = rows_of(&rig, "ann", Role::Operator, "?cluster=prod&node=node-33").await;
    let [row] = &of_node[..] else { panic!("{of_node:?}") };
    assert_eq!((&row["node"]["name"], &row["node"]["state"]), (&json!("node-33"), &json!("pending")));
    assert_eq!(rows_of(&rig, "ann", Role::Operator, "?node=node-1&limit=9").await.len(), 5);
    assert_eq!(rows_of(&rig, "ann", Role::Operator, "?cluster=lab").await, [] as [Value; 0]);
    assert_eq!(rows_of(&rig, "ann", Role::Operator, "?until=2020-01-01T00:00:00Z").await, [] as [Value; 0]);
    assert_eq!(rows_of(&rig, "ann", Role::Operator, "?since=2020-01-01T00:00:00Z").await.len(), 5);
    for (query, field) in [
        ("since=yesterday", "since"),
        ("kind=explode", "kind"),
        ("before=1", "before"),
        ("task=7", "task"),
        ("limit=0", "limit"),
        ("limit=1000", "limit"),
        ("node=a%20b", "node"),
    ] {
        let answer = rig.get(&format!("/api/v1/audit?{query}"), "ann").await;
        assert_eq!((answer.status, answer.fields()), (400, vec![field]), "{query}");
    }
    rig.stop().await;
}

async fn start(spec: HubSpec) -> Hub {
    tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap()
}

/// A worker is killed in the middle of a batch: every node has one outcome, under the attempt and the worker that recorded it,
/// and that stays so when the task is pruned.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_leaves_one_outcome_for_each_node() {
    const NODES: usize = 300;
    let spec = HubSpec { gateways: 1, workers: 2, ..HubSpec::new(BINARY, HubMode::Postgres) }
        .set("MILEPOST_WORKER__LANES_PER_TASK", "4")
        .set("MILEPOST_WORKER__LEASE", "2s")
        .set("MILEPOST_WORKER__RENEW_INTERVAL", "500ms")
        .set("MILEPOST_MAINTENANCE__PRUNE_INTERVAL", "1s")
        .set("MILEPOST_MAINTENANCE__RETENTION", "3s");
    let hub = start(spec).await;
    let token = hub.token("ann", "operator").unwrap();
    let api = Api::new(&hub.gateways[0].url(), &token);
    let mut socket = Watcher::connect(&hub.gateways[0].url(), &token, None).await;
    let task = api.submit(&wait_batch(&names("n", NODES), 20, 7)).await;
    let recorded = format!("SELECT count(*) FROM items WHERE task_id = '{task}'");
    let mut seen = 0;
    until("results are recorded", async || {
        seen = hub.sql(&recorded).unwrap().parse().unwrap();
        seen > 0
    })
    .await;
    let held = |worker: &&milepost_harness::Replica| worker.metric("milepost_tasks_held").unwrap() > 0.0;
    let victim = hub.workers.iter().find(held).expect("a worker holds the task");
    victim.kill().unwrap();
    assert!(seen < NODES, "it was killed in the middle");
    socket.events_until(&task, is_terminal).await;
    let nodes = async || {
        let page = api.get(&format!("audit/tasks/{task}/nodes?limit=999")).await;
        page["nodes"].as_array().unwrap().clone()
    };
    let told = nodes().await;
    let indexes: Vec<u64> = told.iter().map(|node| node["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..NODES as u64).collect::<Vec<_>>(), "each once");
    let failed = told.iter().filter(|node| node["state"] == "failed").count();
    assert_eq!(failed, NODES / 7, "as it was asked for");
    let of_attempt = |attempt: u64| {
        let of = told.iter().filter(|node| node["attempt"] == attempt);
        of.map(|node| node["worker"].as_str().unwrap()).collect::<BTreeSet<_>>()
    };
    let (first, second) = (of_attempt(1), of_attempt(2));
    assert_eq!((first.len(), second.len()), (1, 1), "one worker for each attempt: {first:?} {second:?}");
    assert!(first.is_disjoint(&second));
    assert!(told.iter().all(|node| node["attempt"] == 1 || node["attempt"] == 2));
    let claims = api.get(&format!("audit?task={task}&kind=claim")).await;
    assert_eq!(claims["rows"].as_array().unwrap().len(), 2, "{claims}");
    until("the task is pruned", async || api.call("GET", &format!("tasks/{task}"), None).await.0 == 404)
        .await;
    assert_eq!(nodes().await, told, "the audit tells the same of a task that is gone");
    let rows = api.get(&format!("audit?task={task}&kind=submit")).await;
    let ended = &rows["rows"][0]["task"];
    assert_eq!((&ended["status"], &ended["total"]), (&json!("completed_with_errors"), &json!(NODES)));
    let history = api.get("audit?node=n-007").await;
    assert_eq!(history["rows"][0]["node"]["worker"], told[7]["worker"], "{history}");
}

#[test]
fn the_audit_is_shown_by_the_command_line() {
    let spec = HubSpec { gateways: 1, workers: 1, nodes: 6, ..HubSpec::new(BINARY, HubMode::Memory) };
    let hub = Hub::start(spec).unwrap();
    let run = |user: &str, role: &str, args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(hub.folder()).env("MILEPOST_TOKEN", hub.token(user, role).unwrap());
        let output = command.env("MILEPOST_SERVER_URL", hub.gateways[0].url()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    for node in ["node-004", "node-005", "node-006"] {
        let args = ["submit", "cordon", "-c", "sim", node, "--reason", "disk", "--watch"];
        let done = run("ann", "operator", &args);
        assert_eq!(done.0, 0, "{done:?}");
    }
    let lines =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let (code, out, err) = run("ann", "operator", &["audit", "--since", "1h", "--json", "--limit", "2"]);
    assert_eq!((code, lines(&out).len()), (0, 2), "{out} {err}");
    assert!(err.contains("--limit shows more"), "{err}");
    let (_, out, _) = run("boss", "admin", &["audit", "--node", "node-005", "--cluster", "sim", "--json"]);
    let rows = lines(&out);
    let [row] = &rows[..] else { panic!("{out}") };
    let audit = &row["audit"];
    assert_eq!(
        (&row["type"], &audit["user"], &audit["reason"]),
        (&json!("audit"), &json!("ann"), &json!("disk"))
    );
    assert_eq!((&audit["node"]["state"], &audit["node"]["effect"]), (&json!("succeeded"), &json!("changed")));
    assert!(audit["agent"].as_str().unwrap().starts_with("milepost/"), "{audit}");
    let task = audit["task_id"].as_str().unwrap();
    let (code, out, _) = run("ann", "operator", &["audit", "--task", task]);
    assert_eq!(code, 0);
    for wanted in
        ["WHO", "ann", "cordon 1 node", "disk", "127.0.0.1", "claim", "NODE", "node-005", "succeeded"]
    {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
    let (code, out, err) = run("bob", "operator", &["audit"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("tells nothing"), "{err}");
    assert_eq!(run("ann", "operator", &["audit", "--since", "yesterday"]).0, 2);
}
