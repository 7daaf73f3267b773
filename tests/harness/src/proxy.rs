//! A TCP proxy that breaks connections on order, between a client and a server that know nothing of it.
//!
//! Each way of the traffic has a [`Flow`] that may change while connections live; a [`Trap`] waits for a number of bytes or
//! for certain bytes of a request and then does the one thing that a kill or a pull of the cable can only hit by luck.
//! It runs on a thread of its own, so that a test that blocks does not stop it. Not here: faults of the servers
//! themselves, which are killed and stopped as processes.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Most bytes passed on at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A way of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server: requests.
    Up,
    /// From the server to the client: replies.
    Down,
}

/// What happens to the bytes of one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// They are passed on.
    #[default]
    Pass,
    /// They are passed on, each at least this much later.
    Delay(Duration),
    /// They wait, and are passed on when this is over. Connections stay open, new ones are taken.
    Stall,
    /// They are lost without a word, as is the end of the connection.
    Drop,
}

/// What waits for its moment. It springs at most `times`, for one connection each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trap {
    /// Resets a connection when so many more of its bytes have gone this way.
    CutAfter {
        /// Whose bytes are counted.
        way: Way,
        /// How many of them still pass.
        bytes: u64,
    },
    /// Passes the request that holds these bytes, and resets the connection instead of passing its reply: what was asked is
    /// done, and the client does not know. For connections that carry one request at a time.
    LoseReply {
        /// Bytes of the request, such as the name of a command.
        request: Vec<u8>,
    },
    /// Loses the reply that holds these bytes, and all that come after it on its connection, without a word. Requests
    /// still pass: the connection looks sound to both ends.
    Deafen {
        /// Bytes of the reply, such as the name of a push.
        reply: Vec<u8>,
    },
    /// Keeps the request that holds these bytes, and all that follows on its connection, until the trap is taken away.
    Hold {
        /// Bytes of the request.
        request: Vec<u8>,
    },
}

/// A trap that is set.
#[derive(Debug)]
struct Armed {
    trap: Trap,
    left: AtomicU32,
}

impl Armed {
    /// Whether it springs now: not when it has done so often enough.
    fn spring(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}

/// What connections go by.
#[derive(Debug, Clone, Default)]
struct Orders {
    up: Flow,
    down: Flow,
    refuse: bool,
    /// Connections opened before the newest of these are reset.
    resets: u64,
    trap: Option<Arc<Armed>>,
}

impl Orders {
    fn flow(&self, way: Way) -> Flow {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }

    fn has(&self, trap: &Arc<Armed>) -> bool {
        self.trap.as_ref().is_some_and(|armed| Arc::ptr_eq(armed, trap))
    }
}

/// What was counted.
#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    open: AtomicU64,
    cut: AtomicU64,
    sprung: AtomicU64,
}

/// A proxy in front of one loopback port. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
    counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Starts a proxy that passes everything on to `server`, a loopback port. Nobody needs to listen there yet: clients
    /// are reset for as long as nobody does.
    ///
    /// # Errors
    /// When there is no port or no thread to be had.
    pub fn to(server: u16) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("proxy").enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (orders, counts) = (watch::Sender::default(), Arc::default());
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).context("listen")?;
        drop(entered);
        runtime.spawn(accept(listener, server, orders.clone(), Arc::clone(&counts)));
        Ok(Self { port, orders, counts, runtime: Some(runtime) })
    }

    /// The port that clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets what happens to one way of the traffic, of connections now open and of those to come.
    pub fn set(&self, way: Way, flow: Flow) {
        self.orders.send_modify(|orders| match way {
            Way::Up => orders.up = flow,
            Way::Down => orders.down = flow,
        });
    }

    /// Sets what happens to both ways.
    pub fn set_both(&self, flow: Flow) {
        self.orders.send_modify(|orders| (orders.up, orders.down) = (flow, flow));
    }

    /// Passes everything on again: both ways, new connections, and without a trap.
    pub fn heal(&self) {
        self.orders.send_modify(|orders| {
            *orders = Orders { resets: orders.resets, ..Orders::default() };
        });
    }

    /// Resets new connections, or takes them again. Those that are open stay.
    pub fn refuse(&self, refuse: bool) {
        self.orders.send_modify(|orders| orders.refuse = refuse);
    }

    /// Resets all connections that are open now.
    pub fn reset(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }

    /// Sets a trap in place of the one before.
    pub fn set_trap(&self, trap: Trap, times: u32) {
        let armed = Arc::new(Armed { trap, left: AtomicU32::new(times) });
        self.orders.send_modify(|orders| orders.trap = Some(armed));
    }

    /// Takes the trap away. Requests that it held pass on.
    pub fn take_trap(&self) {
        self.orders.send_modify(|orders| orders.trap = None);
    }

    /// How often traps have sprung.
    #[must_use]
    pub fn sprung(&self) -> u64 {
        self.counts.sprung.load(Ordering::SeqCst)
    }

    /// Connections taken since the start.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.counts.opened.load(Ordering::SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Connections that were reset by the proxy.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.counts.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test may drop it in an async context, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, server: u16, orders: watch::Sender<Orders>, counts: Arc<Counts>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        counts.opened.fetch_add(1, Ordering::SeqCst);
        let (losing, deaf) = (AtomicBool::new(false), AtomicBool::new(false));
        let link = Link { orders: orders.subscribe(), counts: Arc::clone(&counts), losing, deaf };
        tokio::spawn(link.run(client, server));
    }
}

/// One connection and its way on.
struct Link {
    orders: watch::Receiver<Orders>,
    counts: Arc<Counts>,
    /// Whether the next reply is not passed on.
    losing: AtomicBool,
    /// Whether no reply is passed on any more, and nobody is told.
    deaf: AtomicBool,
}

/// Why a connection is reset: an order, a trap, or an end that broke.
struct Cut;

impl From<std::io::Error> for Cut {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Link {
    async fn run(self, mut client: TcpStream, server: u16) {
        let now = self.orders.borrow().clone();
        let connected = match now.refuse {
            true => None,
            false => TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.ok(),
        };
        let Some(mut server) = connected else { return self.cut(&[&client]) };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        self.counts.open.fetch_add(1, Ordering::SeqCst);
        let ended = self.carry(&mut client, &mut server, now.resets).await;
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
        if ended.is_err() {
            self.cut(&[&client, &server]);
        }
    }

    fn cut(&self, ends: &[&TcpStream]) {
        self.counts.cut.fetch_add(1, Ordering::SeqCst);
        for end in ends {
            // Closing it then sends a reset instead of an orderly end.
            let _ = end.set_zero_linger();
        }
    }

    /// Carries both ways until both have ended, or an order or a trap cuts.
    async fn carry(&self, client: &mut TcpStream, server: &mut TcpStream, resets: u64) -> Result<(), Cut> {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut orders = self.orders.clone();
        let both = async {
            tokio::try_join!(
                Pump::new(self, Way::Up, from_client, to_server).run(),
                Pump::new(self, Way::Down, from_server, to_client).run(),
            )
        };
        tokio::select! {
            // First, so that what a trap held is not passed on when the trap is taken away right after.
            biased;
            _ = orders.wait_for(|orders| orders.resets > resets) => Err(Cut),
            ended = both => ended.map(drop),
        }
    }
}

/// What a trap makes of some bytes.
enum Verdict {
    Pass,
    PassPart(usize),
    Hold(Arc<Armed>),
    Lose,
    Deafen,
}

/// One way of one connection.
struct Pump<'a> {
    link: &'a Link,
    orders: watch::Receiver<Orders>,
    way: Way,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    /// The trap that the two below are about.
    trap: Option<Arc<Armed>>,
    passed: u64,
    /// The last bytes that went by, as many as could be the beginning of what the trap waits for.
    tail: Vec<u8>,
}

impl<'a> Pump<'a> {
    fn new(link: &'a Link, way: Way, from: ReadHalf<'a>, to: WriteHalf<'a>) -> Self {
        let orders = link.orders.clone();
        Self { link, orders, way, from, to, trap: None, passed: 0, tail: Vec::new() }
    }

    async fn run(mut self) -> Result<(), Cut> {
        let mut bytes = vec![0; CHUNK_BYTES];
        loop {
            let n = self.read(&mut bytes).await?;
            let deaf = self.way == Way::Down && self.link.deaf.load(Ordering::SeqCst);
            let lost = self.flow(Instant::now()).await || deaf;
            if lost {
                if n == 0 {
                    // Nobody hears of this end.
                    return std::future::pending().await;
                }
                continue;
            }
            if n == 0 {
                return Ok(self.to.shutdown().await?);
            }
            self.pass(&bytes[..n]).await?;
        }
    }

    /// Reads when bytes may flow, so that a stall fills the sender's buffers as a real one does.
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Cut> {
        loop {
            let way = self.way;
            self.wait(|orders| orders.flow(way) != Flow::Stall).await?;
            tokio::select! {
                n = self.from.read(bytes) => return Ok(n?),
                changed = self.orders.changed() => changed.map_err(|_| Cut)?,
            }
        }
    }

    /// Holds what was read at `read` for as long as the flow says. Whether it is lost.
    async fn flow(&mut self, read: Instant) -> bool {
        loop {
            let flow = self.orders.borrow_and_update().flow(self.way);
            let until = match flow {
                Flow::Pass => return false,
                Flow::Drop => return true,
                Flow::Delay(delay) if read + delay <= Instant::now() => return false,
                Flow::Delay(delay) => Some(read + delay),
                Flow::Stall => None,
            };
            let due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                _ = self.orders.changed() => {}
            }
        }
    }

    async fn pass(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        if self.way == Way::Down && self.link.losing.load(Ordering::SeqCst) {
            return Err(Cut);
        }
        match self.judge(bytes) {
            Verdict::Pass => {}
            Verdict::PassPart(n) => {
                self.to.write_all(&bytes[..n]).await?;
                return Err(Cut);
            }
            Verdict::Hold(trap) => self.wait(|orders| !orders.has(&trap)).await?,
            Verdict::Lose => self.link.losing.store(true, Ordering::SeqCst),
            Verdict::Deafen => {
                self.link.deaf.store(true, Ordering::SeqCst);
                return Ok(());
            }
        }
        Ok(self.to.write_all(bytes).await?)
    }

    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let Some(armed) = self.armed() else { return Verdict::Pass };
        let verdict = match &armed.trap {
            Trap::CutAfter { way, bytes: most } if *way == self.way => self.count(bytes.len(), *most),
            Trap::LoseReply { request } if self.sees(Way::Up, request, bytes) => Verdict::Lose,
            Trap::Hold { request } if self.sees(Way::Up, request, bytes) => Verdict::Hold(Arc::clone(&armed)),
            Trap::Deafen { reply } if self.sees(Way::Down, reply, bytes) => Verdict::Deafen,
            _ => Verdict::Pass,
        };
        if matches!(verdict, Verdict::Pass) || !armed.spring() {
            return Verdict::Pass;
        }
        self.link.counts.sprung.fetch_add(1, Ordering::SeqCst);
        verdict
    }

    /// The trap that is set; counting begins anew with each.
    fn armed(&mut self) -> Option<Arc<Armed>> {
        let now = self.orders.borrow().trap.clone();
        let same = now.as_ref().map(Arc::as_ptr) == self.trap.as_ref().map(Arc::as_ptr);
        if !same {
            (self.passed, self.tail) = (0, Vec::new());
            self.trap.clone_from(&now);
        }
        now
    }

    fn count(&mut self, n: usize, most: u64) -> Verdict {
        let left = most.saturating_sub(self.passed);
        self.passed += n as u64;
        match usize::try_from(left) {
            Ok(left) if left <= n => Verdict::PassPart(left),
            _ => Verdict::Pass,
        }
    }

    /// Whether the bytes that are awaited on a way are among these, also when they began with those before.
    fn sees(&mut self, way: Way, awaited: &[u8], bytes: &[u8]) -> bool {
        if self.way != way {
            return false;
        }
        self.tail.extend_from_slice(bytes);
        let seen = self.tail.windows(awaited.len()).any(|window| window == awaited);
        let keep = if seen { 0 } else { awaited.len().saturating_sub(1) };
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        seen
    }

    fn wait(&mut self, holds: impl FnMut(&Orders) -> bool) -> impl Future<Output = Result<(), Cut>> {
        let waited = self.orders.wait_for(holds);
        async move { waited.await.map(drop).map_err(|_| Cut) }
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
