//! The history of a run, noted while it runs, in the words of the checker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use milepost::clock::{Clock, SystemClock};
use milepost::verify::record::{FaultStep, Phase};
use milepost::verify::{History, Record};

/// What was noted. Cheap to clone; clones are one history.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    records: Arc<Mutex<Vec<Record>>>,
    ids: Arc<AtomicU64>,
}

impl Notes {
    pub fn add(&self, record: Record) {
        self.records.lock().unwrap().push(record);
    }

    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Microseconds since the epoch, as histories count time.
    pub fn now(&self) -> i64 {
        SystemClock.now().as_microsecond()
    }

    pub fn history(&self) -> History {
        History::of(self.records.lock().unwrap().clone())
    }
}

/// A fault of this run. It must be told what it hit, or the run is void.
#[derive(Debug)]
pub struct Fault {
    notes: Notes,
    name: &'static str,
    id: u64,
    loses: bool,
}

impl Fault {
    /// Notes that a fault is being made.
    pub fn make(notes: &Notes, name: &'static str, loses: bool) -> Self {
        let fault = Self { notes: notes.clone(), name, id: notes.next_id(), loses };
        fault.step(Phase::Injected, None);
        fault
    }

    /// Notes proof that it hit something.
    pub fn bit(&self, evidence: impl Into<String>) {
        self.step(Phase::Bit, Some(evidence.into()));
    }

    /// Notes that it was taken away.
    pub fn healed(&self) {
        self.step(Phase::Healed, None);
    }

    fn step(&self, phase: Phase, evidence: Option<String>) {
        self.notes.add(Record::Fault(FaultStep {
            at_us: self.notes.now(),
            id: self.id,
            fault: self.name.to_owned(),
            target: None,
            phase,
            evidence,
            loses: self.loses,
        }));
    }
}
