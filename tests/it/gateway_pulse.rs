//! Signs of life on a WebSocket, seen from the wire: no client library that answers pings by itself.

use std::time::Duration;

use milepost::gateway::Parts;
use milepost::gateway::auth::Role;
use milepost::task::TaskId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::gateway_rig::{Rig, complete};
use crate::support::{PATIENCE, until};

const PING: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(2);
/// The opcodes of RFC 6455.
const CLOSE: u8 = 8;
const PING_FRAME: u8 = 9;
const PONG_FRAME: u8 = 10;

fn quick(parts: &mut Parts) {
    parts.live.ping_interval = PING;
    parts.live.idle_timeout = IDLE;
}

/// A client that does only what it is told.
struct Raw {
    stream: TcpStream,
}

impl Raw {
    async fn open(rig: &Rig) -> Self {
        let mut stream = TcpStream::connect(rig.gateway.address()).await.unwrap();
        let request = format!(
            "GET /api/v1/live/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {}\r\n\r\n",
            rig.token("ada", Role::Viewer)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { stream }
    }

    /// The next frame: opcode and payload. `None` at the end of the connection.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame in time").ok()
    }

    async fn read_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let opcode = self.stream.read_u8().await? & 0x0f;
        let len = match self.stream.read_u8().await? {
            126 => usize::from(self.stream.read_u16().await?),
            127 => panic!("no frame is that large"),
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await?;
        Ok((opcode, payload))
    }

    /// Answers a ping. Clients mask what they send; a mask of zeros changes nothing.
    async fn pong(&mut self, payload: &[u8]) {
        let mut frame = vec![0x80 | PONG_FRAME, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Reads without answering until the close frame; its code, and how many pings came before it.
    async fn closed(&mut self) -> (u16, u32) {
        let mut pings = 0;
        loop {
            match self.frame().await.expect("a close frame before the end") {
                (PING_FRAME, _) => pings += 1,
                (CLOSE, payload) => return (u16::from_be_bytes([payload[0], payload[1]]), pings),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed_within_the_idle_time() {
    let rig = Rig::with(quick).await;
    let began = Instant::now();
    let mut peer = Raw::open(&rig).await;
    let (code, pings) = peer.closed().await;
    assert_eq!(code, 4009);
    assert!(pings >= 2, "it was asked {pings} times");
    let took = began.elapsed();
    assert!((IDLE..IDLE + Duration::from_secs(10)).contains(&took), "{took:?}");
    assert_eq!(peer.frame().await, None, "the connection ends though the close is not answered");
    until("nothing is left of it", async || rig.metrics.text().contains("milepost_sockets{kind=\"ws\"} 0"))
        .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_pong_keeps_a_peer_that_says_nothing_else_for_longer_than_the_idle_time() {
    let rig = Rig::with(quick).await;
    let mut peer = Raw::open(&rig).await;
    let began = Instant::now();
    while began.elapsed() < 2 * IDLE {
        match peer.frame().await.expect("it stays open") {
            (PING_FRAME, payload) => peer.pong(&payload).await,
            (CLOSE, payload) => panic!("closed: {payload:?}"),
            _ => {}
        }
    }
    assert_eq!(peer.closed().await.0, 4009, "and it is the pongs that kept it");
    rig.stop().await;
}

/// Nothing can be said to a peer that does not read: it is cut off once a write takes too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_is_cut_off() {
    let rig = Rig::with(|parts| {
        parts.live.write_timeout = Duration::from_millis(200);
        parts.live.queue_bytes_max = usize::MAX / 2;
        parts.live.coalesce_bytes = usize::MAX / 2;
    })
    .await;
    let peer = Raw::open(&rig).await;
    let large = Some("m".repeat(8_000));
    for _ in 0..4_000 {
        let mut event = complete(TaskId::generate(), 1);
        event.message.clone_from(&large);
        rig.publish("ada", &event).await;
    }
    until("it is cut off", async || {
        let text = rig.metrics.text();
        text.contains("milepost_sockets{kind=\"ws\"} 0")
            && text.contains("milepost_slow_sockets_closed_total 1")
    })
    .await;
    drop(peer);
    rig.stop().await;
}
