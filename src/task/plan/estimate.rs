//! How long a task may take, and where that is known from.
//!
//! Waves follow one another, and inside a wave as many items as there are lanes are worked on at once. What one item takes is
//! learned from tasks that have ended; where there are none a stated guess stands in. Waiting for people (gates), for
//! windows and for room is not in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{ActionSpec, Strategy};

/// What one node is taken for when nothing is known: two calls to a cluster that is not close.
const QUICK: Duration = Duration::from_secs(1);
/// What one node is taken for when pods have to end: twice the usual grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(60);

/// Where an estimate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Tasks of the same action on the same cluster.
    History,
    /// The request itself says how long an item takes.
    Request,
    /// Nothing is known; a guess.
    Guess,
}

/// How long a task may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// From the first item to the last, without waiting for people, windows and room.
    pub seconds: u64,
    /// Where that comes from.
    pub basis: Basis,
    /// The same in a sentence.
    pub says: String,
}

/// A task of the past, of the same action on the same cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Its items.
    pub items: u32,
    /// From its first claim to its end.
    pub took: Duration,
    /// Most of its items at once.
    pub lanes: u32,
}

impl Past {
    /// What one of its items took: lanes are shared out over the whole of its time.
    fn per_item(&self) -> Duration {
        self.took * self.lanes.clamp(1, self.items.max(1)) / self.items.max(1)
    }
}

/// What one item takes, and where that is known from.
fn per_item(action: &ActionSpec, past: &[Past]) -> (Duration, Basis, String) {
    if let ActionSpec::Wait(parameters) = action {
        let each = Duration::from_millis(parameters.duration_ms);
        return (each, Basis::Request, format!("each item waits {}", words(each)));
    }
    let mut known: Vec<_> = past.iter().map(Past::per_item).collect();
    known.sort_unstable();
    if let Some(middle) = known.get(known.len() / 2) {
        let tasks = if known.len() == 1 { "the one task" } else { "the last tasks" };
        let says = format!("{} per node in {tasks} of this kind on this cluster", words(*middle));
        return (*middle, Basis::History, says);
    }
    let each = if matches!(action, ActionSpec::Drain(_)) { DRAIN } else { QUICK };
    (each, Basis::Guess, format!("a guess of {} per node: no task of this kind has ended here", words(each)))
}

/// Estimates. `work` has for each wave the number of items with something to do.
pub(super) fn estimate(
    action: &ActionSpec,
    strategy: Option<&Strategy>,
    work: &[u32],
    lanes: u32,
    past: &[Past],
) -> Estimate {
    let lanes = lanes.max(1);
    let (each, basis, mut says) = per_item(action, past);
    let rounds: u32 = work.iter().map(|items| items.div_ceil(lanes)).sum();
    let soak = strategy.map_or(Duration::ZERO, |strategy| strategy.soak);
    let pauses = u32::try_from(work.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let whole = each.saturating_mul(rounds).saturating_add(soak.saturating_mul(pauses));
    says.push_str(&format!(", {lanes} at once"));
    if !soak.is_zero() && pauses > 0 {
        says.push_str(&format!(", and {pauses} pauses of {}", words(soak)));
    }
    Estimate { seconds: whole.as_secs() + u64::from(whole.subsec_nanos() > 0), basis, says }
}

/// A duration for people, rounded.
fn words(length: Duration) -> String {
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        1..100 => format!("{:.1} s", length.as_secs_f64()),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::task::spec::{DrainParameters, WaitParameters};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_known_comes_before_a_guess_and_a_guess_says_so() {
        let guess = estimate(&ActionSpec::Cordon, None, &[100], 20, &[]);
        assert_eq!((guess.seconds, guess.basis), (5, Basis::Guess));
        assert!(guess.says.contains("a guess of 1.0 s per node"), "{}", guess.says);
        let drain = ActionSpec::Drain(DrainParameters::default());
        assert_eq!(estimate(&drain, None, &[10], 10, &[]).seconds, 60);
        let past = [
            Past { items: 100, took: SECOND, lanes: 10 },
            Past { items: 10, took: SECOND * 2, lanes: 10 },
            Past { items: 1, took: SECOND * 40, lanes: 10 },
        ];
        let known = estimate(&ActionSpec::Cordon, None, &[100], 10, &past);
        assert_eq!((known.seconds, known.basis), (20, Basis::History), "the middle one took 2 s per node");
        let wait = ActionSpec::Wait(WaitParameters { duration_ms: 250, fail_every: 0 });
        assert_eq!(estimate(&wait, None, &[4], 2, &past).seconds, 1);
    }

    #[test]
    fn waves_and_their_pauses_add_up() {
        let strategy = Strategy { soak: SECOND * 30, ..Strategy::default() };
        let estimate = estimate(&ActionSpec::Cordon, Some(&strategy), &[1, 20, 20], 10, &[]);
        assert_eq!(estimate.seconds, 1 + 2 + 2 + 2 * 30);
        assert!(estimate.says.ends_with("10 at once, and 2 pauses of 30.0 s"), "{}", estimate.says);
    }

    #[test]
    fn nothing_to_do_takes_no_time() {
        assert_eq!(estimate(&ActionSpec::Cordon, None, &[0], 0, &[]).seconds, 0);
    }
}
