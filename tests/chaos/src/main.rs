//! `milepost-chaos`: see `make chaos`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use milepost::cli::verify::{faults, findings, sentence, verdict};
use milepost::verify::{Report, Verdict};
use milepost_chaos::run::default_history;
use milepost_chaos::{Kind, Settings, figures, guarantees, run, world};

/// Breaks a Milepost on purpose.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A random mix of faults under load, judged by what users saw.
    Run(RunArgs),
    /// Measures the figures of docs/guarantees.md and writes them there.
    Guarantees(GuaranteesArgs),
}

#[derive(Debug, clap::Args)]
struct GuaranteesArgs {
    /// Runs; the page shows medians and the worst.
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// The page with the figures.
    #[arg(long, default_value = "docs/guarantees.md", value_name = "FILE")]
    page: PathBuf,
    /// The `milepost` binary; the one beside this program by default.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// How long faults are made, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    duration: u64,
    /// What decides about faults and users.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Only these kinds of faults, such as kill-worker,flush-redis.
    #[arg(long, value_delimiter = ',', value_name = "KIND", value_parser = kind)]
    only: Vec<Kind>,
    /// Users at work.
    #[arg(long, default_value_t = 20)]
    users: usize,
    /// Sockets of each user; one of ten is raw.
    #[arg(long, default_value_t = 10)]
    sockets: usize,
    /// Where the history goes; by default into target/, and away again when all is well.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// The `milepost` binary; the one beside this program by default.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

fn kind(name: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("one of {}", names()))
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(args) => chaos(args).await,
        Command::Guarantees(args) => measure(args).await,
    }
}

async fn measure(args: GuaranteesArgs) -> Result<ExitCode> {
    let (binary, load) = (args.binary.map_or_else(world::binary, Ok)?, figures::load_average());
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        let figures = guarantees::measure(&binary, run).await?;
        eprintln!("run {run}/{}: {figures:?}", args.runs);
        runs.push(figures);
    }
    eprintln!("{}", figures::write(&args.page, &runs, load)?);
    Ok(if runs.iter().all(|run| run.violations == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn chaos(args: RunArgs) -> Result<ExitCode> {
    let settings = Settings {
        duration: Duration::from_secs(args.duration),
        seed: args.seed,
        kinds: if args.only.is_empty() { Kind::ALL.to_vec() } else { args.only },
        users: args.users,
        sockets: args.sockets,
        binary: args.binary.map_or_else(world::binary, Ok)?,
        history: args.history.clone().unwrap_or_else(|| default_history(args.seed)),
    };
    eprintln!("again: make chaos DURATION={} SEED={}", args.duration, args.seed);
    let report = run(&settings).await?;
    show(&report, &settings);
    let passed = report.verdict == Verdict::Passed;
    if passed && args.history.is_none() {
        std::fs::remove_file(&settings.history)?;
    } else {
        eprintln!("look closer: milepost verify {}", settings.history.display());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show(report: &Report, settings: &Settings) {
    println!("\n{}\n\n{}\n", faults(&report.faults), findings(&report.findings));
    for finding in &report.findings {
        for violation in finding.first.iter().take(5) {
            println!("{}", sentence(violation, std::slice::from_ref(&settings.history)));
        }
    }
    report.void.iter().for_each(|why| println!("void: {why}"));
    println!("seed {}, {} s: {}", settings.seed, settings.duration.as_secs(), verdict(report));
}
