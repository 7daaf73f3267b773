//! Notes a run into a file, line by line, while it runs. Several writers may share one; each line is whole.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::record::Record;

/// A history that is being written. Cheap to clone. Lines are buffered: call [`Self::flush`], or drop the last clone,
/// before the file is read.
#[derive(Debug, Clone)]
pub struct HistoryLog {
    file: Arc<Mutex<BufWriter<File>>>,
}

impl HistoryLog {
    /// Appends to a file, which is made if need be.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn append(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Arc::new(Mutex::new(BufWriter::new(file))) })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the disk is full, say: a history with holes proves nothing, so stop the run.
    pub fn note(&self, record: &Record) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.lock().write_all(&line)
    }

    /// Brings every line to the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&self) -> std::io::Result<()> {
        self.lock().flush()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BufWriter<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
