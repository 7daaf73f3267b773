//! Users with open sockets, and what they do: each submits its batches one after the other, and each of its sockets must be told
//! of all of them, exactly once and in order. Not here: the order of the whole run ([`crate::run`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::check::{Checker, EventFrame, Faults};
use crate::clock::now_us;
use crate::place::Place;
use crate::socket::{Back, Incoming, SILENCE_MAX, Socket};
use crate::spec::Group;

/// Sockets that are being opened at once.
const OPENING_MAX: usize = 256;
/// A client that lost its connection comes back after a random part of this.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Tries of a client to come back.
const BACK_TRIES: usize = 10;

/// Users with open sockets.
pub struct Crowd {
    members: Vec<Member>,
    shared: Arc<Shared>,
}

/// What everybody needs.
struct Shared {
    urls: Vec<String>,
    api: Api,
    /// Whether connections may break, because a gateway is killed.
    storm: bool,
    /// Items that ended so far at the first socket of their user.
    done: Arc<AtomicU64>,
    /// The users who only watch are to look whether anything came, and leave.
    over: CancellationToken,
}

impl Shared {
    /// The gateway that a user's requests go to: not the one of its sockets, and none that will be killed.
    fn asked(&self, n: usize) -> &str {
        if self.storm { &self.urls[self.urls.len() - 1] } else { &self.urls[(n + 1) % self.urls.len()] }
    }
}

struct Member {
    group: Group,
    token: String,
    /// Number of the user, which decides to which gateway its sockets go.
    n: usize,
    sockets: Vec<Socket>,
}

/// What one group saw.
pub struct Seen {
    /// The group.
    pub group: Group,
    /// From the end of an item to its arrival, in microseconds.
    pub latency_us: Histogram<u64>,
    /// From a submit to its answer, in microseconds.
    pub submit_us: Histogram<u64>,
    /// From a submit to the arrival of the task's end, in microseconds.
    pub batch_us: Histogram<u64>,
    /// The first submit and the last arrival of an end, in microseconds since the Unix epoch.
    pub span_us: (i64, i64),
    /// What went wrong.
    pub faults: Faults,
    /// Frames with events.
    pub frames: u64,
    /// Items that the record had to be asked for.
    pub unlisted: u64,
    /// Connections that broke and were continued where they were.
    pub resumed: u64,
    /// Connections that broke and got a snapshot.
    pub resynced: u64,
    /// The last of those was back at this time.
    pub back_at: Option<Instant>,
}

impl Seen {
    fn new(group: &Group) -> Result<Self> {
        Ok(Self {
            group: group.clone(),
            latency_us: Histogram::new(3)?,
            submit_us: Histogram::new(3)?,
            batch_us: Histogram::new(3)?,
            span_us: (i64::MAX, i64::MIN),
            faults: Faults::default(),
            frames: 0,
            unlisted: 0,
            resumed: 0,
            resynced: 0,
            back_at: None,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.latency_us.add(&other.latency_us)?;
        self.submit_us.add(&other.submit_us)?;
        self.batch_us.add(&other.batch_us)?;
        self.span_us = (self.span_us.0.min(other.span_us.0), self.span_us.1.max(other.span_us.1));
        self.faults.add(&other.faults);
        self.frames += other.frames;
        self.unlisted += other.unlisted;
        self.resumed += other.resumed;
        self.resynced += other.resynced;
        self.back_at = self.back_at.max(other.back_at);
        Ok(())
    }
}

impl Crowd {
    /// Connects every socket of these groups; in a storm all to the first gateway, which is the one that will be killed.
    /// `prefix` keeps the users of one crowd apart from those of another.
    ///
    /// # Errors
    /// When one cannot be connected.
    pub async fn connect(
        place: &Place,
        groups: &[Group],
        prefix: &str,
        storm: bool,
        done: &Arc<AtomicU64>,
    ) -> Result<Self> {
        let urls = place.urls().to_vec();
        let mut members = Vec::new();
        for group in groups {
            for i in 0..group.users {
                let token = place.token(&format!("{prefix}{}-{i}", group.name))?;
                members.push(Member { group: group.clone(), token, n: members.len(), sockets: Vec::new() });
            }
        }
        let open = |mut member: Member| {
            let base = if storm { &urls[0] } else { &urls[member.n % urls.len()] };
            let base = base.clone();
            async move {
                let sockets = stream::iter(0..member.group.sockets);
                let sockets = sockets.map(|_| Socket::connect(&base, &member.token)).buffered(OPENING_MAX);
                member.sockets = sockets.try_collect().await?;
                anyhow::Ok(member)
            }
        };
        let members = stream::iter(members).map(open).buffered(OPENING_MAX).try_collect().await?;
        let over = CancellationToken::new();
        let shared = Shared { urls, api: Api::new()?, storm, done: Arc::clone(done), over };
        Ok(Self { members, shared: Arc::new(shared) })
    }

    /// Has everybody do what they came for, and judges what they were told. One entry per group, in their order.
    ///
    /// # Errors
    /// When a request fails, or nothing comes for too long.
    pub async fn go(self, groups: &[Group]) -> Result<Vec<Seen>> {
        let (mut working, mut watching) = (JoinSet::new(), JoinSet::new());
        for member in self.members {
            let set = if member.group.batches > 0 { &mut working } else { &mut watching };
            set.spawn(member.go(Arc::clone(&self.shared)));
        }
        let mut all = groups.iter().map(Seen::new).collect::<Result<Vec<_>>>()?;
        while let Some(seen) = working.join_next().await {
            sum(&mut all, &seen??)?;
        }
        self.shared.over.cancel();
        while let Some(seen) = watching.join_next().await {
            sum(&mut all, &seen??)?;
        }
        Ok(all)
    }
}

fn sum(all: &mut [Seen], one: &Seen) -> Result<()> {
    let same = all.iter_mut().find(|seen| seen.group.name == one.group.name);
    same.context("a group of its own")?.add(one)
}

impl Member {
    async fn go(self, shared: Arc<Shared>) -> Result<Seen> {
        let Self { group, token, n, sockets } = self;
        let mut seen = Seen::new(&group)?;
        let (ended, mut ends) = mpsc::channel(group.batches.max(1));
        let mut watching = JoinSet::new();
        for (number, socket) in sockets.into_iter().enumerate() {
            let ended = (number == 0).then(|| ended.clone());
            let watcher =
                Watcher { shared: Arc::clone(&shared), batches: group.batches, home: n, socket, ended };
            watching.spawn(watcher.run());
        }
        drop(ended);
        let tasks = submit_all(&shared, &group, &token, n, &mut ends, &mut seen).await?;
        let items = u32::try_from(group.items)?;
        while let Some(watched) = watching.join_next().await {
            watched??.judge(&tasks, items, &mut seen)?;
        }
        for task in &tasks {
            shared.api.check_record(shared.asked(n), &token, task, items, seen.unlisted > 0).await?;
        }
        Ok(seen)
    }
}

/// Submits one batch after the other, each when the end of the one before was told. Returns their ids.
async fn submit_all(
    shared: &Shared,
    group: &Group,
    token: &str,
    n: usize,
    ends: &mut mpsc::Receiver<(String, i64)>,
    seen: &mut Seen,
) -> Result<Vec<String>> {
    let mut tasks = Vec::new();
    for _ in 0..group.batches {
        let begin = now_us();
        let task = shared.api.submit(shared.asked(n), token, group).await?;
        seen.submit_us.record(us(now_us() - begin))?;
        tasks.push(task);
        let Some((_, at)) = ends.recv().await else { break };
        seen.batch_us.record(us(at - begin))?;
        seen.span_us = (seen.span_us.0.min(begin), seen.span_us.1.max(at));
    }
    Ok(tasks)
}

/// One socket until all ends were told, or for as long as others work.
struct Watcher {
    shared: Arc<Shared>,
    batches: usize,
    home: usize,
    socket: Socket,
    /// Who is told of ends; the first socket of a user does it.
    ended: Option<mpsc::Sender<(String, i64)>>,
}

/// What one socket was told.
#[derive(Default)]
struct Watched {
    checkers: HashMap<String, Checker>,
    latency_us: Vec<u64>,
    frames: u64,
    resumed: u64,
    resynced: u64,
    back_at: Option<Instant>,
}

impl Watcher {
    async fn run(mut self) -> Result<Watched> {
        let mut watched = Watched::default();
        while watched.checkers.values().filter(|checker| checker.is_done()).count() < self.batches.max(1) {
            let patience = if self.batches > 0 { SILENCE_MAX } else { Duration::MAX };
            let over = self.shared.over.clone();
            let incoming = tokio::select! {
                () = over.cancelled() => break,
                incoming = timeout(patience, self.socket.next()) => incoming,
            };
            match incoming.with_context(|| format!("no frame for {SILENCE_MAX:?}"))?? {
                Incoming::Event(event, at) => self.take(&mut watched, &event, at)?,
                Incoming::Broken(why) if self.shared.storm => self.come_back(&mut watched, &why).await?,
                Incoming::Broken(why) => bail!(why),
            }
        }
        self.look_for_more(&mut watched).await?;
        Ok(watched)
    }

    /// What is still on its way counts too.
    async fn look_for_more(&mut self, watched: &mut Watched) -> Result<()> {
        let late = match self.socket.late().await {
            Err(error) if self.shared.storm => {
                self.come_back(watched, &format!("{error:#}")).await?;
                self.socket.late().await
            }
            late => late,
        };
        late?.iter().try_for_each(|event| self.take(watched, event, now_us()))
    }

    fn take(&self, watched: &mut Watched, event: &EventFrame, at: i64) -> Result<()> {
        watched.frames += 1;
        let checker = watched.checkers.entry(event.task_id.clone()).or_default();
        let was_done = checker.is_done();
        for item in checker.frame(event) {
            let done_us = item.done_us.context("an ended item without its time")?;
            watched.latency_us.push(us(at - done_us));
            if self.ended.is_some() {
                self.shared.done.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(ended) = self.ended.as_ref().filter(|_| !was_done && checker.is_done()) {
            // There is room for all ends, and nobody waits any more when the submitter has failed.
            let _ = ended.try_send((event.task_id.clone(), at));
        }
        Ok(())
    }

    /// Connects to the other gateways in turn, after a random moment, as clients do.
    async fn come_back(&mut self, watched: &mut Watched, why: &str) -> Result<()> {
        sleep(BACK_WITHIN.mul_f64(rand::random())).await;
        let others = &self.shared.urls[1..];
        let mut last = why.to_owned();
        for n in 0..BACK_TRIES {
            match self.socket.reconnect(&others[(self.home + n) % others.len()]).await {
                Ok(back) => {
                    watched.is_back(back);
                    return Ok(());
                }
                Err(error) => last = format!("{error:#}"),
            }
            sleep(BACK_WITHIN.mul_f64(rand::random())).await;
        }
        bail!("could not come back in {BACK_TRIES} tries: {last}")
    }
}

impl Watched {
    fn is_back(&mut self, back: Back) {
        self.back_at = Some(Instant::now());
        let Some(tasks) = back.resynced else {
            self.resumed += 1;
            return;
        };
        self.resynced += 1;
        for task in tasks {
            self.checkers.entry(task.task_id.clone()).or_default().resync(&task);
        }
    }

    fn judge(self, tasks: &[String], items: u32, seen: &mut Seen) -> Result<()> {
        for us in self.latency_us {
            seen.latency_us.record(us)?;
        }
        for (task, checker) in self.checkers {
            let mut verdict = checker.finish(items);
            verdict.faults.foreign += u64::from(!tasks.contains(&task));
            seen.faults.add(&verdict.faults);
            seen.unlisted += verdict.unlisted;
        }
        seen.frames += self.frames;
        seen.resumed += self.resumed;
        seen.resynced += self.resynced;
        seen.back_at = seen.back_at.max(self.back_at);
        Ok(())
    }
}

fn us(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0).max(1)
}

/// Fails a run whose delivery was not exact.
///
/// # Errors
/// When any fault was seen.
pub fn demand_exact(all: &[Seen]) -> Result<()> {
    for seen in all {
        ensure!(seen.faults.is_clean(), "{}: delivery was not exact: {:?}", seen.group.name, seen.faults);
    }
    Ok(())
}
