//! Tables, and the words and colours for statuses and counts that all commands share.

use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};

use super::output::Paint;
use crate::task::{Counts, Status};

/// Width of tables when standard output is not a terminal, in characters.
pub const WIDTH: u16 = 120;

/// A table without borders, which wraps to the terminal.
#[must_use]
pub fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !Paint::new().is_on() {
        table.force_no_tty();
    }
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    table.set_header(header.iter().map(|&name| Cell::new(name).add_attribute(Attribute::Dim)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A cell with a number, red when it counts something bad and is not zero.
#[must_use]
pub fn number(n: u32, bad: bool) -> Cell {
    let cell = Cell::new(n).set_alignment(CellAlignment::Right);
    if bad && n > 0 { cell.fg(Color::Red) } else { cell }
}

/// A cell with a status in words and colour.
#[must_use]
pub fn status_cell(status: Status) -> Cell {
    status_text_cell(status, words(status))
}

/// A cell with a text in the colour of a status.
#[must_use]
pub fn status_text_cell(status: Status, text: impl ToString) -> Cell {
    let cell = Cell::new(text);
    match status {
        Status::Completed => cell.fg(Color::Green),
        Status::CompletedWithErrors | Status::Failed => cell.fg(Color::Red),
        Status::Cancelled | Status::Cancelling | Status::Paused => cell.fg(Color::Yellow),
        Status::Queued | Status::Running => cell,
    }
}

/// A status in words.
#[must_use]
pub fn words(status: Status) -> String {
    status.as_str().replace('_', " ")
}

/// A status in words and colour.
#[must_use]
pub fn status(status: Status, paint: Paint) -> String {
    let words = words(status);
    match status {
        Status::Completed => paint.green(words),
        Status::CompletedWithErrors | Status::Failed => paint.red(words),
        Status::Cancelled | Status::Cancelling | Status::Paused => paint.yellow(words),
        Status::Queued | Status::Running => words,
    }
}

/// Counts in words: those that are zero are left out, but for the first. `already` is how many of the succeeded were
/// not touched, when known.
#[must_use]
pub fn counts(counts: Counts, already: Option<u32>, paint: Paint) -> String {
    let mut words = vec![match already {
        Some(already) if counts.succeeded > 0 => {
            let changed = counts.succeeded.saturating_sub(already);
            format!("{} succeeded ({changed} changed, {already} already)", counts.succeeded)
        }
        _ => format!("{} succeeded", counts.succeeded),
    }];
    let mut more = |n: u32, word: &str, paint: &dyn Fn(String) -> String| {
        if n > 0 {
            words.push(paint(format!("{n} {word}")));
        }
    };
    more(counts.failed, "failed", &|text| paint.red(text));
    more(counts.skipped, "skipped", &|text| paint.yellow(text));
    more(counts.cancelled, "cancelled", &|text| paint.yellow(text));
    more(counts.pending(), "pending", &|text| text);
    words.join(", ")
}

/// A length of time for people: `450 ms`, `8.2 s`, `3 min 5 s`, `2 h 10 min`.
#[must_use]
pub fn time(length: Duration) -> String {
    let s = length.as_secs();
    match s {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{:.1} s", length.as_secs_f64()),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
