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
use crate::store::Task;
use crate::task::{Counts, Event, EventKind, ItemChange, ItemName, ItemResult, ItemState, Seq, Status};

/// Most item changes in one event, so that frames stay small.
pub(super) const ITEMS_PER_EVENT: usize = 500;
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
    /// Since when no item finished, once the watchers are to know.
    stalled_since: Option<Timestamp>,
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
            stalled_since: None,
            current: None,
        }
    }

    /// Tells of a change of the task itself, in an event of its own kind.
    pub(super) fn say(&mut self, kind: EventKind, status: Status, message: Option<String>) {
        self.said.push_back((kind, status, message));
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

    /// The status that watchers know once all of this is published.
    pub(super) fn status(&self) -> Status {
        self.said.back().map_or(self.task.state.status, |(_, status, _)| *status)
    }

    /// A lane took an item. Told only if the item is still in work after one to two ticks.
    pub(super) fn started(&mut self, index: u32, name: ItemName) {
        self.young.insert(index, name);
    }

    /// An item finished. Called once per item. Returns the number of the result.
    pub(super) fn finished(&mut self, result: &ItemResult) -> u64 {
        for items in [&mut self.young, &mut self.old, &mut self.overdue, &mut self.running] {
            items.remove(&result.index);
        }
        if self.stalled_since.take().is_some() {
            self.said.retain(|(kind, ..)| *kind != EventKind::Stalled);
        }
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

    /// A tick passed: items in work since before the last one will be told of as running. Whether there are any.
    pub(super) fn tick(&mut self) -> bool {
        self.overdue.append(&mut self.old);
        self.old = std::mem::take(&mut self.young);
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
        Event { items, current_node: self.current.clone(), stalled_since: self.stalled_since, ..event }
    }

    /// Takes what fits into one event: finished items first, then those found running.
    fn changes(&mut self) -> Vec<ItemChange> {
        let finished = self.waiting.len().min(ITEMS_PER_EVENT);
        self.taken += finished as u64;
        let mut items: Vec<_> = self.waiting.drain(..finished).collect();
        while items.len() < ITEMS_PER_EVENT
            && let Some((index, name)) = self.overdue.pop_first()
        {
            self.running.insert(index, name.clone());
            items.push(running(index, name));
        }
        items
    }
}

fn running(index: u32, name: ItemName) -> ItemChange {
    ItemChange {
        index,
        name,
        state: ItemState::Running,
        effect: None,
        error: None,
        done_us: None,
        tries: None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::task::{
        ActionSpec, Attempt, ClusterName, Effect, ItemOutcome, Priority, TaskId, TaskState, UserId,
    };

    pub(in super::super) fn task(total: u32) -> Task {
        Task {
            id: TaskId::from_uuid(uuid::Uuid::from_u128(1)),
            owner: UserId::new("ada").unwrap(),
            action: ActionSpec::Cordon,
            cluster: ClusterName::new("prod").unwrap(),
            reason: None,
            priority: Priority(0),
            concurrency: None,
            item_timeout: None,
            max_attempts: 3,
            budget: None,
            failed_before: Some(0),
            parent: None,
            message: None,
            state: TaskState { status: Status::Running, attempt: Attempt(1), tries: 1, aborted: false },
            counts: Counts::new(total),
            worker: None,
            error: None,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn name(index: u32) -> ItemName {
        ItemName::new(format!("node-{index}")).unwrap()
    }

    pub(in super::super) fn result(index: u32) -> ItemResult {
        let outcome = match index % 3 {
            0 => ItemOutcome::failed("no"),
            _ => ItemOutcome::Succeeded { effect: Effect::Changed },
        };
        ItemResult { index, name: name(index), outcome, tries: 1, finished_at: Timestamp::UNIX_EPOCH }
    }

    /// A bus that keeps what a real one keeps: an event whose number is not newer adds nothing.
    #[derive(Default)]
    struct Stream {
        events: Vec<Event>,
    }

    impl Stream {
        fn append(&mut self, event: &Event) {
            match self.events.iter().find(|known| known.seq == event.seq) {
                Some(known) => assert_eq!(known, event, "a number was used for two events"),
                None => self.events.push(event.clone()),
            }
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Start,
        Finish,
        Tick,
        Stall,
        Say,
        Publish,
        FailBefore,
        FailAfter,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        use Step::{FailAfter, FailBefore, Finish, Publish, Say, Stall, Start, Tick};
        proptest::sample::select(vec![
            Start, Finish, Finish, Tick, Stall, Say, Publish, FailBefore, FailAfter,
        ])
    }

    /// Runs the steps, then finishes what was started and publishes all there is.
    fn run(steps: &[Step]) -> (Stream, u32) {
        let total = u32::try_from(steps.len()).unwrap();
        let (mut progress, mut stream) = (Progress::new(task(total)), Stream::default());
        let (mut started, mut finished) = (0, 0);
        for step in steps {
            match step {
                Step::Start => {
                    progress.started(started, name(started));
                    started += 1;
                }
                Step::Finish if finished < started => {
                    progress.finished(&result(finished));
                    finished += 1;
                }
                Step::Finish => {}
                Step::Tick => {
                    let _ = progress.tick();
                }
                Step::Stall => progress.stalled(Timestamp::UNIX_EPOCH, Duration::from_secs(30)),
                Step::Say => progress.say(EventKind::Cancelling, Status::Cancelling, None),
                Step::Publish => publish(&mut progress, &mut stream, true),
                Step::FailBefore => drop(progress.next(Timestamp::UNIX_EPOCH)),
                Step::FailAfter => publish(&mut progress, &mut stream, false),
            }
        }
        (finished..started).for_each(|index| {
            progress.finished(&result(index));
        });
        while progress.next(Timestamp::UNIX_EPOCH).is_some() {
            publish(&mut progress, &mut stream, true);
        }
        (stream, started)
    }

    fn publish(progress: &mut Progress, stream: &mut Stream, known: bool) {
        if let Some(event) = progress.next(Timestamp::UNIX_EPOCH) {
            stream.append(&event);
            if known {
                progress.published(event.seq);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_fails_numbers_are_dense_and_each_change_is_told_once(
            steps in prop::collection::vec(any_step(), 0..300),
        ) {
            let (stream, items) = run(&steps);
            let seqs: Vec<u64> = stream.events.iter().map(|event| event.seq.0).collect();
            prop_assert_eq!(seqs, (1..=stream.events.len() as u64).collect::<Vec<_>>());
            let changes: Vec<_> = stream.events.iter().flat_map(|event| &event.items).collect();
            let mut done: Vec<u32> =
                changes.iter().filter(|c| c.state != ItemState::Running).map(|c| c.index).collect();
            done.sort_unstable();
            prop_assert_eq!(done, (0..items).collect::<Vec<_>>());
            let mut over = BTreeSet::new();
            for change in changes {
                prop_assert!(!over.contains(&change.index), "{} ran after its end", change.name);
                if change.state != ItemState::Running {
                    over.insert(change.index);
                }
            }
        }

        #[test]
        fn counts_never_fall_and_end_at_the_truth(steps in prop::collection::vec(any_step(), 0..300)) {
            let (stream, items) = run(&steps);
            let mut before = 0;
            for event in &stream.events {
                prop_assert!(event.current >= before);
                prop_assert_eq!(event.current, event.counts.current());
                before = event.current;
            }
            prop_assert_eq!(before, items);
        }
    }

    #[test]
    fn the_first_event_says_started() {
        let mut progress = Progress::new(task(1));
        let event = progress.next(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((event.kind, event.seq, event.status), (EventKind::Started, Seq::FIRST, Status::Running));
        progress.published(event.seq);
        assert_eq!(progress.next(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn an_event_of_unknown_outcome_is_offered_again_as_it_was() {
        let mut progress = Progress::new(task(2));
        let first = progress.next(Timestamp::UNIX_EPOCH).unwrap();
        progress.finished(&result(1));
        assert_eq!(progress.next(Timestamp::MAX).unwrap(), first);
        progress.published(first.seq);
        let second = progress.next(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((second.seq, second.items.len(), second.current), (Seq(2), 1, 1));
        assert_eq!(second.current_node, Some(name(1)));
    }

    #[test]
    fn an_event_holds_a_bounded_number_of_items() {
        let total = u32::try_from(ITEMS_PER_EVENT * 2 + 1).unwrap();
        let mut progress = Progress::new(task(total));
        (0..total).for_each(|index| {
            progress.finished(&result(index));
        });
        let mut sizes = Vec::new();
        while let Some(event) = progress.next(Timestamp::UNIX_EPOCH) {
            sizes.push(event.items.len());
            progress.published(event.seq);
        }
        assert_eq!(sizes, [ITEMS_PER_EVENT, ITEMS_PER_EVENT, 1]);
    }

    #[test]
    fn changes_that_wait_are_bounded_and_still_counted() {
        let total = u32::try_from(WAITING_MAX + 10).unwrap();
        let mut progress = Progress::new(task(total));
        (0..total).for_each(|index| {
            progress.finished(&result(index));
        });
        assert_eq!(progress.waiting.len(), WAITING_MAX);
        let event = progress.next(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((event.current, event.items[0].index), (total, 10));
        assert!(event.message.as_ref().is_some_and(|said| said.starts_with("10 results")), "{event:?}");
        progress.published(event.seq);
        assert_eq!(progress.next(Timestamp::UNIX_EPOCH).unwrap().message, None);
    }

    #[test]
    fn only_an_item_that_takes_long_is_told_of_as_running() {
        let mut progress = Progress::new(task(2));
        progress.started(0, name(0));
        progress.started(1, name(1));
        assert!(!progress.tick());
        progress.finished(&result(1));
        assert!(progress.tick());
        let event = progress.next(Timestamp::UNIX_EPOCH).unwrap();
        let told: Vec<_> = event.items.iter().map(|item| (item.index, item.state)).collect();
        assert_eq!(told, [(1, ItemState::Succeeded), (0, ItemState::Running)]);
        assert!(!progress.tick());
    }

    fn publish_next(progress: &mut Progress) -> Arc<Event> {
        let event = progress.next(Timestamp::UNIX_EPOCH).expect("there is news");
        progress.published(event.seq);
        event
    }

    #[test]
    fn a_stall_is_told_with_what_is_in_work_and_ends_with_the_next_result() {
        let (mut progress, since) = (Progress::new(task(6)), Timestamp::from_second(50).unwrap());
        publish_next(&mut progress);
        (0..5).for_each(|index| progress.started(index, name(index)));
        let _ = (progress.tick(), progress.tick());
        assert_eq!(publish_next(&mut progress).items.len(), 5);
        progress.stalled(since, Duration::from_secs(31));
        let event = publish_next(&mut progress);
        assert_eq!((event.kind, event.status, event.seq), (EventKind::Stalled, Status::Running, Seq(3)));
        assert_eq!((event.stalled_since, event.items.len()), (Some(since), 5));
        let said = "no item finished for 31 s; in work: node-0, node-1, node-2 and 2 more";
        assert_eq!(event.message.as_deref(), Some(said));
        progress.started(5, name(5));
        let _ = (progress.tick(), progress.tick());
        assert_eq!(publish_next(&mut progress).stalled_since, Some(since), "another start ends no stall");
        progress.finished(&result(0));
        let event = publish_next(&mut progress);
        assert_eq!((event.kind, event.stalled_since, event.items.len()), (EventKind::Progress, None, 1));
    }

    #[test]
    fn a_stall_that_is_over_before_it_was_told_is_not_told() {
        let mut progress = Progress::new(task(2));
        publish_next(&mut progress);
        progress.stalled(Timestamp::UNIX_EPOCH, Duration::from_secs(30));
        progress.finished(&result(1));
        assert_eq!(publish_next(&mut progress).kind, EventKind::Progress);
        assert_eq!(progress.next(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn the_terminal_event_follows_the_last_number_even_of_unknown_outcome() {
        let mut progress = Progress::new(task(1));
        let started = progress.next(Timestamp::UNIX_EPOCH).unwrap();
        progress.finished(&result(1));
        let counts = Counts { succeeded: 1, ..Counts::new(1) };
        let event = progress.terminal(counts, Status::Completed, Timestamp::UNIX_EPOCH);
        assert_eq!((event.seq, event.kind, event.items.len()), (started.seq.next(), EventKind::Complete, 1));
        assert_eq!((event.progress, event.is_terminal()), (100, true));
    }
}
