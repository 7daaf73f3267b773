//! Says once that something is away, and once that it is back, however often it is tried in between.

use std::sync::atomic::{AtomicBool, Ordering};

/// The outage of one thing that is tried again and again.
#[derive(Debug)]
pub struct Outage {
    what: &'static str,
    away: AtomicBool,
}

impl Outage {
    /// A thing that is believed to work. `what` starts a sentence.
    #[must_use]
    pub fn of(what: &'static str) -> Self {
        Self { what, away: AtomicBool::new(false) }
    }

    /// Notes a failure; the first of an outage is logged, with its whole chain of causes.
    pub fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = %chain(error), "{}: failing; trying again", self.what);
        }
    }

    /// Notes a success; the first after an outage is logged.
    pub fn over(&self) {
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("{}: works again", self.what);
        }
    }

    /// Whether the last try failed.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_a_failure_and_ends_with_a_success() {
        let outage = Outage::of("the test");
        assert!(!outage.is_on());
        outage.failed(&std::fmt::Error);
        outage.failed(&std::fmt::Error);
        assert!(outage.is_on());
        outage.over();
        assert!(!outage.is_on());
    }

    #[test]
    fn causes_are_named_in_one_line() {
        let error = crate::store::StoreError::Unavailable { doing: "renewing", source: "no route".into() };
        assert_eq!(chain(&error), "the store is unavailable while renewing: no route");
    }
}
