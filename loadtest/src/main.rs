//! Load scenarios for Milepost. Every run checks that each event arrived exactly once and in order; a figure without
//! that check does not count.
//!
//! `milepost-loadtest run progress` starts a whole hub of real processes per mode, with private Redis and Postgres servers,
//! or uses one that runs elsewhere (`--against`), and measures how long an item's result takes to reach its user's
//! sockets and what that costs. Not here: timing parts of the code (`benches/`).

mod api;
mod chart;
mod check;
mod clock;
mod cost;
mod crowd;
mod machine;
mod nodes;
mod place;
mod progress;
mod push;
mod report;
mod run;
mod socket;
mod spec;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use milepost_harness::HubMode;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::place::Elsewhere;
use self::progress::Progress;
use self::report::{Report, Table};
use self::run::Where;
use self::spec::Scenario;

/// Measures a Milepost.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios and writes their figures to the results folder.
    Run(RunArgs),
    /// Cordons, labels and taints the nodes of a simulated cluster: nodes a second and requests for each, next to `kubectl`.
    Nodes(nodes::NodesArgs),
    /// Publishes straight onto the bus to ten thousand sockets: what an event and a socket take of a gateway.
    Push(push::PushArgs),
    /// Writes the same bytes to many plain sockets; `push` runs it in a process of its own.
    #[command(hide = true)]
    PlainSends(push::PlainArgs),
    /// Lists the scenarios that come with the program.
    List,
}

/// What to run, where, and how often.
#[derive(Debug, Clone, Args)]
struct RunArgs {
    /// Names of scenarios (see `list`), or files like those in loadtest/scenarios.
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Runs per mode; the tables show medians.
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// Modes to measure, side by side in each run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Memory, Mode::Redis, Mode::Postgres])]
    modes: Vec<Mode>,
    /// Address of a gateway that runs already, once for each; nothing is started then. Its `actions.wait` must be on.
    #[arg(long, value_name = "URL")]
    against: Vec<String>,
    /// The `auth.hs256_secret` of that hub.
    #[arg(long, env = "MILEPOST_AUTH__HS256_SECRET", hide_env_values = true, requires = "against")]
    secret: Option<String>,
    /// The `milepost` binary; the one beside this program by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where results go.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// A mode on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
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

impl RunArgs {
    fn places(&self) -> Result<Vec<Where>> {
        if !self.against.is_empty() {
            let secret = self.secret.clone().context("--secret: the hub's auth.hs256_secret is needed")?;
            return Ok(vec![Where::Elsewhere(Elsewhere { urls: self.against.clone(), secret })]);
        }
        let binary = place::binary(self.binary.as_deref())?;
        Ok(self.modes.iter().map(|mode| Where::Own((*mode).into(), binary.clone())).collect())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run(&args).await,
        Command::Nodes(args) => nodes::run(&args).await,
        Command::Push(args) => push::run(&args).await,
        Command::PlainSends(args) => tokio::task::spawn_blocking(move || push::plain_sends(&args)).await?,
        Command::List => list(),
    }
}

async fn run(args: &RunArgs) -> Result<()> {
    open_many_files()?;
    let scenarios = args.scenarios.iter().map(|name| Scenario::find(name)).collect::<Result<Vec<_>>>()?;
    let places = args.places()?;
    for scenario in scenarios {
        let bar = Progress::new(args.runs * u64::try_from(places.len())?);
        let mut report = Report::new(scenario.clone());
        for _ in 0..args.runs {
            // All in turn, so that all see the same weather.
            report.statements.clear();
            for place in places.iter().filter(|place| suits(&scenario, place)) {
                let (rows, statements) = run::once(&scenario, place, &bar)
                    .await
                    .with_context(|| format!("{} in {} mode", scenario.name, place.name()))?;
                let lines = rows.iter().filter(|row| row.table != Table::Sockets).map(report::Row::line);
                bar.ended(&lines.collect::<Vec<_>>());
                report.rows.extend(rows);
                report.statements.push((place.name(), statements));
            }
        }
        bar.finish();
        report.write(&args.results)?;
    }
    Ok(())
}

/// A gateway cannot be killed where it is all there is.
fn suits(scenario: &Scenario, place: &Where) -> bool {
    scenario.storm.is_none() || !matches!(place, Where::Own(HubMode::Memory, _))
}

/// Each socket is a file of this process, and of a gateway, which inherits the limit.
fn open_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the number of open files")
}

#[expect(clippy::print_stdout, reason = "a list is what was asked for")]
fn list() -> Result<()> {
    for scenario in Scenario::built_in()? {
        println!("{:<10} {}", scenario.name, scenario.about);
    }
    Ok(())
}
