//! Who opens a live connection from a browser, and how: tickets, origins, and what never stands in an address or a
//! log.

use std::time::Duration;

use milepost::clock::{Clock, SystemClock};
use milepost::config::AuthConfig;
use milepost::gateway::auth::{Role, dev};
use milepost_harness::Process;
use milepost_harness::process::wait_for;
use reqwest::Method;
use serde_json::Value;

use crate::gateway_rig::{Answer, Live, Rig, Sse, refused, user_id, with_header, ws_request};

const SECRET: &str = "planted-secret-of-the-tests-0123456789";

fn keys() -> AuthConfig {
    AuthConfig { hs256_secret: Some(SECRET.to_owned().into()), ..AuthConfig::default() }
}

/// A token that ends so many seconds from now.
fn token(ends_in_s: i64) -> String {
    let end = SystemClock.now() + jiff::SignedDuration::from_secs(ends_in_s);
    dev::sign(&keys(), &user_id("ada"), Role::Operator, end).unwrap()
}

async fn ticket(rig: &Rig, origin: &str) -> String {
    let request = rig.request(Method::POST, "/api/v1/live/tickets", "ada").header("origin", origin);
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.body["expires_in_ms"].as_u64()), (201, Some(30_000)), "{answer:?}");
    answer.text("ticket").to_owned()
}

#[tokio::test]
async fn a_ticket_opens_one_connection_from_the_page_it_was_made_for() {
    let rig = Rig::with(|parts| parts.server.allowed_origins = vec!["https://ops.example.com".into()]).await;
    let own = format!("http://{}", rig.gateway.address());
    let query = format!("?ticket={}", ticket(&rig, &own).await);
    let mut live = Live::open(with_header(ws_request(&rig, &query), "origin", &own)).await.unwrap();
    live.snapshot().await;
    assert_eq!(refused(with_header(ws_request(&rig, &query), "origin", &own)).await, 401, "a second use");

    let query = format!("?ticket={}", ticket(&rig, "https://ops.example.com").await);
    assert_eq!(refused(with_header(ws_request(&rig, &query), "origin", &own)).await, 401, "another page");
    let query = format!("?ticket={}", ticket(&rig, "https://ops.example.com").await);
    Live::open(with_header(ws_request(&rig, &query), "origin", "https://ops.example.com")).await.unwrap();
    let query = format!("?ticket={}", ticket(&rig, &own).await);
    assert_eq!(refused(ws_request(&rig, &query)).await, 401, "no page");
    rig.stop().await;
}

#[tokio::test]
async fn a_foreign_page_and_a_stranger_are_refused() {
    let rig = Rig::start().await;
    let token = format!("Bearer {}", rig.token("ada", Role::Operator));
    let foreign = with_header(ws_request(&rig, ""), "origin", "https://evil.example.com");
    assert_eq!(refused(with_header(foreign, "authorization", &token)).await, 403);
    assert_eq!(refused(ws_request(&rig, "")).await, 401);
    assert_eq!(refused(ws_request(&rig, "?ticket=guess")).await, 401);
    assert_eq!(refused(with_header(ws_request(&rig, "?token=x"), "authorization", &token)).await, 400);
    let request = rig.request(Method::POST, "/api/v1/live/tickets", "ada");
    assert_eq!(Answer::of(request.header("origin", "https://evil.example.com")).await.status, 403);
    let plain = rig.get("/api/v1/live/ws", "ada").await;
    assert_eq!((plain.status, plain.fields()), (400, vec!["Upgrade"]));
    rig.stop().await;
}

#[tokio::test]
async fn a_browser_opens_sse_with_a_ticket_from_its_own_page() {
    let rig = Rig::start().await;
    let own = format!("http://{}", rig.gateway.address());
    let url = rig.url(&format!("/api/v1/live/sse?ticket={}", ticket(&rig, &own).await));
    let mut sse = Sse::open(rig.http.get(&url).header("sec-fetch-site", "same-origin")).await;
    assert_eq!(sse.next().await.unwrap().1, "hello");
    assert_eq!(Answer::of(rig.http.get(&url).header("sec-fetch-site", "same-origin")).await.status, 401);
    rig.stop().await;
}

#[tokio::test]
async fn a_ticket_is_over_after_its_time() {
    let rig = Rig::with(|parts| parts.live.ticket_ttl = Duration::from_millis(1)).await;
    let own = format!("http://{}", rig.gateway.address());
    let request = rig.request(Method::POST, "/api/v1/live/tickets", "ada").header("origin", &own);
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.body["expires_in_ms"].as_u64()), (201, Some(1)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let query = format!("?ticket={}", answer.text("ticket"));
    assert_eq!(refused(with_header(ws_request(&rig, &query), "origin", &own)).await, 401);
    rig.stop().await;
}

/// A token may be used for some seconds past its end, for clocks that differ. A ticket may not outlive it by more.
#[tokio::test]
async fn a_ticket_ends_with_the_token_it_was_traded_for() {
    let rig = Rig::with(|parts| parts.auth = keys()).await;
    let own = format!("http://{}", rig.gateway.address());
    let mut opened = Vec::new();
    for ends_in_s in [60, -5] {
        let request = rig.http.post(rig.url("/api/v1/live/tickets")).bearer_auth(token(ends_in_s));
        let answer = Answer::of(request.header("origin", &own)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let query = format!("?ticket={}", answer.text("ticket"));
        opened.push(Live::open(with_header(ws_request(&rig, &query), "origin", &own)).await.is_ok());
    }
    assert_eq!(opened, [true, false]);
    rig.stop().await;
}

#[tokio::test]
async fn a_good_token_in_an_address_lets_nobody_in() {
    let rig = Rig::with(|parts| parts.auth = keys()).await;
    let token = token(60);
    for (path, status) in [
        ("/api/v1/tasks?token=", 401),
        ("/api/v1/tasks?access_token=", 401),
        ("/api/v1/live/sse?token=", 400),
        ("/api/v1/live/sse?access_token=", 400),
        ("/api/v1/live/sse?ticket=", 401),
    ] {
        let request =
            rig.http.get(rig.url(&format!("{path}{token}"))).header("sec-fetch-site", "same-origin");
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(!answer.body.to_string().contains(&token), "{answer:?}");
    }
    for (query, status) in [("?token=", 400), ("?ticket=", 401)] {
        let request = ws_request(&rig, &format!("{query}{token}"));
        let own = format!("http://{}", rig.gateway.address());
        assert_eq!(refused(with_header(request, "origin", &own)).await, status, "{query}");
    }
    rig.stop().await;
}

/// A gateway of the real binary that logs all there is.
struct Talkative {
    process: Process,
    base: String,
    _folder: tempfile::TempDir,
}

impl Talkative {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = vec![env!("CARGO_BIN_EXE_milepost").to_owned()];
        command.extend(["--json", "--log", "trace", "serve"].map(str::to_owned));
        for flag in ["--listen", "--admin-listen"] {
            command.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        let env = [("MILEPOST_AUTH__HS256_SECRET".to_owned(), SECRET.to_owned())];
        let process = Process::start(&command, &env, &folder.path().join("log"), "TERM").unwrap();
        let mut base = String::new();
        wait_for(Duration::from_secs(30), "the address of the gateway", || {
            let log = process.log();
            let said = log.lines().find(|line| line.contains(r#""type":"serving""#));
            let said: Value = said.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            said["api"].as_str().unwrap_or_default().clone_into(&mut base);
            Ok(!base.is_empty())
        })
        .unwrap();
        Self { process, base, _folder: folder }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_at_its_most_talkative_holds_no_ticket_and_no_token() {
    let server = Talkative::start();
    let (http, token) = (reqwest::Client::new(), token(60));
    let ticket = async || {
        let request = http.post(format!("{}/api/v1/live/tickets", server.base)).bearer_auth(&token);
        Answer::of(request.header("origin", &server.base)).await.text("ticket").to_owned()
    };
    let tickets = [ticket().await, ticket().await, ticket().await];
    let live = server.base.replacen("http", "ws", 1);
    let ws = |query: String| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let request = format!("{live}/api/v1/live/ws{query}").into_client_request().unwrap();
        with_header(request, "origin", &server.base)
    };
    Live::open(ws(format!("?ticket={}", tickets[0]))).await.unwrap().snapshot().await;
    assert_eq!(refused(ws(format!("?ticket={}", tickets[0]))).await, 401);
    let sse = |query: String| {
        http.get(format!("{}/api/v1/live/sse{query}", server.base)).header("origin", &server.base)
    };
    assert_eq!(Sse::open(sse(format!("?ticket={}", tickets[1]))).await.next().await.unwrap().1, "hello");
    let twice = Answer::of(sse(format!("?ticket={0}&ticket={0}", tickets[2]))).await;
    assert_eq!((twice.status, twice.fields()), (400, vec!["ticket"]));
    assert_eq!(Answer::of(sse(format!("?token={token}"))).await.status, 400);

    let log = server.process.log();
    for path in ["/api/v1/live/ws", "/api/v1/live/sse", "/api/v1/live/tickets"] {
        assert!(log.contains(path), "the log tells of {path}");
    }
    for secret in tickets.iter().chain([&token]).map(String::as_str).chain([SECRET]) {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
}
