//! Notes a run into a file, line by line, while it runs.
//!
//! Each line is appended whole, in one write, so several threads and several programs may share a file, and one that is
//! killed leaves nothing half done behind but its last line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::record::Record;

/// A history that is being written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HistoryLog {
    file: Arc<File>,
    failed: Arc<OnceLock<std::io::Error>>,
}

impl HistoryLog {
    /// Appends to a file, which is made if need be.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn append(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Arc::new(file), failed: Arc::default() })
    }

    /// Adds a line. A failure is kept for [`Self::failure`]: what is noted must not disturb who is noted.
    pub fn note(&self, record: &Record) {
        let written = serde_json::to_vec(record).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            (&*self.file).write_all(&line)
        });
        if let Err(error) = written
            && self.failed.set(error).is_ok()
        {
            tracing::warn!(error = self.failed.get().map(tracing::field::display), "the history has holes");
        }
    }

    /// The first failure to write, such as a full disk. A history with holes proves nothing.
    #[must_use]
    pub fn failure(&self) -> Option<&std::io::Error> {
        self.failed.get()
    }
}
