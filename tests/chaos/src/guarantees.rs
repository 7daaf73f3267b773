//! The figures of `docs/guarantees.md`: how fast, how often, how exactly, on real processes with default settings.
//!
//! Each run starts a world of its own, measures one thing after the other in it, and has the whole judged by
//! [`milepost::verify`] at the end. Not here: chaos ([`crate::run`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use milepost::cli::verify::read_files;
use milepost::client::{Api, Live, Update};
use milepost::store::Control;
use milepost::task::{Draft, Event, Status, TaskId};
use milepost::verify::record::{FORMAT, FaultStep, Meta, Phase};
use milepost::verify::{HistoryLog, Record, Report, check};
use milepost_harness::Replica;
use milepost_harness::process::wait_for;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::figures::{Figures, Takeover};
use crate::finish;
use crate::run::{admin, now_us, told, users};
use crate::users::Worklife;
use crate::watchers::User;
use crate::world::{NODES, World};

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the client of the offline scenario is away.
const AWAY: Duration = Duration::from_secs(3);
/// Users of the reconnect scenario, and sockets of each.
const CROWD: (usize, usize) = (10, 10);
/// How often each of those sockets comes back.
const RETURNS: u64 = 20;

/// Measures once.
///
/// # Errors
/// When the run cannot be made, or something that must happen does not.
pub async fn measure(binary: &Path, seed: u64) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let history = folder.path().join("history.jsonl");
    let log = HistoryLog::append(&history)?;
    log.note(&Record::Meta(Meta { format: FORMAT, at_us: now_us(), seed: Some(seed), ..Meta::default() }));
    let (binary, noted) = (binary.to_owned(), history.clone());
    let world = spawn_blocking(move || World::start(&binary, &noted)).await??;
    let (world, users) = users(CROWD.0, world, &log).await?;
    let mut meter = Meter::new(&users[0], world, log.clone())?;
    let killed = meter.takeover(Signal::SIGKILL).await.context("takeover after SIGKILL")?;
    let ended = meter.takeover(Signal::SIGTERM).await.context("takeover after SIGTERM")?;
    let obeyed = meter.obeyed().await.context("control of a running task")?;
    let (stopped, refused) = meter.fenced().await.context("a worker that was stopped")?;
    let (away, resynced) = meter.offline().await.context("a client that was offline")?;
    let returns = meter.crowd(&users, seed).await.context("reconnects during kills")?;
    let world = spawn_blocking(move || meter.world);
    drop(world.await?);
    ensure!(log.failure().is_none(), "the history has holes");
    let counted = Counted { refused, obeyed, returns, away_resynced: resynced };
    judge(&history, &[killed, ended, stopped], away, &counted).inspect_err(|_| {
        let kept = folder.keep();
        eprintln!("the history is kept in {}", kept.display());
    })
}

/// What is no matter of the history.
struct Counted {
    refused: u64,
    /// How long a pause and a change of the concurrency took.
    obeyed: (Duration, Duration),
    returns: u64,
    away_resynced: bool,
}

fn judge(
    history: &Path,
    takeovers: &[(TaskId, Duration); 3],
    away: TaskId,
    counted: &Counted,
) -> Result<Figures> {
    let history = read_files(&[PathBuf::from(history)])?;
    let report = check(&history);
    let count = |invariant: &str| report.finding(invariant).map_or(0, |finding| finding.violations);
    let of_away = |report: &Report, invariant: &str| {
        let finding = report.finding(invariant);
        finding.map_or(0, |finding| finding.first.iter().filter(|v| v.task == Some(away)).count() as u64)
    };
    let again = |task: TaskId| {
        let mut items: std::collections::HashMap<&str, std::collections::BTreeSet<_>> = Default::default();
        for (_, run) in history.tasks.get(&task).map(|task| &task.executions[..]).unwrap_or_default() {
            items.entry(&run.item).or_default().insert(run.attempt);
        }
        items.values().filter(|attempts| attempts.len() > 1).count() as u64
    };
    let takeover =
        |n: usize| Takeover { seconds: takeovers[n].1.as_secs_f64(), run_again: again(takeovers[n].0) };
    let all: u64 = report.findings.iter().map(|finding| finding.violations).sum();
    report.violations().take(10).for_each(|violation| eprintln!("{violation:?}"));
    Ok(Figures {
        killed: takeover(0),
        ended: takeover(1),
        paused: counted.obeyed.0.as_secs_f64(),
        narrowed: counted.obeyed.1.as_secs_f64(),
        refused: counted.refused,
        accepted: count("I1") + count("I4") + count("I5"),
        backward: count("I3"),
        away_lost: of_away(&report, "I3b") + of_away(&report, "I2"),
        away_doubled: of_away(&report, "I8"),
        away_resynced: counted.away_resynced,
        returns: counted.returns,
        lost: count("I2") + count("I3b"),
        doubled: count("I8"),
        violations: all,
    })
}

/// One user who measures.
struct Meter {
    world: World,
    log: HistoryLog,
    api: Api,
    live: Live,
    tasks: u64,
    faults: u64,
}

impl Meter {
    fn new(user: &User, world: World, log: HistoryLog) -> Result<Self> {
        let api =
            Api::new(&user.servers, Some(user.token.clone())).map_err(|error| anyhow::anyhow!(error))?;
        let api = api.noting(user.history.clone());
        Ok(Self { world, log, api, live: user.live(0), tasks: 0, faults: 0 })
    }

    /// Submits a task and waits until it is well on its way.
    async fn begin(&mut self, concurrency: Option<u16>, done: u32) -> Result<TaskId> {
        self.tasks += 1;
        let draft = Draft {
            action: "label".into(),
            cluster: "sim".into(),
            items: (1..=NODES).map(|n| format!("node-{n:03}")).collect(),
            parameters: json!({ "labels": { "chaos/meter": self.tasks.to_string() }, "overwrite": true }),
            concurrency,
            ..Draft::default()
        };
        let task = self.api.submit(&draft, &format!("meter-{}", self.tasks)).await?.view.task_id;
        self.hear(task, |event| event.counts.current() >= done).await?;
        Ok(task)
    }

    /// Waits for an event of a task.
    async fn hear(&mut self, task: TaskId, wanted: impl Fn(&Event) -> bool) -> Result<Instant> {
        let heard = async {
            loop {
                match self.live.next().await? {
                    Update::Event(received) if received.event.task_id == task && wanted(&received.event) => {
                        return anyhow::Ok(Instant::now());
                    }
                    Update::Snapshot if over(&self.live, task) => return Ok(Instant::now()),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, heard).await.context("an event in time")?
    }

    /// The worker that holds the only task.
    fn holder(&self) -> Result<usize> {
        let holds = |worker: &Replica| worker.metric("milepost_tasks_held").is_ok_and(|n| n > 0.0);
        let holder = block_in_place(|| self.world.hub.workers.iter().position(holds));
        holder.context("some worker holds the task")
    }

    fn note(&self, fault: &str, phase: Phase) {
        self.log.note(&Record::Fault(FaultStep {
            at_us: now_us(),
            id: self.faults,
            fault: fault.to_owned(),
            target: None,
            phase,
            evidence: None,
            loses: false,
        }));
    }

    fn strike(&mut self, fault: &str) {
        self.faults += 1;
        self.note(fault, Phase::Injected);
        self.note(fault, Phase::Bit);
    }

    /// How long after a signal to its worker a task goes on elsewhere, as its user sees it.
    async fn takeover(&mut self, signal: Signal) -> Result<(TaskId, Duration)> {
        let name = if signal == Signal::SIGKILL { "kill-worker" } else { "term-worker" };
        let task = self.begin(None, 60).await?;
        let holder = self.holder()?;
        self.strike(name);
        let begin = Instant::now();
        self.world.hub.workers[holder].process().signal(signal)?;
        let heard = self.hear(task, |event| event.attempt.0 >= 2).await?;
        let worker = &mut self.world.hub.workers[holder];
        block_in_place(|| worker.process().wait_gone(PATIENCE).and_then(|()| worker.run()))?;
        self.note(name, Phase::Healed);
        self.hear_end(task).await?;
        Ok((task, heard - begin))
    }

    async fn hear_end(&mut self, task: TaskId) -> Result<()> {
        if !over(&self.live, task) {
            self.hear(task, Event::is_terminal).await?;
        }
        Ok(())
    }

    /// How long after the request a worker narrows a task, and pauses it, as its user sees it.
    async fn obeyed(&mut self) -> Result<(Duration, Duration)> {
        let task = self.begin(Some(8), 20).await?;
        let begin = Instant::now();
        self.api.control(task, Control::Concurrency(Some(2))).await?;
        let narrowed = self.hear(task, |event| event.concurrency == Some(2)).await? - begin;
        let begin = Instant::now();
        self.api.control(task, Control::Pause).await?;
        let paused = self.hear(task, |event| event.status == Status::Paused).await? - begin;
        self.api.control(task, Control::Resume).await?;
        self.hear_end(task).await?;
        Ok((paused, narrowed))
    }

    /// A worker that stood still while another took over: how many of its writes were refused?
    async fn fenced(&mut self) -> Result<((TaskId, Duration), u64)> {
        let task = self.begin(Some(4), 20).await?;
        let holder = self.holder()?;
        self.strike("stop-worker");
        let begin = Instant::now();
        self.world.hub.workers[holder].process().signal(Signal::SIGSTOP)?;
        let heard = self.hear(task, |event| event.attempt.0 >= 2).await?;
        self.world.hub.workers[holder].process().signal(Signal::SIGCONT)?;
        self.note("stop-worker", Phase::Healed);
        self.hear_end(task).await?;
        let woken = &self.world.hub.workers[holder];
        block_in_place(|| {
            wait_for(
                PATIENCE,
                "the woken worker to let go",
                || Ok(woken.metric("milepost_tasks_held")? < 1.0),
            )
        })?;
        let metrics = block_in_place(|| self.world.hub.workers[holder].metrics())?;
        let refused = metrics.lines().filter(|line| line.starts_with("milepost_fenced_writes"));
        let refused = refused.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
        Ok(((task, heard - begin), refused))
    }

    /// A client is away while its gateway is killed and Redis restarts. Whether it was sent a resync.
    async fn offline(&mut self) -> Result<(TaskId, bool)> {
        let task = self.begin(Some(2), 20).await?;
        self.strike("kill-gateway-and-redis");
        let server = self.live.server().to_owned();
        self.live.hang_up(AWAY);
        let hub = &mut self.world.hub;
        let gateway = hub.gateways.iter_mut().find(|gateway| gateway.url() == server);
        let gateway = gateway.context("the socket is at one of the gateways")?;
        let redis = hub.redis.as_mut().context("there is a Redis")?;
        block_in_place(|| -> Result<()> {
            gateway.kill()?;
            redis.process().kill()?;
            redis.run()?;
            gateway.run()
        })?;
        self.note("kill-gateway-and-redis", Phase::Healed);
        let mut resynced = false;
        let through = async {
            while !over(&self.live, task) {
                resynced |= matches!(self.live.next().await?, Update::Connected { recovered: false, .. });
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, through).await.context("the end in time")??;
        Ok((task, resynced))
    }

    /// Sockets that come and go while gateways and workers are killed. How often they came back.
    async fn crowd(&mut self, users: &[User], seed: u64) -> Result<u64> {
        let (stop_users, stopped) = watch::channel(false);
        let (stop_sockets, leave) = watch::channel(false);
        let (returns, mut open) = (Arc::new(AtomicU64::new(0)), Vec::new());
        let (mut working, mut coming) = (JoinSet::new(), JoinSet::new());
        for user in &users[1..] {
            working.spawn(Worklife::new(user, seed)?.run(stopped.clone()));
            for nth in 0..CROWD.1 {
                let believes = Arc::new(AtomicUsize::new(0));
                open.push(Arc::clone(&believes));
                let dice = Dice::new(seed, &format!("{} returns {nth}", user.name));
                let guest = Guest { live: user.live(nth), dice, believes, returns: Arc::clone(&returns) };
                coming.spawn(guest.run(leave.clone()));
            }
        }
        let wanted = RETURNS * open.len() as u64;
        for turn in 0.. {
            if returns.load(Ordering::Relaxed) >= wanted {
                break;
            }
            self.kill_in_turn(turn)?;
            sleep(Duration::from_millis(1_500)).await;
        }
        stop_users.send_replace(true);
        while working.join_next().await.is_some() {}
        let admin = admin(&self.world, &users[0].servers)?;
        finish::quiet(&self.world, &admin).await?;
        told(&open).await;
        finish::end(&admin, &self.log).await?;
        stop_sockets.send_replace(true);
        while let Some(left) = coming.join_next().await {
            left??;
        }
        Ok(returns.load(Ordering::Relaxed))
    }

    fn kill_in_turn(&mut self, turn: usize) -> Result<()> {
        let name = if turn.is_multiple_of(2) { "kill-gateway" } else { "kill-worker" };
        self.strike(name);
        let hub = &mut self.world.hub;
        let replicas = if turn.is_multiple_of(2) { &mut hub.gateways } else { &mut hub.workers };
        let nth = turn / 2 % replicas.len();
        block_in_place(|| replicas[nth].kill().and_then(|()| replicas[nth].run()))?;
        self.note(name, Phase::Healed);
        Ok(())
    }
}

fn over(live: &Live, task: TaskId) -> bool {
    live.snapshot().get(task).is_some_and(|view| view.status.is_terminal())
}

/// A socket that comes and goes.
struct Guest {
    live: Live,
    dice: Dice,
    believes: Arc<AtomicUsize>,
    returns: Arc<AtomicU64>,
}

impl Guest {
    async fn run(mut self, mut leave: watch::Receiver<bool>) -> Result<()> {
        for turn in 0_u64.. {
            let stay = if turn < RETURNS {
                Duration::from_millis(self.dice.between(200, 900))
            } else {
                PATIENCE * 60
            };
            let until = Instant::now() + stay;
            loop {
                tokio::select! {
                    _ = leave.wait_for(|leave| *leave) => return Ok(()),
                    update = self.live.next() => {
                        self.returns.fetch_add(u64::from(matches!(update?, Update::Connected { .. })), Ordering::Relaxed);
                    }
                    () = tokio::time::sleep_until(until) => break,
                }
                let open = self.live.snapshot().tasks().filter(|task| !task.status.is_terminal()).count();
                self.believes.store(open, Ordering::Relaxed);
            }
            self.live.hang_up(Duration::from_millis(self.dice.between(0, 200)));
        }
        Ok(())
    }
}
