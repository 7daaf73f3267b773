//! Whether a task gets on: when no item of it finished for so long that its watchers should know.
//!
//! Pure but for the monotonic time that is passed in. Not here: the event it becomes ([`super::progress`]).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::task::ItemName;

/// Items in work that the sentence names.
const NAMED_MAX: usize = 3;

/// Time since the last item of one attempt finished.
#[derive(Debug)]
pub(super) struct Stall {
    /// The time that counts as a stall; zero for never.
    after: Duration,
    since: Instant,
    told: bool,
}

impl Stall {
    /// An attempt that begins now.
    pub(super) fn new(after: Duration, now: Instant) -> Self {
        Self { after, since: now, told: false }
    }

    /// An item finished.
    pub(super) fn finished(&mut self, now: Instant) {
        (self.since, self.told) = (now, false);
    }

    /// How long no item finished, once that has become a stall. Says so once until the next one finishes.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        let quiet = now.saturating_duration_since(self.since);
        if self.told || self.after.is_zero() || quiet < self.after {
            return None;
        }
        self.told = true;
        Some(quiet)
    }
}

/// What a stall looks like from here.
pub(super) fn sentence(in_work: &BTreeMap<u32, ItemName>, quiet: Duration) -> String {
    let quiet = quiet.as_secs();
    let named: Vec<&str> = in_work.values().take(NAMED_MAX).map(ItemName::as_str).collect();
    if named.is_empty() {
        let waits = "its worker waits for the cluster, the record or a free lane";
        return format!("no item finished for {quiet} s and none is in work: {waits}");
    }
    let more = match in_work.len() - named.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("no item finished for {quiet} s; in work: {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(30);

    #[test]
    fn a_stall_is_told_once_and_again_only_after_an_item_finished() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut stall = Stall::new(AFTER, start);
        assert_eq!((stall.look(at(29)), stall.look(at(31))), (None, Some(Duration::from_secs(31))));
        assert_eq!(stall.look(at(500)), None);
        stall.finished(at(600));
        assert_eq!((stall.look(at(629)), stall.look(at(630))), (None, Some(AFTER)));
    }

    #[test]
    fn zero_is_never() {
        let start = Instant::now();
        assert_eq!(Stall::new(Duration::ZERO, start).look(start + AFTER * 1_000), None);
    }

    #[test]
    fn the_sentence_names_what_is_in_work_or_what_is_waited_for() {
        let items = |n| (0..n).map(|i| (i, ItemName::new(format!("node-{i}")).unwrap())).collect();
        let said = |n| sentence(&items(n), Duration::from_millis(30_900));
        assert!(said(0).starts_with("no item finished for 30 s and none is in work: "), "{}", said(0));
        assert_eq!(said(1), "no item finished for 30 s; in work: node-0");
        assert_eq!(said(5), "no item finished for 30 s; in work: node-0, node-1, node-2 and 2 more");
    }
}
