//! The proxy between a client and a server that says everything back.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::ErrorKind;

use tokio::time::timeout;

use super::*;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a test waits for what must not come.
const QUIET: Duration = Duration::from_millis(200);

/// A server that says everything back, and counts what it heard.
struct Echo {
    port: u16,
    heard: Arc<AtomicU64>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream, Arc::clone(&count)));
            }
        });
        Self { port, heard }
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }
}

async fn echo(mut stream: TcpStream, heard: Arc<AtomicU64>) {
    let mut bytes = [0; 1024];
    while let Ok(n) = stream.read(&mut bytes).await {
        if n == 0 || stream.write_all(&bytes[..n]).await.is_err() {
            return;
        }
        heard.fetch_add(n as u64, Ordering::SeqCst);
    }
}

struct Client(TcpStream);

impl Client {
    async fn of(proxy: &Proxy) -> Self {
        Self(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap())
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads as many bytes as `text` has.
    async fn hears(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        timeout(PATIENCE, self.0.read_exact(&mut bytes)).await.expect("in time").unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(QUIET, self.0.read(&mut [0; 8])).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Reads up to a reset, and gives back what came before it.
    async fn is_reset(&mut self) -> String {
        let mut all = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut all)).await.expect("in time");
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
        String::from_utf8(all).unwrap()
    }
}

/// The reset comes with the connect or right after it.
async fn assert_refused(proxy: &Proxy) {
    if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await {
        Client(stream).is_reset().await;
    }
    assert_eq!((proxy.cut(), proxy.sprung()), (1, 0));
}

async fn rig() -> (Echo, Proxy, Client) {
    let echo = Echo::start().await;
    let proxy = Proxy::to(echo.port).unwrap();
    let mut client = Client::of(&proxy).await;
    client.say("hello").await;
    client.hears("hello").await;
    (echo, proxy, client)
}

#[tokio::test]
async fn everything_passes_both_ways_and_so_does_the_end() {
    let (_echo, proxy, mut client) = rig().await;
    let long = "0123456789".repeat(100_000);
    let (mut read, mut write) = client.0.split();
    let mut back = vec![0; long.len()];
    let (said, heard) = tokio::join!(write.write_all(long.as_bytes()), read.read_exact(&mut back));
    said.unwrap();
    heard.unwrap();
    assert_eq!(back, long.as_bytes());
    client.0.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, client.0.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    assert_eq!((proxy.opened(), proxy.cut()), (1, 0));
}

#[tokio::test]
async fn a_delay_is_kept_by_open_and_by_new_connections() {
    let (_echo, proxy, mut old) = rig().await;
    proxy.set(Way::Up, Flow::Delay(QUIET));
    let mut new = Client::of(&proxy).await;
    for client in [&mut old, &mut new] {
        let began = Instant::now();
        client.say("later").await;
        client.hears("later").await;
        assert!(began.elapsed() >= QUIET, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_stall_keeps_what_is_said_until_it_is_over() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set_both(Flow::Stall);
    client.say("wait").await;
    let mut new = Client::of(&proxy).await;
    new.say("too").await;
    client.hears_nothing().await;
    assert_eq!(echo.heard(), 5, "not even the server hears of it");
    proxy.heal();
    client.hears("wait").await;
    new.hears("too").await;
}

#[tokio::test]
async fn one_way_alone_can_be_stalled() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set(Way::Down, Flow::Stall);
    client.say("done").await;
    client.hears_nothing().await;
    assert_eq!(echo.heard(), 9, "the server did what was asked");
    proxy.set(Way::Down, Flow::Pass);
    client.hears("done").await;
}

#[tokio::test]
async fn what_is_dropped_never_comes_and_the_connection_stays() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set(Way::Up, Flow::Drop);
    client.say("lost").await;
    client.hears_nothing().await;
    proxy.heal();
    client.say("found").await;
    client.hears("found").await;
    assert_eq!(echo.heard(), 10);
}

#[tokio::test]
async fn a_reset_ends_what_is_open_and_nothing_else() {
    let (_echo, proxy, mut client) = rig().await;
    proxy.reset();
    assert_eq!(client.is_reset().await, "");
    let mut new = Client::of(&proxy).await;
    new.say("again").await;
    new.hears("again").await;
    assert_eq!((proxy.cut(), proxy.opened()), (1, 2));
}

#[tokio::test]
async fn refusing_ends_new_connections_and_nothing_else() {
    let (_echo, proxy, mut client) = rig().await;
    proxy.refuse(true);
    assert_refused(&proxy).await;
    client.say("still").await;
    client.hears("still").await;
    proxy.refuse(false);
    let mut new = Client::of(&proxy).await;
    new.say("again").await;
    new.hears("again").await;
}

#[tokio::test]
async fn a_cut_comes_after_exactly_so_many_bytes_and_so_often() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set_trap(Trap::CutAfter { way: Way::Down, bytes: 3 }, 1);
    client.say("whole").await;
    assert_eq!(client.is_reset().await, "who");
    assert_eq!((echo.heard(), proxy.sprung()), (10, 1), "the server heard all of it");
    let mut new = Client::of(&proxy).await;
    new.say("whole").await;
    new.hears("whole").await;
}

#[tokio::test]
async fn a_lost_reply_is_of_a_request_that_was_done() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set_trap(Trap::LoseReply { request: b"COMMIT".to_vec() }, 1);
    client.say("BEGIN").await;
    client.hears("BEGIN").await;
    // Found also when it comes in two pieces.
    client.say("COM").await;
    client.hears("COM").await;
    client.say("MIT").await;
    assert_eq!(client.is_reset().await, "");
    assert_eq!((echo.heard(), proxy.sprung()), (16, 1));
}

#[tokio::test]
async fn a_deafened_connection_still_speaks_and_others_hear() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set_trap(Trap::Deafen { reply: b"push".to_vec() }, 1);
    client.say("hello").await;
    client.hears("hello").await;
    client.say("push").await;
    client.hears_nothing().await;
    client.say("still there").await;
    client.hears_nothing().await;
    assert_eq!((echo.heard(), proxy.sprung()), (25, 1));
    let mut other = Client::of(&proxy).await;
    other.say("push").await;
    other.hears("push").await;
}

#[tokio::test]
async fn a_held_request_goes_on_when_the_trap_is_taken_away() {
    let (echo, proxy, mut client) = rig().await;
    proxy.set_trap(Trap::Hold { request: b"ACK".to_vec() }, 1);
    client.say("XACK").await;
    client.hears_nothing().await;
    assert_eq!((echo.heard(), proxy.sprung()), (5, 1));
    let mut other = Client::of(&proxy).await;
    other.say("XACK").await;
    other.hears("XACK").await;
    proxy.take_trap();
    client.hears("XACK").await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_reset_and_may_come_later() {
    let port = crate::ports::free().unwrap();
    let proxy = Proxy::to(port).unwrap();
    assert_refused(&proxy).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    tokio::spawn(async move { echo(listener.accept().await.unwrap().0, Arc::default()).await });
    let mut client = Client::of(&proxy).await;
    client.say("here").await;
    client.hears("here").await;
}
