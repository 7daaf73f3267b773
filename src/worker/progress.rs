//! What the watchers of one task are told next. Pure: no IO, no clock; the reporter asks and the publisher carries.
//!
//! Changes gather here between two events, so an event stands for all that happened since the one before. Numbers are
//! dense: an event that was numbered is offered again, as it was, until its outcome is known, and only then is
//! another one made. Counts are absolute, and count an item as soon as it finished.
//!
//! While the bus is away changes gather, at most [`WAITING_MAX`]; past that the oldest are left out (the record has
//! them, the counts include them, and the next event says so). Not here: pacing and retries ([`super::publisher`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::stall::sentence;
use super::steps::Steps;
use crate::store::Task;
use crate::task::{Counts, Event, EventKind, ItemChange, ItemName, ItemResult, ItemState, Seq, Status, Step};

/// Most item changes in one event, so that frames stay small.
pub(super) const ITEMS_PER_EVENT: usize = 500;
/// Most items in work among them, since what they are at may be long.
const RUNNING_PER_EVENT: usize = 25;
/// Most item changes that wait for an event.
pub(super) const WAITING_MAX: usize = 10_000;

/// Collects the changes of one attempt and numbers its events.
#[derive(Debug)]
pub(super) struct Progress {
    /// The task with the counts and status of the newest change.
    task: Task,
    last: Seq,
    /// Numbered, and not known to be published; with the results in events up to it.
    unknown: Option<(Arc<Event>, u64)>,
    /// Results so far, those of them that are in events, and those that are recorded: each a number, because all three
    /// happen in the order of finishing.
    finished: u64,
    taken: u64,
    recorded: u64,
    /// Published events whose results may not be recorded, each with the results in events up to it.
    told: VecDeque<(Seq, u64)>,
    /// The last event whose results, and those of all before it, are recorded. Unknown while that is not so of older
    /// attempts.
    recorded_seq: Option<Seq>,
    /// Events of their own kind, each with its status and sentence.
    said: VecDeque<(EventKind, Status, Option<String>)>,
    waiting: VecDeque<ItemChange>,
    /// Changes that no event will tell of, since the last event.
    left_out: u32,
    /// Items in work, by how long no event has told of them: less than one tick, less than two, overdue.
    young: BTreeMap<u32, ItemName>,
    old: BTreeMap<u32, ItemName>,
    overdue: BTreeMap<u32, ItemName>,
    /// Items in work that an event told of.
    running: BTreeMap<u32, ItemName>,
    /// What items in work say they are at.
    steps: Steps,
    /// Since when no item finished, once the watchers are to know.
    stalled_since: Option<Timestamp>,
    /// Why no item is started for now.
    waits_for: Option<String>,
    current: Option<ItemName>,
}

impl Progress {
    /// The progress of a task just claimed. Its first event says `started`.
    pub(super) fn new(task: Task) -> Self {
        let started = (EventKind::Started, task.state.status, None);
        Self {
            task,
            last: Seq(0),
            unknown: None,
            finished: 0,
            taken: 0,
            recorded: 0,
            told: VecDeque::new(),
            recorded_seq: None,
            said: VecDeque::from([started]),
            waiting: VecDeque::new(),
            left_out: 0,
            young: BTreeMap::new(),
            old: BTreeMap::new(),
            overdue: BTreeMap::new(),
            running: BTreeMap::new(),
            steps: Steps::default(),
            stalled_since: None,
            waits_for: None,
            current: None,
        }
    }

    /// Tells of a change of the task itself, in an event of its own kind.
    pub(super) fn say(&mut self, kind: EventKind, status: Status, message: Option<String>) {
        self.said.push_back((kind, status, message));
    }

    /// Notes why no item is started for now.
    pub(super) fn wait_for(&mut self, why: Option<String>) {
        self.waits_for = why;
    }

    /// Tells why no item is started for now, or that it goes on. Whether that is news.
    pub(super) fn say_waiting(&mut self, why: Option<&str>) -> bool {
        if self.waits_for.as_deref() == why {
            return false;
        }
        self.waits_for = why.map(str::to_owned);
        // An older sentence that was not told yet is none any more.
        self.said.retain(|(kind, ..)| *kind != EventKind::Waiting);
        let kind = if why.is_some() { EventKind::Waiting } else { EventKind::Progress };
        self.say(kind, self.status(), self.waits_for.clone());
        true
    }

    /// Tells of a change of how many items run at once.
    pub(super) fn say_concurrency(&mut self, concurrency: Option<u16>) {
        self.task.concurrency = concurrency;
        let message = match concurrency {
            Some(n) => format!("at most {n} at once from here on"),
            None => "as many at once as the worker allows from here on".to_owned(),
        };
        self.say(EventKind::ConcurrencyChanged, self.status(), Some(message));
    }

    /// Whether no item is started for now, and the watchers know why.
    pub(super) fn waits(&self) -> bool {
        self.waits_for.is_some()
    }

    /// The status that watchers know once all of this is published.
    pub(super) fn status(&self) -> Status {
        self.said.back().map_or(self.task.state.status, |(_, status, _)| *status)
    }

    /// A lane took an item. Told only if the item is still in work after one to two ticks.
    pub(super) fn started(&mut self, index: u32, name: ItemName) {
        self.young.insert(index, name);
    }

    /// An item in work says what it is at. Whether it got on since it said so last.
    pub(super) fn step(&mut self, index: u32, step: Step) -> bool {
        let got_on = self.steps.take(index, step);
        if got_on {
            self.stall_is_over();
        }
        got_on
    }

    fn stall_is_over(&mut self) {
        if self.stalled_since.take().is_some() {
            self.said.retain(|(kind, ..)| *kind != EventKind::Stalled);
        }
    }

    /// An item finished. Called once per item. Returns the number of the result.
    pub(super) fn finished(&mut self, result: &ItemResult) -> u64 {
        for items in [&mut self.young, &mut self.old, &mut self.overdue, &mut self.running] {
            items.remove(&result.index);
        }
        self.steps.forget(result.index);
        self.stall_is_over();
        self.task.counts.add(&result.outcome);
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
            self.left_out += 1;
            self.taken += 1;
        }
        self.waiting.push_back(ItemChange::from(result));
        self.finished += 1;
        self.finished
    }

    /// The number of the newest result.
    pub(super) fn results(&self) -> u64 {
        self.finished
    }

    /// Results up to this number are in the record.
    pub(super) fn recorded(&mut self, results: u64) {
        self.recorded = results;
        while let Some((seq, _)) = self.told.pop_front_if(|(_, results)| *results <= self.recorded) {
            self.recorded_seq = self.recorded_seq.map(|known| known.max(seq));
        }
    }

    /// What older attempts told is in the record, with these counts, or will be run again: `found` items need not be.
    pub(super) fn inherited(&mut self, counts: Counts, found: usize) {
        self.recorded_seq = Some(Seq(0));
        self.task.counts = counts;
        if found > 0 {
            let message = format!("{found} results of the attempt before were found and recorded");
            self.say(EventKind::Progress, self.status(), Some(message));
        }
    }

    /// The last event whose results, and those of all before it, are in the record. `None` while nothing is known of
    /// older attempts.
    pub(super) fn recorded_seq(&self) -> Option<Seq> {
        self.recorded_seq
    }

    /// No item finished since then, which is so long. Told in an event of its own kind that names all items in work once
    /// more; every event says so until an item finishes.
    pub(super) fn stalled(&mut self, since: Timestamp, quiet: Duration) {
        self.stalled_since = Some(since);
        for items in [&mut self.young, &mut self.old, &mut self.running] {
            self.overdue.append(items);
        }
        let message = sentence(&self.overdue, quiet);
        self.say(EventKind::Stalled, self.status(), Some(message));
    }

    /// A tick passed: items in work since before the last one will be told of as running, and those that are at another
    /// step. Whether there are any.
    pub(super) fn tick(&mut self) -> bool {
        self.overdue.append(&mut self.old);
        self.old = std::mem::take(&mut self.young);
        for index in self.steps.tick() {
            self.overdue.extend(self.running.remove_entry(&index));
        }
        !self.overdue.is_empty()
    }

    /// Whether so much waits that the next event will be full.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= ITEMS_PER_EVENT
    }

    /// The event to publish now, or `None`. Until [`Progress::published`] is told of it, it stays the same one.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Arc<Event>> {
        if self.unknown.is_none() {
            let (kind, status, message) = self.next_kind()?;
            self.task.state.status = status;
            let message = message.or_else(|| self.confess());
            let event = Event { message, ..self.number(kind, now) };
            self.unknown = Some((Arc::new(event), self.taken));
        }
        self.unknown.as_ref().map(|(event, _)| Arc::clone(event))
    }

    /// The event with this number is in the stream, or was found there. Returns the number of the last result that was
    /// told by then.
    pub(super) fn published(&mut self, seq: Seq) -> u64 {
        if let Some((_, results)) = self.unknown.take_if(|(event, _)| event.seq == seq) {
            // One that told of nothing new stands with the one before: the list is as long as results are many.
            match self.told.back_mut() {
                Some((last, known)) if *known == results => *last = seq,
                _ => self.told.push_back((seq, results)),
            }
            self.recorded(self.recorded);
            return results;
        }
        0
    }

    /// Nobody will be told the event with this number, for there is nowhere to tell it.
    pub(super) fn dropped(&mut self, seq: Seq) {
        self.unknown.take_if(|(event, _)| event.seq == seq);
    }

    /// The last event of the task. The caller publishes it; an event whose outcome is unknown is passed over.
    pub(super) fn terminal(&mut self, counts: Counts, verdict: Status, now: Timestamp) -> Event {
        self.unknown = None;
        self.task.counts = counts;
        self.task.state.status = verdict;
        self.overdue.clear();
        self.stalled_since = None;
        self.waits_for = None;
        self.number(EventKind::terminal(verdict), now)
    }

    /// The task did not end, so nobody was told its last event: its number is free, and its changes wait again.
    pub(super) fn take_back(&mut self, terminal: Event) {
        self.last = Seq(terminal.seq.0 - 1);
        self.taken -= terminal.items.len() as u64;
        terminal.items.into_iter().rev().for_each(|change| self.waiting.push_front(change));
    }

    fn next_kind(&mut self) -> Option<(EventKind, Status, Option<String>)> {
        let news = !self.waiting.is_empty() || !self.overdue.is_empty();
        let progress = news.then_some((EventKind::Progress, self.task.state.status, None));
        self.said.pop_front().or(progress)
    }

    /// Says how many changes were left out since the last event, if any were.
    fn confess(&mut self) -> Option<String> {
        let left_out = std::mem::take(&mut self.left_out);
        (left_out > 0).then(|| format!("{left_out} results are counted here and listed in the record only"))
    }

    fn number(&mut self, kind: EventKind, now: Timestamp) -> Event {
        self.last = self.last.next();
        let items = self.changes();
        if let Some(newest) = items.last() {
            self.current = Some(newest.name.clone());
        }
        let event = self.task.event(kind, self.last, now);
        let (current_node, waits_for) = (self.current.clone(), self.waits_for.clone());
        Event { items, current_node, waits_for, stalled_since: self.stalled_since, ..event }
    }

    /// Takes what fits into one event: finished items first, then those found running.
    fn changes(&mut self) -> Vec<ItemChange> {
        let finished = self.waiting.len().min(ITEMS_PER_EVENT);
        self.taken += finished as u64;
        let mut items: Vec<_> = self.waiting.drain(..finished).collect();
        let full = items.len().saturating_add(RUNNING_PER_EVENT).min(ITEMS_PER_EVENT);
        while items.len() < full
            && let Some((index, name)) = self.overdue.pop_first()
        {
            self.running.insert(index, name.clone());
            items.push(running(index, name, self.steps.told(index)));
        }
        items
    }
}

fn running(index: u32, name: ItemName, step: Option<Step>) -> ItemChange {
    ItemChange {
        index,
        name,
        state: ItemState::Running,
        effect: None,
        error: None,
        done_us: None,
        tries: None,
        step,
    }
}

#[cfg(test)]
pub(super) mod tests;
