//! The command line: a file per command.
//!
//! Client commands talk to a server and know nothing of its inside; the others read the configuration first and list
//! all of its faults at once. Not here: what the roles do; [`wiring`] puts them together and is the only place that
//! names backends.

pub mod audit;
pub mod budget;
pub mod config;
pub mod connection;
pub mod control;
pub mod demo;
pub mod doctor;
mod draft;
pub mod drain;
pub mod dump;
pub mod exit;
pub mod history;
pub mod migrate;
pub mod names;
pub mod nodes;
pub mod output;
mod plan;
pub mod retry;
pub mod serve;
pub mod settings;
pub mod simulator;
pub mod strategy;
pub mod submit;
mod table;
pub mod tasks;
pub mod template;
pub mod token;
pub mod verify;
pub mod watch;
pub mod wiring;

use anyhow::Result;

use crate::store::Control;

use exit::Exit;
use output::Output;
use settings::SettingsArgs;
use wiring::Roles;

/// Runs batch operations on worker replicas and streams every step, live and resumable.
///
/// Exit codes: 0 all succeeded, 1 some failed or were cancelled, 2 the command line, configuration or request is wrong,
/// 3 no server can be reached, 4 a plan is not what it was, 130 detached with Ctrl-C.
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
    /// See it all at work: one process, a simulated cluster, one batch.
    Demo(demo::DemoArgs),
    /// Run all roles in one process.
    Serve(serve::ServeArgs),
    /// Run the gateway role: take tasks in and push their progress.
    Gateway(serve::ServeArgs),
    /// Run the worker role: run tasks.
    Worker(serve::WorkerArgs),
    /// Run the maintenance role: look after what crashed.
    Maintenance(serve::ServeArgs),
    /// A Kubernetes API on loopback with virtual nodes.
    Simulator(simulator::SimulatorArgs),
    /// Submit a task.
    Submit(Box<submit::SubmitArgs>),
    /// Follow tasks live to their end.
    Watch(watch::WatchArgs),
    /// List tasks, or show one with its items.
    Tasks(tasks::TasksArgs),
    /// List the nodes of a cluster, with filters, and follow them.
    Nodes(nodes::NodesArgs),
    /// Show one node, with the pods on it.
    Node(nodes::NodeArgs),
    /// Labels, taints and annotations under a name, for submit --template.
    Template(template::TemplateCommandArgs),
    /// Show who did what to which task and node, why, from where, and what came of it.
    Audit(audit::AuditArgs),
    /// Print the record of tasks and their items as lines for `milepost verify`.
    Dump(dump::DumpArgs),
    /// End a task early; items in flight finish.
    Cancel(control::ControlArgs),
    /// Start no further items of a task.
    Pause(control::ControlArgs),
    /// Go on with a paused task.
    Resume(control::ControlArgs),
    /// Change how many items of a task are worked on at once.
    Concurrency(control::ConcurrencyArgs),
    /// Try again what did not end well, as a further task.
    Retry(retry::RetryArgs),
    /// Bring the schema of Postgres and the functions of Redis up to date.
    Migrate,
    /// Check the configuration and every server it names, and say how to mend what is wrong.
    Doctor,
    /// Print the effective configuration, with secrets hidden.
    Config,
    /// Judge recorded runs by what Milepost promises.
    Verify(verify::VerifyArgs),
    /// Print a bearer token signed with the configured secret.
    Token(token::TokenArgs),
}

const GATEWAY: Roles = Roles { gateway: true, worker: false, maintenance: false };
const MAINTENANCE: Roles = Roles { gateway: false, worker: false, maintenance: true };

impl Command {
    /// Whether the command logs as the configuration says, because it serves or changes servers.
    fn serves(&self) -> bool {
        matches!(
            self,
            Self::Serve(_) | Self::Gateway(_) | Self::Worker(_) | Self::Maintenance(_) | Self::Migrate
        )
    }
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
    let settings = &cli.settings;
    if !cli.command.serves() {
        settings.log_of_clients()?;
    }
    match cli.command {
        Command::Demo(args) => demo::run(&args, out).await,
        Command::Serve(args) => serve::run(settings, &args, Roles::ALL, out).await,
        Command::Gateway(args) => serve::run(settings, &args, GATEWAY, out).await,
        Command::Worker(args) => {
            let roles = Roles { worker: true, maintenance: args.with_maintenance, gateway: false };
            serve::run(settings, &(&args).into(), roles, out).await
        }
        Command::Maintenance(args) => serve::run(settings, &args, MAINTENANCE, out).await,
        Command::Simulator(args) => simulator::run(&args, out).await,
        Command::Submit(args) => submit::run(&args, out).await,
        Command::Watch(args) => watch::run(&args, out).await,
        Command::Tasks(args) => tasks::run(&args, out).await,
        Command::Nodes(args) => nodes::list(&args, out).await,
        Command::Node(args) => nodes::show(&args, out).await,
        Command::Template(args) => template::run(&args, out).await,
        Command::Audit(args) => audit::run(&args, out).await,
        Command::Dump(args) => dump::run(&args, out).await,
        Command::Cancel(args) => control::run(&args, Control::Cancel, out).await,
        Command::Pause(args) => control::run(&args, Control::Pause, out).await,
        Command::Resume(args) => control::run(&args, Control::Resume, out).await,
        Command::Concurrency(args) => control::concurrency(&args, out).await,
        Command::Retry(args) => retry::run(&args, out).await,
        Command::Migrate => migrate::run(settings, out).await,
        Command::Doctor => doctor::run(settings, out).await,
        Command::Config => config::run(settings, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::Token(args) => token::run(settings, &args, out),
    }
}
