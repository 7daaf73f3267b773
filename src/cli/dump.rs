//! `milepost dump`: the record of tasks and their items, as the last lines of a history.

use anyhow::{Context, Result};

use super::connection::ServerArgs;
use super::exit::Exit;
use super::output::Output;
use crate::client::http::TaskFilter;
use crate::client::{Api, ItemInfo, TaskInfo};
use crate::verify::Record;
use crate::verify::record::{ItemRow, ItemsDump, TaskDump};

/// Flags of `milepost dump`.
#[derive(Debug, Clone, clap::Args)]
pub struct DumpArgs {
    /// At most so many tasks, the newest.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    limit: usize,

    /// Tasks of this user, or of everybody with `*`; for administrators. Your own when left out.
    #[arg(long, value_name = "USER")]
    owner: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Prints.
///
/// # Errors
/// When no server can be reached.
pub async fn run(args: &DumpArgs, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let filter = TaskFilter { limit: args.limit.max(1), owner: args.owner.clone(), ..TaskFilter::default() };
    dump(&api, &filter, |record| out.object(record)).await?;
    Ok(Exit::Succeeded)
}

/// Reads tasks, each with all of its items.
///
/// # Errors
/// When no server can be reached.
pub async fn dump(api: &Api, filter: &TaskFilter, mut each: impl FnMut(&Record)) -> Result<()> {
    for info in api.tasks(filter).await.context("list tasks")? {
        let id = info.view.task_id;
        let items = api.items(id, None, info.view.counts.total as usize).await;
        let items = items.with_context(|| format!("items of {id}"))?;
        each(&Record::Task(task(&info)));
        let items = items.into_iter().map(row).collect();
        each(&Record::Items(ItemsDump { task: id, items }));
    }
    Ok(())
}

fn task(info: &TaskInfo) -> TaskDump {
    TaskDump {
        task: info.view.task_id,
        owner: info.owner.clone().unwrap_or_default(),
        status: info.view.status,
        attempt: info.view.attempt,
        counts: info.view.counts,
        max_attempts: info.max_attempts,
        finished_us: info.finished_at.map(jiff::Timestamp::as_microsecond),
    }
}

fn row(item: ItemInfo) -> ItemRow {
    ItemRow { index: item.index, name: item.name, state: item.state }
}
