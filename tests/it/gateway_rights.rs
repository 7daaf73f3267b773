//! Roles and capabilities per cluster: what a token and the installation say together, at every route, and what of it
//! goes with the task.

use std::time::Duration;

use milepost::clock::{Clock, SystemClock};
use milepost::config::AuthConfig;
use milepost::gateway::auth::{Role, dev};
use milepost::store::TaskStore;
use milepost::task::access::Claim;
use milepost::task::{Capabilities, Capability, TaskId};
use serde_json::{Value, json};

use crate::gateway_rig::{Answer, Live, Rig, complete, user_id, with_header, ws_request};

const SECRET: &str = "a secret for tests of at least thirty-two bytes";
const DRAIN: &str = "/api/v1/nodes/batch/drain";

/// A gateway whose installation says so of its users.
async fn rig(grants: Value) -> Rig {
    let grants = serde_json::from_value(grants).unwrap();
    Rig::with(|parts| {
        parts.auth =
            AuthConfig { hs256_secret: Some(SECRET.to_owned().into()), grants, ..AuthConfig::default() };
    })
    .await
}

/// A token that says so of clusters.
fn token(user: &str, role: Role, clusters: Value) -> String {
    let keys = AuthConfig { hs256_secret: Some(SECRET.to_owned().into()), ..AuthConfig::default() };
    let claim: Claim = serde_json::from_value(clusters).unwrap();
    let end = SystemClock.now() + Duration::from_secs(600);
    dev::sign_for(&keys, &user_id(user), role, claim, end).unwrap()
}

async fn post(rig: &Rig, path: &str, token: &str, body: &Value) -> Answer {
    Answer::of(rig.http.post(rig.url(path)).bearer_auth(token).json(body)).await
}

async fn get(rig: &Rig, path: &str, token: &str) -> Answer {
    Answer::of(rig.http.get(rig.url(path)).bearer_auth(token)).await
}

fn drain(more: &Value) -> Value {
    let mut body = json!({"cluster_name": "prod", "node_names": ["node-1"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_capability_is_needed_by_name_and_goes_with_the_task() {
    let rig = rig(json!([{"users": ["ada"], "clusters": ["pr*"], "may": ["force", "control-plane"]}])).await;
    let (ada, root) = (token("ada", Role::Operator, json!({})), token("root", Role::Admin, json!({})));
    let refused = post(&rig, DRAIN, &root, &drain(&json!({"force": true}))).await;
    let sentence = "root needs the capability force on the cluster prod; whoever runs Milepost (auth.grants) or issues \
                    its tokens (claim clusters) can give it";
    assert_eq!((refused.status, refused.text("detail")), (403, sentence));
    let refused = post(&rig, DRAIN, &ada, &drain(&json!({"bypass_pdb": true}))).await;
    assert!(
        refused.status == 403 && refused.text("detail").contains("the capability bypass-pdb"),
        "{refused:?}"
    );
    let as_task = json!({"action": "drain", "cluster": "prod", "items": ["node-1"], "parameters": {"bypass_pdb": true}});
    assert_eq!(post(&rig, "/api/v1/tasks", &ada, &as_task).await.status, 403);
    assert_eq!(rig.recorded().await, 0);

    let made = post(&rig, DRAIN, &ada, &drain(&json!({"force": true}))).await;
    assert_eq!(made.status, 202, "{made:?}");
    let task = rig.store.find(made.text("task_id").parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(task.may, Capabilities::from_iter([Capability::Force, Capability::ControlPlane]));
    let claimed = token("bob", Role::Operator, json!({"prod": {"may": ["bypass-pdb"]}}));
    assert_eq!(post(&rig, DRAIN, &claimed, &drain(&json!({"bypass_pdb": true}))).await.status, 202);
    let text = rig.metrics.text();
    for (kind, times) in [("force", 1), ("bypass-pdb", 2), ("control-plane", 0), ("role", 0)] {
        let line = format!("milepost_requests_refused_total{{kind=\"{kind}\"}} {times}");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn only_who_is_admin_everywhere_watches_the_tasks_of_others() {
    let rig = rig(json!([{"users": ["kim"], "clusters": ["secret"], "role": "viewer"}])).await;
    let live = |user: &str, role, clusters: Value| {
        let bearer = format!("Bearer {}", token(user, role, clusters));
        with_header(ws_request(&rig, "?owner=ada"), "authorization", &bearer)
    };
    let mut root = Live::open(live("root", Role::Admin, json!({}))).await.unwrap();
    let mut ada = Live::open(live("ada", Role::Viewer, json!({}))).await.unwrap();
    for socket in [&mut root, &mut ada] {
        socket.snapshot().await;
    }
    let task = TaskId::generate();
    rig.publish("ada", &complete(task, 1)).await;
    for socket in [&mut root, &mut ada] {
        assert_eq!(socket.frame().await["task_id"], task.to_string());
    }
    let admin_of_some = json!({"prod": {"role": "admin"}});
    let of_all_but_one = json!({"secret": {"role": "none"}});
    for request in [
        live("bob", Role::Operator, json!({})),
        live("pat", Role::Viewer, admin_of_some),
        live("eve", Role::Admin, of_all_but_one),
        live("kim", Role::Admin, json!({})),
    ] {
        assert_eq!(Live::open(request).await.unwrap().closed().await, 4505);
    }
    let sse = |user, role| get_with(&rig, "/api/v1/live/sse?owner=ada", token(user, role, json!({})));
    let refused = sse("bob", Role::Operator).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(sse("root", Role::Admin).await.status(), 200);
    rig.stop().await;
}

async fn get_with(rig: &Rig, path: &str, token: String) -> reqwest::Response {
    rig.http.get(rig.url(path)).bearer_auth(token).send().await.unwrap()
}

/// What who submitted a task might does not pass to a retry of it.
#[tokio::test]
async fn a_retry_takes_what_its_own_submitter_holds() {
    let rig = rig(json!([])).await;
    let holder = token("ada", Role::Operator, json!({"prod": {"may": ["force"]}}));
    let made = post(&rig, DRAIN, &holder, &drain(&json!({"force": true}))).await;
    let path = format!("/api/v1/tasks/{}", made.text("task_id"));
    let without = token("ada", Role::Operator, json!({}));
    assert_eq!(post(&rig, &format!("{path}/cancel"), &without, &json!({})).await.status, 200);
    let retry = json!({"include": ["cancelled"]});
    assert_eq!(post(&rig, &format!("{path}/retry"), &without, &retry).await.status, 403);
    let more = token("ada", Role::Operator, json!({"prod": {"may": ["force", "control-plane"]}}));
    let again = post(&rig, &format!("{path}/retry"), &more, &retry).await;
    let again = rig.store.find(again.text("task_id").parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(again.may, Capabilities::from_iter([Capability::Force, Capability::ControlPlane]));
    rig.stop().await;
}

#[tokio::test]
async fn a_cluster_that_one_may_not_see_is_not_there() {
    let rig = rig(json!([])).await;
    let blind = token("eve", Role::Admin, json!({"prod": {"role": "none"}}));
    assert_eq!(get(&rig, "/api/v1/clusters", &blind).await.body, json!({"clusters": [], "access": {}}));
    assert_eq!(get(&rig, "/api/v1/clusters/prod/nodes", &blind).await.status, 404);
    let cordon = json!({"cluster_name": "prod", "node_names": ["node-1"]});
    let refused = post(&rig, "/api/v1/nodes/batch/cordon", &blind, &cordon).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["cluster_name"]));
    assert_eq!(refused.text("detail"), "cluster_name is prod, and no cluster is configured");

    let made =
        post(&rig, "/api/v1/nodes/batch/cordon", &token("ada", Role::Operator, json!({})), &cordon).await;
    let path = format!("/api/v1/tasks/{}", made.text("task_id"));
    assert_eq!(get(&rig, &path, &blind).await.status, 404);
    assert_eq!(get(&rig, "/api/v1/tasks?owner=*", &blind).await.body, json!({"tasks": []}));
    let admin_here = token("pat", Role::Viewer, json!({"prod": {"role": "admin", "may": ["force"]}}));
    assert_eq!(get(&rig, &path, &admin_here).await.text("owner"), "ada");
    assert_eq!(get(&rig, "/api/v1/tasks?owner=*", &admin_here).await.body["tasks"][0]["owner"], "ada");
    let access = json!({"clusters": ["prod"], "access": {"prod": {"role": "admin", "may": ["force"]}}});
    assert_eq!(get(&rig, "/api/v1/clusters", &admin_here).await.body, access);
    assert_eq!(post(&rig, &format!("{path}/cancel"), &admin_here, &json!({})).await.status, 200);
    rig.stop().await;
}

#[tokio::test]
async fn an_installation_lowers_roles_whatever_tokens_say() {
    let rig =
        rig(json!([{"users": ["ada"], "role": "operator"}, {"clusters": ["prod"], "role": "viewer"}])).await;
    let cordon = json!({"cluster_name": "prod", "node_names": ["node-1"]});
    let path = "/api/v1/nodes/batch/cordon";
    assert_eq!(post(&rig, path, &token("ada", Role::Admin, json!({})), &cordon).await.status, 202);
    let refused = post(&rig, path, &token("bob", Role::Admin, json!({})), &cordon).await;
    assert!(
        refused.status == 403 && refused.text("detail").contains("bob needs the role operator"),
        "{refused:?}"
    );
    let nobody = token("bob", Role::None, json!({}));
    assert_eq!(get(&rig, "/api/v1/clusters", &nobody).await.status, 401);
    rig.stop().await;
}
