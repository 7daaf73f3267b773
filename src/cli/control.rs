//! `milepost cancel`, `pause` and `resume`: changes of a task on its owner's behalf.

use anyhow::{Context, Result};
use serde_json::json;

use super::connection::{ServerArgs, resolve};
use super::exit::Exit;
use super::output::Output;
use crate::store::Control;

/// Flags of these commands.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlArgs {
    /// Id of the task, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,

    #[command(flatten)]
    server: ServerArgs,
}

/// Changes a task.
///
/// # Errors
/// When there is no such task, the change does not fit its status, or no server can be reached.
pub async fn run(args: &ControlArgs, control: Control, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let id = resolve(&api, &args.task).await?;
    let info = api.control(id, control).await.with_context(|| format!("task {id}"))?;
    if out.json {
        out.object(&json!({ "type": "task", "task": info }));
    } else {
        out.line(format_args!("{id} is {}", info.view.status));
    }
    Ok(Exit::Succeeded)
}
