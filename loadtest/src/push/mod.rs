//! A gateway by itself: events are published straight onto the bus in Redis, and ten thousand sockets take them.
//!
//! Nothing runs a task here, so all that is measured is the way from a publish to a socket, and what it costs the gateway.
//! Every socket checks each frame; a run that is not exact has no figures. Files: this one (what is measured, in which
//! order) · `source` publishes · `crowd` of sockets, each a `line` · `plain` the floor under a fan-out · `usage` of
//! processors and memory · `table`. Not here: tasks and workers ([`crate::run`]).

mod crowd;
mod line;
mod plain;
mod source;
mod table;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use milepost_harness::{Hub, HubMode, HubSpec};
use tokio::time::{Instant, sleep};

use self::crowd::{Crowd, Member};
use self::plain::Plain;
pub use self::plain::{PlainArgs, serve as plain_sends};
use self::source::{Source, Stream};
use self::table::{Figures, Run};
use self::usage::{cpu_ns, resident};
use crate::clock::now_us;
use crate::machine::load_average;
use crate::place::Place;

/// Time after which a gateway has forgotten what only connecting took.
const SETTLING: Duration = Duration::from_secs(3);
/// Publishing before it is measured.
const WARM_UP: Duration = Duration::from_secs(2);
/// Users who come back in a storm, and events a second meanwhile.
const STORM_USERS: usize = 9_000;
const STORM_RATE: u32 = 100;

/// What to measure, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct PushArgs {
    /// Parts to measure; the figures of others are left as they are.
    #[arg(value_enum, default_values_t = [Part::Crowd, Part::Few, Part::Fanout, Part::Storm])]
    parts: Vec<Part>,
    /// Runs; the tables show medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Users with a socket, or sockets of one user.
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
    /// Seconds of publishing at each rate.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The `milepost` binary; the one beside this program by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where results go.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Ten thousand users: connecting, idling, and events to one user each.
    Crowd,
    /// The same events to a hundred users.
    Few,
    /// Events to ten thousand sockets of one user, and plain writes of the same bytes.
    Fanout,
    /// A gateway is killed under nine thousand sockets.
    Storm,
}

/// Measures, and writes the figures.
///
/// # Errors
/// When a run was not exact, or something does not start.
pub async fn run(args: &PushArgs) -> Result<()> {
    crate::open_many_files()?;
    let mut figures = Figures::read(&args.results)?;
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        for part in &args.parts {
            let measured = measure(*part, args).await.with_context(|| format!("{part:?}"))?;
            for run in measured {
                eprintln!("{}", run.line());
                runs.push(run);
            }
        }
    }
    figures.replace(runs);
    figures.write(&args.results)
}

async fn measure(part: Part, args: &PushArgs) -> Result<Vec<Run>> {
    match part {
        Part::Crowd => crowd(args).await,
        Part::Few => few(args).await,
        Part::Fanout => fanout(args).await,
        Part::Storm => Ok(vec![storm(args).await?]),
    }
}

/// A hub without workers, and how to get in.
struct Bench {
    place: Place,
}

impl Bench {
    async fn start(args: &PushArgs, gateways: usize, settings: &[(&str, String)]) -> Result<Self> {
        let binary = crate::place::binary(args.binary.as_deref())?;
        let mut spec = HubSpec { gateways, workers: 0, ..HubSpec::new(binary, HubMode::Redis) }.counted();
        for (key, value) in settings {
            spec = spec.set(key, value);
        }
        let place = tokio::task::spawn_blocking(move || Place::start_hub(spec)).await??;
        Ok(Self { place })
    }

    fn hub(&self) -> Result<&Hub> {
        self.place.hub.as_ref().context("a hub of our own")
    }

    /// So many users, each with a task, and the members of a crowd of `sockets` of them.
    fn users(&self, users: usize, sockets: usize) -> Result<(Source, Vec<Member>)> {
        let streams = (0..users).map(|n| Stream::of(&format!("user-{n}"))).collect::<Result<Vec<_>>>()?;
        let mut members = Vec::new();
        for n in 0..sockets {
            let (token, task) =
                (self.place.token(&format!("user-{}", n % users))?, streams[n % users].task());
            members.push(Member { token, task });
        }
        let redis = self.hub()?.redis.as_ref().context("a Redis")?;
        Ok((Source::new(&redis.url(), streams)?, members))
    }

    async fn connect(&self, members: Vec<Member>) -> Result<Crowd> {
        Crowd::connect(self.place.urls(), members).await
    }

    fn gateway(&self) -> Result<i32> {
        Ok(self.hub()?.gateways[0].process().pid())
    }

    fn redis(&self) -> Result<i32> {
        Ok(self.hub()?.redis.as_ref().context("a Redis")?.process().pid())
    }

    /// Ends it. Not on a thread of the runtime: it waits.
    async fn end(self) -> Result<()> {
        Ok(tokio::task::spawn_blocking(move || drop(self)).await?)
    }
}

/// Connects everybody, and says what that took.
async fn connecting(bench: &Bench, name: &str, members: Vec<Member>) -> Result<(Crowd, Run)> {
    let (load, gateway, sockets) = (load_average(), bench.gateway()?, to_f64(members.len()));
    let (memory, cpu, begin) = (resident(gateway), cpu_ns(gateway), Instant::now());
    let crowd = bench.connect(members).await?;
    let (took, used) = (begin.elapsed(), cpu_ns(gateway) - cpu);
    sleep(SETTLING).await;
    let (memory, cpu) = (resident(gateway).saturating_sub(memory), cpu_ns(gateway));
    sleep(SETTLING).await;
    let idle = to_f64(cpu_ns(gateway) - cpu) / 1e7 / SETTLING.as_secs_f64();
    let us = to_f64(used) / 1e3 / sockets;
    let cells = vec![
        ("sockets", sockets),
        ("kB/socket", to_f64(memory) / 1e3 / sockets),
        ("us/connect", us),
        ("connects/s per core", 1e6 / us),
        ("connects/s", sockets / took.as_secs_f64()),
        ("idle, % of a core", idle),
    ];
    Ok((crowd, Run::new("connecting", name, load, cells)))
}

async fn crowd(args: &PushArgs) -> Result<Vec<Run>> {
    let bench = Bench::start(args, 1, &[]).await?;
    let (mut source, members) = bench.users(args.sockets, args.sockets)?;
    let before = resident(bench.gateway()?);
    let (crowd, connecting) = connecting(&bench, "one socket for each user", members).await?;
    let slow = events(&bench, &crowd, &mut source, 1_000, args).await?;
    let mut fast = events(&bench, &crowd, &mut source, 6_000, args).await?;
    let memory = to_f64(resident(bench.gateway()?).saturating_sub(before)) / 1e3 / to_f64(args.sockets);
    fast.cells.push(("kB/socket after".to_owned(), memory));
    drop(crowd);
    bench.end().await?;
    Ok(vec![connecting, slow, fast])
}

async fn few(args: &PushArgs) -> Result<Vec<Run>> {
    let bench = Bench::start(args, 1, &[]).await?;
    let (mut source, members) = bench.users(100, 100)?;
    let crowd = bench.connect(members).await?;
    let mut runs = Vec::new();
    for rate in [1_000, 6_000] {
        runs.push(events(&bench, &crowd, &mut source, rate, args).await?);
    }
    drop(crowd);
    bench.end().await?;
    Ok(runs)
}

/// Publishes at a rate, to one user after the other, and demands that each event arrives.
async fn events(
    bench: &Bench,
    crowd: &Crowd,
    source: &mut Source,
    rate: u32,
    args: &PushArgs,
) -> Result<Run> {
    let (load, gateway, redis) = (load_average(), bench.gateway()?, bench.redis()?);
    let arrived = crowd.seen.arrived();
    let warm = source.at_rate(rate, WARM_UP).await?;
    crowd.seen.until(arrived + warm).await?;
    crowd.seen.time();
    let (cpu, redis_cpu, begin) = (cpu_ns(gateway), cpu_ns(redis), Instant::now());
    let sent = source.at_rate(rate, Duration::from_secs(args.seconds)).await?;
    crowd.seen.until(arrived + warm + sent).await?;
    let (cpu, redis_cpu, took) = (cpu_ns(gateway) - cpu, cpu_ns(redis) - redis_cpu, begin.elapsed());
    let cells = vec![
        ("events/s", to_f64(sent) / took.as_secs_f64()),
        ("p50 ms", crowd.seen.latency_ms(0.5)),
        ("p90 ms", crowd.seen.latency_ms(0.9)),
        ("p99 ms", crowd.seen.latency_ms(0.99)),
        ("p99.9 ms", crowd.seen.latency_ms(0.999)),
        ("gateway us/event", to_f64(cpu) / 1e3 / to_f64(sent)),
        ("redis, % of a core", to_f64(redis_cpu) / 1e7 / took.as_secs_f64()),
    ];
    let users = source.users();
    Ok(Run::new("events", &format!("{rate}/s to {users} users"), load, cells))
}

async fn fanout(args: &PushArgs) -> Result<Vec<Run>> {
    let settings = [
        ("MILEPOST_LIMITS__SOCKETS_PER_USER", args.sockets),
        ("MILEPOST_LIMITS__REQUESTS_PER_SECOND", 1_000_000),
    ];
    let settings = settings.map(|(key, value)| (key, value.to_string()));
    let bench = Bench::start(args, 1, &settings).await?;
    let (mut source, members) = bench.users(1, args.sockets)?;
    let (crowd, connecting) = connecting(&bench, "all of one user", members).await?;
    let mut runs = vec![connecting];
    let gateway = bench.gateway()?;
    for (rounds, at_once) in [(50, 1), (12, 16)] {
        let (load, mut used, mut took) = (load_average(), 0, Duration::ZERO);
        for round in 0..=rounds {
            let (cpu, begin, arrived) = (cpu_ns(gateway), Instant::now(), crowd.seen.arrived());
            source.at_once(at_once).await?;
            crowd.seen.until(arrived + u64::from(at_once) * u64::try_from(args.sockets)?).await?;
            // The first one warms up.
            if round > 0 {
                used += cpu_ns(gateway) - cpu;
                took += begin.elapsed();
            }
        }
        runs.push(spread("gateway", at_once, rounds * u64::from(at_once), args.sockets, (load, used, took)));
    }
    drop(crowd);
    bench.end().await?;
    runs.extend(plain(args).await?);
    Ok(runs)
}

/// The same by a process that does nothing else.
async fn plain(args: &PushArgs) -> Result<Vec<Run>> {
    let mut plain = Plain::start(args.sockets).await?;
    let mut lines = Vec::with_capacity(args.sockets);
    for _ in 0..args.sockets {
        lines.push(line::Line::plain(&plain.address).await?);
    }
    plain.ready().await?;
    let mut stream = Stream::of("user-0")?;
    let crowd = Crowd::watch(lines, &stream.task())?;
    let mut runs = Vec::new();
    for (rounds, at_once) in [(50, 1), (12, 16)] {
        let (load, mut used, mut took) = (load_average(), 0, Duration::ZERO);
        for round in 0..=rounds {
            let (mut bytes, arrived) = (Vec::new(), crowd.seen.arrived());
            for _ in 0..at_once {
                let event = serde_json::to_string(&stream.next(now_us())?)?;
                let event = event.replacen('{', "{\"position\":\"0123456789abcdef.1764000000000-0\",", 1);
                bytes.extend(line::text_frame(&event)?);
            }
            let before = plain.send(&[]).await?;
            let begin = Instant::now();
            let after = plain.send(&bytes).await?;
            crowd.seen.until(arrived + at_once * u64::try_from(args.sockets)?).await?;
            if round > 0 {
                used += after - before;
                took += begin.elapsed();
            }
        }
        let at_once = u32::try_from(at_once)?;
        runs.push(spread(
            "plain writes",
            at_once,
            rounds * u64::from(at_once),
            args.sockets,
            (load, used, took),
        ));
    }
    Ok(runs)
}

/// Figures of a fan-out.
fn spread(
    by: &str,
    at_once: u32,
    events: u64,
    sockets: usize,
    (load, used, took): (f64, u64, Duration),
) -> Run {
    let frames = to_f64(events) * to_f64(sockets);
    let us = to_f64(used) / 1e3 / frames;
    let cells = vec![
        ("sockets", to_f64(sockets)),
        ("us/frame", us),
        ("frames/s per core", 1e6 / us),
        ("frames/s", frames / took.as_secs_f64()),
    ];
    Run::new("fan-out", &format!("{by}, {at_once} at once"), load, cells)
}

/// Kills the gateway that everybody is on while events flow, and demands that nobody misses one.
async fn storm(args: &PushArgs) -> Result<Run> {
    let load = load_average();
    let bench = Bench::start(args, 2, &[]).await?;
    let (mut source, members) = bench.users(STORM_USERS, STORM_USERS)?;
    let crowd = bench.connect(members).await?;
    crowd.seen.expect_storm();
    let mut sent = source.at_rate(STORM_RATE, WARM_UP).await?;
    crowd.seen.until(sent).await?;
    let survivor = bench.hub()?.gateways[1].process().pid();
    let (statements, cpu, killed) = (statements(bench.hub()?)?, cpu_ns(survivor), Instant::now());
    bench.place.kill_gateway()?;
    while to_f64(crowd.seen.back().0) < to_f64(STORM_USERS) && killed.elapsed() < Duration::from_secs(60) {
        crowd.seen.whole()?;
        sent += source.at_rate(STORM_RATE, Duration::from_millis(100)).await?;
    }
    let used = cpu_ns(survivor) - cpu;
    let statements = diff(&statements, &self::statements(bench.hub()?)?);
    sent += source.at_rate(STORM_RATE, WARM_UP).await?;
    crowd.seen.until(sent).await?;
    let (resumed, last) = crowd.seen.back();
    ensure!(usize::try_from(resumed)? == STORM_USERS, "{resumed} sockets came back");
    let back = last.map_or(0.0, |last| (last - killed).as_secs_f64());
    let cells = vec![
        ("resumed", to_f64(resumed)),
        ("all back s", back),
        ("gateway us/resume", to_f64(used) / 1e3 / to_f64(resumed)),
        ("statements", statements.iter().map(|(calls, _)| to_f64(*calls)).sum()),
    ];
    let mut run = Run::new("storm", "all to the other gateway", load, cells);
    run.notes = statements.into_iter().map(|(calls, query)| format!("{calls} x {query}")).collect();
    drop(crowd);
    bench.end().await?;
    Ok(run)
}

type Statements = Vec<(u64, String)>;

/// Statements that Postgres ran for others than us, with how often.
fn statements(hub: &Hub) -> Result<Statements> {
    let list = hub.sql(
        "SELECT calls || '|' || left(regexp_replace(query, '\\s+', ' ', 'g'), 100) FROM pg_stat_statements \
         WHERE query NOT LIKE '%pg_stat_statements%' ORDER BY queryid",
    )?;
    let parse = |line: &str| {
        let (calls, query) = line.split_once('|')?;
        Some((calls.parse().ok()?, query.to_owned()))
    };
    Ok(list.lines().filter_map(parse).collect())
}

fn diff(before: &Statements, after: &Statements) -> Statements {
    let earlier =
        |query: &str| before.iter().find(|(_, known)| known == query).map_or(0, |(calls, _)| *calls);
    let more = after.iter().map(|(calls, query)| (calls.saturating_sub(earlier(query)), query.clone()));
    more.filter(|(calls, _)| *calls > 0).collect()
}

/// A count as a figure: those of a load run are far below what a float holds exactly.
#[expect(clippy::cast_precision_loss, reason = "counts of a load run are far below 2^52")]
fn to_f64(n: impl TryInto<u64>) -> f64 {
    n.try_into().unwrap_or(u64::MAX) as f64
}
