//! Sockets that are pushed to, and what all of them have seen: each event of its own user once, in order, and nothing else.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::line::{Frame, Line};
use crate::clock::now_us;

/// Sockets that are being opened at once.
const OPENING_MAX: usize = 256;
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client that lost its connection comes back after a random part of this, as often as it takes within [`PATIENCE`].
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Longest latency that is told apart from longer ones, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Who a socket belongs to.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its token.
    pub token: String,
    /// The one task of its user.
    pub task: String,
}

/// What all sockets have seen.
pub struct Seen {
    arrived: AtomicU64,
    wanted: AtomicU64,
    enough: Notify,
    /// Events that were sent from this time on are timed, in microseconds since the Unix epoch.
    timed_from: AtomicI64,
    latency_us: Mutex<Histogram<u64>>,
    fault: Mutex<Option<String>>,
    resumed: AtomicU64,
    last_back: Mutex<Option<Instant>>,
    /// Whether a broken connection is one to come back from.
    storm: AtomicBool,
}

/// Sockets that are open and watch.
pub struct Crowd {
    /// What they have seen.
    pub seen: Arc<Seen>,
    _watching: Vec<AbortOnDropHandle<()>>,
}

/// A frame, as far as the check looks at it.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    position: &'a str,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    task_id: &'a str,
    #[serde(default)]
    seq: u64,
    #[serde(default = "one")]
    merged: u64,
    #[serde(default)]
    items: Vec<PeekItem>,
}

#[derive(Deserialize)]
struct PeekItem {
    done_us: i64,
}

fn one() -> u64 {
    1
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self {
            arrived: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            enough: Notify::new(),
            timed_from: AtomicI64::new(i64::MAX),
            latency_us: Mutex::new(Histogram::new_with_max(LATENCY_MAX_US, 3)?),
            fault: Mutex::default(),
            resumed: AtomicU64::new(0),
            last_back: Mutex::default(),
            storm: AtomicBool::new(false),
        })
    }

    /// Events that have arrived, at all sockets together.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::SeqCst)
    }

    /// Waits until so many events have arrived.
    ///
    /// # Errors
    /// When a socket saw what it should not have, or nothing comes any more.
    pub async fn until(&self, events: u64) -> Result<()> {
        self.wanted.store(events, Ordering::SeqCst);
        let arrived = async {
            while self.arrived() < events && lock(&self.fault).is_none() {
                self.enough.notified().await;
            }
        };
        let in_time = timeout(PATIENCE, arrived).await;
        self.whole()?;
        in_time.with_context(|| format!("{} of {events} events have arrived", self.arrived()))?;
        ensure!(self.arrived() == events, "{} events have arrived of {events}", self.arrived());
        Ok(())
    }

    /// Fails when a socket saw what it should not have.
    ///
    /// # Errors
    /// Says what.
    pub fn whole(&self) -> Result<()> {
        lock(&self.fault).as_ref().map_or(Ok(()), |fault| bail!("delivery was not exact: {fault}"))
    }

    /// Times what is sent from now on, and forgets what was timed before.
    pub fn time(&self) {
        lock(&self.latency_us).reset();
        self.timed_from.store(now_us(), Ordering::SeqCst);
    }

    /// Milliseconds from the publish of an event to its arrival.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        let us = lock(&self.latency_us).value_at_quantile(quantile);
        f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1e3
    }

    /// From now on a connection may break.
    pub fn expect_storm(&self) {
        self.storm.store(true, Ordering::SeqCst);
    }

    /// Connections that went on where they were, and when the last one did.
    pub fn back(&self) -> (u64, Option<Instant>) {
        (self.resumed.load(Ordering::SeqCst), *lock(&self.last_back))
    }

    fn arrive(&self, events: u64, done_us: &[PeekItem]) {
        let now = now_us();
        let from = self.timed_from.load(Ordering::Relaxed);
        for item in done_us.iter().filter(|item| item.done_us >= from) {
            lock(&self.latency_us).saturating_record(u64::try_from(now - item.done_us).unwrap_or(0));
        }
        let arrived = self.arrived.fetch_add(events, Ordering::SeqCst) + events;
        if arrived >= self.wanted.load(Ordering::SeqCst) {
            self.enough.notify_one();
        }
    }

    fn fail(&self, fault: String) {
        lock(&self.fault).get_or_insert(fault);
        self.enough.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    /// Opens a socket for each member at the first of these gateways. One whose connection breaks in a storm goes to the
    /// last.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn connect(urls: &[String], members: Vec<Member>) -> Result<Self> {
        let (Some(first), Some(refuge)) = (urls.first(), urls.last()) else { bail!("there is no gateway") };
        let seen = Arc::new(Seen::new()?);
        let open = |member: Member| {
            let (seen, refuge) = (Arc::clone(&seen), refuge.clone());
            async move {
                let mut line = timeout(PATIENCE, Line::open(first, &member.token, None)).await??;
                let position = begin(&mut line, false).await?;
                let watcher = Watcher { member, line, position, last: 0, refuge, seen };
                anyhow::Ok(AbortOnDropHandle::new(tokio::spawn(watcher.run())))
            }
        };
        let watching = stream::iter(members).map(open).buffer_unordered(OPENING_MAX).try_collect().await?;
        Ok(Self { seen, _watching: watching })
    }

    /// Watches lines that begin without a handshake and carry the events of one task.
    ///
    /// # Errors
    /// Never, but for a histogram that cannot be made.
    pub fn watch(lines: Vec<Line>, task: &str) -> Result<Self> {
        let seen = Arc::new(Seen::new()?);
        let watch = |line| {
            let member = Member { token: String::new(), task: task.to_owned() };
            let (position, refuge) = (String::new(), String::new());
            let watcher = Watcher { member, line, position, last: 0, refuge, seen: Arc::clone(&seen) };
            AbortOnDropHandle::new(tokio::spawn(watcher.run()))
        };
        let watching = lines.into_iter().map(watch).collect();
        Ok(Self { seen, _watching: watching })
    }
}

/// Reads what comes before events, and gives back the place that it stands for.
async fn begin(line: &mut Line, resumes: bool) -> Result<String> {
    loop {
        let Frame::Text(text) = timeout(PATIENCE, line.next()).await?? else { continue };
        let peek: Peek<'_> = serde_json::from_slice(&text)?;
        match peek.kind {
            "hello" if peek.recovered => return Ok(peek.position.to_owned()),
            "hello" if resumes => bail!("a place was not continued"),
            "snapshot" if !peek.more => return Ok(peek.position.to_owned()),
            "hello" | "snapshot" => {}
            other => bail!("{other} before a snapshot"),
        }
    }
}

struct Watcher {
    member: Member,
    line: Line,
    position: String,
    /// Number of the last event.
    last: u64,
    refuge: String,
    seen: Arc<Seen>,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let broken = match self.line.next().await {
                Ok(Frame::Text(text)) => self.take(&text).err(),
                Ok(Frame::Ping) => self.line.pong().await.err(),
                Ok(Frame::Close(code)) => Some(anyhow::anyhow!("closed: {code:?}")),
                Err(_) if self.seen.storm.load(Ordering::SeqCst) => self.come_back().await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = broken {
                return self.seen.fail(format!("{}: {error:#}", self.member.task));
            }
        }
    }

    fn take(&mut self, text: &[u8]) -> Result<()> {
        let peek: Peek<'_> = serde_json::from_slice(text)?;
        ensure!(
            peek.task_id == self.member.task,
            "a frame of somebody else: {}",
            String::from_utf8_lossy(text)
        );
        ensure!(peek.seq == self.last + peek.merged, "number {} after {}", peek.seq, self.last);
        self.last = peek.seq;
        self.position.clear();
        self.position.push_str(peek.position);
        self.seen.arrive(peek.merged, &peek.items);
        Ok(())
    }

    async fn come_back(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            sleep(BACK_WITHIN.mul_f64(rand::random())).await;
            match Line::open(&self.refuge, &self.member.token, Some(&self.position)).await {
                Ok(line) => self.line = line,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => continue,
            }
            begin(&mut self.line, true).await?;
            self.seen.resumed.fetch_add(1, Ordering::SeqCst);
            *lock(&self.seen.last_back) = Some(Instant::now());
            return Ok(());
        }
    }
}
