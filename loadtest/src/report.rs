//! Figures as a table for people and as JSON for machines: medians over the runs, and ratios between modes of one run.

use std::path::Path;

use anyhow::Result;
use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::Faults;
use crate::machine::Machine;

/// Latencies of one run, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// Results that were timed.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The latest.
    pub max_ms: f64,
}

impl Figures {
    /// The figures of a histogram of microseconds.
    pub fn of(latency_us: &Histogram<u64>) -> Self {
        let at = |quantile: f64| ms(latency_us.value_at_quantile(quantile));
        Self {
            count: latency_us.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: ms(latency_us.max()),
        }
    }
}

fn ms(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64() * 1e3
}

/// One run of one mode.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Which mode.
    pub mode: &'static str,
    /// Load average before the run.
    pub load_before: f64,
    /// How long all batches took together.
    pub seconds: f64,
    /// The verdict of the exact-delivery check.
    pub faults: Faults,
    /// Latencies.
    pub figures: Figures,
}

impl Run {
    /// The run on one line.
    pub fn line(&self) -> String {
        let f = &self.figures;
        format!(
            "{:<17} p50 {:>8.2} ms  p99 {:>8.2} ms  {} results, all exactly once, {:.1} s, load {:.2}",
            self.mode, f.p50_ms, f.p99_ms, f.count, self.seconds, self.load_before
        )
    }
}

/// All runs of a scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: &'static str,
    work: String,
    machine: Machine,
    /// Every run, in the order they were made.
    pub runs: Vec<Run>,
}

/// Medians of one mode.
struct Summary {
    mode: &'static str,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    seconds: f64,
    load: f64,
    runs: usize,
}

impl Report {
    /// An empty report on `work`.
    pub fn new(scenario: &'static str, work: String) -> Self {
        Self { scenario, work, machine: Machine::here(), runs: Vec::new() }
    }

    /// Prints the table and writes `<scenario>.json` and `<scenario>.md` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(folder.join(format!("{}.json", self.scenario)), json)?;
        let text = self.text();
        std::fs::write(folder.join(format!("{}.md", self.scenario)), &text)?;
        eprintln!("\n{text}");
        Ok(())
    }

    fn text(&self) -> String {
        let machine = &self.machine;
        format!(
            "# {}\n\n{}.\n\n{} x {}, Linux {}, commit {}. Item done to received on the socket; medians of the runs, all\n\
             modes in turn in each run. Every run passed the exact-delivery check: 0 lost, 0 doubled, 0 reordered,\n\
             0 backward, and the record agreed.\n\n{}\n",
            self.scenario,
            self.work,
            machine.cores,
            machine.cpu,
            machine.kernel,
            machine.commit,
            self.table()
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["mode", "p50 ms", "p99 ms", "max ms", "p50 ratio", "seconds", "load", "runs"]);
        let summaries = self.summaries();
        let slowest = summaries.iter().map(|s| s.p50_ms).fold(0.0, f64::max);
        for s in &summaries {
            table.add_row([
                s.mode.to_owned(),
                format!("{:.2}", s.p50_ms),
                format!("{:.2}", s.p99_ms),
                format!("{:.2}", s.max_ms),
                format!("1/{:.0}", slowest / s.p50_ms),
                format!("{:.1}", s.seconds),
                format!("{:.2}", s.load),
                s.runs.to_string(),
            ]);
        }
        table
    }

    fn summaries(&self) -> Vec<Summary> {
        let mut modes: Vec<&'static str> = Vec::new();
        for run in &self.runs {
            if !modes.contains(&run.mode) {
                modes.push(run.mode);
            }
        }
        modes.into_iter().map(|mode| self.summary(mode)).collect()
    }

    fn summary(&self, mode: &'static str) -> Summary {
        let runs: Vec<&Run> = self.runs.iter().filter(|run| run.mode == mode).collect();
        let over = |pick: fn(&Run) -> f64| median(runs.iter().map(|&run| pick(run)).collect());
        Summary {
            mode,
            p50_ms: over(|run| run.figures.p50_ms),
            p99_ms: over(|run| run.figures.p99_ms),
            max_ms: over(|run| run.figures.max_ms),
            seconds: over(|run| run.seconds),
            load: over(|run| run.load_before),
            runs: runs.len(),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
