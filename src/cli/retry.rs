//! `milepost retry`: tries again what did not end well, as a further task, and says what it came to with the first.

use anyhow::{Context, Result};
use serde_json::json;

use super::budget::BudgetArgs;
use super::connection::{ServerArgs, resolve, short};
use super::exit::{Exit, UsageError};
use super::output::{Output, Paint};
use super::strategy::StrategyArgs;
use super::table;
use super::watch::{self, Wanted};
use crate::client::{Api, TaskInfo};
use crate::task::{ItemState, Retry, RetryDraft, StrategyDraft, TaskId};

/// Flags of `milepost retry`.
#[derive(Debug, Clone, clap::Args)]
pub struct RetryArgs {
    /// Id of the task to retry, or the end of it. It must be over.
    #[arg(value_name = "TASK")]
    task: String,

    /// Items that ended so: failed (the default), skipped, cancelled. Separate several with commas.
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    include: Vec<ItemState>,

    /// Why, for people and audit; as before when left out.
    #[arg(long, short, value_name = "TEXT")]
    reason: Option<String>,

    /// Most items at once; as before when left out.
    #[arg(long, value_name = "N")]
    concurrency: Option<u16>,

    #[command(flatten)]
    budget: BudgetArgs,

    #[command(flatten)]
    strategy: StrategyArgs,

    /// All at once, as given and at any time, whatever the strategy was before.
    #[arg(long)]
    no_strategy: bool,

    /// Makes a repeat of the same retry return the first one; random by default.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// Follow the retry to its end; the exit code is its outcome.
    #[arg(long, short)]
    watch: bool,

    #[command(flatten)]
    server: ServerArgs,
}

impl RetryArgs {
    fn strategy(&self) -> Result<Option<StrategyDraft>, UsageError> {
        match (self.strategy.draft(), self.no_strategy) {
            (Some(_), true) => {
                Err(UsageError("--no-strategy and flags of a strategy do not go together".into()))
            }
            (None, true) => Ok(Some(StrategyDraft::default())),
            (draft, false) => Ok(draft),
        }
    }

    fn draft(&self) -> Result<RetryDraft, UsageError> {
        let draft = RetryDraft {
            include: (!self.include.is_empty()).then(|| self.include.clone()),
            reason: self.reason.clone(),
            concurrency: self.concurrency,
            failure_budget: self.budget.budget()?,
            strategy: self.strategy()?,
            ..RetryDraft::default()
        };
        match Retry::new(draft.clone()) {
            Ok(_) => Ok(draft),
            Err(error) => Err(UsageError(error.to_string())),
        }
    }
}

/// Retries.
///
/// # Errors
/// When there is no such task, it is not over, nothing is left to retry, or no server can be reached.
pub async fn run(args: &RetryArgs, out: Output) -> Result<Exit> {
    let draft = args.draft()?;
    let api = args.server.api()?;
    let parent = resolve(&api, &args.task).await?;
    let random = uuid::Uuid::new_v4().to_string();
    let key = args.idempotency_key.as_ref().unwrap_or(&random);
    let info = api.retry(parent, &draft, key).await.with_context(|| format!("task {parent}"))?;
    let id = info.view.task_id;
    if args.watch {
        let exit = watch::follow(&api, Wanted::Tasks(vec![id]), out).await?;
        if exit != Exit::Detached {
            print_merged(&api, parent, out).await?;
        }
        return Ok(exit);
    }
    if out.json {
        out.object(&json!({ "type": "task", "task": info }));
    } else {
        let view = &info.view;
        let (count, status) = (view.counts.total, view.status);
        out.line(format_args!(
            "{id} {} on {}: {count} items of {} {status}",
            view.action,
            view.cluster,
            short(parent)
        ));
        super::output::say(format_args!("follow it with: milepost watch {id}"));
    }
    Ok(Exit::Succeeded)
}

/// The items of the task that was retried, by their newest results.
async fn print_merged(api: &Api, parent: TaskId, out: Output) -> Result<()> {
    let info = api.task(parent).await.with_context(|| format!("task {parent}"))?;
    let Some(merged) = info.merged else { return Ok(()) };
    if out.json {
        out.object(
            &json!({ "type": "merged", "task_id": parent, "retries": info.retries, "merged": merged }),
        );
    } else {
        out.line(with_its_retries(&info).unwrap_or_default());
    }
    Ok(())
}

/// What a task came to with all of its retries, if there are any: `…1a2b3c with its retries: 9 succeeded, 1 failed`.
#[must_use]
pub fn with_its_retries(info: &TaskInfo) -> Option<String> {
    let merged = table::counts(info.merged?, None, Paint::new());
    Some(format!("{} with its retries: {merged}", short(info.view.task_id)))
}
