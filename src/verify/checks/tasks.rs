//! Ends of tasks, counts, and answers.

use std::collections::HashMap;

use crate::task::{Attempt, Counts, ItemState, Status, TaskId};
use crate::verify::history::{History, Sight, SocketFacts, TaskFacts};
use crate::verify::read::Place;
use crate::verify::record::{Call, TaskDump};
use crate::verify::report::Finding;

/// I1.
pub(super) fn one_end(history: &History, finding: &mut Finding) {
    for (&id, task) in &history.tasks {
        ended_in_the_record(id, task, finding);
    }
    for socket in &history.sockets {
        told_one_end(history, socket, finding);
    }
}

fn ended_in_the_record(id: TaskId, task: &TaskFacts, finding: &mut Finding) {
    let Some((first_place, first)) = task.dumps.first() else { return };
    finding.checked += 1;
    for (place, dump) in &task.dumps {
        if first.status.is_terminal() && first.status != dump.status {
            let what =
                format!("is {} here and was {} in line {}", dump.status, first.status, first_place.line);
            finding.of_task(*place, id, what);
        }
    }
    let (place, last) = task.dumps.last().unwrap_or(&task.dumps[0]);
    let over = last.status.is_terminal() || last.status == Status::Paused;
    if !over && !task.accepted.is_empty() {
        finding.of_task(*place, id, format!("was accepted and is still {} at the end", last.status));
    }
}

/// Once a socket saw the end, everything it sees says the same, and the record too.
fn told_one_end(history: &History, socket: &SocketFacts, finding: &mut Finding) {
    let mut ends: HashMap<TaskId, (Place, Status)> = HashMap::new();
    let mut tell = |place: Place, task: TaskId, status: Status| match ends.get(&task) {
        Some(&(before, end)) if end != status => {
            let what = format!("was told {end} in line {} and {status} here", before.line);
            finding.of_socket(place, task, &socket.name, what);
        }
        Some(_) => {}
        None if status.is_terminal() => {
            finding.checked += 1;
            ends.insert(task, (place, status));
            let record = history.tasks.get(&task).and_then(TaskFacts::dump);
            if let Some(record) = record.filter(|record| record.status != status) {
                let what = format!("was told {status}, and the record says {}", record.status);
                finding.of_socket(place, task, &socket.name, what);
            }
        }
        None => {}
    };
    for (place, _, sight) in &socket.sights {
        match sight {
            Sight::Event(event) if !event.repeat && !socket.raw => tell(*place, event.task, event.status),
            Sight::Event(event) if event.status.is_terminal() => tell(*place, event.task, event.status),
            Sight::Snapshot(tasks) => tasks.iter().for_each(|seen| tell(*place, seen.task, seen.status)),
            _ => {}
        }
    }
}

/// I7.
pub(super) fn counts_agree(history: &History, finding: &mut Finding) {
    for (place, socket, event) in history.events() {
        finding.checked += 1;
        let record = history.tasks.get(&event.task).and_then(TaskFacts::dump);
        if let Some(what) = wrong_counts(event.status, event.counts, record) {
            finding.of_socket(place, event.task, &socket.name, what);
        }
    }
    for (&id, task) in &history.tasks {
        let Some((place, dump)) = task.dumps.last() else { continue };
        finding.checked += 1;
        if let Some(what) = wrong_counts(dump.status, dump.counts, None) {
            finding.of_task(*place, id, what);
        }
        if !task.rows.is_empty() && dump.status.is_terminal() {
            rows_agree(id, task, dump, finding);
        }
    }
}

fn wrong_counts(status: Status, counts: Counts, record: Option<&TaskDump>) -> Option<String> {
    let (done, total) = (counts.current(), counts.total);
    if done > total {
        return Some(format!("counts {done} of {total} items as finished"));
    }
    if status.is_terminal() && done != total {
        return Some(format!("is {status} with {done} of {total} items finished"));
    }
    if status == Status::Completed && counts.failed + counts.cancelled > 0 {
        return Some(format!("is completed with {} failed, {} cancelled", counts.failed, counts.cancelled));
    }
    let record = record?;
    if record.counts.total != total {
        return Some(format!("has {total} items, and {} in the record", record.counts.total));
    }
    let differs = status.is_terminal() && record.status == status && record.counts != counts;
    differs.then(|| format!("ends with {}, and the record with {}", list(counts), list(record.counts)))
}

fn rows_agree(id: TaskId, task: &TaskFacts, dump: &TaskDump, finding: &mut Finding) {
    let count = |state| u32::try_from(task.rows.iter().filter(|(_, row)| row.state == state).count());
    let count = |state| count(state).unwrap_or(u32::MAX);
    let rows = Counts {
        total: u32::try_from(task.rows.len()).unwrap_or(u32::MAX),
        succeeded: count(ItemState::Succeeded),
        failed: count(ItemState::Failed),
        skipped: count(ItemState::Skipped),
        cancelled: count(ItemState::Cancelled),
    };
    if rows != dump.counts {
        let what = format!("the record counts {}, its rows {}", list(dump.counts), list(rows));
        finding.of_task(task.rows[0].0, id, what);
    }
}

fn list(counts: Counts) -> String {
    let Counts { total, succeeded, failed, skipped, cancelled } = counts;
    format!("{succeeded} succeeded, {failed} failed, {skipped} skipped, {cancelled} cancelled of {total}")
}

/// I9.
pub(super) fn one_task_per_key(history: &History, finding: &mut Finding) {
    let mut made: HashMap<(&str, &str), (Place, &Call)> = HashMap::new();
    let mut by_task: HashMap<TaskId, (&str, &str)> = HashMap::new();
    for (place, call) in history.calls.iter().filter(|(_, call)| call.call == "submit" && call.is_accepted())
    {
        let (Some(key), Some(task)) = (call.key.as_deref(), call.task) else { continue };
        finding.checked += 1;
        let key = (call.user.as_str(), key);
        if *by_task.entry(task).or_insert(key) != key {
            finding.of_task(
                *place,
                task,
                format!("was made by key {:?} and by {:?}", by_task[&task].1, key.1),
            );
        }
        let &mut (before, first) = made.entry(key).or_insert((*place, call));
        if first.task != Some(task) {
            let what = format!("key {:?} had made another task in line {}", key.1, before.line);
            finding.of_task(*place, task, what);
        }
        if first.body.is_some() && call.body.is_some() && first.body != call.body {
            let what = format!("key {:?} was accepted with another body in line {}", key.1, before.line);
            finding.of_task(*place, task, what);
        }
    }
}

/// I13.
pub(super) fn answers_hold(history: &History, finding: &mut Finding) {
    let has_dump = history.has_dump();
    for (place, call) in history.calls.iter().filter(|(_, call)| call.is_accepted()) {
        let record = call.task.and_then(|id| history.tasks.get(&id)).and_then(TaskFacts::dump);
        let wrong = match (call.call.as_str(), call.task, record) {
            ("submit", None, _) => Some("was answered well without a task"),
            ("submit", Some(_), None) if has_dump => Some("was accepted and is not in the record"),
            ("cancel", Some(_), Some(record)) if !record.status.is_terminal() => {
                Some("was cancelled and has not ended")
            }
            ("submit" | "cancel", ..) => None,
            _ => continue,
        };
        finding.checked += 1;
        let Some(what) = wrong else { continue };
        if let Some(violation) = finding.add(*place, what.to_owned()) {
            violation.task = call.task;
        }
    }
}

/// The latest attempt that is known of a task.
pub(super) fn last_attempt(task: &TaskFacts) -> Option<Attempt> {
    task.dump().map(|dump| dump.attempt)
}
