//! The command line: a file per command.
//!
//! Client commands talk to a server and know nothing of its inside; the others read the configuration first and list
//! all of its faults at once. Not here: what the roles do; `wiring` puts them together and is the only place that
//! names backends.

pub mod config;
pub mod connection;
pub mod control;
pub mod draft;
pub mod exit;
pub mod names;
pub mod output;
pub mod settings;
pub mod simulator;
pub mod submit;
mod table;
pub mod tasks;
pub mod watch;

use anyhow::Result;

use crate::store::Control;

use exit::Exit;
use output::Output;
use settings::SettingsArgs;

/// Runs batch operations on worker replicas and streams every step, live and resumable.
///
/// Exit codes: 0 all succeeded, 1 some failed or were cancelled, 2 the command line, configuration or request is wrong,
/// 3 no server can be reached, 130 detached with Ctrl-C.
#[derive(Debug, clap::Parser)]
#[command(name = "milepost", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Results as one JSON object per line.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// A Kubernetes API on loopback with virtual nodes.
    Simulator(simulator::SimulatorArgs),
    /// Submit a task.
    Submit(submit::SubmitArgs),
    /// Follow tasks live to their end.
    Watch(watch::WatchArgs),
    /// List tasks, or show one with its items.
    Tasks(tasks::TasksArgs),
    /// End a task early; items in flight finish.
    Cancel(control::ControlArgs),
    /// Start no further items of a task.
    Pause(control::ControlArgs),
    /// Go on with a paused task.
    Resume(control::ControlArgs),
    /// Print the effective configuration, with secrets hidden.
    Config,
}

/// Runs the command. Faults are told on standard error.
pub async fn run(cli: Cli) -> Exit {
    match dispatch(cli).await {
        Ok(exit) => exit,
        Err(error) => exit::report(&error),
    }
}

async fn dispatch(cli: Cli) -> Result<Exit> {
    let out = Output { json: cli.json };
    cli.settings.log_of_clients()?;
    match cli.command {
        Command::Simulator(args) => simulator::run(&args, out).await,
        Command::Submit(args) => submit::run(&args, out).await,
        Command::Watch(args) => watch::run(&args, out).await,
        Command::Tasks(args) => tasks::run(&args, out).await,
        Command::Cancel(args) => control::run(&args, Control::Cancel, out).await,
        Command::Pause(args) => control::run(&args, Control::Pause, out).await,
        Command::Resume(args) => control::run(&args, Control::Resume, out).await,
        Command::Config => config::run(&cli.settings, out),
    }
}
