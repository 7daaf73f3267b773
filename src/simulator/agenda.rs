//! What is to be done later: jobs in order of their time. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Jobs with their times. Those of the same time are done in the order in which they were noted.
#[derive(Debug)]
pub(super) struct Agenda<J> {
    jobs: BTreeMap<(Instant, u64), J>,
    noted: u64,
}

impl<J> Agenda<J> {
    pub(super) fn new() -> Self {
        Self { jobs: BTreeMap::new(), noted: 0 }
    }

    pub(super) fn note(&mut self, at: Instant, job: J) {
        self.noted += 1;
        self.jobs.insert((at, self.noted), job);
    }

    /// When the next job is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.jobs.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next job, if it is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<J> {
        if self.next()? > now { None } else { self.jobs.pop_first().map(|(_, job)| job) }
    }

    pub(super) fn clear(&mut self) {
        self.jobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn jobs_come_in_order_and_not_early() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut agenda = Agenda::new();
        for (at, job) in [(20, "c"), (10, "a"), (10, "b")] {
            agenda.note(start + ms(at), job);
        }
        assert_eq!(agenda.due(start + ms(9)), None);
        assert_eq!((agenda.due(start + ms(10)), agenda.due(start + ms(10))), (Some("a"), Some("b")));
        assert_eq!((agenda.due(start + ms(10)), agenda.next()), (None, Some(start + ms(20))));
    }
}
