//! How progress is shown where no bars can be drawn: plain lines, or JSON lines.
//!
//! Plain lines come when a status changes and at each tenth of the items, so that the log of a build stays short.

use std::collections::HashMap;

use serde_json::json;

use super::super::connection::short;
use super::super::output::{Output, say};
use super::super::table;
use super::steps::Steps;
use crate::task::{Event, EventKind, ItemChange, Status, TaskId, TaskView};

/// Shows progress as it comes.
pub trait View: Send {
    /// A task has a new state.
    fn task(&mut self, view: &TaskView);

    /// An event came, as it was sent. Its failures came before, [`Self::task`] follows.
    fn event(&mut self, _event: &Event) {}

    /// An item failed.
    fn failure(&mut self, task: &TaskView, item: &ItemChange);

    /// Events may have been missed.
    fn resynced(&mut self) {}

    /// Something the person should know, such as a lost connection.
    fn note(&mut self, text: &str);

    /// No more news follow. The screen is free for the summary.
    fn end(&mut self) {}
}

/// Plain lines.
#[derive(Debug)]
pub struct Lines {
    out: Output,
    told: HashMap<TaskId, (Status, u8)>,
    steps: Steps,
}

impl Lines {
    /// Plain lines on standard output.
    #[must_use]
    pub fn new(out: Output) -> Self {
        Self { out, told: HashMap::new(), steps: Steps::default() }
    }
}

impl View for Lines {
    fn task(&mut self, view: &TaskView) {
        let now = (view.status, view.progress / 10);
        if self.told.insert(view.task_id, now) != Some(now) {
            self.out.line(format_args!(
                "{} {}/{} ({}%){}",
                head(view),
                view.current,
                view.counts.total,
                view.progress,
                failed(view)
            ));
        }
    }

    fn event(&mut self, event: &Event) {
        if let Some(text) = remark(event) {
            self.out.line(text);
        }
        let title = title(&TaskView::of(event));
        self.steps.news(event).iter().for_each(|line| self.out.line(format_args!("{title} {line}")));
    }

    fn failure(&mut self, task: &TaskView, item: &ItemChange) {
        let why = item.error.as_deref().unwrap_or("failed");
        self.out.line(format_args!("{} {} failed: {why}", title(task), item.name));
    }

    fn resynced(&mut self) {
        self.steps = Steps::default();
    }

    fn note(&mut self, text: &str) {
        say(text);
    }
}

fn head(view: &TaskView) -> String {
    format!("{} {}", title(view), table::words(view.status))
}

fn failed(view: &TaskView) -> String {
    match view.counts.failed {
        0 => String::new(),
        n => format!(", {n} failed"),
    }
}

/// What a person is told of a task besides its progress: that it does not get on, why it was stopped, how it is run.
#[must_use]
pub fn remark(event: &Event) -> Option<String> {
    let message = event.message.as_deref().filter(|_| is_remark(event))?;
    Some(format!("{}: {message}", title(&TaskView::of(event))))
}

fn is_remark(event: &Event) -> bool {
    use EventKind::{Cancelling, ConcurrencyChanged, Paused, Requeued, Stalled, Waiting, Wave};
    let rests = event.kind == Requeued && event.waits_for.is_some();
    rests || matches!(event.kind, Stalled | Paused | Cancelling | ConcurrencyChanged | Wave | Waiting)
}

/// What a task is called on screen: `cordon prod …1a2b3c`.
#[must_use]
pub fn title(view: &TaskView) -> String {
    format!("{} {} {}", view.action, view.cluster, short(view.task_id))
}

/// JSON lines: states of tasks, events as they were sent, notes.
#[derive(Debug)]
pub struct Json {
    out: Output,
    eventful: bool,
}

impl Json {
    /// JSON lines on standard output.
    #[must_use]
    pub fn new(out: Output) -> Self {
        Self { out, eventful: false }
    }
}

impl View for Json {
    fn task(&mut self, view: &TaskView) {
        if !std::mem::take(&mut self.eventful) {
            self.out.object(&json!({ "type": "task", "task": view }));
        }
    }

    fn event(&mut self, event: &Event) {
        self.eventful = true;
        self.out.object(&json!({ "type": "event", "event": event }));
    }

    fn failure(&mut self, _task: &TaskView, _item: &ItemChange) {}

    fn note(&mut self, text: &str) {
        self.out.object(&json!({ "type": "note", "text": text }));
    }
}
