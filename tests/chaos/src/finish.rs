//! After the last fault: quiet, the record, and the numbers at the end.

use std::time::Duration;

use anyhow::{Context, Result};
use milepost::cli;
use milepost::client::Api;
use milepost::client::http::TaskFilter;
use milepost::store::Control;
use milepost::verify::record::{End, Gauge, GaugeKind};
use milepost::verify::{HistoryLog, Record};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::run::now_us;
use crate::world::World;

/// How long everything may take to come to rest.
const QUIET_MAX: Duration = Duration::from_secs(90);
/// How long a number may take to be as it should. The slowest is that of the gateways: a killed one counts as alive for
/// 30 s, and is looked for every 10 s by whoever then has the lead.
const SETTLED_MAX: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Most tasks of a run.
const TASKS_MAX: usize = 1_000_000;
/// How long an acknowledgement of a wake-up may take, in milliseconds.
const PENDING_IDLE_MS: &str = "10000";
/// Most memory of one process, in megabytes.
const RSS_MAX: f64 = 400.0;

const OPEN: &str = "SELECT count(*) FROM tasks WHERE finished_at IS NULL";
const PAUSED: &str = "SELECT string_agg(id::text, ' ') FROM tasks WHERE status = 'paused'";
const HELD: &str = "SELECT count(*) FROM tasks WHERE status IN ('running', 'cancelling')";
const OUTBOX: &str = "SELECT count(*) FROM outbox WHERE published_at IS NULL";

/// Resumes what is paused, and waits until every task is over. What is not by then is for the judge.
pub(crate) async fn quiet(world: &World, admin: &Api) -> Result<()> {
    let end = Instant::now() + QUIET_MAX;
    while block_in_place(|| world.count(OPEN))? > 0 && Instant::now() < end {
        for id in block_in_place(|| world.hub.sql(PAUSED))?.split_whitespace() {
            let _ = admin.control(id.parse()?, Control::Resume).await;
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Notes that all is told, and the record.
pub(crate) async fn end(admin: &Api, log: &HistoryLog) -> Result<()> {
    log.note(&Record::End(End { at_us: now_us() }));
    let filter = TaskFilter { limit: TASKS_MAX, owner: Some("*".to_owned()), ..TaskFilter::default() };
    cli::dump::dump(admin, &filter, |record| log.note(record)).await.context("dump the record")
}

/// How a number is looked up.
type Look = fn(&mut World) -> Result<f64>;

/// Notes the numbers at the end, once they are as they should be or will not become so.
pub(crate) async fn gauges(world: World, log: &HistoryLog) -> Result<World> {
    let log = log.clone();
    let looked = spawn_blocking(move || -> Result<World> {
        let mut world = world;
        let wanted: [(&str, GaugeKind, f64, Look); 7] = [
            ("open tasks", GaugeKind::Backlog, 0.0, |world| Ok(float(world.count(OPEN)?))),
            ("events in the outbox", GaugeKind::Backlog, 0.0, |world| Ok(float(world.count(OUTBOX)?))),
            ("wake-ups nobody acknowledges", GaugeKind::Backlog, 0.0, idle_pending),
            ("held tasks", GaugeKind::Leak, 0.0, |world| Ok(float(world.count(HELD)?))),
            ("sockets", GaugeKind::Leak, 0.0, sockets),
            ("registered gateways", GaugeKind::Leak, 2.0, |world| {
                Ok(float(world.ask(&["ZCARD", "mp:gateways"])?))
            }),
            ("memory of the largest process in MB", GaugeKind::Size, RSS_MAX, largest),
        ];
        for (name, kind, max, look) in wanted {
            let value = settled(&mut world, max, look);
            log.note(&Record::Gauge(Gauge { name: name.to_owned(), kind, value, max }));
        }
        Ok(world)
    });
    looked.await?
}

/// The number once it is within its bound, or what it still is after a while.
fn settled(world: &mut World, max: f64, look: Look) -> f64 {
    let mut value = f64::MAX;
    let _ = milepost_harness::process::wait_for(SETTLED_MAX, "a number", || {
        value = look(world).unwrap_or(f64::MAX);
        Ok(value <= max)
    });
    value
}

fn float(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn idle_pending(world: &mut World) -> Result<f64> {
    let reply = world.redis()?.command(&[
        "XPENDING",
        "mp:dispatch",
        "workers",
        "IDLE",
        PENDING_IDLE_MS,
        "-",
        "+",
        "100",
    ])?;
    let first = reply.lines().next().unwrap_or_default();
    first.trim_start_matches('*').parse().with_context(|| reply.clone())
}

fn sockets(world: &mut World) -> Result<f64> {
    let open = |kind: &str| -> Result<f64> {
        world
            .hub
            .gateways
            .iter()
            .map(|gateway| gateway.metric(&format!("milepost_sockets{{kind=\"{kind}\"}}")))
            .sum()
    };
    Ok(open("ws")? + open("sse")?)
}

fn largest(world: &mut World) -> Result<f64> {
    let rss = |pid: i32| -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("its memory")?;
        let kb: f64 = line.trim().split(' ').next().unwrap_or_default().parse()?;
        Ok(kb / 1_024.0)
    };
    world.replicas().try_fold(0.0, |most, replica| Ok(f64::max(most, rss(replica.process().pid())?)))
}
