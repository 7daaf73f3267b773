//! Figures of several runs as a block of `docs/guarantees.md`: medians and the worst.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Where the block begins and ends in the page.
const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->\n";

/// A task that went on elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    /// From the signal until its user saw it go on.
    pub seconds: f64,
    /// Items that were run by both workers.
    pub run_again: u64,
}

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// After SIGKILL.
    pub killed: Takeover,
    /// After SIGTERM.
    pub ended: Takeover,
    /// From the request to pause until the user was told that it is paused.
    pub paused: f64,
    /// The same for a change of how many items run at once.
    pub narrowed: f64,
    /// Refused writes of a worker that was stopped beyond its lease.
    pub refused: u64,
    /// Ends, results and events that somebody saw and that no holder of the task made.
    pub accepted: u64,
    /// Events out of order and counts that fell.
    pub backward: u64,
    /// Events that the client lost that was away.
    pub away_lost: u64,
    /// Events that it got twice.
    pub away_doubled: u64,
    /// Whether it was sent a resync.
    pub away_resynced: bool,
    /// How often sockets came back during kills.
    pub returns: u64,
    /// Events and ends that were lost to anybody.
    pub lost: u64,
    /// Events that were handed out twice to anybody.
    pub doubled: u64,
    /// All violations of all promises.
    pub violations: u64,
}

/// Puts the figures into the page, between its marks.
///
/// # Errors
/// When the page has no marks or cannot be written.
pub fn write(page: &Path, runs: &[Figures], load: f64) -> Result<String> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let (head, rest) = text.split_once(BEGIN).context("the page has no begin mark")?;
    let (_, tail) = rest.split_once(END).context("the page has no end mark")?;
    let block = block(runs, load);
    std::fs::write(page, format!("{head}{BEGIN}{block}{END}{tail}"))?;
    Ok(block)
}

fn block(runs: &[Figures], load: f64) -> String {
    let of = |figure: fn(&Figures) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        (all.get(all.len() / 2).copied().unwrap_or(0.0), all.last().copied().unwrap_or(0.0))
    };
    let seconds = |what: &str, goal: &str, figure: fn(&Figures) -> f64| {
        let (median, worst) = of(figure);
        format!("| {what} | {goal} | {median:.2} s | {worst:.2} s |\n")
    };
    let number = |what: &str, goal: &str, figure: fn(&Figures) -> f64| {
        let (median, worst) = of(figure);
        format!("| {what} | {goal} | {median} | {worst} |\n")
    };
    let returns: u64 = runs.iter().map(|run| run.returns).sum();
    let resyncs = runs.iter().filter(|run| run.away_resynced).count();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "{} runs of `make guarantees` on {cores} cores that also hold the servers and the clients, load average {load:.1} before, \
         commit {}, debug build. Redis mode, 2 gateways, 4 workers, default settings, a simulated cluster that answers in 40 ms; \
         the task has 300 items and 20 lanes.\n\n| what | goal | median | worst |\n|---|---|---|---|\n",
        runs.len(),
        commit()
    );
    text += &seconds(
        "takeover after SIGKILL, from the signal to the first event of the next attempt",
        "<= 6 s",
        |run| run.killed.seconds,
    );
    text += &seconds("the same after SIGTERM", "<= 1 s", |run| run.ended.seconds);
    text +=
        &seconds("a pause by a user, from the request to the event of a worker elsewhere", "<= 1 s", |run| {
            run.paused
        });
    text += &seconds("a change of how many items run at once, the same", "<= 1 s", |run| run.narrowed);
    text += &number("items run twice by a kill, 20 in flight", "<= 20", |run| float(run.killed.run_again));
    text += &number("items run twice by a SIGTERM", "0", |run| float(run.ended.run_again));
    text += &number("writes accepted from a worker stopped beyond its lease", "0", |run| float(run.accepted));
    text += &number("writes refused to it", "counted", |run| float(run.refused));
    text += &number("backward steps", "0", |run| float(run.backward));
    text += &number("lost by a client away for 3 s, gateway killed, Redis restarted", "0", |run| {
        float(run.away_lost)
    });
    text += &number("doubled for it", "0", |run| float(run.away_doubled));
    text += &number("lost in reconnects during kills", "0", |run| float(run.lost));
    text += &number("doubled in them, after client dedupe", "0", |run| float(run.doubled));
    text +=
        &number("violations of any promise that `milepost verify` checks", "0", |run| float(run.violations));
    text + &format!(
        "\n{returns} reconnects in all. The client that was away was sent a resync in {resyncs} of {} runs.\n",
        runs.len()
    )
}

fn float(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The load average of the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(-1.0)
}
