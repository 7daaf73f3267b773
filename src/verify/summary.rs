//! What a history holds, apart from judgement: totals, faults by kind, and why it may prove nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{History, Sight, TaskFacts};
use super::report::{FaultSummary, Totals};
use crate::task::Attempt;

/// Why the run proves nothing; empty when it does.
pub(super) fn void(history: &History) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut void = |holds: bool, why: &str| {
        if !holds {
            reasons.push(why.to_owned());
        }
    };
    void(history.tasks.values().any(|task| !task.accepted.is_empty()), "no task was accepted");
    void(history.has_dump(), "the record at the end is missing: append the output of `milepost dump`");
    let saw = |sight: &Sight| matches!(sight, Sight::Event(_) | Sight::Snapshot(_));
    let seen = history.sockets.iter().any(|socket| socket.sights.iter().any(|(_, _, sight)| saw(sight)));
    void(seen, "no socket received anything");
    for fault in faults(history) {
        if fault.bit == 0 {
            reasons.push(format!("{} was made {} times and hit nothing", fault.fault, fault.injected));
        }
    }
    reasons
}

/// Faults by kind.
pub(super) fn faults(history: &History) -> Vec<FaultSummary> {
    let mut kinds: BTreeMap<&str, FaultSummary> = BTreeMap::new();
    for fault in history.faults.values() {
        let Some(injected) = fault.injected_us else { continue };
        let kind = kinds.entry(&fault.fault).or_insert_with(|| FaultSummary {
            fault: fault.fault.clone(),
            injected: 0,
            bit: 0,
            worst_recovery_ms: None,
        });
        kind.injected += 1;
        kind.bit += u64::from(fault.bit.is_some());
        let from = fault.healed_us.unwrap_or(injected);
        let took = fault.recovered_us.and_then(|at| u64::try_from((at - from) / 1_000).ok());
        kind.worst_recovery_ms = kind.worst_recovery_ms.max(took);
    }
    kinds.into_values().collect()
}

/// How much there is.
pub(super) fn totals(history: &History) -> Totals {
    let mut totals = Totals {
        lines: history.lines,
        unknown: history.unknown,
        accepted: count(history.tasks.values().filter(|task| !task.accepted.is_empty())),
        sockets: history.sockets.len() as u64,
        ..Totals::default()
    };
    for socket in &history.sockets {
        let sights = || socket.sights.iter().map(|(_, _, sight)| sight);
        let connects = count(sights().filter(|sight| matches!(sight, Sight::Connected { .. })));
        let snapshots = count(sights().filter(|sight| matches!(sight, Sight::Snapshot(_))));
        totals.reconnects += connects.saturating_sub(1);
        totals.resyncs += snapshots.saturating_sub(1);
        let mut seen = HashSet::new();
        for event in
            sights().filter_map(|sight| if let Sight::Event(event) = sight { Some(event) } else { None })
        {
            totals.events += 1;
            let again = !seen.insert((event.task, event.order()));
            totals.repeats += u64::from(event.repeat || (socket.raw && again));
        }
    }
    for task in history.tasks.values() {
        let attempts = attempts(task);
        totals.executed += attempts.len() as u64;
        totals.executed_again += count(attempts.values().filter(|attempts| **attempts > 1));
    }
    totals
}

/// How many attempts acted on each item.
pub(super) fn attempts(task: &TaskFacts) -> HashMap<&str, u64> {
    let mut seen: HashSet<(&str, Attempt)> = HashSet::new();
    let mut attempts: HashMap<&str, u64> = HashMap::new();
    for (_, run) in &task.executions {
        let new = run.attempt.is_none_or(|attempt| seen.insert((&run.item, attempt)));
        *attempts.entry(&run.item).or_default() += u64::from(new);
    }
    attempts
}

fn count<T>(things: impl Iterator<Item = T>) -> u64 {
    things.count() as u64
}
