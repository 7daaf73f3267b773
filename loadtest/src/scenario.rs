//! The progress scenario: users on sockets at one gateway submit at another, all at once, and every item result is timed
//! from the end of its own work to its user's socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use milepost_harness::{Hub, HubMode, HubSpec};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::check::{Checker, Faults};
use crate::report::{Figures, Report, Run};
use crate::socket::Socket;
use crate::{ProgressArgs, clock, machine};

/// Runs every mode in turn, as often as asked, so that all modes see the same weather.
pub async fn progress(args: &ProgressArgs) -> Result<Report> {
    let mut report = Report::new("progress", describe(args));
    for n in 1..=args.runs {
        for &mode in &args.modes {
            let run = one_run(args, mode.into()).await?;
            eprintln!("run {n}/{} {}", args.runs, run.line());
            report.runs.push(run);
        }
    }
    Ok(report)
}

fn describe(args: &ProgressArgs) -> String {
    format!(
        "{} users x {} items x {} ms, one socket each, {} gateways and {} workers (memory: one process)",
        args.users, args.items, args.item_ms, args.gateways, args.workers
    )
}

async fn one_run(args: &ProgressArgs, mode: HubMode) -> Result<Run> {
    let spec = hub_spec(args, mode)?;
    let load_before = machine::load_average();
    let hub = tokio::task::spawn_blocking(move || Hub::start(spec)).await??;
    let tokens = tokens(&hub, args.users)?;
    let urls = Arc::new(hub.urls());
    let start = Arc::new(Barrier::new(args.users));
    let begin = clock::now_us();
    let users = tokens.into_iter().enumerate().map(|(n, token)| {
        let user = User { n, token, urls: Arc::clone(&urls), args: args.clone() };
        tokio::spawn(user.run(Arc::clone(&start)))
    });
    let mut seen = Seen::new()?;
    for user in users.collect::<Vec<_>>() {
        seen.add(&user.await??)?;
    }
    let seconds = us_to_s(clock::now_us() - begin);
    ensure!(seen.faults.is_clean(), "{}: delivery was not exact: {:?}", mode.name(), seen.faults);
    drop(tokio::task::spawn_blocking(move || drop(hub)).await);
    Ok(Run {
        mode: mode.name(),
        load_before,
        seconds,
        faults: seen.faults,
        figures: Figures::of(&seen.latency_us),
    })
}

fn hub_spec(args: &ProgressArgs, mode: HubMode) -> Result<HubSpec> {
    let mut spec = HubSpec::new(binary(args)?, mode);
    (spec.gateways, spec.workers) = (args.gateways, args.workers);
    let lanes = (args.users * 20).to_string();
    Ok(spec
        .set("MILEPOST_WORKER__LANES", &lanes)
        .set("MILEPOST_WORKER__TASKS_MAX", &args.users.to_string())
        .set("MILEPOST_WORKER__PER_CLUSTER_MAX", &args.users.to_string())
        .set("MILEPOST_LIMITS__REQUESTS_PER_SECOND", "1000"))
}

fn binary(args: &ProgressArgs) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("milepost");
    let binary = args.binary.clone().unwrap_or(beside);
    ensure!(binary.exists(), "{} is missing: cargo build --release --workspace", binary.display());
    Ok(binary)
}

fn tokens(hub: &Hub, users: usize) -> Result<Vec<String>> {
    (0..users).map(|n| hub.token(&format!("user-{n}"), "operator")).collect()
}

/// What one user received.
struct Received {
    latency_us: Vec<u64>,
    faults: Faults,
}

/// What all users received.
struct Seen {
    latency_us: Histogram<u64>,
    faults: Faults,
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self { latency_us: Histogram::new(3)?, faults: Faults::default() })
    }

    fn add(&mut self, user: &Received) -> Result<()> {
        for &us in &user.latency_us {
            self.latency_us.record(us.max(1))?;
        }
        self.faults.add(&user.faults);
        Ok(())
    }
}

struct User {
    n: usize,
    token: String,
    urls: Arc<Vec<String>>,
    args: ProgressArgs,
}

impl User {
    /// Connects to one gateway, submits to the next, and receives until the task is over and the record agrees.
    async fn run(self, start: Arc<Barrier>) -> Result<Received> {
        let home = &self.urls[self.n % self.urls.len()];
        let other = &self.urls[(self.n + 1) % self.urls.len()];
        let mut socket = Socket::connect(home, &self.token).await?;
        start.wait().await;
        let task = self.submit(other).await?;
        let mut checker = Checker::new(task.clone(), u32::try_from(self.args.items)?);
        let mut latency_us = Vec::with_capacity(self.args.items);
        while !checker.is_done() {
            let (event, at) = socket.event().await?;
            for item in checker.frame(&event) {
                let us = at - item.done_us.context("an ended item without its time")?;
                latency_us.push(u64::try_from(us).unwrap_or(0));
            }
        }
        self.check_record(other, &task).await?;
        for event in socket.late().await? {
            checker.frame(&event);
        }
        Ok(Received { latency_us, faults: checker.finish() })
    }

    async fn submit(&self, base: &str) -> Result<String> {
        let items: Vec<String> = (0..self.args.items).map(|i| format!("item-{i:06}")).collect();
        let body = json!({
            "action": "wait", "cluster": "local", "items": items,
            "parameters": {"duration_ms": self.args.item_ms},
        });
        let request = reqwest::Client::new().post(format!("{base}/api/v1/tasks")).json(&body);
        let answer = request.bearer_auth(&self.token).timeout(Duration::from_secs(30)).send().await?;
        let (status, body) = (answer.status(), answer.json::<Value>().await?);
        if !status.is_success() {
            bail!("submit answered {status}: {body}");
        }
        let id = body["task_id"].as_str();
        Ok(id.with_context(|| format!("no task id in {body}"))?.to_owned())
    }

    /// The record must agree with what the socket saw.
    async fn check_record(&self, base: &str, task: &str) -> Result<()> {
        let request = reqwest::Client::new().get(format!("{base}/api/v1/tasks/{task}"));
        let answer = request.bearer_auth(&self.token).timeout(Duration::from_secs(30)).send().await?;
        let body: Value = answer.json().await?;
        let succeeded = body["succeeded"].as_u64();
        let wanted = u64::try_from(self.args.items)?;
        ensure!(succeeded == Some(wanted), "the record says {body}, the socket saw {wanted} successes");
        Ok(())
    }
}

fn us_to_s(us: i64) -> f64 {
    jiff::SignedDuration::from_micros(us).as_secs_f64()
}
