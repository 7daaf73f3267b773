//! What people see while it runs: one bar over all runs, and how many items have arrived. Nothing is drawn when nobody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

/// Time between two redraws.
const REDRAW: Duration = Duration::from_millis(250);

/// The bar of a whole command.
pub struct Progress {
    bar: ProgressBar,
    drawing: Mutex<Option<JoinHandle<()>>>,
}

impl Progress {
    /// A bar over so many runs.
    pub fn new(runs: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs  {elapsed_precise}  {msg}");
        let bar = ProgressBar::new(runs).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, drawing: Mutex::default() }
    }

    /// Shows how many items have arrived in the run that begins.
    pub fn follow(&self, done: &Arc<AtomicU64>) {
        let (bar, done) = (self.bar.clone(), Arc::clone(done));
        let drawing = tokio::spawn(async move {
            loop {
                bar.set_message(format!("{} items arrived", done.load(Ordering::Relaxed)));
                tokio::time::sleep(REDRAW).await;
            }
        });
        self.stop(Some(drawing));
    }

    /// A run is over; prints its lines above the bar.
    pub fn ended(&self, lines: &[String]) {
        self.stop(None);
        self.bar.inc(1);
        self.bar.suspend(|| lines.iter().for_each(|line| eprintln!("{line}")));
    }

    /// All runs are over.
    pub fn finish(&self) {
        self.stop(None);
        self.bar.finish_and_clear();
    }

    fn stop(&self, next: Option<JoinHandle<()>>) {
        let mut drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut *drawing, next) {
            before.abort();
        }
    }
}
