//! How faults are made on real processes, how they are taken away, and what proves that they hit something.

use std::time::Duration;

use anyhow::{Context, Result};
use milepost_harness::process::wait_for;
use milepost_harness::{Flow, Process, Proxy, Replica, Trap, Way};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plan::{Due, Kind};
use crate::world::World;

/// How long a process that is asked to stop may take.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long to wait for somebody to have something to lose.
const BUSY_WITHIN: Duration = Duration::from_secs(10);
/// How far clocks jump.
const JUMP: Duration = Duration::from_secs(3_600);

/// A fault that is at work.
#[derive(Debug)]
pub struct AtWork {
    /// Who has it.
    pub target: String,
    /// What it hit, as far as that is known at once.
    pub evidence: Option<String>,
    heal: Heal,
}

/// How a fault is taken away.
#[derive(Debug)]
enum Heal {
    Nothing,
    RunWorker(usize),
    RunGateway(usize),
    RunRedis,
    RunPostgres,
    Continue(Vec<Pid>),
    /// Whether the proxy is that of Redis, and how often its traps had sprung before.
    Proxy {
        redis: bool,
        sprung: u64,
    },
    Clock,
}

impl AtWork {
    fn new(target: impl Into<String>, evidence: Option<String>, heal: Heal) -> Self {
        Self { target: target.into(), evidence, heal }
    }
}

/// Makes a fault.
///
/// # Errors
/// When the world is not as it should be, such as a process that does not go although it was killed.
pub fn make(world: &mut World, due: &Due) -> Result<AtWork> {
    let gateway = pick(due.target, world.hub.gateways.len());
    match due.kind {
        Kind::KillWorker | Kind::TermWorker | Kind::StopWorker => {
            let (n, held) = busy_worker(world, due.target);
            break_worker(world, n, held, due.kind)
        }
        Kind::KillGateway | Kind::TermGateway | Kind::StopGateway => break_gateway(world, gateway, due.kind),
        Kind::KillLeader => kill_leader(world),
        Kind::RestartRedis | Kind::EmptyRedis | Kind::FlushRedis | Kind::StopRedis => {
            break_redis(world, due.kind)
        }
        Kind::DeleteStream | Kind::DestroyGroups => break_stream(world, due),
        Kind::RestartPostgres | Kind::StopPostgres => break_postgres(world, due.kind),
        Kind::StallRedis | Kind::ResetRedis | Kind::LosePublish => break_way(world, due.kind, true),
        Kind::StallPostgres | Kind::ResetPostgres | Kind::LoseCommit => break_way(world, due.kind, false),
        Kind::JumpClock => {
            let clock = world.clock.as_ref().context("a clock that can be moved")?;
            if due.target.is_multiple_of(2) {
                clock.ahead(JUMP)?;
            } else {
                clock.behind(JUMP)?;
            }
            let evidence = Some("the clocks of a worker and a gateway are an hour off".to_owned());
            Ok(AtWork::new("the last gateway and worker", evidence, Heal::Clock))
        }
    }
}

/// Takes a fault away. Gives back what it turned out to have hit.
///
/// # Errors
/// When a process does not come up again.
pub fn heal(world: &mut World, fault: AtWork) -> Result<Option<String>> {
    let mut evidence = fault.evidence;
    match fault.heal {
        Heal::Nothing => {}
        Heal::RunWorker(n) => world.hub.workers[n].run()?,
        Heal::RunGateway(n) => world.hub.gateways[n].run()?,
        Heal::RunRedis => world.redis()?.run()?,
        Heal::RunPostgres => world.hub.postgres.as_mut().context("there is a Postgres")?.run()?,
        Heal::Continue(pids) => send(&pids, Signal::SIGCONT),
        Heal::Clock => world.clock.as_ref().context("a clock")?.ahead(Duration::ZERO)?,
        Heal::Proxy { redis, sprung } => {
            let proxy = proxy(world, redis)?;
            proxy.heal();
            let more = proxy.sprung() - sprung;
            evidence = evidence.or((more > 0).then(|| format!("{more} replies were lost")));
        }
    }
    Ok(evidence)
}

fn pick(target: u64, len: usize) -> usize {
    usize::try_from(target % len.max(1) as u64).unwrap_or(0)
}

/// One of the workers that hold tasks, and how many, as soon as there are some; any worker if there are none for long.
fn busy_worker(world: &World, target: u64) -> (usize, f64) {
    let held = |worker: &Replica| worker.metric("milepost_tasks_held").unwrap_or(0.0);
    let mut busy: Vec<(usize, f64)> = Vec::new();
    let _ = wait_for(BUSY_WITHIN, "a busy worker", || {
        busy = world.hub.workers.iter().map(held).enumerate().filter(|(_, held)| *held > 0.0).collect();
        Ok(!busy.is_empty())
    });
    let any = (pick(target, world.hub.workers.len()), 0.0);
    busy.get(pick(target, busy.len())).copied().unwrap_or(any)
}

/// Words that prove a hit, if this many things were hit.
fn some(n: f64, what: &str) -> Option<String> {
    (n > 0.0).then(|| format!("{n} {what}"))
}

fn break_worker(world: &World, n: usize, held: f64, kind: Kind) -> Result<AtWork> {
    let worker = &world.hub.workers[n];
    let heal = strike(worker, kind, Heal::RunWorker(n))?;
    Ok(AtWork::new(format!("worker-{n}"), some(held, "tasks were in its hands"), heal))
}

fn break_gateway(world: &World, n: usize, kind: Kind) -> Result<AtWork> {
    let gateway = &world.hub.gateways[n];
    let sockets = gateway.metric("milepost_sockets{kind=\"ws\"}").unwrap_or(0.0);
    let heal = strike(gateway, kind, Heal::RunGateway(n))?;
    Ok(AtWork::new(format!("gateway-{n}"), some(sockets, "sockets were open"), heal))
}

fn strike(replica: &Replica, kind: Kind, again: Heal) -> Result<Heal> {
    match kind {
        Kind::TermWorker | Kind::TermGateway => replica.stop(STOP_MAX).map(|()| again),
        Kind::StopWorker | Kind::StopGateway => still(replica.process()),
        _ => replica.kill().map(|()| again),
    }
}

/// Stops a process where it stands.
fn still(process: &Process) -> Result<Heal> {
    process.signal(Signal::SIGSTOP)?;
    Ok(Heal::Continue(vec![Pid::from_raw(process.pid())]))
}

fn kill_leader(world: &World) -> Result<AtWork> {
    let leads = |worker: &Replica| worker.metric("milepost_maintenance_leader").is_ok_and(|n| n > 0.0);
    let Some(n) = world.hub.workers.iter().position(leads) else {
        return Ok(AtWork::new("nobody", None, Heal::Nothing));
    };
    world.hub.workers[n].kill()?;
    Ok(AtWork::new(format!("worker-{n}"), Some("it led the maintenance".to_owned()), Heal::RunWorker(n)))
}

fn break_redis(world: &mut World, kind: Kind) -> Result<AtWork> {
    let keys = world.ask(&["DBSIZE"])?;
    let open = world.hub.proxies.redis.as_ref().map_or(0, Proxy::open);
    let lost = (keys > 0).then(|| format!("{keys} keys were lost"));
    let cut = (open > 0).then(|| format!("{open} connections were cut off"));
    let redis = world.redis()?;
    let (evidence, heal) = match kind {
        Kind::FlushRedis => {
            redis.command(&["FLUSHALL"])?;
            (lost, Heal::Nothing)
        }
        Kind::StopRedis => (cut, still(redis.process())?),
        Kind::EmptyRedis => {
            redis.command(&["FLUSHALL"])?;
            redis.process().kill()?;
            (lost, Heal::RunRedis)
        }
        _ => {
            redis.process().kill()?;
            (cut, Heal::RunRedis)
        }
    };
    Ok(AtWork::new("redis", evidence, heal))
}

fn break_stream(world: &mut World, due: &Due) -> Result<AtWork> {
    let redis = world.redis()?;
    let mut streams = bulk(&redis.command(&["KEYS", "mp:*:events"])?);
    streams.sort();
    let Some(stream) = streams.get(pick(due.target, streams.len())) else {
        return Ok(AtWork::new("no stream", None, Heal::Nothing));
    };
    let mut removed = 0;
    if due.kind == Kind::DeleteStream {
        removed = u64::from(redis.command(&["DEL", stream])?.starts_with(":1"));
    } else {
        let groups = bulk(&redis.command(&["XINFO", "GROUPS", stream])?);
        for group in groups.iter().filter(|word| word.starts_with("gw:")) {
            removed += u64::from(redis.command(&["XGROUP", "DESTROY", stream, group])?.starts_with(":1"));
        }
    }
    let evidence = (removed > 0).then(|| format!("{removed} removed"));
    Ok(AtWork::new(stream.clone(), evidence, Heal::Nothing))
}

/// The texts of a reply.
fn bulk(reply: &str) -> Vec<String> {
    reply.lines().filter(|line| !line.starts_with(['*', '$', ':'])).map(str::to_owned).collect()
}

fn break_postgres(world: &World, kind: Kind) -> Result<AtWork> {
    let postgres = world.hub.postgres.as_ref().context("there is a Postgres")?;
    let process = postgres.process();
    let backends = children(process.pid());
    let evidence = Some(format!("{} processes of the server were hit", backends.len()));
    if kind == Kind::RestartPostgres {
        // At once, without a checkpoint: as a crash.
        process.signal(Signal::SIGQUIT)?;
        process.wait_gone(STOP_MAX)?;
        return Ok(AtWork::new("postgres", evidence, Heal::RunPostgres));
    }
    let mut pids = vec![Pid::from_raw(process.pid())];
    pids.extend(backends);
    send(&pids, Signal::SIGSTOP);
    Ok(AtWork::new("postgres", evidence, Heal::Continue(pids)))
}

/// Sends a signal to those that are still there.
fn send(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

/// The processes that a process has started.
fn children(parent: i32) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    pids.filter(|pid| parent_of(*pid) == Some(parent)).map(Pid::from_raw).collect()
}

fn break_way(world: &World, kind: Kind, redis: bool) -> Result<AtWork> {
    let proxy = proxy(world, redis)?;
    let (open, sprung) = (proxy.open(), proxy.sprung());
    let mut evidence = (open > 0).then(|| format!("{open} connections were hit"));
    match kind {
        Kind::StallRedis | Kind::StallPostgres => proxy.set(Way::Down, Flow::Stall),
        Kind::ResetRedis | Kind::ResetPostgres => proxy.reset(),
        _ => {
            let request = if redis { &b"_publish"[..] } else { b"COMMIT" };
            proxy.set_trap(Trap::LoseReply { request: request.to_vec() }, 3);
            evidence = None;
        }
    }
    let target = if redis { "the way to Redis" } else { "the way to Postgres" };
    Ok(AtWork::new(target, evidence, Heal::Proxy { redis, sprung }))
}

fn proxy(world: &World, redis: bool) -> Result<&Proxy> {
    let proxies = &world.hub.proxies;
    let proxy = if redis { &proxies.redis } else { &proxies.postgres };
    proxy.as_ref().context("the servers are behind proxies")
}
