//! The memory store keeps every promise, and any sequence of calls leaves a record that agrees with itself.

use std::collections::HashMap;

use jiff::Timestamp;
use proptest::prelude::*;

use super::book::{Book, Now};
use super::*;
use crate::clock::SystemClock;
use crate::store::contract;
use crate::task::{
    Attempt, By, Draft, Effect, EventKind, ItemName, ItemOutcome, ItemState, Origin, Seq, Status, TaskSpec,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_keeps_every_promise() {
    let fresh = async || -> contract::AnyStore {
        let store = MemoryStore::new(Arc::new(SystemClock));
        Arc::new(store) as contract::AnyStore
    };
    contract::holds(fresh).await;
}

/// A call. Tasks are named by the order of their submits; attempts by their distance from the current one.
#[derive(Debug, Clone)]
enum Call {
    Submit { owner: u8, items: u8, tries: u8 },
    Claim { limit: u8 },
    Renew { task: u8, stale: bool },
    Record { task: u8, stale: bool, first: u8, n: u8, outcome: u8 },
    Finish { task: u8, stale: bool },
    HandOver { task: u8, stale: bool },
    Control { task: u8, control: Control },
    GiveUp,
    Wait { s: u8 },
}

fn any_call() -> impl Strategy<Value = Call> {
    let control = prop_oneof![Just(Control::Cancel), Just(Control::Pause), Just(Control::Resume)];
    let stale = || prop::bool::weighted(0.2);
    prop_oneof![
        2 => (0_u8..3, 1_u8..6, 1_u8..4).prop_map(|(owner, items, tries)| Call::Submit { owner, items, tries }),
        4 => (1_u8..4).prop_map(|limit| Call::Claim { limit }),
        1 => (0_u8..8, stale()).prop_map(|(task, stale)| Call::Renew { task, stale }),
        6 => (0_u8..8, stale(), 0_u8..6, 0_u8..6, 0_u8..4)
            .prop_map(|(task, stale, first, n, outcome)| Call::Record { task, stale, first, n, outcome }),
        3 => (0_u8..8, stale()).prop_map(|(task, stale)| Call::Finish { task, stale }),
        2 => (0_u8..8, stale()).prop_map(|(task, stale)| Call::HandOver { task, stale }),
        3 => (0_u8..8, control).prop_map(|(task, control)| Call::Control { task, control }),
        1 => Just(Call::GiveUp),
        3 => (0_u8..8).prop_map(|s| Call::Wait { s }),
    ]
}

const LEASE: Duration = Duration::from_secs(5);

/// A book with the time, and the tasks that were submitted.
struct Run {
    book: Book,
    now: Now,
    ids: Vec<TaskId>,
}

impl Run {
    fn new() -> Self {
        let now = Now { wall: Timestamp::UNIX_EPOCH, mono: Instant::now() };
        Self { book: Book::default(), now, ids: Vec::new() }
    }

    fn task(&self, n: u8) -> Option<Task> {
        self.ids.get(usize::from(n)).and_then(|id| self.book.find(*id))
    }

    /// Refusals are part of the game; what matters is what they leave behind.
    fn call(&mut self, call: &Call) {
        match *call {
            Call::Submit { owner, items, tries } => self.submit(owner, items, tries),
            Call::Claim { limit } => self.claim(u32::from(limit)),
            Call::GiveUp => drop(self.book.give_up(2, &self.now)),
            Call::Wait { s } => {
                let by = Duration::from_secs(s.into());
                self.now = Now { wall: self.now.wall + by, mono: self.now.mono + by };
            }
            Call::Renew { task, stale } => {
                if let Some((_, fence)) = self.fence(task, stale) {
                    self.book.renew(&[fence], LEASE, &self.now);
                }
            }
            Call::Record { task, stale, first, n, outcome } => {
                let results: Vec<_> = (first..first + n).map(|index| result(index, outcome)).collect();
                if let Some((_, fence)) = self.fence(task, stale) {
                    let _ = self.book.record(fence, &results, &self.now);
                }
            }
            Call::Finish { task, stale } => self.finish(task, stale),
            Call::HandOver { task, stale } => {
                if let Some((_, fence)) = self.fence(task, stale) {
                    let _ = self.book.hand_over(fence, &self.now);
                }
            }
            Call::Control { task, control } => {
                if let Some(task) = self.task(task) {
                    let _ = self.book.control(task.id, control, &By::of(task.owner.clone()), &self.now);
                }
            }
        }
    }

    fn submit(&mut self, owner: u8, items: u8, tries: u8) {
        if self.ids.len() == 8 {
            return;
        }
        let draft = Draft {
            action: "wait".into(),
            cluster: "prod".into(),
            items: (0..items).map(|n| format!("node-{n}")).collect(),
            max_attempts: Some(tries.into()),
            ..Draft::default()
        };
        let (id, owner) = (TaskId::generate(), UserId::new(format!("user-{owner}")).unwrap());
        let new = NewTask {
            id,
            owner,
            spec: TaskSpec::new(draft).unwrap(),
            key: None,
            open_max: 1_000,
            origin: Origin::default(),
        };
        self.book.create(new, &self.now).unwrap();
        self.ids.push(id);
    }

    fn claim(&mut self, limit: u32) {
        let rules = ClaimRules { lease: LEASE, per_cluster_max: limit };
        let held_before = self.held();
        let worker = ReplicaId::new("worker").unwrap();
        if let Some(claim) = self.book.claim(&worker, &rules, &self.now).unwrap() {
            let pending = u32::try_from(claim.pending.len()).unwrap();
            assert_eq!(claim.task.counts.pending(), pending);
            assert!(self.held() <= limit.max(held_before), "the cluster holds more than its limit");
        }
    }

    fn held(&self) -> u32 {
        u32::try_from(self.book.backlog(&self.now).held).unwrap()
    }

    fn finish(&mut self, task: u8, stale: bool) {
        let Some((task, fence)) = self.fence(task, stale) else { return };
        let verdict = task.counts.verdict().unwrap_or(Status::Completed);
        let mut event = task.event(EventKind::terminal(verdict), Seq(2), self.now.wall);
        event.status = verdict;
        let _ = self.book.finish(fence, &event, &self.now);
    }

    fn fence(&self, task: u8, stale: bool) -> Option<(Task, Fence)> {
        let task = self.task(task)?;
        let attempt = Attempt(task.state.attempt.0.saturating_sub(u32::from(stale)));
        let fence = Fence { task: task.id, attempt };
        Some((task, fence))
    }

    /// What holds between any two calls.
    fn check(&self, before: &HashMap<TaskId, Task>) {
        let outbox = self.book.unpublished(Duration::ZERO, 100, &self.now);
        for id in &self.ids {
            let task = self.book.find(*id).unwrap();
            let mut counts = Counts::new(task.counts.total);
            for item in self.book.items(*id, &ItemQuery { limit: 100, ..ItemQuery::default() }) {
                if let Some(result) = item.result {
                    counts.add(&result.outcome);
                }
            }
            assert_eq!(task.counts, counts, "counts are the sum of results");
            let over = task.state.status.is_terminal();
            assert_eq!(over, task.finished_at.is_some());
            assert!(!over || task.counts.pending() == 0, "a task ends with all its items");
            let events = outbox.iter().filter(|row| row.event.task_id == *id);
            let events: Vec<_> = events.map(|row| (row.event.status, row.event.counts)).collect();
            let expected: &[_] = if over { &[(task.state.status, task.counts)] } else { &[] };
            assert_eq!(events, expected, "one event tells of the end");
            assert!(!task.state.status.is_held() || task.worker.is_some());
            if let Some(before) = before.get(id) {
                assert!(task.state.attempt >= before.state.attempt, "attempts only grow");
                assert!(task.counts.current() >= before.counts.current(), "counts never step back");
                assert!(!before.state.status.is_terminal() || task == *before, "an end is never left");
            }
        }
    }

    fn tasks(&self) -> HashMap<TaskId, Task> {
        self.ids.iter().filter_map(|id| Some((*id, self.book.find(*id)?))).collect()
    }
}

fn result(index: u8, outcome: u8) -> ItemResult {
    let outcome = match outcome {
        0 => ItemOutcome::Succeeded { effect: Effect::Changed },
        1 => ItemOutcome::failed("no"),
        2 => ItemOutcome::skipped("no need"),
        _ => ItemOutcome::Cancelled,
    };
    let name = ItemName::new(format!("node-{index}")).unwrap();
    ItemResult { index: index.into(), name, outcome, tries: 1, finished_at: Timestamp::UNIX_EPOCH }
}

proptest! {
    #[test]
    fn any_sequence_of_calls_leaves_a_record_that_agrees_with_itself(
        calls in prop::collection::vec(any_call(), 1..80)
    ) {
        let mut run = Run::new();
        for call in &calls {
            let before = run.tasks();
            run.call(call);
            run.check(&before);
        }
        run.call(&Call::Wait { s: 1 });
        let over = run.tasks().values().filter(|task| task.state.status.is_terminal()).count() as u64;
        prop_assert_eq!(run.book.prune(Duration::ZERO, 100, &run.now), over);
        let left: Vec<_> = run.ids.iter().filter_map(|id| run.book.find(*id)).collect();
        prop_assert!(left.iter().all(|task| !task.state.status.is_terminal()));
    }

    #[test]
    fn pages_of_any_size_meet_every_item_once(items in 1_u8..40, limit in 1_u32..7, recorded in 0_u8..40) {
        let mut run = Run::new();
        run.submit(0, items, 1);
        run.claim(1);
        run.call(&Call::Record { task: 0, stale: false, first: 0, n: recorded, outcome: 0 });
        for state in [None, Some(ItemState::Pending), Some(ItemState::Succeeded)] {
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let page = run.book.items(run.ids[0], &ItemQuery { state, after, limit });
                let Some(last) = page.last() else { break };
                after = Some(last.index);
                seen.extend(page.iter().map(|item| item.index));
            }
            let done = recorded.min(items);
            let expected = match state {
                None => 0..items,
                Some(ItemState::Pending) => done..items,
                _ => 0..done,
            };
            prop_assert_eq!(seen, expected.map(u32::from).collect::<Vec<_>>());
        }
    }
}
