//! The live client against a small gateway of the test's own, over real sockets. The real gateway is met in
//! `tests/it`.

use std::collections::VecDeque;

use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::client::session::Stats;
use crate::task::{Counts, Status};

/// What the test's gateway does with one connection, in order.
#[derive(Debug, Clone)]
enum Act {
    Send(String),
    Close(u16),
    Drop,
    Refuse(u16),
    /// Says nothing more, and answers no ping.
    Freeze,
}

/// A gateway that plays one script per connection, and notes what each connection asked for.
struct Gateway {
    url: String,
    asked: tokio::sync::mpsc::Receiver<String>,
}

impl Gateway {
    async fn start(scripts: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (note, asked) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let mut scripts: VecDeque<_> = scripts.into();
            while let Ok((stream, _)) = listener.accept().await {
                let Some(script) = scripts.pop_front() else { return };
                tokio::spawn(play(stream, script, note.clone()));
            }
        });
        Self { url, asked }
    }

    fn live(&self) -> Live {
        let token = Some(SecretString::from("secret".to_owned()));
        let mut settings = LiveSettings::new(vec![self.url.clone()], token);
        settings.connect_within = Duration::from_secs(30);
        Live::new(settings)
    }
}

async fn play(stream: TcpStream, script: Vec<Act>, note: tokio::sync::mpsc::Sender<String>) {
    let refusal =
        script.iter().find_map(|act| if let Act::Refuse(status) = act { Some(*status) } else { None });
    #[expect(clippy::result_large_err, reason = "the library's own callback type")]
    let check = |request: &server::Request, response: server::Response| {
        let bearer = request.headers()[header::AUTHORIZATION].to_str().unwrap();
        note.try_send(format!("{} {bearer}", request.uri())).unwrap();
        match refusal {
            None => Ok(response),
            Some(status) => {
                let body = r#"{"title":"Unauthorized","status":401,"detail":"the token has expired"}"#;
                Err(Response::builder().status(status).body(Some(body.to_owned())).unwrap())
            }
        }
    };
    let Ok(mut socket) = accept_hdr_async(stream, check).await else { return };
    for act in script {
        match act {
            Act::Send(text) => socket.send(Message::text(text)).await.unwrap(),
            Act::Close(code) => {
                let frame = CloseFrame { code: CloseCode::from(code), reason: "bye".into() };
                socket.close(Some(frame)).await.unwrap();
                while let Some(Ok(_)) = socket.next().await {}
            }
            Act::Drop | Act::Refuse(_) => return,
            Act::Freeze => std::future::pending().await,
        }
    }
    while let Some(Ok(_)) = socket.next().await {}
}

fn hello(recovered: bool) -> Act {
    Act::Send(format!(r#"{{"type":"hello","recovered":{recovered},"position":"e.0-0"}}"#))
}

fn snapshot() -> Act {
    Act::Send(r#"{"type":"snapshot","position":"e.0-0","tasks":[]}"#.into())
}

fn event(seq: u64) -> Act {
    let counts = Counts { total: 10, succeeded: u32::try_from(seq).unwrap(), ..Counts::default() };
    let event = crate::task::snapshot::tests::event(1, seq, Status::Running, counts);
    let mut json = serde_json::to_value(event).unwrap();
    json["position"] = format!("e.{seq}-0").into();
    Act::Send(json.to_string())
}

/// The updates up to the one that `last` accepts.
async fn until(live: &mut Live, last: impl Fn(&Update) -> bool) -> Vec<Update> {
    let mut updates = Vec::new();
    loop {
        let update = timeout(Duration::from_secs(30), live.next()).await.expect("an update").unwrap();
        updates.push(update);
        if last(&updates[updates.len() - 1]) {
            return updates;
        }
    }
}

fn is_event(update: &Update, seq: u64) -> bool {
    matches!(update, Update::Event(received) if received.event.seq.0 == seq)
}

#[tokio::test]
async fn a_restart_a_slow_close_and_a_broken_wire_are_all_survived_without_loss_or_repeat() {
    let mut gateway = Gateway::start(vec![
        vec![hello(false), snapshot(), event(1), event(2), Act::Close(1012)],
        vec![hello(true), event(2), event(3), Act::Close(4008)],
        vec![Act::Refuse(503)],
        vec![hello(true), event(4), Act::Drop],
        vec![hello(true), event(5)],
    ])
    .await;
    let mut live = gateway.live();
    let updates = until(&mut live, |update| is_event(update, 5)).await;
    let seqs: Vec<u64> = updates
        .iter()
        .filter_map(
            |update| if let Update::Event(received) = update { Some(received.event.seq.0) } else { None },
        )
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    let breaks = updates.iter().filter(|update| matches!(update, Update::Disconnected { .. })).count();
    assert_eq!(breaks, 4, "{updates:?}");
    let expected = Stats { events: 5, repeats: 1, snapshots: 1, recoveries: 3, ..Stats::default() };
    assert_eq!(live.session().stats(), expected);
    assert_eq!(live.snapshot().tasks().next().unwrap().counts.succeeded, 5);
    let mut asked = Vec::new();
    while let Ok(ask) = gateway.asked.try_recv() {
        asked.push(ask);
    }
    assert_eq!(
        asked,
        [
            "/api/v1/live/ws Bearer secret",
            "/api/v1/live/ws?position=e.2-0 Bearer secret",
            "/api/v1/live/ws?position=e.3-0 Bearer secret",
            "/api/v1/live/ws?position=e.3-0 Bearer secret",
            "/api/v1/live/ws?position=e.4-0 Bearer secret",
        ]
    );
}

#[tokio::test]
async fn a_final_close_code_ends_it() {
    let gateway = Gateway::start(vec![vec![hello(false), snapshot(), Act::Close(4500)]]).await;
    let mut live = gateway.live();
    until(&mut live, |update| *update == Update::Snapshot).await;
    let error = live.next().await.unwrap_err();
    assert!(
        matches!(&error, LiveError::Refused { ending: Ending::Closed { code: 4500, .. }, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_token_ends_it_with_the_servers_words() {
    let gateway = Gateway::start(vec![vec![Act::Refuse(401)]]).await;
    let error = gateway.live().next().await.unwrap_err().to_string();
    assert!(error.contains("the token has expired"), "{error}");
}

#[tokio::test]
async fn the_next_server_is_tried_when_one_is_gone() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(vec![vec![hello(false), snapshot()]]).await;
    let servers = vec![format!("http://{gone}"), gateway.url.clone()];
    let token = Some(SecretString::from("secret".to_owned()));
    let mut live = Live::new(LiveSettings::new(servers, token));
    let updates = until(&mut live, |update| *update == Update::Snapshot).await;
    assert!(matches!(updates[0], Update::Disconnected { .. }), "{updates:?}");
    assert_eq!(live.server(), gateway.url);
}

#[tokio::test]
async fn silence_is_taken_for_death() {
    let gateway = Gateway::start(vec![
        vec![hello(false), snapshot(), event(1), Act::Freeze],
        vec![hello(true), event(2)],
    ])
    .await;
    let mut settings = LiveSettings::new(vec![gateway.url.clone()], Some(SecretString::from("t".to_owned())));
    settings.idle_timeout = Duration::from_millis(300);
    let mut live = Live::new(settings);
    let updates = until(&mut live, |update| is_event(update, 2)).await;
    let silent =
        |update: &Update| matches!(update, Update::Disconnected { reason, .. } if reason.contains("heard"));
    assert!(updates.iter().any(silent), "{updates:?}");
}

#[tokio::test]
async fn it_gives_up_when_no_server_can_be_reached() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut settings = LiveSettings::new(vec![format!("http://{gone}")], None);
    settings.connect_within = Duration::from_millis(200);
    let mut live = Live::new(settings);
    let error = loop {
        match timeout(Duration::from_secs(30), live.next()).await.expect("an end") {
            Ok(Update::Disconnected { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LiveError::GaveUp { .. }), "{error}");
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let gateway = Gateway::start(vec![vec![hello(false), snapshot(), event(1), event(2), event(3)]]).await;
    let mut live = gateway.live();
    let mut seen = 0;
    while seen < 3 {
        tokio::select! {
            biased;
            update = live.next() => seen += u64::from(matches!(update.unwrap(), Update::Event(_))),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(live.session().stats().events, 3);
}

#[test]
fn addresses_tokens_and_positions_are_put_into_the_request() {
    let token = SecretString::from("t".to_owned());
    let settings = LiveSettings { owner: Some("ada".into()), ..LiveSettings::new(Vec::new(), Some(token)) };
    let made = request("https://ops.example/milepost/", Some("a b.1-0"), &settings).unwrap();
    assert_eq!(made.uri(), "wss://ops.example/milepost/api/v1/live/ws?position=a+b.1-0&owner=ada");
    assert!(request("ops.example", None, &settings).unwrap_err().is_final());
}
