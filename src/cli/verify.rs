//! `milepost verify`: judges recorded runs. Reads files and shows the report; the judgement is [`crate::verify`]'s.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Color};
use serde::Serialize;

use super::exit::{Exit, UsageError};
use super::output::{Output, Paint, say};
use super::table;
use crate::verify::report::FaultSummary;
use crate::verify::{Finding, History, Place, Report, Totals, Verdict, Violation, check, read};

/// Lines that cannot be read and are told of.
const BAD_LINES_TOLD: usize = 10;

/// Flags of `milepost verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// Histories of one run, one JSON object per line; see docs/verify.md.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Violations shown of each promise.
    #[arg(long, default_value_t = 5, value_name = "N")]
    show: usize,
}

#[derive(Serialize)]
struct Json<'a> {
    r#type: &'static str,
    files: &'a [PathBuf],
    #[serde(flatten)]
    report: &'a Report,
}

/// Judges. Succeeds when every promise is kept and the run proves something.
///
/// # Errors
/// When a file or a line cannot be read.
pub fn run(args: &VerifyArgs, out: Output) -> Result<Exit> {
    let report = check(&read_files(&args.files)?);
    if out.json {
        out.object(&Json { r#type: "verify", files: &args.files, report: &report });
    } else {
        show(&report, args, out);
    }
    Ok(if report.verdict == Verdict::Passed { Exit::Succeeded } else { Exit::Failed })
}

/// Reads histories of one run.
///
/// # Errors
/// When a file cannot be read; for lines that cannot, with the first of them.
pub fn read_files(files: &[PathBuf]) -> Result<History> {
    let (mut history, mut bad) = (History::default(), Vec::new());
    for (file, path) in (0..).zip(files) {
        read_file(file, path, &mut history, &mut bad).with_context(|| format!("read {}", path.display()))?;
    }
    match bad.len() {
        0 => Ok(history),
        n => {
            bad.truncate(BAD_LINES_TOLD);
            let list = bad.join("\n  ");
            Err(UsageError(format!("{n} lines cannot be read:\n  {list}")).into())
        }
    }
}

fn read_file(file: u32, path: &Path, history: &mut History, bad: &mut Vec<String>) -> Result<()> {
    let open = File::open(path).map_err(|error| UsageError(error.to_string()))?;
    for (line, text) in (1..).zip(BufReader::new(open).lines()) {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        match read::line(&text) {
            Ok(record) => history.push(Place { file, line }, record),
            Err(error) => bad.push(format!("{}:{line}: {error}", path.display())),
        }
    }
    Ok(())
}

fn show(report: &Report, args: &VerifyArgs, out: Output) {
    out.line(findings(&report.findings));
    for finding in report.findings.iter().filter(|finding| finding.violations > 0) {
        out.line("");
        let shown = &finding.first[..finding.first.len().min(args.show)];
        shown.iter().for_each(|violation| out.line(sentence(violation, &args.files)));
        let more = finding.violations - shown.len() as u64;
        if more > 0 {
            out.line(format_args!("and {more} more of {}", finding.invariant));
        }
    }
    if !report.faults.is_empty() {
        out.line("");
        out.line(faults(&report.faults));
    }
    out.line("");
    report.void.iter().for_each(|why| out.line(format_args!("void: {why}")));
    out.line(verdict(report));
    if report.totals.unknown > 0 {
        say(format_args!("{} lines are of kinds that this release does not know", report.totals.unknown));
    }
}

/// What each promise came to.
#[must_use]
pub fn findings(findings: &[Finding]) -> String {
    let mut table = table::plain(&["NO", "PROMISE", "CHECKED", "VIOLATIONS"]);
    for finding in findings {
        let checked = Cell::new(finding.checked).set_alignment(CellAlignment::Right);
        let violations = match (finding.checked, finding.violations) {
            (0, 0) => Cell::new("nothing to check").fg(Color::Yellow),
            (_, 0) => Cell::new(0).fg(Color::Green),
            (_, n) => Cell::new(n).fg(Color::Red),
        };
        let violations = violations.set_alignment(CellAlignment::Right);
        table.add_row([Cell::new(finding.invariant), Cell::new(finding.says), checked, violations]);
    }
    table.to_string()
}

/// Faults by kind.
#[must_use]
pub fn faults(faults: &[FaultSummary]) -> String {
    let mut table = table::plain(&["FAULT", "MADE", "HIT", "WORST RECOVERY"]);
    for fault in faults {
        let recovery = fault.worst_recovery_ms.map(|ms| format!("{}.{:03} s", ms / 1_000, ms % 1_000));
        let right = |cell: Cell| cell.set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&fault.fault),
            right(Cell::new(fault.injected)),
            right(Cell::new(fault.bit)),
            right(Cell::new(recovery.unwrap_or_else(|| "-".into()))),
        ]);
    }
    table.to_string()
}

/// A violation in one line, with the place that shows it.
#[must_use]
pub fn sentence(violation: &Violation, files: &[PathBuf]) -> String {
    let Violation { invariant, place, task, item, socket, what } = violation;
    let file = files.get(place.file as usize).map(|path| path.display().to_string()).unwrap_or_default();
    let mut who = String::new();
    if let Some(task) = task {
        who.push_str(&format!(" task {task}"));
    }
    if let Some(item) = item {
        who.push_str(&format!(" item {item}"));
    }
    if let Some(socket) = socket {
        who.push_str(&format!(" socket {socket}"));
    }
    format!("{invariant} {file}:{}:{who}: {what}", place.line)
}

/// The verdict and what it rests on, in a line.
#[must_use]
pub fn verdict(report: &Report) -> String {
    let Totals { accepted, sockets, reconnects, resyncs, events, repeats, executed, executed_again, .. } =
        report.totals;
    let paint = Paint::new();
    let word = match report.verdict {
        Verdict::Passed => paint.green("passed"),
        Verdict::Void => paint.yellow("void"),
        Verdict::Failed => paint.red("failed"),
    };
    format!(
        "{word}: {accepted} tasks, {executed} items run ({executed_again} of them again), {sockets} sockets with \
         {reconnects} reconnects and {resyncs} resyncs, {events} events ({repeats} repeats)"
    )
}
