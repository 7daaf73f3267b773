//! Templates: kept in a real Postgres, changed over HTTP, and applied from the command line.

use std::process::Command;
use std::sync::Arc;

use milepost::gateway::auth::Role;
use milepost::templates::{PostgresTemplates, Templates, contract};
use milepost_harness::{Hub, HubMode, HubSpec, Postgres};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Executor, SqlSafeStr};

use crate::database::migrated;
use crate::gateway_rig::{Answer, Rig};

struct Fixture(PostgresTemplates);

impl contract::Fixture for Fixture {
    fn templates(&self, _: usize) -> Arc<dyn Templates> {
        Arc::new(self.0.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_in_postgres() {
    let postgres = Postgres::start().unwrap();
    contract::holds(&Fixture(PostgresTemplates::new(migrated(&postgres).await))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_fits_the_schema() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (name, statement) in milepost::templates::postgres::STATEMENTS {
        let prepared = database.pool().prepare(statement.into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {prepared:?}");
    }
}

fn tiers() -> Value {
    json!({"action": "label", "description": "Tiers", "entries": [
        {"key": "team", "values": ["web"]}, {"key": "tier", "values": ["gold", "silver"]}]})
}

async fn put(rig: &Rig, name: &str, body: &Value) -> Answer {
    Answer::of(rig.request(Method::PUT, &format!("/api/v1/templates/{name}"), "ada").json(body)).await
}

#[tokio::test]
async fn a_template_is_kept_changed_by_version_and_removed() {
    let rig = Rig::start().await;
    let made = put(&rig, "tiers", &tiers()).await;
    assert_eq!((made.status, &made.body["version"], made.text("updated_by")), (200, &json!(1), "ada"));
    let listed = rig.get("/api/v1/templates", "eve").await.body;
    assert_eq!((listed["templates"].as_array().unwrap().len(), &listed["templates"][0]), (1, &made.body));
    assert_eq!(rig.get("/api/v1/templates/tiers", "eve").await.body, made.body);
    let mut other = tiers();
    for (version, status) in
        [(json!(0), 409), (json!(7), 409), (json!(1), 200), (json!(1), 409), (Value::Null, 200)]
    {
        other["version"] = version.clone();
        assert_eq!(put(&rig, "tiers", &other).await.status, status, "{version}");
    }
    let delete = |user: &str| rig.request(Method::DELETE, "/api/v1/templates/tiers", user);
    let viewer =
        rig.http.delete(rig.url("/api/v1/templates/tiers")).bearer_auth(rig.token("vic", Role::Viewer));
    assert_eq!(Answer::of(viewer).await.status, 403);
    let viewer = rig.http.put(rig.url("/api/v1/templates/x")).bearer_auth(rig.token("vic", Role::Viewer));
    assert_eq!(Answer::of(viewer.json(&tiers())).await.status, 403);
    assert_eq!(Answer::of(delete("eve")).await.status, 204);
    assert_eq!(Answer::of(delete("eve")).await.status, 404);
    assert_eq!(rig.get("/api/v1/templates/tiers", "ada").await.status, 404);
    rig.stop().await;
}

#[tokio::test]
async fn a_template_with_faults_is_refused_with_each_of_them() {
    let rig = Rig::start().await;
    let faulty = json!({"action": "taint", "entries": [{"key": "gpu", "values": ["a"]},
        {"key": "x y", "values": ["a"], "effect": "NoSchedule"}, {"key": "b", "values": [], "effect": "NoExecute"}]});
    let refused = put(&rig, "faulty", &faulty).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.fields(), ["entries[0].effect", "entries[1]", "entries[2].values"]);
    assert_eq!(put(&rig, "faulty", &json!({"action": "drain", "entries": []})).await.fields(), ["action"]);
    assert_eq!(put(&rig, "Not-Good", &tiers()).await.status, 400);
    rig.stop().await;
}

#[tokio::test]
async fn applied_it_is_an_ordinary_task_and_nothing_is_picked_by_itself() {
    let rig = Rig::start().await;
    put(&rig, "tiers", &tiers()).await;
    let body =
        |set: Value| json!({"cluster_name": "prod", "node_names": ["node-1"], "set": set, "overwrite": true});
    let apply = async |set: Value| rig.post("/api/v1/templates/tiers/apply", "ada", &body(set)).await;
    for (set, field) in [
        (json!({}), "set.tier"),
        (json!({"tier": "tin"}), "set.tier"),
        (json!({"tier": "gold", "x": "y"}), "set.x"),
    ] {
        let refused = apply(set.clone()).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{set}");
    }
    assert_eq!(rig.recorded().await, 0);
    let made = apply(json!({"tier": "silver"})).await;
    assert_eq!((made.status, made.text("action")), (202, "label"));
    let expected = json!({"labels": {"team": "web", "tier": "silver"}, "overwrite": true});
    assert_eq!(made.body["parameters"], expected);
    let other = rig.post("/api/v1/templates/none/apply", "ada", &body(json!({}))).await;
    assert_eq!(other.status, 404);
    let viewer =
        rig.http.post(rig.url("/api/v1/templates/tiers/apply")).bearer_auth(rig.token("vic", Role::Viewer));
    assert_eq!(Answer::of(viewer.json(&body(json!({"tier": "gold"})))).await.status, 403);
    rig.stop().await;
}

#[test]
fn a_template_is_made_and_applied_from_the_command_line() {
    const BINARY: &str = env!("CARGO_BIN_EXE_milepost");
    let spec = HubSpec { gateways: 1, workers: 1, nodes: 6, ..HubSpec::new(BINARY, HubMode::Postgres) };
    let hub = Hub::start(spec).unwrap();
    let token = hub.token("ada", "operator").unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(hub.folder()).env("MILEPOST_TOKEN", &token);
        let output = command.env("MILEPOST_SERVER_URL", hub.gateways[0].url()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let made = run(&[
        "template",
        "set",
        "gpu",
        "taint",
        "--entry",
        "gpu=a:NoSchedule",
        "--entry",
        "gpu=b:NoSchedule",
        "--description",
        "GPU pools",
        "--version",
        "0",
    ]);
    assert_eq!(made.0, 0, "{made:?}");
    assert!(
        made.1.contains("sets         gpu=a | b:NoSchedule") && made.1.contains("version      1, by ada"),
        "{}",
        made.1
    );
    let (_, listed, _) = run(&["template", "list"]);
    assert!(listed.lines().nth(1).unwrap().starts_with("gpu"), "{listed}");
    for (args, words) in [
        (
            &["submit", "taint", "-c", "sim", "node-005", "--template", "gpu"][..],
            "--pick gpu must be picked: one of a, b",
        ),
        (&["submit", "label", "-c", "sim", "node-005", "--template", "gpu"], "is for taint, not for label"),
        (&["submit", "taint", "-c", "sim", "node-005", "--template", "none"], "there is no such template"),
        (
            &[
                "submit",
                "taint",
                "-c",
                "sim",
                "node-005",
                "--template",
                "gpu",
                "--pick",
                "gpu=a",
                "--taint",
                "x:NoExecute",
            ],
            "comes from the template",
        ),
    ] {
        let (code, _, err) = run(args);
        assert!(code == 2 && err.contains(words), "{args:?}: {code} {err}");
    }
    let done = run(&[
        "submit",
        "taint",
        "-c",
        "sim",
        "node-[005-006]",
        "--template",
        "gpu",
        "--pick",
        "gpu=b",
        "--watch",
    ]);
    assert_eq!(done.0, 0, "{done:?}");
    let node = run(&["node", "node-006", "--json"]).1;
    // The gateway may hear of it a moment later than the worker is done; the record has it in any case.
    let tasks = run(&["tasks", "--json"]).1;
    assert!(node.contains("node-006") && tasks.contains("\"value\":\"b\""), "{tasks}");
    assert_eq!(run(&["template", "delete", "gpu"]).0, 0);
    assert_eq!(run(&["template", "show", "gpu"]).0, 2);
}
