//! A run from its start to its judgement.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use milepost::cli;
use milepost::client::{Api, ClientHistory, Live};
use milepost::clock::{Clock, SystemClock};
use milepost::verify::record::{FORMAT, FaultStep, Meta, Phase, Planned};
use milepost::verify::{HistoryLog, Record, Report};
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use crate::dice::Dice;
use crate::plan::{Due, Kind, plan};
use crate::users::{Worklife, canary};
use crate::watchers::{User, watch, watch_raw};
use crate::world::World;
use crate::{faults, finish};

/// How soon after its healing a fault must be forgotten.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long faults are made.
    pub duration: Duration,
    /// What decides.
    pub seed: u64,
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// Users at work.
    pub users: usize,
    /// Sockets of each; one of ten is raw.
    pub sockets: usize,
    /// The `milepost` binary.
    pub binary: PathBuf,
    /// Where the history goes; anew.
    pub history: PathBuf,
}

/// Runs, and judges the history.
///
/// # Errors
/// When the run cannot be made; what Milepost does wrong is in the report.
pub async fn run(settings: &Settings) -> Result<Report> {
    let _ = std::fs::remove_file(&settings.history);
    let log = HistoryLog::append(&settings.history)?;
    let (binary, history) = (settings.binary.clone(), settings.history.clone());
    let world = spawn_blocking(move || World::start(&binary, &history)).await??;
    let ended = live(settings, world, &log).await;
    // Its processes are waited for as it is dropped.
    spawn_blocking(move || ended.map(drop)).await??;
    if let Some(error) = log.failure() {
        bail!("the history has holes: {error}");
    }
    Ok(milepost::verify::check(&cli::verify::read_files(std::slice::from_ref(&settings.history))?))
}

async fn live(settings: &Settings, world: World, log: &HistoryLog) -> Result<World> {
    let kinds: Vec<Kind> = settings
        .kinds
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::JumpClock || world.clock.is_some())
        .collect();
    let dues = plan(settings.seed, &kinds, settings.duration);
    log.note(&Record::Meta(meta(settings, &dues)));
    let (world, users) = users(settings.users, world, log).await?;
    let (stop_users, users_stopped) = watch::channel(false);
    let (stop_watchers, watchers_stopped) = watch::channel(false);
    let (mut watching, open) = watchers(settings, &users, &watchers_stopped);
    let mut working = JoinSet::new();
    for user in &users[1..] {
        working.spawn(Worklife::new(user, settings.seed)?.run(users_stopped.clone()));
    }
    let faulting = Faulting::new(&users[0], log.clone())?;
    let world = spawn_blocking(move || faulting.run(world, &dues)).await??;
    stop_users.send_replace(true);
    while working.join_next().await.is_some() {}
    eprintln!("healed; waiting for quiet");
    let admin = admin(&world, &users[0].servers)?;
    finish::quiet(&world, &admin).await?;
    told(&open).await;
    finish::end(&admin, log).await?;
    stop_watchers.send_replace(true);
    while let Some(ended) = watching.join_next().await {
        ended??;
    }
    finish::gauges(world, log).await
}

fn meta(settings: &Settings, dues: &[Due]) -> Meta {
    let planned = |due: &Due| Planned {
        at_ms: u64::try_from(due.at.as_millis()).unwrap_or(u64::MAX),
        fault: due.kind.name().to_owned(),
        target: None,
    };
    Meta {
        format: FORMAT,
        at_us: now_us(),
        seed: Some(settings.seed),
        versions: [("milepost".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        schedule: dues.iter().map(planned).collect(),
        ..Meta::default()
    }
}

/// The canary's owner, and then everybody else.
pub(crate) async fn users(count: usize, world: World, log: &HistoryLog) -> Result<(World, Vec<User>)> {
    let names = std::iter::once("canary".to_owned()).chain((1..=count).map(|n| format!("user-{n}")));
    let (names, log): (Vec<String>, _) = (names.collect(), log.clone());
    let made = spawn_blocking(move || {
        let servers = world.hub.urls();
        let user = |name: String| -> Result<User> {
            let token = SecretString::from(world.hub.token(&name, "operator")?);
            let history = ClientHistory::new(log.clone(), &name, Arc::new(SystemClock));
            Ok(User { name, token, servers: servers.clone(), history })
        };
        let users: Result<Vec<User>> = names.into_iter().map(user).collect();
        users.map(|users| (world, users))
    });
    made.await?
}

pub(crate) fn admin(world: &World, servers: &[String]) -> Result<Api> {
    let token = SecretString::from(world.hub.token("root", "admin")?);
    Api::new(servers, Some(token)).map_err(|error| anyhow::anyhow!(error))
}

type Watching = JoinSet<Result<()>>;

/// Every user's sockets, and how many open tasks each of them believes in.
fn watchers(
    settings: &Settings,
    users: &[User],
    stop: &watch::Receiver<bool>,
) -> (Watching, Vec<Arc<AtomicUsize>>) {
    let (mut watching, mut open) = (JoinSet::new(), Vec::new());
    for user in &users[1..] {
        for nth in 0..settings.sockets {
            let (user, stop) = (user.clone(), stop.clone());
            if nth % 10 == 9 {
                let dice = Dice::new(settings.seed, &format!("{}-{nth}", user.name));
                watching.spawn(async move {
                    watch_raw(user, nth, dice, stop).await;
                    Ok(())
                });
            } else {
                let believes = Arc::new(AtomicUsize::new(0));
                open.push(Arc::clone(&believes));
                watching.spawn(watch(user, nth, believes, stop));
            }
        }
    }
    (watching, open)
}

/// Waits until every socket believes that everything is over, or until it is certain that some never will.
pub(crate) async fn told(open: &[Arc<AtomicUsize>]) {
    let patience = Instant::now() + Duration::from_secs(35);
    let unaware = || open.iter().filter(|open| open.load(Ordering::Relaxed) > 0).count();
    while unaware() > 0 && Instant::now() < patience {
        sleep(Duration::from_millis(50)).await;
    }
    if unaware() > 0 {
        eprintln!("{} sockets believe that something is not over", unaware());
    }
}

/// Makes the faults, one after the other, and sends a canary through after each.
struct Faulting {
    log: HistoryLog,
    api: Api,
    live: Live,
    runtime: Handle,
}

impl Faulting {
    fn new(user: &User, log: HistoryLog) -> Result<Self> {
        let api =
            Api::new(&user.servers, Some(user.token.clone())).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Self {
            log,
            api: api.noting(user.history.clone()),
            live: user.live(0),
            runtime: Handle::current(),
        })
    }

    fn run(mut self, mut world: World, dues: &[Due]) -> Result<World> {
        let runtime = self.runtime.clone();
        let begin = Instant::now();
        self.sing("before").context("without any fault")?;
        for (id, due) in (1..).zip(dues) {
            runtime.block_on(sleep_until(begin + due.at));
            self.one(&mut world, id, due).with_context(|| format!("fault {id}, {}", due.kind.name()))?;
        }
        Ok(world)
    }

    fn one(&mut self, world: &mut World, id: u64, due: &Due) -> Result<()> {
        self.note(id, due, None, Phase::Injected, None);
        let fault = faults::make(world, due)?;
        let target = fault.target.clone();
        self.runtime.block_on(sleep(due.hold));
        let evidence = faults::heal(world, fault)?;
        self.note(id, due, Some(&target), Phase::Healed, None);
        if let Some(evidence) = &evidence {
            self.note(id, due, Some(&target), Phase::Bit, Some(evidence));
        }
        let took = self.sing(&id.to_string());
        let (name, hit) = (due.kind.name(), evidence.unwrap_or_else(|| "hit nothing".to_owned()));
        match took {
            Ok(took) => {
                self.note(id, due, Some(&target), Phase::Recovered, None);
                eprintln!("{id:>3} {name:<18} {target}: {hit}; recovered in {took:.1?}");
            }
            Err(error) => eprintln!("{id:>3} {name:<18} {target}: {hit}; not recovered: {error:#}"),
        }
        Ok(())
    }

    fn sing(&mut self, key: &str) -> Result<Duration> {
        let key = format!("canary-{key}");
        self.runtime.block_on(canary(&self.api, &mut self.live, &key, RECOVERY_MAX))
    }

    fn note(&self, id: u64, due: &Due, target: Option<&str>, phase: Phase, evidence: Option<&str>) {
        self.log.note(&Record::Fault(FaultStep {
            at_us: now_us(),
            id,
            fault: due.kind.name().to_owned(),
            target: target.map(str::to_owned),
            phase,
            evidence: evidence.map(str::to_owned),
            loses: due.kind.loses(),
        }));
    }
}

/// Now, in microseconds since the Unix epoch.
pub(crate) fn now_us() -> i64 {
    SystemClock.now().as_microsecond()
}

/// Where a run of this seed is noted, if nobody says otherwise.
#[must_use]
pub fn default_history(seed: u64) -> PathBuf {
    Path::new("target").join(format!("chaos-{seed}.jsonl"))
}
