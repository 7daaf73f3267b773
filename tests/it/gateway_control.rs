//! The HTTP API of what can be done about a task that is there: concurrency, failure budgets, retries. What a worker makes
//! of it is in [`crate::control`].

use std::time::Duration;

use milepost::gateway::auth::Role;
use milepost::store::{ClaimRules, ClaimStore, Fence, TaskStore};
use milepost::task::{Effect, EventKind, ItemOutcome, ItemResult, ReplicaId, Seq, TaskId, Then};
use reqwest::Method;
use serde_json::{Value, json};

use crate::gateway_rig::{Answer, Rig};

const RULES: ClaimRules = ClaimRules { lease: Duration::from_secs(600), per_cluster_max: 100 };
const OK: ItemOutcome = ItemOutcome::Succeeded { effect: Effect::Changed };

async fn submit(rig: &Rig, items: usize, more: &Value) -> String {
    let names: Vec<String> = (0..items).map(|n| format!("node-{n}")).collect();
    let mut body = json!({"action": "cordon", "cluster": "prod", "items": names});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = rig.post("/api/v1/tasks", "ada", &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.text("task_id").to_owned()
}

/// Claims the task that waits, as a worker would.
async fn claim(rig: &Rig) -> Fence {
    let claim = rig.store.claim(&ReplicaId::new("w1").unwrap(), &RULES).await.unwrap().unwrap();
    Fence { task: claim.task.id, attempt: claim.task.state.attempt }
}

/// Runs the task that waits to its end, with these outcomes.
async fn run(rig: &Rig, outcomes: &[ItemOutcome]) {
    let claim = rig.store.claim(&ReplicaId::new("w1").unwrap(), &RULES).await.unwrap().unwrap();
    let fence = Fence { task: claim.task.id, attempt: claim.task.state.attempt };
    let finished_at = jiff::Timestamp::UNIX_EPOCH;
    let result = |((index, name), outcome): (&(u32, _), &ItemOutcome)| {
        let (index, outcome) = (*index, outcome.clone());
        ItemResult { index, name: Clone::clone(name), outcome, tries: 1, finished_at }
    };
    let results: Vec<_> = claim.pending.iter().zip(outcomes).map(result).collect();
    let counts = rig.store.record(fence, &results).await.unwrap();
    let mut task = rig.store.find(fence.task).await.unwrap().unwrap();
    task.state.status = task.state.verdict(&counts).unwrap();
    let event = task.event(EventKind::terminal(task.state.status), Seq(9), finished_at);
    rig.store.finish(fence, &event).await.unwrap();
}

async fn post_nothing(rig: &Rig, path: &str, user: &str) -> Answer {
    Answer::of(rig.request(Method::POST, path, user)).await
}

#[tokio::test]
async fn the_concurrency_of_a_task_can_be_changed_until_it_is_over() {
    let rig = Rig::start().await;
    let id = submit(&rig, 2, &json!({"concurrency": 3})).await;
    let path = format!("/api/v1/tasks/{id}/concurrency");
    let mut live = rig.live("ada", None).await;
    let (_, snapshot) = live.snapshot().await;
    assert_eq!(snapshot["tasks"][0]["concurrency"], 3, "{snapshot}");

    let changed = rig.post(&path, "ada", &json!({"concurrency": 7})).await;
    assert_eq!((changed.status, &changed.body["concurrency"]), (200, &json!(7)));
    let event = live.frame().await;
    assert_eq!(
        (&event["type"], &event["concurrency"]),
        (&json!("concurrency_changed"), &json!(7)),
        "{event}"
    );
    assert_eq!(event["status"], "queued");
    let back = rig.post(&path, "ada", &json!({"concurrency": null})).await;
    assert_eq!((back.status, back.body.get("concurrency")), (200, None));
    assert_eq!(live.frame().await.get("concurrency"), None);
    for n in [1, 1_000] {
        assert_eq!(rig.post(&path, "ada", &json!({"concurrency": n})).await.body["concurrency"], n);
    }

    for body in
        [json!({"concurrency": 0}), json!({"concurrency": 1_001}), json!({"concurrency": "7"}), json!({})]
    {
        let bad = rig.post(&path, "ada", &body).await;
        assert_eq!((bad.status, bad.fields()), (422, vec!["concurrency"]), "{body}");
    }
    let unknown = rig.post(&path, "ada", &json!({"concurrency": 1, "lanes": 2})).await;
    assert_eq!((unknown.status, unknown.fields()), (422, vec!["lanes"]));
    assert_eq!(rig.post(&path, "eve", &json!({"concurrency": 1})).await.status, 404);
    let viewer = rig.http.post(rig.url(&path)).bearer_auth(rig.token("ada", Role::Viewer));
    assert_eq!(Answer::of(viewer.json(&json!({"concurrency": 1}))).await.status, 403);

    run(&rig, &[OK, OK]).await;
    let over = rig.post(&path, "ada", &json!({"concurrency": 1})).await;
    assert_eq!((over.status, over.text("detail")), (409, "the task is completed"));
    rig.stop().await;
}

#[tokio::test]
async fn a_failure_budget_is_taken_by_every_route_and_shown() {
    let rig = Rig::start().await;
    let budget = json!({"failed": 5, "percent": 10, "consecutive": 3, "then": "abort"});
    let id = submit(&rig, 2, &json!({"failure_budget": budget})).await;
    assert_eq!(rig.get(&format!("/api/v1/tasks/{id}"), "ada").await.body["failure_budget"], budget);
    let batch = json!({"cluster_name": "prod", "node_names": ["n"], "failure_budget": {"failed": 0}});
    let taken = rig.post("/api/v1/nodes/batch/cordon", "ada", &batch).await;
    assert_eq!(taken.body["failure_budget"], json!({"failed": 0, "then": "pause"}), "{taken:?}");

    for (budget, field) in [
        (json!({}), "failure_budget"),
        (json!({"then": "abort"}), "failure_budget"),
        (json!({"percent": 100}), "failure_budget.percent"),
        (json!({"percent": 300}), "failure_budget.percent"),
        (json!({"failed": 100_001}), "failure_budget.failed"),
        (json!({"consecutive": -1}), "failure_budget.consecutive"),
        (json!({"failed": 1, "then": "explode"}), "failure_budget.then"),
        (json!({"failed": 1, "per_cent": 3}), "failure_budget.per_cent"),
    ] {
        let batch = json!({"cluster_name": "prod", "node_names": ["n"], "failure_budget": budget});
        let bad = rig.post("/api/v1/nodes/batch/cordon", "ada", &batch).await;
        assert_eq!((bad.status, bad.fields()), (422, vec![field]), "{budget}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn why_a_budget_stopped_a_task_is_told_to_whoever_looks() {
    let rig = Rig::start().await;
    let id = submit(&rig, 2, &json!({"failure_budget": {"failed": 0}})).await;
    let held = claim(&rig).await;
    rig.store.halt(held, Then::Pause, "1 failed, and 0 may").await.unwrap();
    let task = rig.get(&format!("/api/v1/tasks/{id}"), "ada").await;
    assert_eq!((task.text("status"), task.text("message")), ("paused", "1 failed, and 0 may"));
    let (_, snapshot) = rig.live("ada", None).await.snapshot().await;
    assert_eq!(snapshot["tasks"][0]["message"], "1 failed, and 0 may", "{snapshot}");
    let resumed = post_nothing(&rig, &format!("/api/v1/tasks/{id}/resume"), "ada").await;
    assert_eq!((resumed.text("status"), resumed.body.get("message")), ("queued", None));
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_takes_what_failed_and_adds_up_with_its_parent() {
    let rig = Rig::start().await;
    let id = submit(&rig, 3, &json!({"reason": "kernel update", "priority": 4})).await;
    let path = format!("/api/v1/tasks/{id}/retry");
    let early = post_nothing(&rig, &path, "ada").await;
    assert_eq!(
        (early.status, early.text("detail")),
        (409, "the task is queued; it can be retried when it is over")
    );
    run(&rig, &[ItemOutcome::failed("no"), OK, ItemOutcome::failed("no")]).await;

    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    let retry = post_nothing(&rig, &path, "ada").await;
    assert_eq!(retry.status, 202, "{retry:?}");
    let child = retry.text("task_id").to_owned();
    assert_eq!(retry.header("location"), Some(format!("/api/v1/tasks/{child}").as_str()));
    assert_eq!((retry.text("parent_id"), retry.text("reason")), (id.as_str(), "kernel update"));
    assert_eq!((&retry.body["total"], &retry.body["priority"]), (&json!(2), &json!(4)));
    let event = live.frame().await;
    assert_eq!((&event["type"], &event["parent_id"]), (&json!("queued"), &json!(id)), "{event}");
    let (_, snapshot) = rig.live("ada", None).await.snapshot().await;
    let seen = snapshot["tasks"].as_array().unwrap().iter().find(|task| task["task_id"] == child.as_str());
    assert_eq!(seen.unwrap()["parent_id"], id);
    let listed = rig.get("/api/v1/tasks", "ada").await;
    assert_eq!(listed.body["tasks"][0]["parent_id"], id);

    let busy = post_nothing(&rig, &path, "ada").await;
    assert_eq!((busy.status, busy.text("detail").contains(&child)), (409, true), "{busy:?}");
    run(&rig, &[OK, ItemOutcome::failed("still no")]).await;
    let parent = rig.get(&format!("/api/v1/tasks/{id}"), "ada").await;
    assert_eq!((&parent.body["failed"], &parent.body["succeeded"]), (&json!(2), &json!(1)), "its own stay");
    let merged = json!({"total": 3, "succeeded": 2, "failed": 1, "skipped": 0, "cancelled": 0});
    assert_eq!(parent.body["merged"], merged);
    let retries = parent.body["retries"].as_array().unwrap();
    assert_eq!((retries.len(), &retries[0]["task_id"]), (1, &json!(child)));
    assert_eq!((&retries[0]["status"], &retries[0]["failed"]), (&json!("completed_with_errors"), &json!(1)));

    let again = rig.post(&path, "ada", &json!({"concurrency": 1, "reason": "once more"})).await;
    assert_eq!((again.status, &again.body["total"], again.text("reason")), (202, &json!(1), "once more"));
    run(&rig, &[OK]).await;
    let none = post_nothing(&rig, &path, "ada").await;
    let why = "the task is not retried: none of its items are left to retry";
    assert_eq!((none.status, none.text("detail")), (409, why));
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_says_which_field_is_wrong_and_is_for_the_owner() {
    let rig = Rig::start().await;
    let id = submit(&rig, 2, &json!({})).await;
    run(&rig, &[ItemOutcome::failed("no"), ItemOutcome::skipped("no need")]).await;
    let path = format!("/api/v1/tasks/{id}/retry");
    for (body, field) in [
        (json!({"include": ["succeeded"]}), "include[0]"),
        (json!({"include": ["failed", "lost"]}), "include[1]"),
        (json!({"include": []}), "include"),
        (json!({"concurrency": 0}), "concurrency"),
        (json!({"reason": "r".repeat(501)}), "reason"),
        (json!({"failure_budget": {}}), "failure_budget"),
        (json!({"items": ["node-1"]}), "items"),
    ] {
        let bad = rig.post(&path, "ada", &body).await;
        assert_eq!((bad.status, bad.fields()), (422, vec![field]), "{body}");
    }
    assert_eq!(post_nothing(&rig, &path, "eve").await.status, 404);
    let unknown = format!("/api/v1/tasks/{}/retry", TaskId::generate());
    assert_eq!(post_nothing(&rig, &unknown, "ada").await.status, 404);
    assert_eq!(post_nothing(&rig, "/api/v1/tasks/x/retry", "ada").await.fields(), ["id"]);
    for (user, role) in [("ada", Role::Viewer), ("root", Role::Admin)] {
        let refused = Answer::of(rig.http.post(rig.url(&path)).bearer_auth(rig.token(user, role))).await;
        assert_eq!(refused.status, 403, "{role:?}: {refused:?}");
    }
    let both = rig.post(&path, "ada", &json!({"include": ["failed", "skipped"]})).await;
    assert_eq!((both.status, &both.body["total"]), (202, &json!(2)));
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_with_a_key_is_made_once() {
    let rig = Rig::start().await;
    let id = submit(&rig, 1, &json!({})).await;
    run(&rig, &[ItemOutcome::failed("no")]).await;
    let path = format!("/api/v1/tasks/{id}/retry");
    let retry = async |body: Value| {
        let request = rig.request(Method::POST, &path, "ada").header("idempotency-key", "k");
        Answer::of(request.json(&body)).await
    };
    let first = retry(json!({})).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = retry(json!({})).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(again.body, first.body);
    assert_eq!(retry(json!({"concurrency": 2})).await.status, 409);
    assert_eq!(rig.recorded().await, 2);
    rig.stop().await;
}
