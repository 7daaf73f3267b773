//! `milepost submit`: hands in a task, and follows it if asked to.

use std::io::Read;

use anyhow::{Context, Result};
use serde_json::json;

use super::connection::ServerArgs;
use super::draft::DraftArgs;
use super::exit::{Exit, UsageError};
use super::output::Output;
use super::template::FromTemplateArgs;
use super::watch::{self, Wanted};
use super::{names, plan};
use crate::client::{Api, ApiError};
use crate::task::TaskId;
use crate::task::spec::ITEMS_MAX;

/// The largest file of names that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Flags of `milepost submit`.
#[derive(Debug, Clone, clap::Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    draft: DraftArgs,

    /// Makes a repeat of the same submit return the first task; random by default.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// Follow the task to its end; the exit code is its outcome.
    #[arg(long, short)]
    watch: bool,

    /// Submit nothing: print what would be done to each node. Exit code 1 when something is known that would go wrong.
    #[arg(long, conflicts_with_all = ["watch", "plan_hash", "idempotency_key"])]
    plan: bool,

    /// Submit only if the plan is still the one with this hash; exit code 4, with what is different, if it is not.
    #[arg(long, value_name = "HASH")]
    plan_hash: Option<String>,

    #[command(flatten)]
    template: FromTemplateArgs,

    #[command(flatten)]
    server: ServerArgs,
}

/// Submits.
///
/// # Errors
/// When the flags, the names or the request are wrong, or no server can be reached.
pub async fn run(args: &SubmitArgs, out: Output) -> Result<Exit> {
    let items = match args.draft.of_task {
        Some(id) if !args.draft.has_names() => items_of(&args.server.api()?, id).await?,
        _ => item_names(&args.draft)?,
    };
    let api = args.server.api()?;
    let (action, overwrite) = (args.draft.action(), args.draft.overwrite);
    let of_template = args.template.parameters(&api, &action, overwrite).await?;
    let draft = DraftArgs { of_template, ..args.draft.clone() }.draft(items, args.plan_hash.clone())?;
    if args.plan {
        return Ok(plan::print(&api.plan(&draft).await.context("plan")?, out));
    }
    let random = uuid::Uuid::new_v4().to_string();
    let submitted = api.submit(&draft, args.idempotency_key.as_ref().unwrap_or(&random)).await;
    if let Err(ApiError::Refused { problem, .. }) = &submitted
        && let Some(change) = &problem.plan
    {
        plan::print_change(change, out);
    }
    let info = submitted.context("submit")?;
    let id = info.view.task_id;
    if args.watch {
        return watch::follow(&api, Wanted::Tasks(vec![id]), out).await;
    }
    if out.json {
        out.object(&json!({ "type": "task", "task": info }));
    } else {
        let count = draft.items.len();
        out.line(format_args!(
            "{id} {} on {}: {count} items {}",
            draft.action, draft.cluster, info.view.status
        ));
        super::output::say(format_args!("follow it with: milepost watch {id}"));
    }
    Ok(Exit::Succeeded)
}

/// Every item of a task.
async fn items_of(api: &Api, id: TaskId) -> Result<Vec<String>> {
    let items = api.items(id, None, ITEMS_MAX).await.context("read the items of the task")?;
    Ok(items.into_iter().map(|item| item.name).collect())
}

/// The names on the command line, then those in the file.
fn item_names(args: &DraftArgs) -> Result<Vec<String>> {
    let text = args.file.as_deref().map(read_names).transpose()?.unwrap_or_default();
    let patterns = args.names.iter().map(String::as_str).chain(names::lines(&text));
    let names = names::expand(patterns)?;
    if names.is_empty() {
        return Err(UsageError("no names: give some, such as node-[001-100], or --file".into()).into());
    }
    Ok(names)
}

fn read_names(file: &str) -> Result<String> {
    let read = if file == "-" {
        read_whole(std::io::stdin().lock(), FILE_BYTES_MAX)
    } else {
        std::fs::File::open(file).and_then(|open| read_whole(open, FILE_BYTES_MAX))
    };
    read.map_err(|error| UsageError(format!("--file {file} cannot be read: {error}")).into())
}

/// All of a text, or an error: half of a list of names would be another task than the one that was meant.
fn read_whole(from: impl Read, bytes_max: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(std::io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_whole_or_not_at_all() {
        assert_eq!(read_whole(&b"node-1"[..], 6).unwrap(), "node-1");
        assert!(read_whole(&b"node-10"[..], 6).unwrap_err().to_string().contains("more than 6 bytes"));
        assert!(read_whole(&b"n\xff"[..], 6).unwrap_err().to_string().contains("UTF-8"));
    }
}
