//! Live connections of a gateway: who gets in, what they are told, what they miss (nothing), and how it ends.

use std::time::Duration;

use milepost::bus::{Feed, Publisher};
use milepost::gateway::auth::Role;
use milepost::task::{Status, TaskId};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::gateway_rig::{
    Live, Rig, Sse, complete, cordon, progress, seqs, user_id, with_header, ws_request,
};
use crate::support::until;

#[tokio::test]
async fn a_newcomer_gets_hello_a_snapshot_and_then_events() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let task: TaskId = made.text("task_id").parse().unwrap();
    let mut live = rig.live("ada", None).await;
    let (hello, snapshot) = live.snapshot().await;
    assert_eq!(
        (hello["replica"].as_str(), hello["mode"].as_str(), hello.get("reason")),
        (Some("test-1"), Some("memory"), None)
    );
    let tasks = snapshot["tasks"].as_array().unwrap();
    assert_eq!(
        (tasks.len(), tasks[0]["task_id"].as_str(), tasks[0]["status"].as_str()),
        (1, Some(made.text("task_id")), Some("queued"))
    );
    assert_eq!(snapshot["position"], hello["position"]);

    rig.publish("ada", &progress(task, 1, 10)).await;
    rig.publish("ada", &complete(task, 2)).await;
    let events = live.frames(2).await;
    assert_eq!((events[0]["type"].as_str(), events[0]["current"].as_u64()), (Some("progress"), Some(10)));
    assert_eq!(
        (events[1]["type"].as_str(), events[1]["status"].as_str()),
        (Some("complete"), Some("completed"))
    );
    assert!(events.iter().all(|event| event["position"].is_string() && event.get("merged").is_none()));
    rig.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_up_to_date_with_the_stream() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let task: TaskId = made.text("task_id").parse().unwrap();
    rig.publish("ada", &progress(task, 1, 10)).await;
    let mut live = rig.live("ada", None).await;
    let (_, snapshot) = live.snapshot().await;
    assert_eq!(snapshot["tasks"][0]["current"], 10, "the record does not know it yet, the stream does");
    rig.publish("ada", &progress(task, 2, 20)).await;
    assert_eq!(live.frame().await["current"], 20, "and nothing that the snapshot holds comes again");
    rig.stop().await;
}

#[tokio::test]
async fn a_large_snapshot_comes_in_parts_that_together_hold_every_task() {
    let rig = Rig::start().await;
    let body = json!({"action": "cordon", "cluster": "prod", "items": ["a"], "reason": "r".repeat(500)});
    for _ in 0..150 {
        assert_eq!(rig.post("/api/v1/tasks", "ada", &body).await.status, 202);
    }
    let mut live = rig.live("ada", None).await;
    live.frame().await;
    let (mut tasks, mut parts) = (0, 0);
    loop {
        let part = live.frame().await;
        (tasks, parts) = (tasks + part["tasks"].as_array().unwrap().len(), parts + 1);
        if part.get("more").is_none() {
            break;
        }
    }
    assert_eq!(tasks, 150);
    assert!(parts > 1, "{parts}");
    rig.stop().await;
}

#[tokio::test]
async fn every_socket_of_a_user_gets_every_event_and_no_other_user_does() {
    let rig = Rig::start().await;
    let mut ada = [rig.live("ada", None).await, rig.live("ada", None).await];
    let mut bob = rig.live("bob", None).await;
    for live in ada.iter_mut().chain([&mut bob]) {
        live.snapshot().await;
    }
    let (task, other) = (TaskId::generate(), TaskId::generate());
    for seq in 1..=50 {
        rig.publish("ada", &progress(task, seq, u32::try_from(seq).unwrap())).await;
    }
    rig.publish("bob", &complete(other, 1)).await;
    for live in &mut ada {
        assert_eq!(seqs(&live.frames(50).await), (1..=50).collect::<Vec<_>>());
    }
    assert_eq!(bob.frame().await["task_id"], other.to_string());
    rig.stop().await;
}

#[tokio::test]
async fn a_resume_repeats_nothing_and_loses_nothing() {
    let rig = Rig::start().await;
    let task = TaskId::generate();
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    rig.publish("ada", &progress(task, 1, 1)).await;
    rig.publish("ada", &progress(task, 2, 2)).await;
    let last = live.frames(2).await.pop().unwrap()["position"].as_str().unwrap().to_owned();
    drop(live);
    for seq in 3..=1_200 {
        rig.publish("ada", &progress(task, seq, 3)).await;
    }
    let mut live = rig.live("ada", Some(&last)).await;
    let hello = live.frame().await;
    assert_eq!((&hello["recovered"], hello["position"].as_str()), (&json!(true), Some(last.as_str())));
    rig.publish("ada", &complete(task, 1_201)).await;
    assert_eq!(seqs(&live.frames(1_199).await), (3..=1_201).collect::<Vec<_>>());
    rig.stop().await;
}

/// Connects again and again while events are published, from wherever it got to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resuming_while_events_flow_repeats_nothing_and_loses_nothing() {
    let rig = Rig::start().await;
    let task = TaskId::generate();
    let start = rig.bus.head(&user_id("ada")).await.unwrap().to_string();
    let bus = rig.bus.clone();
    let publisher = tokio::spawn(async move {
        for seq in 1..=2_000 {
            bus.publish(&user_id("ada"), &progress(task, seq, 1)).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let (mut position, mut seen) = (start, Vec::new());
    while seen.len() < 2_000 {
        let mut live = rig.live("ada", Some(&position)).await;
        assert_eq!(live.frame().await["recovered"], true);
        let n = (2_000 - seen.len()).min(97);
        let got = live.frames(n).await;
        got.last().unwrap()["position"].as_str().unwrap().clone_into(&mut position);
        seen.extend(seqs(&got));
    }
    publisher.await.unwrap();
    assert_eq!(seen, (1..=2_000).collect::<Vec<_>>());
    rig.stop().await;
}

#[tokio::test]
async fn a_position_that_cannot_be_continued_gets_a_reason_and_a_snapshot() {
    let rig = Rig::start().await;
    let task = TaskId::generate();
    let stale = rig.bus.head(&user_id("ada")).await.unwrap().to_string();
    rig.publish("ada", &progress(task, 1, 1)).await;
    rig.bus.wipe(&user_id("ada"));
    let mut live = rig.live("ada", Some(&stale)).await;
    let (hello, _) = live.snapshot().await;
    assert_eq!(hello["reason"], "epoch");

    for seq in 1..=10 {
        rig.publish("ada", &progress(task, seq, 1)).await;
    }
    let old = live.frames(10).await[0]["position"].as_str().unwrap().to_owned();
    rig.bus.trim(&user_id("ada"), 2);
    let (hello, _) = rig.live("ada", Some(&old)).await.snapshot().await;
    assert_eq!(hello["reason"], "trimmed");
    assert!(rig.metrics.text().contains("milepost_resyncs_total{kind=\"epoch\"} 1"));
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_lost_under_open_sockets_brings_each_a_fresh_snapshot() {
    let rig = Rig::start().await;
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &cordon()).await;
    let task: TaskId = made.text("task_id").parse().unwrap();
    let mut both = [rig.live("ada", None).await, rig.live("ada", None).await];
    for live in &mut both {
        live.snapshot().await;
    }
    rig.bus.wipe(&user_id("ada"));
    for live in &mut both {
        let (hello, snapshot) = live.snapshot().await;
        assert_eq!(
            (hello["reason"].as_str(), snapshot["tasks"].as_array().unwrap().len()),
            (Some("epoch"), 1)
        );
    }
    rig.publish("ada", &progress(task, 1, 1)).await;
    for live in &mut both {
        assert_eq!(live.frame().await["seq"], 1);
    }
    rig.stop().await;
}

/// A reader that stalls: progress is merged, and the end arrives after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_merged_progress_and_then_the_end() {
    let rig = Rig::with(|parts| parts.live.coalesce_bytes = 4_096).await;
    let task = TaskId::generate();
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    // More than all buffers between the two ends hold.
    for seq in 1..=40_000 {
        rig.publish("ada", &progress(task, seq, 1)).await;
    }
    rig.publish("ada", &complete(task, 40_001)).await;
    let (mut stands_for, mut last) = (0, 0);
    loop {
        let frame = live.frame().await;
        let seq = frame["seq"].as_u64().unwrap();
        assert!(seq > last, "{seq} after {last}");
        last = seq;
        stands_for += frame["merged"].as_u64().unwrap_or(1);
        if frame["type"] == "complete" {
            break;
        }
    }
    assert_eq!((last, stands_for), (40_001, 40_001), "every event is accounted for");
    assert!(!rig.metrics.text().contains("milepost_events_coalesced_total 0"), "something was merged");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_too_slow_for_what_cannot_be_merged_is_closed_and_resumes() {
    let rig = Rig::with(|parts| parts.live.queue_bytes_max = 64 * 1024).await;
    let start = rig.bus.head(&user_id("ada")).await.unwrap().to_string();
    let mut live = rig.live("ada", Some(&start)).await;
    assert_eq!(live.frame().await["recovered"], true);
    let ends = 5_000;
    for _ in 0..ends {
        rig.publish("ada", &complete(TaskId::generate(), 1)).await;
    }
    let (mut position, mut got) = (start, 0);
    let code = loop {
        match live.next().await {
            Ok(frame) => {
                frame["position"].as_str().unwrap().clone_into(&mut position);
                got += 1;
            }
            Err(code) => break code,
        }
    };
    assert_eq!(code, 4008);
    assert!(got < ends);
    let mut again = rig.live("ada", Some(&position)).await;
    assert_eq!(again.frame().await["recovered"], true);
    let rest = again.frames(ends - got).await;
    assert!(rest.iter().all(|frame| frame["status"] == Status::Completed.as_str()));
    assert!(rig.metrics.text().contains("milepost_slow_sockets_closed_total 1"));
    rig.stop().await;
}

#[tokio::test]
async fn a_shutdown_closes_sockets_with_1012() {
    let rig = Rig::start().await;
    let mut sockets = Vec::new();
    for user in ["ada", "ada", "bob"] {
        let mut live = rig.live(user, None).await;
        live.snapshot().await;
        sockets.push(live);
    }
    let life = rig.life.clone();
    life.stop();
    for live in &mut sockets {
        assert_eq!(live.closed().await, 1012);
    }
    let metrics = rig.metrics.clone();
    rig.stop().await;
    assert!(metrics.text().contains("milepost_sockets{kind=\"ws\"} 0"), "{}", metrics.text());
}

#[tokio::test]
async fn a_token_that_ends_ends_its_sockets() {
    let rig = Rig::with(|parts| {
        parts.auth.hs256_secret = Some("a secret for tests of at least thirty-two bytes".to_owned().into());
    })
    .await;
    let soon = jiff::Timestamp::from_second(
        milepost::clock::Clock::now(&milepost::clock::SystemClock).as_second() + 2,
    );
    let keys = milepost::config::AuthConfig {
        hs256_secret: Some("a secret for tests of at least thirty-two bytes".to_owned().into()),
        ..Default::default()
    };
    let token =
        milepost::gateway::auth::dev::sign(&keys, &user_id("ada"), Role::Viewer, soon.unwrap()).unwrap();
    let mut live = Live::open(with_header(ws_request(&rig, ""), "authorization", &format!("Bearer {token}")))
        .await
        .unwrap();
    live.snapshot().await;
    assert_eq!(live.closed().await, 4005);
    rig.stop().await;
}

#[tokio::test]
async fn a_user_has_so_many_sockets_and_no_more() {
    let rig = Rig::with(|parts| parts.limits.sockets_per_user = 2).await;
    let mut first = rig.live("ada", None).await;
    first.snapshot().await;
    let mut second = rig.live("ada", None).await;
    second.snapshot().await;
    assert_eq!(rig.live("ada", None).await.closed().await, 4504);
    assert_eq!(rig.get("/api/v1/live/sse", "ada").await.status, 429);
    rig.live("bob", None).await.snapshot().await;
    drop(first);
    until("the place is free", async || rig.live("ada", None).await.next().await.is_ok()).await;
    assert!(rig.metrics.text().contains("milepost_requests_refused_total{kind=\"sockets\"}"));
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let rig = Rig::with(|parts| {
        parts.live.ping_interval = Duration::from_millis(100);
        parts.live.idle_timeout = Duration::from_secs(2);
    })
    .await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    let read = tokio::time::timeout(Duration::from_secs(4), live.next()).await;
    assert!(read.is_err(), "it is still open: {read:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_gives_no_sign_of_life_is_closed() {
    let rig = Rig::with(|parts| parts.live.idle_timeout = Duration::from_millis(200)).await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    assert_eq!(live.closed().await, 4009);
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_messages_is_closed_and_should_not_come_back() {
    let rig = Rig::start().await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    live.send(Message::text("hello?")).await;
    assert_eq!(live.closed().await, 4503);
    rig.stop().await;
}

#[tokio::test]
async fn sse_says_the_same_and_resumes_by_its_last_event_id() {
    let rig = Rig::start().await;
    let task = TaskId::generate();
    let open = |rig: &Rig| rig.request(reqwest::Method::GET, "/api/v1/live/sse", "ada");
    let mut sse = Sse::open(open(&rig)).await;
    let (id, event, data) = sse.next().await.unwrap();
    assert_eq!((id, event.as_str(), &data["recovered"]), (None, "hello", &json!(false)));
    let (id, event, data) = sse.next().await.unwrap();
    assert_eq!((id.as_deref(), event.as_str()), (data["position"].as_str(), "snapshot"));
    rig.publish("ada", &progress(task, 1, 1)).await;
    let (id, event, data) = sse.next().await.unwrap();
    assert_eq!(
        (id.as_deref(), event.as_str(), data["seq"].as_u64()),
        (data["position"].as_str(), "progress", Some(1))
    );
    drop(sse);

    rig.publish("ada", &complete(task, 2)).await;
    let mut sse = Sse::open(open(&rig).header("Last-Event-ID", id.unwrap())).await;
    assert_eq!(sse.next().await.unwrap().2["recovered"], true);
    let (_, event, data) = sse.next().await.unwrap();
    assert_eq!((event.as_str(), data["seq"].as_u64()), ("complete", Some(2)));

    rig.life.stop();
    let (_, event, data) = sse.next().await.unwrap();
    assert_eq!((event.as_str(), &data["code"], &data["reconnect"]), ("close", &json!(1012), &json!(true)));
    assert!(sse.next().await.is_none());
    let metrics = rig.metrics.clone();
    rig.stop().await;
    assert!(metrics.text().contains("milepost_sockets{kind=\"sse\"} 0"));
}

/// Positions mean the same on every replica and on both transports.
#[tokio::test]
async fn a_position_of_one_replica_and_transport_is_continued_on_another() {
    let secret = || Some("a secret for tests of at least thirty-two bytes".to_owned().into());
    let one = Rig::with(|parts| parts.auth.hs256_secret = secret()).await;
    let two = Rig::with(|parts| {
        parts.auth.hs256_secret = secret();
        (parts.store, parts.feed) = (one.store.clone(), one.bus.clone());
    })
    .await;
    let task = TaskId::generate();
    let mut live = one.live("ada", None).await;
    live.snapshot().await;
    for seq in 1..=3 {
        one.publish("ada", &progress(task, seq, 1)).await;
    }
    let places: Vec<String> =
        live.frames(3).await.iter().map(|frame| frame["position"].as_str().unwrap().to_owned()).collect();
    let sse = |query: String| two.request(reqwest::Method::GET, &format!("/api/v1/live/sse{query}"), "ada");
    let by_position = sse(format!("?position={}", places[1]));
    let by_header = sse(format!("?position={}", places[0])).header("Last-Event-ID", &places[1]);
    for request in [by_position, by_header] {
        let mut sse = Sse::open(request).await;
        assert_eq!(sse.next().await.unwrap().2["recovered"], true);
        assert_eq!(sse.next().await.unwrap().2["seq"], 3, "the header takes the place of the parameter");
    }
    let mut back = two.live("ada", Some(&places[0])).await;
    assert_eq!(back.frame().await["recovered"], true);
    assert_eq!(seqs(&back.frames(2).await), [2, 3]);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn delivery_is_measured_from_the_end_of_an_item() {
    let rig = Rig::start().await;
    let mut live = rig.live("ada", None).await;
    live.snapshot().await;
    let mut event = complete(TaskId::generate(), 1);
    event.items = serde_json::from_value(json!([
        {"index": 0, "name": "a", "state": "succeeded", "done_us": jiff_now_us() - 40_000},
        {"index": 1, "name": "b", "state": "running"},
    ]))
    .unwrap();
    rig.publish("ada", &event).await;
    assert_eq!(live.frame().await["items"].as_array().unwrap().len(), 2);
    until("the write is counted", async || {
        rig.metrics.text().contains("milepost_terminal_events_delivered_total 1")
    })
    .await;
    let text = rig.metrics.text();
    assert!(text.contains("milepost_event_delivery_seconds_count 1"), "one item ended: {text}");
    assert!(text.contains("milepost_event_delivery_seconds_bucket{le=\"0.025\"} 0"), "{text}");
    rig.stop().await;
}

fn jiff_now_us() -> i64 {
    milepost::clock::Clock::now(&milepost::clock::SystemClock).as_microsecond()
}
