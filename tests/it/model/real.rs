//! The backends behind the words of the model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use milepost::bus::contract::progress;
use milepost::bus::{BusError, Entry, Feed, MemoryBus, Published, Publisher, Replay};
use milepost::clock::{Clock, ManualClock};
use milepost::config::BusConfig;
use milepost::dispatch::{Dispatcher, MemoryDispatch, TokenSource};
use milepost::store::{
    self, ClaimRules, Control, Created, IdempotencyKey, ItemQuery, MemoryStore, NewTask, OutboxId, Renewal,
    Store, StoreError,
};
use milepost::task::Counts;
use milepost::task::{
    Attempt, By, Draft, Event, ItemChange, ItemName, ItemOutcome, ItemResult, ItemState, Origin, Position,
    ReplicaId, Status, TaskId, TaskSpec, UserId,
};
use tokio::runtime::Runtime;

use super::mutant::{self, Mutant};
use super::world::{
    Answer, CLUSTER_MAX, Changed, Fence, Held, Id, LEASE_MS, Made, New, No, OPEN_MAX, Put, Row, Shown,
    TRIES_MAX, Told, Waiting, World,
};

const LEASE: Duration = Duration::from_millis(LEASE_MS);
/// More than any run makes.
const ALL: u32 = 1_000;

/// An event in a user's stream, in the order of appending, over all lives of the stream.
#[derive(Debug, Clone)]
pub struct Appended {
    pub position: Position,
    pub event: Event,
}

/// The backends, and what is needed to speak to them in numbers.
pub struct Real {
    pub runtime: Runtime,
    pub store: Arc<dyn Store>,
    pub feed: Arc<dyn Feed>,
    /// What each user's stream was given.
    pub appended: HashMap<usize, Vec<Appended>>,
    publisher: Arc<dyn Publisher>,
    dispatch: Arc<dyn Dispatcher>,
    bus: MemoryBus,
    clock: Arc<ManualClock>,
    receivers: HashMap<usize, Box<dyn TokenSource>>,
    tokens: HashMap<usize, Vec<milepost::dispatch::Token>>,
    rows: HashMap<Id, OutboxId>,
    /// Before the first entry of each stream, and how many entries it has had.
    starts: HashMap<usize, (Position, usize)>,
}

impl Real {
    /// Fresh backends in memory, on a clock that moves only when told to.
    pub fn in_memory() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without IO needs nothing");
        let clock = Arc::new(ManualClock::default());
        let bus = runtime.block_on(async { MemoryBus::new(&BusConfig::default()) });
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
        Self {
            runtime,
            store,
            feed: Arc::new(bus.clone()),
            appended: HashMap::new(),
            publisher: Arc::new(bus.clone()),
            dispatch: Arc::new(MemoryDispatch::new()),
            bus,
            clock,
            receivers: HashMap::new(),
            tokens: HashMap::new(),
            rows: HashMap::new(),
            starts: HashMap::new(),
        }
    }

    fn row(&mut self, row: &store::OutboxRow) -> Row {
        let event = told(&row.event);
        self.note(event.task, row.id);
        Row { id: event.task, user: user_number(&row.owner), event }
    }

    /// A task ends once, so it has one row for ever.
    fn note(&mut self, task: Id, row: OutboxId) {
        let first = *self.rows.entry(task).or_insert(row);
        assert_eq!(first, row, "I1: task {task} ended twice");
    }

    /// What a mistaken fence would be: whichever attempt there is.
    fn latest(&mut self, fence: Fence) -> Fence {
        Fence { attempt: self.shown(fence.task).map_or(0, |shown| shown.attempt), ..fence }
    }

    fn receiver(&mut self, worker: usize) -> &mut Box<dyn TokenSource> {
        let (runtime, dispatch) = (&self.runtime, &self.dispatch);
        self.receivers.entry(worker).or_insert_with(|| {
            runtime.block_on(dispatch.receiver(&replica(worker))).expect("memory dispatch opens")
        })
    }

    fn start(&mut self, user: usize) -> Position {
        let (runtime, feed) = (&self.runtime, &self.feed);
        let start = self
            .starts
            .entry(user)
            .or_insert_with(|| (runtime.block_on(feed.head(&user_id(user))).expect("memory answers"), 0));
        start.0.clone()
    }
}

pub fn user_id(user: usize) -> UserId {
    UserId::new(format!("user-{user}")).unwrap()
}

fn user_number(user: &UserId) -> usize {
    user.as_str().trim_start_matches("user-").parse().unwrap()
}

pub fn task_id(task: Id) -> TaskId {
    TaskId::from_uuid(uuid::Uuid::from_u128(task as u128 + 1))
}

pub fn number(task: TaskId) -> Id {
    usize::try_from(task.as_uuid().as_u128() - 1).unwrap()
}

fn replica(worker: usize) -> ReplicaId {
    ReplicaId::new(format!("worker-{worker}")).unwrap()
}

fn name(index: u32) -> ItemName {
    ItemName::new(format!("node-{index}")).unwrap()
}

fn fenced(fence: Fence) -> store::Fence {
    store::Fence { task: task_id(fence.task), attempt: Attempt(fence.attempt) }
}

/// The event as the worlds agree on it.
pub fn told(event: &Event) -> Told {
    Told {
        task: number(event.task_id),
        attempt: event.attempt.0,
        seq: event.seq.0,
        kind: event.kind,
        status: event.status,
        counts: event.counts,
        items: event.items.iter().map(|item| item.index).collect(),
    }
}

fn event(told: &Told) -> Event {
    let change = |index: &u32| ItemChange {
        index: *index,
        name: name(*index),
        state: ItemState::Succeeded,
        effect: None,
        error: None,
        done_us: None,
        tries: None,
        step: None,
    };
    let progress = progress(task_id(told.task), told.attempt, told.seq);
    let items = told.items.iter().map(change).collect();
    let mut event = Event { kind: told.kind, status: told.status, items, ..progress };
    event.set_counts(told.counts);
    event
}

fn no(error: StoreError) -> No {
    match error {
        StoreError::Fenced { .. } => No::Fenced,
        StoreError::Refused { status, .. } => No::Refused(status),
        StoreError::KeyConflict { task } => No::KeyConflict(number(task)),
        StoreError::TooManyOpen { .. } => No::TooManyOpen,
        error => panic!("the backend failed by itself: {error:?}"),
    }
}

fn new_task(new: &New) -> NewTask {
    let spec = TaskSpec::new(Draft {
        action: "wait".into(),
        parameters: serde_json::json!({"duration_ms": 1, "fail_every": 0}),
        cluster: "prod".into(),
        items: (0..new.items).map(|index| name(index).as_str().to_owned()).collect(),
        max_attempts: Some(TRIES_MAX),
        ..Draft::default()
    });
    let key = new.key.map(|(key, body)| IdempotencyKey { key: key.to_string(), fingerprint: [body; 32] });
    NewTask {
        id: task_id(new.id),
        owner: user_id(new.user),
        spec: spec.expect("a valid draft"),
        key,
        open_max: OPEN_MAX,
        origin: Origin::default(),
    }
}

impl World for Real {
    fn create(&mut self, new: &New) -> Answer<Made> {
        match self.runtime.block_on(self.store.create(new_task(new))).map_err(no)? {
            Created::New(task) => Ok(Made::New(number(task.id))),
            Created::Existing(task) => Ok(Made::Existing(number(task.id))),
        }
    }

    fn control(&mut self, task: Id, control: Control) -> Answer<Option<Changed>> {
        let by = By::of(user_id(0));
        let changed = self.runtime.block_on(self.store.control(task_id(task), control, &by)).map_err(no)?;
        Ok(changed.map(|changed| Changed {
            user: user_number(&changed.task.owner),
            status: changed.task.state.status,
            attempt: changed.task.state.attempt.0,
            counts: changed.task.counts,
            held: changed.task.worker.is_some(),
            row: changed.outbox.map(|row| self.row(&row)),
        }))
    }

    fn claim(&mut self, worker: usize) -> Answer<Option<Held>> {
        let rules = ClaimRules { lease: LEASE, per_cluster_max: CLUSTER_MAX };
        let claim = self.runtime.block_on(self.store.claim(&replica(worker), &rules)).map_err(no)?;
        Ok(claim.map(|claim| Held {
            fence: Fence { task: number(claim.task.id), attempt: claim.task.state.attempt.0 },
            user: user_number(&claim.task.owner),
            status: claim.task.state.status,
            tries: claim.task.state.tries,
            counts: claim.task.counts,
            pending: claim.pending.iter().map(|(index, _)| *index).collect(),
        }))
    }

    fn renew(&mut self, fence: Fence) -> Answer<Option<Status>> {
        let renewed = self.runtime.block_on(self.store.renew(&[fenced(fence)], LEASE)).map_err(no)?;
        Ok(match renewed[..] {
            [Renewal::Held { status, .. }] => Some(status),
            [Renewal::Lost] => None,
            _ => panic!("one answer for one lease: {renewed:?}"),
        })
    }

    fn record(&mut self, fence: Fence, results: &[(u32, ItemOutcome)]) -> Answer<Counts> {
        let result = |(index, outcome): &(u32, ItemOutcome)| ItemResult {
            index: *index,
            name: name(*index),
            outcome: outcome.clone(),
            tries: 1,
            finished_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let results: Vec<_> = results.iter().map(result).collect();
        let before = self.shown(fence.task).map_or(Counts::default(), |shown| shown.counts);
        let fence = if mutant::is(Mutant::UpdatesWithoutTheAttempt) { self.latest(fence) } else { fence };
        let counts = self.runtime.block_on(self.store.record(fenced(fence), &results)).map_err(no)?;
        if mutant::is(Mutant::CountsBlindly) {
            let succeeded = before.succeeded + u32::try_from(results.len()).unwrap();
            return Ok(Counts { succeeded, ..counts });
        }
        Ok(counts)
    }

    fn finish(&mut self, told: &Told) -> Answer<Id> {
        let fence = fenced(Fence { task: told.task, attempt: told.attempt });
        let row = self.runtime.block_on(self.store.finish(fence, &event(told))).map_err(no)?;
        self.note(told.task, row);
        Ok(told.task)
    }

    fn hand_over(&mut self, fence: Fence) -> Answer<Status> {
        self.runtime.block_on(self.store.hand_over(fenced(fence))).map_err(no)
    }

    fn unpublished(&mut self, limit: u32) -> Answer<Vec<Row>> {
        let rows = self.runtime.block_on(self.store.unpublished(Duration::ZERO, limit)).map_err(no)?;
        Ok(rows.iter().map(|row| self.row(row)).collect())
    }

    fn published(&mut self, rows: &[Id]) -> Answer<()> {
        let rows: Vec<_> = rows.iter().map(|row| self.rows[row]).collect();
        self.runtime.block_on(self.store.published(&rows)).map_err(no)
    }

    fn claimable(&mut self, limit: u32) -> Answer<Vec<Id>> {
        let tasks = self.runtime.block_on(self.store.claimable(limit)).map_err(no)?;
        Ok(tasks.into_iter().map(number).collect())
    }

    fn give_up(&mut self, limit: u32) -> Answer<Vec<Status>> {
        self.runtime.block_on(self.store.give_up(limit)).map_err(no)
    }

    fn publish(&mut self, user: usize, told: &Told) -> Answer<Put> {
        self.start(user);
        let event = event(told);
        match self.runtime.block_on(self.publisher.publish(&user_id(user), &event)) {
            Ok(Published::Appended(position)) => {
                self.starts.get_mut(&user).expect("it has a start").1 += 1;
                self.appended.entry(user).or_default().push(Appended { position, event });
                Ok(Put::Added)
            }
            Ok(Published::Repeat) => Ok(Put::Repeat),
            Err(BusError::Fenced { .. }) if mutant::is(Mutant::PublishesWithoutTheAttempt) => Ok(Put::Added),
            Err(BusError::Fenced { .. }) => Err(No::Fenced),
            Err(error) => panic!("the backend failed by itself: {error:?}"),
        }
    }

    fn newest(&mut self, user: usize, task: Id) -> Answer<Option<(u32, u64)>> {
        let live = self.runtime.block_on(self.feed.live(&user_id(user), &[task_id(task)]));
        Ok(live.expect("memory answers").first().map(|event| (event.attempt.0, event.seq.0)))
    }

    fn notify(&mut self, task: Id) -> Answer<()> {
        self.runtime.block_on(self.dispatch.notify(task_id(task))).expect("memory answers");
        Ok(())
    }

    fn receive(&mut self, worker: usize) -> Answer<Option<Id>> {
        self.receiver(worker);
        let receiver = self.receivers.get_mut(&worker).expect("it was just opened");
        let tokens = self.runtime.block_on(receiver.receive(1, Duration::ZERO)).expect("memory answers");
        let token = tokens.first().and_then(|token| token.task_id).map(number);
        self.tokens.entry(worker).or_default().extend(tokens);
        Ok(token)
    }

    fn ack(&mut self, worker: usize) -> Answer<()> {
        for token in self.tokens.remove(&worker).unwrap_or_default() {
            let receiver = self.receivers.get_mut(&worker).expect("its tokens came through it");
            self.runtime.block_on(receiver.ack(token)).expect("memory answers");
        }
        Ok(())
    }

    fn die(&mut self, worker: usize) {
        self.tokens.remove(&worker);
        self.receivers.remove(&worker);
    }

    fn pass(&mut self, ms: u64) {
        let by = Duration::from_millis(ms);
        self.clock.advance(by);
        self.runtime.block_on(tokio::time::advance(by));
    }

    fn trim(&mut self, user: usize, keep: usize) {
        self.start(user);
        self.runtime.block_on(async { self.bus.trim(&user_id(user), keep) });
    }

    fn wipe(&mut self, user: usize) {
        self.start(user);
        self.runtime.block_on(async { self.bus.wipe(&user_id(user)) });
        self.starts.remove(&user);
        self.start(user);
    }

    fn shown(&mut self, task: Id) -> Option<Shown> {
        let id = task_id(task);
        let found = self.runtime.block_on(self.store.find(id)).map_err(no).expect("the store answers")?;
        let query = ItemQuery { state: None, after: None, limit: ALL };
        let items =
            self.runtime.block_on(self.store.items(id, &query)).map_err(no).expect("the store answers");
        Some(Shown {
            status: found.state.status,
            attempt: found.state.attempt.0,
            tries: found.state.tries,
            held: found.worker.is_some(),
            counts: found.counts,
            results: items.into_iter().map(|item| item.result.map(|result| result.outcome)).collect(),
        })
    }

    fn waiting(&mut self) -> Waiting {
        let backlog = self.runtime.block_on(self.store.backlog()).map_err(no).expect("the store answers");
        let store::Backlog { queued, held, lapsed, outbox, .. } = backlog;
        Waiting { queued, held, lapsed, outbox }
    }

    fn stream(&mut self, user: usize) -> (Vec<(Id, u32, u64)>, usize) {
        let start = self.start(user);
        let appended = self.starts[&user].1;
        let all = self.appended.get(&user).map_or(&[][..], Vec::as_slice);
        let all = &all[all.len() - appended..];
        // The oldest place that can be continued has everything that is kept after it.
        for n in 0..=appended {
            let after = if n == 0 { &start } else { &all[n - 1].position };
            let replay = self.runtime.block_on(self.feed.replay(&user_id(user), after, ALL as usize));
            if let Replay::Page { entries, .. } = replay.expect("memory answers") {
                let place = |entry: &Entry| (number(entry.task_id), entry.attempt.0, entry.seq.0);
                return (entries.iter().map(place).collect(), appended);
            }
        }
        panic!("the newest place of the stream cannot be continued");
    }
}
