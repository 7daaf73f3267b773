//! `milepost tasks` and `milepost tasks show`: what there is, from the record.

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Color};
use serde_json::json;

use super::connection::{ServerArgs, resolve};
use super::exit::Exit;
use super::output::{Output, Paint, say};
use super::table;
use crate::client::http::TaskFilter;
use crate::client::{ItemInfo, TaskInfo};
use crate::task::{Effect, ItemState, Status};

/// Flags of `milepost tasks`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TasksArgs {
    #[command(subcommand)]
    command: Option<TasksCommand>,

    /// Only with this status, such as running. Repeat for several.
    #[arg(long = "status", value_name = "STATUS")]
    statuses: Vec<Status>,

    /// Only on this cluster.
    #[arg(long, short, value_name = "NAME")]
    cluster: Option<String>,

    /// At most so many, newest first.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum TasksCommand {
    /// Show one task with its items.
    Show(ShowArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct ShowArgs {
    /// Id of the task, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,

    /// Only items in this state, such as failed.
    #[arg(long, value_name = "STATE")]
    state: Option<ItemState>,

    /// At most so many items.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    limit: usize,

    #[command(flatten)]
    server: ServerArgs,
}

/// Lists tasks, or shows one.
///
/// # Errors
/// When there is no such task, or no server can be reached.
pub async fn run(args: &TasksArgs, out: Output) -> Result<Exit> {
    match &args.command {
        Some(TasksCommand::Show(show_args)) => show(show_args, out).await,
        None => list(args, out).await,
    }
}

async fn list(args: &TasksArgs, out: Output) -> Result<Exit> {
    let filter = TaskFilter {
        statuses: args.statuses.clone(),
        cluster: args.cluster.clone(),
        limit: args.limit.max(1),
        ..TaskFilter::default()
    };
    let tasks = args.server.api()?.tasks(&filter).await.context("list tasks")?;
    if out.json {
        tasks.iter().for_each(|info| out.object(info));
    } else if tasks.is_empty() {
        say("no tasks");
    } else {
        out.line(list_table(&tasks));
    }
    Ok(Exit::Succeeded)
}

fn list_table(tasks: &[TaskInfo]) -> String {
    let mut table = table::plain(&["TASK", "ACTION", "CLUSTER", "STATUS", "DONE", "FAILED", "CREATED"]);
    for TaskInfo { view, .. } in tasks {
        let row = [
            Cell::new(view.task_id),
            Cell::new(&view.action),
            Cell::new(&view.cluster),
            table::status_cell(view.status),
            Cell::new(format!("{}/{}", view.current, view.counts.total)).set_alignment(CellAlignment::Right),
            table::number(view.counts.failed, true),
            Cell::new(view.created_at.unwrap_or(view.updated_at).strftime("%m-%d %H:%M")),
        ];
        table.add_row(row);
    }
    table.to_string()
}

async fn show(args: &ShowArgs, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let id = resolve(&api, &args.task).await?;
    let info = api.task(id).await.with_context(|| format!("task {id}"))?;
    let items =
        api.items(id, args.state, args.limit.max(1)).await.with_context(|| format!("items of {id}"))?;
    if out.json {
        out.object(&json!({ "type": "task", "task": info }));
        items.iter().for_each(|item| out.object(&json!({ "type": "item", "item": item })));
        return Ok(Exit::Succeeded);
    }
    describe(&info, out);
    if !items.is_empty() {
        out.line("");
        out.line(items_table(&items));
    }
    let all = args.state.is_none() && items.len() < info.view.counts.total as usize;
    if all || items.len() == args.limit {
        say(format_args!("{} items shown; --limit shows more", items.len()));
    }
    Ok(Exit::Succeeded)
}

fn describe(info: &TaskInfo, out: Output) {
    let (view, counts, paint) = (&info.view, info.view.counts, Paint::new());
    let time =
        |at: Option<jiff::Timestamp>| at.map_or("-".to_owned(), |at| at.strftime("%F %T UTC").to_string());
    let line = |name: &str, value: String| out.line(format_args!("{name:<10} {value}"));
    line("task", view.task_id.to_string());
    line("action", format!("{} on {}", view.action, view.cluster));
    if let Some(object) = info.parameters.as_object().filter(|object| !object.is_empty()) {
        line("with", serde_json::Value::from(object.clone()).to_string());
    }
    if let Some(reason) = &view.reason {
        line("reason", reason.clone());
    }
    if let Some(owner) = &info.owner {
        line("owner", owner.clone());
    }
    line("status", format!("{}, attempt {}", table::status(view.status, paint), view.attempt));
    line("items", table::counts(counts, None, paint));
    if let Some(budget) = &info.failure_budget {
        line("budget", budget.to_string());
    }
    if let Some(strategy) = &info.strategy {
        line("strategy", super::strategy::words(strategy));
    }
    if let Some(wave) = view.wave.filter(|_| !view.status.is_terminal()) {
        line("wave", wave.to_string());
    }
    if let Some(waits_for) = &view.waits_for {
        line("waits for", paint.yellow(waits_for));
    }
    if let Some(message) = &view.message {
        line("because", paint.yellow(message));
    }
    if let Some(parent) = view.parent_id {
        line("retry of", parent.to_string());
    }
    for retry in &info.retries {
        let counts = table::counts(retry.counts, None, paint);
        line("retried by", format!("{} {}, {counts}", retry.task_id, table::status(retry.status, paint)));
    }
    if let Some(merged) = info.merged {
        line("in all", table::counts(merged, None, paint));
    }
    if let Some(error) = &view.error {
        line("error", paint.red(error));
    }
    line("created", time(view.created_at));
    line("started", time(info.started_at));
    line("finished", time(info.finished_at));
}

fn items_table(items: &[ItemInfo]) -> String {
    let mut table = table::plain(&["ITEM", "STATE", "WHY"]);
    for item in items {
        let state = match (item.state, item.effect) {
            (ItemState::Succeeded, Some(Effect::Already)) => "succeeded (already)".to_owned(),
            (state, _) => state.as_str().to_owned(),
        };
        let state = match item.state {
            ItemState::Failed => Cell::new(state).fg(Color::Red),
            ItemState::Succeeded => Cell::new(state).fg(Color::Green),
            ItemState::Skipped | ItemState::Cancelled => Cell::new(state).fg(Color::Yellow),
            ItemState::Pending | ItemState::Running => Cell::new(state),
        };
        table.add_row([Cell::new(&item.name), state, Cell::new(item.error.as_deref().unwrap_or_default())]);
    }
    table.to_string()
}
