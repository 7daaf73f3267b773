//! What a user does to a task that no worker holds is told by the gateway: in order, and with numbers that no other event
//! has. Not here: what workers tell (`gateway_live`), and the answers to controls (`gateway_control`).

use milepost::task::{Attempt, Event};
use serde_json::json;

use crate::gateway_rig::{Rig, cordon, progress, seqs, user_id};

#[tokio::test]
async fn a_submit_a_cancel_and_a_pause_are_seen_live() {
    let rig = Rig::start().await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let path = format!("/api/v1/tasks/{}", made.text("task_id"));
    for change in ["pause", "resume", "cancel"] {
        assert_eq!(rig.post(&format!("{path}/{change}"), "ada", &json!({})).await.status, 200);
    }
    let events = live.frames(4).await;
    let said: Vec<_> =
        events.iter().map(|e| (e["type"].as_str().unwrap(), e["status"].as_str().unwrap())).collect();
    let expected =
        [("queued", "queued"), ("paused", "paused"), ("resumed", "queued"), ("complete", "cancelled")];
    assert_eq!(said, expected);
    rig.stop().await;
}

/// Found by a chaos run: the record is a moment behind what the worker told.
#[tokio::test]
async fn a_pause_counts_no_fewer_items_than_were_told_before() {
    let rig = Rig::start().await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let told = Event { attempt: Attempt::NONE, ..progress(made.text("task_id").parse().unwrap(), 7, 2) };
    rig.publish("ada", &told).await;
    rig.post(&format!("/api/v1/tasks/{}/pause", made.text("task_id")), "ada", &json!({})).await;
    let events = live.frames(3).await;
    assert_eq!((seqs(&events), events[2]["type"].as_str()), (vec![1, 7, 8], Some("paused")));
    assert_eq!(events[2]["current"], 2);
    rig.stop().await;
}

/// Found by a chaos run: a number stands for one event, also when the bus has lost all that it knew.
#[tokio::test]
async fn a_pause_after_the_bus_forgot_everything_uses_no_number_again() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let path = format!("/api/v1/tasks/{}", made.text("task_id"));
    rig.bus.wipe(&user_id("ada"));
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    for change in ["pause", "resume"] {
        assert_eq!(rig.post(&format!("{path}/{change}"), "ada", &json!({})).await.status, 200);
    }
    let events = live.frames(2).await;
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("paused"), &json!("resumed")));
    assert!(events[0]["seq"].as_u64().unwrap() > 1_000_000, "{events:?}");
    assert_eq!(events[1]["seq"].as_u64(), events[0]["seq"].as_u64().map(|seq| seq + 1));
    rig.stop().await;
}
