//! F14 and F17: what was done, and whoever asked for it does not know; and what is asked for again and again.

use std::collections::BTreeSet;

use milepost_harness::Trap;
use serde_json::Value;
use tokio::task::JoinSet;

use super::stage::{Stage, spec};
use crate::support::{Api, names, until, wait_batch};

fn lose(request: &str) -> Trap {
    Trap::LoseReply { request: request.as_bytes().to_vec() }
}

/// Commits of claims, results and ends are done, and their answers are lost.
#[tokio::test(flavor = "multi_thread")]
async fn f14_replies_of_commits_lost() {
    let mut stage = Stage::start(spec().proxied());
    stage.watch("ann", 2).await;
    let fault = stage.fault("lose-replies-of-postgres");
    stage.hub.proxies.postgres.as_ref().unwrap().set_trap(lose("COMMIT"), 12);
    for n in 0..6 {
        stage.submit_at(n % 2, "ann", &wait_batch(&names(&format!("c{n}"), 30), 50, 7)).await;
    }
    let proxy = stage.hub.proxies.postgres.as_ref().unwrap();
    until("answers are lost", async || proxy.sprung() >= 12).await;
    proxy.take_trap();
    fault.bit(format!("{} replies were lost", proxy.sprung()));
    fault.healed();
    stage.judge().await;
}

/// Events are in the stream, and tokens in the dispatch, and their answers are lost.
#[tokio::test(flavor = "multi_thread")]
async fn f14_replies_of_publishes_lost() {
    let mut stage = Stage::start(spec().proxied());
    stage.watch("ann", 2).await;
    let fault = stage.fault("lose-replies-of-redis");
    stage.hub.proxies.redis.as_ref().unwrap().set_trap(lose("_publish\r\n"), 6);
    let task = stage.submit("ann", &wait_batch(&names("p", 60), 100, 7)).await;
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    until("answers are lost", async || proxy.sprung() >= 6).await;
    stage.ended(&task).await;
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    let before = proxy.sprung();
    proxy.set_trap(lose("mp:dispatch\r\n$1\r\n*"), 2);
    for n in 0..4 {
        stage.submit_at(n % 2, "ann", &wait_batch(&names(&format!("d{n}"), 20), 50, 0)).await;
    }
    let proxy = stage.hub.proxies.redis.as_ref().unwrap();
    until("answers of wake-ups are lost", async || proxy.sprung() >= before + 2).await;
    fault.bit(format!("{} replies were lost", proxy.sprung()));
    fault.healed();
    stage.judge().await;
}

/// Submits one body with one key, once. `None` when there was no answer.
async fn submit(api: &Api, key: &str, body: &Value) -> (Option<u16>, Value) {
    api.submit_with_key(key, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_duplicate_submits() {
    let mut stage = Stage::start(spec().proxied());
    stage.watch("ann", 1).await;
    let body = wait_batch(&names("once", 30), 50, 0);
    let (one, two) = (stage.api("ann", 0), stage.api("ann", 1));
    let mut all = JoinSet::new();
    for n in 0..50 {
        let (api, body) = (if n % 2 == 0 { one.clone() } else { two.clone() }, body.clone());
        all.spawn(async move { submit(&api, "the-key", &body).await });
    }
    let answers = all.join_all().await;
    let accepted = |answer: &&(Option<u16>, Value)| matches!(answer.0, Some(200 | 202));
    let ids: BTreeSet<&str> =
        answers.iter().filter(accepted).map(|(_, task)| task["task_id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), answers.iter().filter(accepted).count()), (1, 50), "I9: {answers:?}");
    for (status, task) in &answers {
        stage.note_submit("ann", Some("the-key"), &body, *status, task["task_id"].as_str());
    }
    let other = wait_batch(&names("other", 3), 50, 0);
    let refused = submit(&one, "the-key", &other).await;
    assert_eq!(refused.0, Some(409), "another body: {refused:?}");
    stage.note_submit("ann", Some("the-key"), &other, refused.0, None);
    let fault = stage.fault("lose-replies-of-postgres");
    // F14: the insert is committed, and the gateway does not learn of it.
    stage.hub.proxies.postgres.as_ref().unwrap().set_trap(lose("the-lost-key"), 1);
    let lost = submit(&one, "the-lost-key", &other).await;
    assert_eq!((lost.0, stage.hub.proxies.postgres.as_ref().unwrap().sprung()), (Some(503), 1), "{lost:?}");
    fault.bit("a submit was committed, and its answer was lost");
    fault.healed();
    let (status, task) = submit(&two, "the-lost-key", &other).await;
    assert!(matches!(status, Some(200 | 202)), "{status:?} {task}");
    stage.note_submit("ann", Some("the-lost-key"), &other, status, task["task_id"].as_str());
    assert_eq!(stage.number("SELECT count(*) FROM tasks").await, 2, "I9");
    stage.judge().await;
}
