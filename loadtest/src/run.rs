//! One run of a scenario: connect everybody, let them work, demand that all arrived exactly once, and say what it took. Not
//! here: what many runs say together ([`crate::report`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use milepost_harness::HubMode;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cost::{self, Cost};
use crate::crowd::{Crowd, Seen, demand_exact};
use crate::machine::load_average;
use crate::place::{Elsewhere, Place};
use crate::progress::Progress;
use crate::report::{Cells, Row, Table};
use crate::spec::{Group, Scenario};

/// Where runs take place.
#[derive(Debug, Clone)]
pub enum Where {
    /// On a hub that is started for each of them, in this mode.
    Own(HubMode, PathBuf),
    /// On one that is there.
    Elsewhere(Elsewhere),
}

impl Where {
    /// A name for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Own(mode, _) => mode.name(),
            Self::Elsewhere(_) => "elsewhere",
        }
    }

    async fn place(&self, scenario: &Scenario) -> Result<Place> {
        match self.clone() {
            Self::Elsewhere(elsewhere) => Ok(Place::attach(&elsewhere)),
            Self::Own(mode, binary) => {
                let scenario = scenario.clone();
                tokio::task::spawn_blocking(move || Place::start(&scenario, mode, &binary)).await?
            }
        }
    }
}

/// Runs a scenario once. Returns its figures, and what the servers say of where the time went.
///
/// # Errors
/// When anything fails, or delivery was not exact: such a run has no figures.
pub async fn once(scenario: &Scenario, place: &Where, bar: &Progress) -> Result<(Vec<Row>, Vec<String>)> {
    let mode = place.name();
    let place = Arc::new(place.place(scenario).await?);
    let run = Run { scenario, mode, place: Arc::clone(&place), done: Arc::new(AtomicU64::new(0)) };
    bar.follow(&run.done);
    let mut rows = Vec::new();
    if let Some(alone) = scenario.groups.iter().find(|group| scenario.alone.as_ref() == Some(&group.name)) {
        rows.extend(run.step("alone", std::slice::from_ref(alone), None).await?);
    }
    match scenario.steps.as_slice() {
        [] => rows.extend(run.step("", &scenario.groups, None).await?),
        steps => {
            for step in steps {
                rows.extend(run.step(&format!("x{step}"), &scenario.groups_at(*step), Some(*step)).await?);
            }
        }
    }
    let top = place.hub.as_ref().filter(|hub| hub.postgres.is_some()).map(cost::top_statements);
    let top = top.transpose()?.unwrap_or_default();
    drop(run);
    tokio::task::spawn_blocking(move || drop(place)).await?;
    Ok((rows, top))
}

struct Run<'a> {
    scenario: &'a Scenario,
    mode: &'static str,
    place: Arc<Place>,
    done: Arc<AtomicU64>,
}

impl Run<'_> {
    async fn step(&self, name: &str, groups: &[Group], step: Option<usize>) -> Result<Vec<Row>> {
        let load = load_average();
        let empty = self.cost()?;
        let storm = self.scenario.storm.filter(|_| name != "alone");
        let begin = Instant::now();
        let prefix = if name.is_empty() { String::new() } else { format!("{name}-") };
        let crowd = Crowd::connect(&self.place, groups, &prefix, storm.is_some(), &self.done).await?;
        let connected = begin.elapsed();
        let before = self.cost()?;
        let killer = storm.map(|storm| self.kill_after(Duration::from_millis(storm.after_ms)));
        let seen = crowd.go(groups).await?;
        demand_exact(&seen)?;
        let after = self.cost()?;
        let mut rows = Vec::new();
        let key = |group: &str| (self.mode, name.to_owned(), group.to_owned());
        for seen in seen.iter().filter(|seen| seen.group.batches > 0) {
            rows.push(Row { table: Table::Work, key: key(&seen.group.name), step, load, cells: work(seen) });
        }
        let sockets: usize = groups.iter().map(Group::all_sockets).sum();
        let mut cells = vec![("sockets", to_f64(sockets)), ("connected/s", rate(sockets, connected))];
        if let (Some(empty), Some(before), Some(after)) = (empty, before, after) {
            let kb = before.gateways.rss_kb.saturating_sub(empty.gateways.rss_kb);
            cells.push(("kB/socket", to_f64(kb) / to_f64(sockets)));
            cells.push((
                "connecting us/socket",
                1e6 * (before.gateways.cpu_s - empty.gateways.cpu_s) / to_f64(sockets),
            ));
            let cost = Row {
                table: Table::Cost,
                key: key("all"),
                step,
                load,
                cells: costs(&seen, &after.since(&before)),
            };
            rows.push(cost);
        }
        rows.push(Row { table: Table::Sockets, key: key("all"), step, load, cells });
        if let Some(killer) = killer {
            rows.push(Row {
                table: Table::Storm,
                key: key("all"),
                step,
                load,
                cells: storms(&seen, killer.await??),
            });
        }
        Ok(rows)
    }

    fn cost(&self) -> Result<Option<Cost>> {
        self.place.hub.as_ref().map(Cost::so_far).transpose()
    }

    /// Kills the first gateway; returns when that was.
    fn kill_after(&self, pause: Duration) -> JoinHandle<Result<Instant>> {
        let place = Arc::clone(&self.place);
        tokio::spawn(async move {
            sleep(pause).await;
            let at = Instant::now();
            tokio::task::spawn_blocking(move || place.kill_gateway()).await??;
            Ok(at)
        })
    }
}

fn work(seen: &Seen) -> Cells {
    let items = seen.group.users * seen.group.batches * seen.group.items;
    let span = Duration::from_micros(u64::try_from(seen.span_us.1 - seen.span_us.0).unwrap_or(1).max(1));
    let ms = |histogram: &Histogram<u64>, quantile| to_f64(histogram.value_at_quantile(quantile)) / 1e3;
    vec![
        ("items", to_f64(items)),
        ("items/s", rate(items, span)),
        ("p50 ms", ms(&seen.latency_us, 0.5)),
        ("p90 ms", ms(&seen.latency_us, 0.9)),
        ("p99 ms", ms(&seen.latency_us, 0.99)),
        ("max ms", ms(&seen.latency_us, 1.0)),
        ("submit p50 ms", ms(&seen.submit_us, 0.5)),
        ("batch p95 ms", ms(&seen.batch_us, 0.95)),
    ]
}

fn costs(seen: &[Seen], cost: &Cost) -> Cells {
    let items: usize = seen.iter().map(|seen| seen.group.users * seen.group.batches * seen.group.items).sum();
    let frames: u64 = seen.iter().map(|seen| seen.frames).sum();
    let (items, frames) = (to_f64(items).max(1.0), to_f64(frames).max(1.0));
    let per_10k = |cpu_s: f64| cpu_s / items * 1e4;
    vec![
        ("frames", frames),
        ("gateway us/frame", cost.gateways.cpu_s / frames * 1e6),
        ("gateways s/10k", per_10k(cost.gateways.cpu_s)),
        ("workers s/10k", per_10k(cost.workers.cpu_s)),
        ("redis s/10k", per_10k(cost.redis.cpu_s)),
        ("postgres s/10k", per_10k(cost.postgres.cpu_s)),
        ("gateway MB", to_f64(cost.gateways.peak_kb) / 1024.0),
        ("worker MB", to_f64(cost.workers.peak_kb) / 1024.0),
        ("commands/item", to_f64(cost.all_commands()) / items),
        ("redis B/item", to_f64(cost.redis_memory) / items),
        ("wire B/item", to_f64(cost.redis_bytes) / items),
        ("statements/item", to_f64(cost.statements) / items),
    ]
}

fn storms(seen: &[Seen], killed: Instant) -> Cells {
    let sum = |pick: fn(&Seen) -> u64| to_f64(seen.iter().map(pick).sum::<u64>());
    let back = seen.iter().filter_map(|seen| seen.back_at).max();
    let back = back.map_or(0.0, |at| at.saturating_duration_since(killed).as_secs_f64());
    vec![("resumed", sum(|seen| seen.resumed)), ("resynced", sum(|seen| seen.resynced)), ("all back s", back)]
}

fn rate(n: usize, in_time: Duration) -> f64 {
    to_f64(n) / in_time.as_secs_f64().max(1e-6)
}

/// A count as a figure: those of a load run are far below what a float holds exactly.
#[expect(clippy::cast_precision_loss, reason = "counts of a load run are far below 2^52")]
fn to_f64(n: impl TryInto<u64>) -> f64 {
    n.try_into().unwrap_or(u64::MAX) as f64
}
