//! Progress bars on a terminal: one per task, failures above them as they come.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::super::output::Paint;
use super::super::table;
use super::steps::Steps;
use super::view::{View, remark, title};
use crate::task::{Event, ItemChange, Status, TaskId, TaskView};

/// Bars kept after their end; those of further tasks make room.
const FINISHED_KEPT: usize = 8;
/// Failures printed of one task; the summary has the rest.
pub(super) const FAILURES_PRINTED: usize = 10;
/// Columns for the words behind a bar, so that bars of tasks are aligned.
const MESSAGE_WIDTH: usize = 20;
/// Between redraws of what moves by itself: rate and time left.
const TICK: Duration = Duration::from_millis(200);

struct Bar {
    bar: ProgressBar,
    finished: bool,
    failures: usize,
}

/// Bars on a terminal.
pub struct Bars {
    multi: MultiProgress,
    bars: BTreeMap<TaskId, Bar>,
    paint: Paint,
    steps: Steps,
}

impl Bars {
    /// Bars on standard error.
    #[must_use]
    pub fn new() -> Self {
        Self {
            multi: MultiProgress::new(),
            bars: BTreeMap::new(),
            paint: Paint::new(),
            steps: Steps::default(),
        }
    }

    fn add(&mut self, view: &TaskView) {
        let bar = self.multi.add(ProgressBar::new(u64::from(view.counts.total)));
        bar.set_style(style(view.status));
        bar.set_prefix(title(view));
        // What was done before we looked is not our rate.
        bar.set_position(u64::from(view.current));
        bar.reset_eta();
        bar.enable_steady_tick(TICK);
        self.bars.insert(view.task_id, Bar { bar, finished: false, failures: 0 });
    }

    fn finish(&mut self, id: TaskId) {
        let kept = self.bars.values().filter(|bar| bar.finished).count();
        let Some(entry) = self.bars.get_mut(&id).filter(|entry| !entry.finished) else { return };
        entry.finished = true;
        if kept >= FINISHED_KEPT {
            entry.bar.finish_and_clear();
            self.multi.remove(&entry.bar);
        } else {
            entry.bar.abandon();
        }
    }

    fn print(&self, text: &str) {
        let _ = self.multi.println(text);
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl View for Bars {
    fn task(&mut self, view: &TaskView) {
        if !self.bars.contains_key(&view.task_id) {
            self.add(view);
        }
        let Some(entry) = self.bars.get(&view.task_id).filter(|entry| !entry.finished) else { return };
        entry.bar.set_style(style(view.status));
        entry.bar.set_position(u64::from(view.current));
        entry.bar.set_message(message(view, self.paint));
        if view.status.is_terminal() {
            self.finish(view.task_id);
        }
    }

    fn event(&mut self, event: &Event) {
        if let Some(text) = remark(event) {
            self.note(&text);
        }
        for line in self.steps.news(event) {
            self.print(&self.paint.dim(format!("  {line}")));
        }
    }

    fn failure(&mut self, task: &TaskView, item: &ItemChange) {
        let Some(entry) = self.bars.get_mut(&task.task_id) else { return };
        entry.failures += 1;
        let printed = entry.failures;
        if printed <= FAILURES_PRINTED {
            let why = item.error.as_deref().unwrap_or("failed");
            self.print(&format!("{} {} {why}", self.paint.red("✗"), item.name));
        } else if printed == FAILURES_PRINTED + 1 {
            self.print(&self.paint.dim("  further failures are listed at the end"));
        }
    }

    fn resynced(&mut self) {
        self.steps = Steps::default();
    }

    fn note(&mut self, text: &str) {
        self.print(&format!("{} {text}", self.paint.yellow("!")));
    }

    fn end(&mut self) {
        // Only after Ctrl-C is there a bar that moves; the terminal's echo has spoilt its line.
        for entry in self.bars.values().filter(|entry| !entry.finished) {
            entry.bar.finish_and_clear();
        }
        // The last bar ends without a line break.
        super::super::output::say("");
    }
}

/// What stands behind a bar: failures in red, and the item at hand.
fn message(view: &TaskView, paint: Paint) -> String {
    let failed = match view.counts.failed {
        0 => String::new(),
        n => format!("{n} failed"),
    };
    let rest = match view.status {
        status if status.is_held() && view.stalled_since.is_some() => "stalled".to_owned(),
        status if !status.is_terminal() && view.waits_for.is_some() => waiting(view),
        Status::Running if view.wave.is_some() => view.wave.map(|wave| wave.to_string()).unwrap_or_default(),
        Status::Running => view.current_node.as_ref().map(ToString::to_string).unwrap_or_default(),
        status if status.is_terminal() => String::new(),
        status => table::words(status),
    };
    let gap = if failed.is_empty() || rest.is_empty() { "" } else { " " };
    let room = MESSAGE_WIDTH.saturating_sub(failed.len() + gap.len());
    format!("{}{gap}{:<room$}", paint.red(&failed), cut(&rest, room))
}

/// A task that starts no item for now.
fn waiting(view: &TaskView) -> String {
    view.wave.map_or("waits".to_owned(), |wave| format!("{wave} waits"))
}

/// The end of a text that is too long: names of nodes differ at their end.
fn cut(text: &str, room: usize) -> String {
    let len = text.chars().count();
    if len <= room {
        return text.to_owned();
    }
    let tail: String = text.chars().skip(len + 1 - room.max(1)).collect();
    format!("…{tail}")
}

fn style(status: Status) -> ProgressStyle {
    let colour = match status {
        Status::CompletedWithErrors | Status::Failed => "red",
        Status::Cancelled | Status::Cancelling | Status::Paused => "yellow",
        Status::Completed => "green",
        Status::Queued | Status::Running => "cyan",
    };
    let pace = match status {
        status if status.is_terminal() => "{elapsed:>6}",
        // Nothing moves, so there is no time left to tell.
        Status::Paused | Status::Queued => "            ",
        _ => "{per_sec:>7} {eta:>4}",
    };
    let template =
        format!("{{prefix}} {{wide_bar:.{colour}/dim}} {{pos}}/{{len}} {{percent:>3}}% {pace} {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}", rate(state.per_sec()));
    };
    style.with_key("per_sec", rate).progress_chars("━━─")
}

/// Items per second in at most six characters.
fn rate(per_sec: f64) -> String {
    match per_sec {
        n if !n.is_finite() || n <= 0.0 => String::new(),
        n if n < 10.0 => format!("{n:.1}/s"),
        n => format!("{n:.0}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::snapshot::tests::event;
    use crate::task::{Counts, ItemName};

    #[test]
    fn every_template_is_one() {
        for status in Status::ALL {
            let template = style(status);
            let bar = ProgressBar::with_draw_target(Some(10), indicatif::ProgressDrawTarget::hidden());
            bar.set_style(template);
        }
    }

    #[test]
    fn words_behind_a_bar_keep_their_width() {
        let mut running = event(1, 3, Status::Running, Counts { total: 9, failed: 2, ..Counts::default() });
        running.current_node = Some(ItemName::new("a-node-with-a-rather-long-name-042").unwrap());
        for view in [TaskView::of(&running), TaskView::of(&event(1, 1, Status::Queued, Counts::new(9)))] {
            let text = message(&view, Paint::new());
            assert_eq!(text.chars().count(), MESSAGE_WIDTH, "{text:?}");
        }
        assert!(message(&TaskView::of(&running), Paint::new()).ends_with("-name-042"));
        running.stalled_since = Some(running.timestamp);
        let text = message(&TaskView::of(&running), Paint::new());
        assert!(
            text.trim_end().ends_with("2 failed stalled") && text.chars().count() == MESSAGE_WIDTH,
            "{text:?}"
        );
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(["", "0.5/s", "12/s"], [rate(0.0), rate(0.5), rate(12.3)].each_ref().map(String::as_str));
    }
}
