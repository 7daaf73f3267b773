//! What there is to say when all watched tasks are over: a table, or plain or JSON lines, and the exit code.
//!
//! Failures are read from the record, because events may have been merged.

use std::time::Duration;

use comfy_table::Cell;
use serde_json::json;

use super::super::exit::Exit;
use super::super::output::{Output, Paint};
use super::super::table;
use super::bars::FAILURES_PRINTED;
use super::board::{Board, Watched};
use super::view::title;
use crate::client::{Api, ApiError, ItemInfo, TaskInfo};
use crate::task::{Counts, ItemState, Status};

/// Failures listed of one task.
const FAILURES_LISTED: usize = 50;
/// Most succeeded items that are read to learn how many were not touched, when events did not tell.
const EFFECTS_READ_MAX: u32 = 5_000;

/// One task at its end, as the record has it.
struct Ended {
    info: TaskInfo,
    already: Option<u32>,
    failures: Vec<ItemInfo>,
}

/// The outcome of all watched tasks.
#[must_use]
pub fn outcome(board: &Board) -> Exit {
    let good = |task: &Watched| task.view.status == Status::Completed;
    if board.tasks().all(good) { Exit::Succeeded } else { Exit::Failed }
}

/// Prints the summary of all watched tasks. Failures that were printed as they came are not printed again.
///
/// # Errors
/// When the record cannot be read.
pub async fn print(api: &Api, board: &mut Board, out: Output) -> Result<(), ApiError> {
    let mut ended = Vec::new();
    for task in board.tasks_mut() {
        let mut end = read(api, task).await?;
        let unseen: Vec<u32> =
            end.failures.iter().map(|item| item.index).filter(|index| task.note_failure(*index)).collect();
        // Beside bars, only so many are printed as they come; then the whole list is easier to read.
        if !out.is_terminal() && !out.json {
            end.failures.retain(|item| unseen.contains(&item.index));
        } else if out.is_terminal() && unseen.is_empty() && end.failures.len() <= FAILURES_PRINTED {
            end.failures.clear();
        }
        ended.push(end);
    }
    if out.json {
        ended.iter().for_each(|end| out.object(&json(end)));
    } else if out.is_terminal() {
        print_table(&ended, out);
    } else {
        ended.iter().for_each(|end| print_lines(end, out));
    }
    Ok(())
}

async fn read(api: &Api, task: &Watched) -> Result<Ended, ApiError> {
    let id = task.view.task_id;
    let info = api.task(id).await?;
    let failures = match info.view.counts.failed {
        0 => Vec::new(),
        _ => api.items(id, Some(ItemState::Failed), FAILURES_LISTED).await?,
    };
    let already = match task.already() {
        Some(already) => Some(already),
        None if info.view.counts.succeeded <= EFFECTS_READ_MAX => {
            let items = api.items(id, Some(ItemState::Succeeded), EFFECTS_READ_MAX as usize).await?;
            let already =
                items.iter().filter(|item| item.effect == Some(crate::task::Effect::Already)).count();
            u32::try_from(already).ok()
        }
        None => None,
    };
    Ok(Ended { info, already, failures })
}

impl Ended {
    /// How long it ran; since it was accepted when it was never claimed.
    fn took(&self) -> Option<Duration> {
        let from = self.info.started_at.or(self.info.view.created_at)?;
        Duration::try_from(self.info.finished_at?.duration_since(from)).ok()
    }

    fn time(&self) -> String {
        self.took().map(table::time).unwrap_or_default()
    }

    fn succeeded(&self) -> String {
        let n = self.info.view.counts.succeeded;
        match self.already {
            Some(already) if already > 0 => format!("{n} ({already} already)"),
            _ => n.to_string(),
        }
    }
}

fn json(end: &Ended) -> serde_json::Value {
    let took_ms = end.took().map(|took| took.as_millis());
    json!({
        "type": "summary",
        "task": end.info,
        "already": end.already,
        "took_ms": took_ms,
        "failures": end.failures,
    })
}

fn print_lines(end: &Ended, out: Output) {
    let (view, plain) = (&end.info.view, Paint::new());
    for item in &end.failures {
        out.line(format_args!("{} {} failed: {}", title(view), item.name, why(item)));
    }
    let counts = table::counts(view.counts, end.already, plain);
    let error = view.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let status = table::words(view.status);
    out.line(format_args!("{} {status}{error}, {counts}, in {}", title(view), end.time()));
}

fn print_table(ended: &[Ended], out: Output) {
    let any = |count: fn(&Counts) -> u32| ended.iter().any(|end| count(&end.info.view.counts) > 0);
    let (skipped, cancelled) = (any(|counts| counts.skipped), any(|counts| counts.cancelled));
    let mut header = vec!["TASK", "STATUS", "SUCCEEDED", "FAILED"];
    header.extend(skipped.then_some("SKIPPED"));
    header.extend(cancelled.then_some("CANCELLED"));
    header.push("TIME");
    let mut table = table::plain(&header);
    for end in ended {
        let (view, counts) = (&end.info.view, end.info.view.counts);
        let mut row = vec![
            Cell::new(title(view)),
            table::status_cell(view.status),
            Cell::new(end.succeeded()),
            table::number(counts.failed, true),
        ];
        row.extend(skipped.then(|| table::number(counts.skipped, false)));
        row.extend(cancelled.then(|| table::number(counts.cancelled, false)));
        row.push(Cell::new(end.time()));
        table.add_row(row);
    }
    out.line(format_args!("\n{table}"));
    ended.iter().for_each(|end| print_failures(end, out));
}

fn print_failures(end: &Ended, out: Output) {
    if let Some(error) = &end.info.view.error {
        out.line(format_args!("\n{}", Paint::new().red(error)));
    }
    if end.failures.is_empty() {
        return;
    }
    let mut table = table::plain(&["FAILED", "WHY"]);
    for item in &end.failures {
        table.add_row([item.name.as_str(), why(item)]);
    }
    out.line("");
    out.line(table);
    let (listed, all) = (end.failures.len(), end.info.view.counts.failed as usize);
    if listed == FAILURES_LISTED && listed < all {
        let id = end.info.view.task_id;
        out.line(format_args!("and {} more: milepost tasks show {id} --state failed", all - listed));
    }
}

fn why(item: &ItemInfo) -> &str {
    item.error.as_deref().unwrap_or("no reason was recorded")
}
