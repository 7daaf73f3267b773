//! What the next attempt of a task is promised: the results that were told and may not be recorded.

use super::Fixture;
use super::probe::{progress, publish, terminal, user};
use crate::bus::{BusError, Published};
use crate::task::{Attempt, Event, ItemChange, ItemName, ItemOutcome, ItemResult, Seq, TaskId, UserId};

fn result(index: u32) -> ItemResult {
    let outcome = match index % 4 {
        0 => ItemOutcome::Succeeded { effect: crate::task::Effect::Already },
        1 => ItemOutcome::failed("no \"such\" node \u{1F680}"),
        2 => ItemOutcome::skipped("a control plane"),
        _ => ItemOutcome::Succeeded { effect: crate::task::Effect::Changed },
    };
    let name = ItemName::new(format!("node-{index}")).expect("a valid name");
    let finished_at = jiff::Timestamp::from_microsecond(1_763_884_801_455_123 + i64::from(index));
    ItemResult { index, name, outcome, tries: 2, finished_at: finished_at.expect("a valid time") }
}

/// An event that tells of these results, and of an item that still runs.
fn telling(task: TaskId, attempt: u32, seq: u64, indexes: impl IntoIterator<Item = u32>) -> Event {
    let mut items: Vec<ItemChange> = indexes.into_iter().map(|index| (&result(index)).into()).collect();
    let name = ItemName::new("node-in-work").expect("a valid name");
    let state = crate::task::ItemState::Running;
    items.push(ItemChange {
        index: 99_999,
        name,
        state,
        effect: None,
        error: None,
        done_us: None,
        tries: None,
        step: None,
    });
    Event { items, ..progress(task, attempt, seq) }
}

async fn report(fixture: &dyn Fixture, user: &UserId, event: &Event, recorded: Option<u64>) {
    let reported = fixture.publisher().report(user, event, recorded.map(Seq)).await;
    assert!(matches!(reported, Ok(Published::Appended(_))), "{reported:?}");
}

/// The indexes of what the attempt is given; each result must be as it was told.
async fn given(fixture: &dyn Fixture, user: &UserId, task: TaskId, attempt: u32) -> Vec<u32> {
    let results = fixture.publisher().unrecorded(user, task, Attempt(attempt)).await.expect("unrecorded");
    for given in &results {
        assert_eq!(*given, result(given.index), "not as it was told");
    }
    results.into_iter().map(|result| result.index).collect()
}

pub(super) async fn the_next_attempt_is_given_what_was_told(fixture: &dyn Fixture) {
    let (user, task) = (user("kept"), TaskId::generate());
    publish(fixture, &user, &Event { items: Vec::new(), ..progress(task, 1, 1) }).await;
    report(fixture, &user, &telling(task, 1, 2, 0..3), Some(0)).await;
    report(fixture, &user, &telling(task, 1, 3, [3]), Some(0)).await;
    report(fixture, &user, &telling(task, 1, 4, [9, 7]), Some(0)).await;
    publish(fixture, &user, &Event { items: Vec::new(), ..progress(task, 2, 1) }).await;
    assert_eq!(given(fixture, &user, task, 2).await, [0, 1, 2, 3, 9, 7]);
    assert_eq!(given(fixture, &user, task, 2).await, [0, 1, 2, 3, 9, 7], "asking takes nothing away");
}

pub(super) async fn what_is_recorded_is_not_given(fixture: &dyn Fixture) {
    let (user, task) = (user("recorded"), TaskId::generate());
    for seq in 1..=6 {
        let index = u32::try_from(seq).expect("a small number");
        report(fixture, &user, &telling(task, 1, seq, [index]), Some(seq.saturating_sub(3))).await;
    }
    assert_eq!(given(fixture, &user, task, 2).await, [4, 5, 6]);
    // An event without results says it too.
    report(fixture, &user, &telling(task, 1, 7, []), Some(5)).await;
    assert_eq!(given(fixture, &user, task, 2).await, [6]);
    report(fixture, &user, &telling(task, 1, 8, []), Some(7)).await;
    assert_eq!(given(fixture, &user, task, 2).await, [0; 0]);
}

pub(super) async fn only_older_attempts_are_given(fixture: &dyn Fixture) {
    let (user, task) = (user("attempts"), TaskId::generate());
    report(fixture, &user, &telling(task, 1, 40, [0]), Some(0)).await;
    report(fixture, &user, &telling(task, 2, 1, [1]), None).await;
    report(fixture, &user, &telling(task, 2, 2, [2]), None).await;
    report(fixture, &user, &telling(task, 4, 1, [3]), None).await;
    assert_eq!(given(fixture, &user, task, 1).await, [0; 0]);
    assert_eq!(given(fixture, &user, task, 2).await, [0]);
    assert_eq!(given(fixture, &user, task, 4).await, [0, 1, 2]);
    // From here on the fourth has recorded what the others left.
    report(fixture, &user, &telling(task, 4, 2, []), Some(0)).await;
    assert_eq!(given(fixture, &user, task, 5).await, [3]);
}

/// The first event of the new attempt has settled it: nothing that an older one still tries changes the answer.
pub(super) async fn a_fenced_attempt_adds_no_result(fixture: &dyn Fixture) {
    let (user, task) = (user("settled"), TaskId::generate());
    report(fixture, &user, &telling(task, 1, 1, [0]), Some(0)).await;
    report(fixture, &user, &telling(task, 2, 1, []), None).await;
    for late in [telling(task, 1, 2, [5]), telling(task, 1, 1, [6]), terminal(task, 1, 3)] {
        let refused = fixture.publisher().report(&user, &late, Some(Seq(1))).await;
        assert!(matches!(refused, Err(BusError::Fenced { current: Attempt(2) })), "{refused:?}");
    }
    let repeat = fixture.publisher().report(&user, &telling(task, 2, 1, [7]), Some(Seq(1))).await;
    assert!(matches!(repeat, Ok(Published::Repeat)), "{repeat:?}");
    assert_eq!(given(fixture, &user, task, 2).await, [0]);
    assert_eq!(given(fixture, &user, task, 3).await, [0]);
}

pub(super) async fn results_of_tasks_and_users_are_apart(fixture: &dyn Fixture) {
    let (one, other) = (user("mine"), user("theirs"));
    let (first, second) = (TaskId::generate(), TaskId::generate());
    report(fixture, &one, &telling(first, 1, 1, [1]), Some(0)).await;
    report(fixture, &one, &telling(second, 1, 1, [2]), Some(0)).await;
    report(fixture, &other, &telling(first, 1, 1, [3]), Some(0)).await;
    assert_eq!(given(fixture, &one, first, 2).await, [1]);
    assert_eq!(given(fixture, &one, second, 2).await, [2]);
    assert_eq!(given(fixture, &other, first, 2).await, [3]);
    assert_eq!(given(fixture, &one, TaskId::generate(), 2).await, [0; 0]);
}

pub(super) async fn of_a_task_that_is_over_nothing_is_kept(fixture: &dyn Fixture) {
    let (user, task) = (user("over"), TaskId::generate());
    report(fixture, &user, &telling(task, 1, 1, 0..4), Some(0)).await;
    publish(fixture, &user, &Event { items: Vec::new(), ..terminal(task, 1, 2) }).await;
    assert_eq!(given(fixture, &user, task, 2).await, [0; 0]);
}

/// As many results as a worker lets wait for the record, told in large events.
pub(super) async fn a_long_outage_of_the_record_fits(fixture: &dyn Fixture) {
    let (user, task) = (user("outage"), TaskId::generate());
    for seq in 0..20 {
        let first = u32::try_from(seq).expect("a small number") * 250;
        report(fixture, &user, &telling(task, 1, seq + 1, first..first + 250), Some(0)).await;
    }
    for seq in 0..400 {
        let index = 5_000 + u32::try_from(seq).expect("a small number");
        report(fixture, &user, &telling(task, 1, seq + 21, [index]), Some(0)).await;
    }
    assert_eq!(given(fixture, &user, task, 2).await, (0..5_400).collect::<Vec<_>>());
}
