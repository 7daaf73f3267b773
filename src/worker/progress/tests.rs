//! What watchers are told, whatever happens in whichever order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::task::{
    ActionSpec, Attempt, ClusterName, Effect, ItemOutcome, PodCounts, Priority, TaskId, TaskState, UserId,
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
        strategy: None,
        may: crate::task::Capabilities::default(),
        opened: 0,
        rests_until: None,
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

fn gone(gone: u32) -> Step {
    Step { pods: Some(PodCounts { total: 9, gone, ..PodCounts::default() }), ..Step::doing("evicting pods") }
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
enum Happening {
    Start,
    Finish,
    Tick,
    Stall,
    Say,
    Publish,
    Report,
    FailBefore,
    FailAfter,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    use Happening::{FailAfter, FailBefore, Finish, Publish, Report, Say, Stall, Start, Tick};
    proptest::sample::select(vec![
        Start, Finish, Finish, Tick, Report, Stall, Say, Publish, FailBefore, FailAfter,
    ])
}

/// Runs the steps, then finishes what was started and publishes all there is.
fn run(steps: &[Happening]) -> (Stream, u32) {
    let total = u32::try_from(steps.len()).unwrap();
    let (mut progress, mut stream) = (Progress::new(task(total)), Stream::default());
    let (mut started, mut finished) = (0, 0);
    for step in steps {
        match step {
            Happening::Start => {
                progress.started(started, name(started));
                started += 1;
            }
            Happening::Finish if finished < started => {
                progress.finished(&result(finished));
                finished += 1;
            }
            Happening::Finish => {}
            Happening::Tick => {
                let _ = progress.tick();
            }
            Happening::Stall => progress.stalled(Timestamp::UNIX_EPOCH, Duration::from_secs(30)),
            Happening::Say => progress.say(EventKind::Cancelling, Status::Cancelling, None),
            Happening::Report if finished < started => {
                progress.step(finished, gone(started));
            }
            Happening::Report => {}
            Happening::Publish => publish(&mut progress, &mut stream, true),
            Happening::FailBefore => drop(progress.next(Timestamp::UNIX_EPOCH)),
            Happening::FailAfter => publish(&mut progress, &mut stream, false),
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
        steps in prop::collection::vec(any_happening(), 0..300),
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
    fn counts_never_fall_and_end_at_the_truth(steps in prop::collection::vec(any_happening(), 0..300)) {
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
fn an_item_in_work_tells_its_newest_step_within_half_a_second_and_nothing_after_its_end() {
    let mut progress = Progress::new(task(2));
    publish_next(&mut progress);
    progress.started(0, name(0));
    progress.step(0, gone(1));
    let _ = (progress.tick(), progress.tick());
    assert_eq!(publish_next(&mut progress).items[0].step, Some(gone(1)));
    assert!(progress.step(0, gone(2)) && progress.step(0, gone(3)));
    assert!(!progress.tick(), "not at once: steps may come often");
    let _ = (progress.tick(), progress.tick(), progress.tick());
    let event = publish_next(&mut progress);
    assert_eq!((event.kind, event.items.len(), event.current), (EventKind::Progress, 1, 0));
    assert_eq!((event.items[0].state, event.items[0].step.clone()), (ItemState::Running, Some(gone(3))));
    progress.step(0, gone(4));
    progress.finished(&result(0));
    assert_eq!(publish_next(&mut progress).items[0].step, None);
    assert!((0..100).all(|_| !progress.tick()));
}

#[test]
fn an_item_whose_pods_go_is_no_stall() {
    let mut progress = Progress::new(task(1));
    publish_next(&mut progress);
    progress.started(0, name(0));
    progress.step(0, gone(1));
    progress.stalled(Timestamp::UNIX_EPOCH, Duration::from_secs(30));
    assert_eq!(publish_next(&mut progress).kind, EventKind::Stalled);
    assert!(progress.step(0, gone(2)), "it got on");
    assert!((0..5).any(|_| progress.tick()));
    assert_eq!(publish_next(&mut progress).stalled_since, None);
}

#[test]
fn steps_of_many_items_are_told_in_events_of_bounded_size() {
    let items = u32::try_from(RUNNING_PER_EVENT).unwrap() * 2 + 1;
    let mut progress = Progress::new(task(items));
    publish_next(&mut progress);
    (0..items).for_each(|index| {
        progress.started(index, name(index));
        progress.step(index, gone(index));
    });
    let _ = (progress.tick(), progress.tick());
    let sizes: Vec<_> = std::iter::repeat_with(|| publish_next(&mut progress).items.len()).take(3).collect();
    assert_eq!(sizes, [RUNNING_PER_EVENT, RUNNING_PER_EVENT, 1]);
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
