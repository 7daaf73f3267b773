//! What sockets saw.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::task::{Attempt, Seq, Status, TaskId};
use crate::verify::history::{EventFacts, History, Sight, SocketFacts, TaskFacts};
use crate::verify::read::Place;
use crate::verify::record::TaskSeen;
use crate::verify::report::Finding;

/// How far clocks of one history may be apart, in microseconds.
const SKEW_US: i64 = 1_000_000;

/// What a socket holds of a task.
#[derive(Debug, Clone, Copy)]
struct Held {
    place: Place,
    over: bool,
    at_us: i64,
}

/// I2.
pub(super) fn ends_arrive(history: &History, finding: &mut Finding) {
    for socket in &history.sockets {
        let held = held(history, socket, finding);
        let connects = socket.sights.iter().filter(|(_, _, sight)| matches!(sight, Sight::Connected { .. }));
        let since = connects.map(|(_, at, _)| *at).max().unwrap_or(0).max(history.calm_since_us());
        for (&task, held) in &held {
            learns_the_end(history, socket, (task, *held), since, finding);
        }
        for (&id, task) in &history.tasks {
            if !held.contains_key(&id) {
                hears_of(history, socket, (id, task), finding);
            }
        }
    }
}

/// When the socket left; who left is owed nothing from then on.
fn stays_until(socket: &SocketFacts) -> i64 {
    let left = socket.sights.iter().find(|(_, _, sight)| matches!(sight, Sight::Left));
    left.map_or(i64::MAX, |(_, at, _)| *at)
}

/// What a socket holds at the end of the history. A task that a snapshot leaves out is over.
fn held(history: &History, socket: &SocketFacts, finding: &mut Finding) -> HashMap<TaskId, Held> {
    let mut held: HashMap<TaskId, Held> = HashMap::new();
    for &(place, at_us, ref sight) in &socket.sights {
        match sight {
            Sight::Event(event) => {
                let over = event.status.is_terminal();
                let entry = held.entry(event.task).or_insert(Held { place, over, at_us });
                if !entry.over {
                    *entry = Held { place, over, at_us };
                }
            }
            Sight::Snapshot(tasks) => {
                let inside: HashSet<TaskId> = tasks.iter().map(|seen| seen.task).collect();
                for (task, entry) in
                    held.iter_mut().filter(|(task, entry)| !entry.over && !inside.contains(task))
                {
                    left_out(history, socket, (*task, place, at_us), finding);
                    *entry = Held { place, over: true, at_us };
                }
                for seen in tasks {
                    let over = seen.status.is_terminal();
                    let entry = held.entry(seen.task).or_insert(Held { place, over, at_us });
                    if !entry.over {
                        *entry = Held { place, over, at_us };
                    }
                }
            }
            _ => {}
        }
    }
    held
}

/// Every task that is not over is in a snapshot.
fn left_out(
    history: &History,
    socket: &SocketFacts,
    (task, place, at_us): (TaskId, Place, i64),
    finding: &mut Finding,
) {
    let Some(record) = history.tasks.get(&task).and_then(TaskFacts::dump) else { return };
    let open = !record.status.is_terminal() || record.finished_us.is_some_and(|end| end > at_us + SKEW_US);
    if open {
        finding.of_socket(
            place,
            task,
            &socket.name,
            "is left out of a snapshot although it was not over".to_owned(),
        );
    }
}

fn learns_the_end(
    history: &History,
    socket: &SocketFacts,
    (task, held): (TaskId, Held),
    since_us: i64,
    finding: &mut Finding,
) {
    let Some(record) = history.tasks.get(&task).and_then(TaskFacts::dump) else { return };
    if !record.status.is_terminal() {
        return;
    }
    let due = record.finished_us.unwrap_or(0).max(since_us) + history.deliver_within_us();
    let until = stays_until(socket);
    if !held.over {
        if history.end_us.is_some_and(|end| until >= end) || until.min(history.last_us) > due {
            finding.checked += 1;
            let what =
                format!("ended {}, which the socket never learnt; this is its last news", record.status);
            finding.of_socket(held.place, task, &socket.name, what);
        }
        return;
    }
    finding.checked += 1;
    if record.finished_us.is_some() && held.at_us > due {
        let late = (held.at_us - due) / 1_000;
        finding.of_socket(held.place, task, &socket.name, format!("its end came {late} ms too late"));
    }
}

/// A task that was accepted while the socket was there must show up, unless it was over before a snapshot came.
fn hears_of(
    history: &History,
    socket: &SocketFacts,
    (id, task): (TaskId, &TaskFacts),
    finding: &mut Finding,
) {
    let Some((place, call)) = history.submits(task).next() else { return };
    let stayed = history.end_us.is_some_and(|end| stays_until(socket) >= end);
    if socket.user.as_deref() != history.owner(task) || !stayed {
        return;
    }
    let first =
        socket.sights.iter().find(|(_, _, sight)| matches!(sight, Sight::Snapshot(_) | Sight::Event(_)));
    let there = first.is_some_and(|(_, at, _)| *at < call.at_us - SKEW_US);
    let finished = task.dump().and_then(|dump| dump.finished_us).unwrap_or(call.at_us);
    let told_otherwise =
        socket.sights.iter().any(|(_, at, sight)| matches!(sight, Sight::Snapshot(_)) && *at > finished);
    if there && !told_otherwise {
        finding.checked += 1;
        let what = "was accepted here, and the socket never heard of it".to_owned();
        finding.of_socket(place, id, &socket.name, what);
    }
}

/// What a socket saw last of a task.
#[derive(Debug, Clone, Copy)]
struct Last {
    place: Place,
    attempt: Attempt,
    /// Zero when the last sight was a view from the record, which has no number.
    seq: Seq,
    done: u32,
    /// Whether it was in a snapshot.
    in_view: bool,
    /// Whether it said that the task is over; then a client drops what still comes of it.
    over: bool,
}

impl Last {
    fn of_event(place: Place, event: &EventFacts) -> Self {
        let (done, over) = (event.counts.current(), event.status.is_terminal());
        Self { place, attempt: event.attempt, seq: event.seq, done, in_view: false, over }
    }

    fn of_view(place: Place, seen: &TaskSeen) -> Self {
        let (done, over) = (seen.counts.current(), seen.status.is_terminal());
        Self { place, attempt: seen.attempt, seq: seen.seq, done, in_view: true, over }
    }

    fn order(&self) -> (Attempt, Seq) {
        (self.attempt, self.seq)
    }
}

/// Walks through what a socket saw. `judge` gets each event that the client took for new, with what it knew of the task:
/// `Some(None)` is a task that it did not know although it knows its tasks, `None` one of which nothing can be said.
fn walk(socket: &SocketFacts, mut judge: impl FnMut(Place, i64, &EventFacts, Option<Option<Last>>)) {
    let mut last: HashMap<TaskId, Last> = HashMap::new();
    let mut knows_all = false;
    for (place, at_us, sight) in &socket.sights {
        match sight {
            Sight::Snapshot(tasks) => {
                knows_all = true;
                last = tasks.iter().map(|seen| (seen.task, Last::of_view(*place, seen))).collect();
            }
            Sight::Event(event) if !event.repeat => {
                let known = last.get(&event.task).copied();
                judge(*place, *at_us, event, known.map(Some).or(knows_all.then_some(None)));
                if known.is_none_or(|known| !known.over && event.order() > known.order()) {
                    last.insert(event.task, Last::of_event(*place, event));
                }
            }
            _ => {}
        }
    }
}

/// I3.
pub(super) fn in_order(history: &History, finding: &mut Finding) {
    for socket in &history.sockets {
        let mut seen: HashSet<(TaskId, Attempt, Seq)> = HashSet::new();
        walk(socket, |place, _, event, known| {
            let repeat = !seen.insert((event.task, event.attempt, event.seq));
            let Some(Some(last)) = known.filter(|known| !known.is_some_and(|last| socket.raw && last.over))
            else {
                return;
            };
            finding.checked += 1;
            // A snapshot is taken at a place before what it holds; a client drops what comes again.
            let dropped = repeat || (socket.raw && last.in_view);
            if event.order() <= last.order() && !dropped {
                let (attempt, seq) = event.order();
                let what = format!(
                    "({attempt}, {seq}) came after ({}, {}) of line {}",
                    last.attempt, last.seq, last.place.line
                );
                finding.of_socket(place, event.task, &socket.name, what);
            }
            let done = event.counts.current();
            // What is older than a view from the record is dropped by clients, and a raw socket is none.
            let late = socket.raw && last.seq == Seq(0);
            if event.order() > last.order() && event.attempt == last.attempt && done < last.done && !late {
                let what = format!(
                    "{done} items are finished here, and {} were in line {}",
                    last.done, last.place.line
                );
                finding.of_socket(place, event.task, &socket.name, what);
            }
        });
    }
}

/// I3b.
pub(super) fn no_silent_gap(history: &History, finding: &mut Finding) {
    let made: BTreeSet<(TaskId, Attempt, Seq)> =
        history.events().map(|(_, _, event)| (event.task, event.attempt, event.seq)).collect();
    for socket in &history.sockets {
        walk(socket, |place, at_us, event, known| {
            let Some(before) = known.and_then(|last| last_number(event, last)) else { return };
            finding.checked += 1;
            let missing = before + 1..=event.seq.0.saturating_sub(event.merged);
            if missing.is_empty() {
                return;
            }
            let number = |seq: &u64| (event.task, event.attempt, Seq(*seq));
            let seen_elsewhere = made.range(number(missing.start())..=number(missing.end())).next().is_some();
            if !may_be_missing(history, at_us, seen_elsewhere) {
                let ((attempt, seq), n) = (event.order(), missing.count());
                let elsewhere = if seen_elsewhere { ", and others saw them" } else { "" };
                let what = format!("{n} events before ({attempt}, {seq}) are missing{elsewhere}");
                finding.of_socket(place, event.task, &socket.name, what);
            }
        });
    }
}

/// The number after which the event's attempt must go on for who saw `last`; `None` when nothing can be said.
fn last_number(event: &EventFacts, last: Option<Last>) -> Option<u64> {
    match last {
        Some(last) if last.over || event.order() <= last.order() => None,
        // A view from the record does not say which number was the last.
        Some(last) if last.attempt == event.attempt && last.seq == Seq(0) => None,
        Some(last) if last.attempt == event.attempt => Some(last.seq.0),
        _ => Some(0),
    }
}

/// What nobody saw may have been skipped by its maker while something was broken. What others saw was there, and only the
/// loss of a stream excuses it.
fn may_be_missing(history: &History, at_us: i64, seen_elsewhere: bool) -> bool {
    history.faults_between(at_us, at_us).any(|fault| fault.loses || !seen_elsewhere)
}

/// I4.
pub(super) fn nothing_invented(history: &History, finding: &mut Finding) {
    let mut bodies: HashMap<(TaskId, Attempt, Seq), (Place, u64, Status)> = HashMap::new();
    let has_dump = history.has_dump();
    for (place, socket, event) in history.events() {
        finding.checked += 1;
        let record = history.tasks.get(&event.task).and_then(TaskFacts::dump);
        if record.is_none() && has_dump {
            let what = "is not in the record".to_owned();
            finding.of_socket(place, event.task, &socket.name, what);
        }
        if let Some(record) = record.filter(|record| event.attempt > record.attempt) {
            let what =
                format!("attempt {} speaks, and the record knows {} at most", event.attempt, record.attempt);
            finding.of_socket(place, event.task, &socket.name, what);
        }
        let Some(body) = event.body else { continue };
        let key = (event.task, event.attempt, event.seq);
        let &mut (before, first, _) = bodies.entry(key).or_insert((place, body, event.status));
        if first != body {
            let (attempt, seq) = event.order();
            let what = format!("({attempt}, {seq}) says something else than in line {}", before.line);
            finding.of_socket(place, event.task, &socket.name, what);
        }
    }
}

/// I8.
pub(super) fn nothing_twice(history: &History, finding: &mut Finding) {
    for socket in history.sockets.iter().filter(|socket| !socket.raw) {
        walk(socket, |place, _, event, known| {
            finding.checked += 1;
            let Some(Some(last)) = known else { return };
            if event.order() == last.order() {
                let (attempt, seq) = event.order();
                let what = format!("({attempt}, {seq}) was handed out in line {} already", last.place.line);
                finding.of_socket(place, event.task, &socket.name, what);
            }
        });
    }
}

/// I12, as far as one user's tasks are another's business.
pub(super) fn nothing_foreign(history: &History, finding: &mut Finding) {
    for socket in &history.sockets {
        let Some(user) = &socket.user else { continue };
        let mut judge = |place: Place, id: TaskId| {
            let Some(owner) = history.tasks.get(&id).and_then(|task| history.owner(task)) else { return };
            finding.checked += 1;
            if owner != user {
                let what = format!("belongs to {owner} and was shown to {user}");
                finding.of_socket(place, id, &socket.name, what);
            }
        };
        for (place, _, sight) in &socket.sights {
            match sight {
                Sight::Event(event) => judge(*place, event.task),
                Sight::Snapshot(tasks) => tasks.iter().for_each(|seen| judge(*place, seen.task)),
                _ => {}
            }
        }
    }
}
