//! `milepost cancel`, `pause`, `resume` and `concurrency`: changes of a task on its owner's behalf.

use anyhow::{Context, Result};
use serde_json::json;

use super::connection::{ServerArgs, resolve};
use super::exit::Exit;
use super::output::Output;
use crate::store::Control;
use crate::task::spec::{CONCURRENCY_MAX, is_concurrency};

/// Flags of these commands.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlArgs {
    /// Id of the task, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,

    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `milepost concurrency`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConcurrencyArgs {
    #[command(flatten)]
    control: ControlArgs,

    /// Most items at once, 1 to 1000; or `default`, as many as the worker allows one task.
    #[arg(value_name = "N", value_parser = number)]
    number: Number,
}

/// How many items at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number(Option<u16>);

fn number(text: &str) -> Result<Number, String> {
    match text.parse() {
        _ if text == "default" => Ok(Number(None)),
        Ok(n) if is_concurrency(n) => Ok(Number(Some(n))),
        _ => Err(format!("must be from 1 to {CONCURRENCY_MAX}, or default")),
    }
}

/// Cancels, pauses or resumes a task.
///
/// # Errors
/// When there is no such task, the change does not fit its status, or no server can be reached.
pub async fn run(args: &ControlArgs, control: Control, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let id = resolve(&api, &args.task).await?;
    let info = api.control(id, control).await.with_context(|| format!("task {id}"))?;
    if out.json {
        out.object(&json!({ "type": "task", "task": info }));
        return Ok(Exit::Succeeded);
    }
    let status = info.view.status;
    match control {
        Control::Concurrency(Some(n)) => {
            out.line(format_args!("{id} is {status}, at most {n} items at once"));
        }
        Control::Concurrency(None) => {
            out.line(format_args!("{id} is {status}, as many items at once as its worker allows"));
        }
        Control::Cancel | Control::Pause | Control::Resume => out.line(format_args!("{id} is {status}")),
    }
    Ok(Exit::Succeeded)
}

/// Changes how many items of a task are worked on at once.
///
/// # Errors
/// As [`run`].
pub async fn concurrency(args: &ConcurrencyArgs, out: Output) -> Result<Exit> {
    run(&args.control, Control::Concurrency(args.number.0), out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_the_default_is_taken_and_nothing_else() {
        assert_eq!(number("1"), Ok(Number(Some(1))));
        assert_eq!(number("1000"), Ok(Number(Some(1_000))));
        assert_eq!(number("default"), Ok(Number(None)));
        for bad in ["0", "1001", "-1", "70000", "", "many"] {
            assert!(number(bad).unwrap_err().contains("1 to 1000"), "{bad}");
        }
    }
}
