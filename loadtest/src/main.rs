//! Load scenarios for Milepost. Every run checks that each event arrived exactly once and in order; a figure without
//! that check does not count.
//!
//! `milepost-loadtest run progress` starts a whole hub of real processes per mode, with private Redis and Postgres servers,
//! and measures how long an item's result takes to reach its user's socket. Not here: timing parts of the code
//! (`benches/`).

mod check;
mod clock;
mod machine;
mod report;
mod scenario;
mod socket;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use milepost_harness::HubMode;

/// Measures a Milepost.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a scenario and writes its figures to the results folder.
    #[command(subcommand)]
    Run(Scenario),
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Many users submit one batch each and watch it live: how late is an item's result?
    Progress(ProgressArgs),
}

/// Settings of the progress scenario.
#[derive(Debug, Clone, Args)]
pub struct ProgressArgs {
    /// Users, each with one socket and one batch.
    #[arg(long, default_value_t = 50)]
    pub users: usize,
    /// Items in each batch.
    #[arg(long, default_value_t = 100)]
    pub items: usize,
    /// How long each item works, in milliseconds.
    #[arg(long, default_value_t = 20)]
    pub item_ms: u64,
    /// Runs per mode; the table shows medians.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Modes to measure, side by side in each run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Memory, Mode::Redis, Mode::Postgres, Mode::PostgresPoll])]
    pub modes: Vec<Mode>,
    /// Gateway processes (memory mode has one process for all).
    #[arg(long, default_value_t = 2)]
    pub gateways: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// The `milepost` binary; the one beside this program by default.
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Where results go.
    #[arg(long, default_value = "loadtest/results")]
    pub results: PathBuf,
}

/// A mode on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One process, nothing else.
    Memory,
    /// Redis and Postgres.
    Redis,
    /// Postgres with notifications.
    Postgres,
    /// Postgres polled every 500 ms.
    PostgresPoll,
}

impl From<Mode> for HubMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Memory => Self::Memory,
            Mode::Redis => Self::Redis,
            Mode::Postgres => Self::Postgres,
            Mode::PostgresPoll => Self::PostgresPoll,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let Command::Run(Scenario::Progress(args)) = Cli::parse().command;
    let report = scenario::progress(&args).await?;
    report.write(&args.results)
}
