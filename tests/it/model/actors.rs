//! Gateways, workers and maintenance as thin drivers: the order of their calls, and nothing else.
//!
//! The same drivers run in the plain maps and in the backends, so what they are answered can be compared call by call.
//! They obey answers as the roles do, but own no clock: a driver that does not notice the end of its lease stands for
//! the worker that was stopped and goes on, and only the fences keep it out.

mod hand;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;

use milepost::store::Control;
use milepost::task::{Counts, EventKind, Status};

use self::hand::{Hand, Order};

use super::steps::{Fate, Step, Write};
use super::world::{Answer, Changed, Id, Made, New, No, Row, Told, World};

/// Workers, each with one task at a time.
pub const WORKERS: usize = 3;
/// Frozen processes that are kept.
const GHOSTS_MAX: usize = 4;
/// Rows, tasks and tokens that maintenance handles in one pass.
const BATCH: u32 = 10;

/// What happened that bounds how often an item may run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// Runs of each item.
    pub items: BTreeMap<(Id, u32), u32>,
    /// Claims of each task that came while one before had not ended in order.
    pub cut_short: BTreeMap<Id, u32>,
    /// The claim of each task that has not ended in order.
    open: BTreeMap<Id, u32>,
}

/// What a run went through. A run that went through nothing shows nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub claims: u32,
    pub takeovers: u32,
    pub fenced: u32,
    pub lost_replies: u32,
    pub repeats: u32,
    pub ends: u32,
    pub same_keys: u32,
    pub key_conflicts: u32,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.claims += other.claims;
        self.takeovers += other.takeovers;
        self.fenced += other.fenced;
        self.lost_replies += other.lost_replies;
        self.repeats += other.repeats;
        self.ends += other.ends;
        self.same_keys += other.same_keys;
        self.key_conflicts += other.key_conflicts;
    }

    /// Whether everything that can go wrong did.
    pub fn is_rich(&self) -> bool {
        let Self { claims, takeovers, fenced, lost_replies, repeats, ends, same_keys, key_conflicts } = *self;
        [claims, takeovers, fenced, lost_replies, repeats, ends, same_keys, key_conflicts]
            .iter()
            .all(|n| *n > 0)
    }
}

/// Everybody who calls, in one world.
#[derive(Debug, Clone, Default)]
pub struct Actors<W> {
    pub world: W,
    /// The calls of the last step, with what they were answered.
    pub log: Vec<String>,
    pub submitted: usize,
    pub ran: Ran,
    pub tally: Tally,
    /// Submits with a key that were answered, and the task each was told of.
    pub keyed: BTreeMap<(usize, u8), Id>,
    fate: Fate,
    hands: [Option<Hand>; WORKERS],
    ghosts: VecDeque<Hand>,
}

impl<W: World> Actors<W> {
    pub fn new(world: W) -> Self {
        Self {
            world,
            log: Vec::new(),
            submitted: 0,
            ran: Ran::default(),
            tally: Tally::default(),
            keyed: BTreeMap::new(),
            fate: Fate::Fine,
            hands: [None, None, None],
            ghosts: VecDeque::new(),
        }
    }

    /// Does what the step says. Steps of readers are theirs alone.
    pub fn step(&mut self, step: &Step) {
        self.log.clear();
        self.fate = Fate::Fine;
        match *step {
            Step::Submit { user, items, key, calls, fate } => {
                self.fate = fate;
                self.submit(user, items, key, calls);
            }
            Step::Control { task, control, calls, fate } if self.submitted > 0 => {
                self.fate = fate;
                self.control(task % self.submitted, control, calls);
            }
            Step::Claim { worker, calls, fate } => {
                self.fate = fate;
                self.claim(worker, calls);
            }
            Step::Run { worker, good } => self.run(worker, good),
            Step::Publish { worker, fate } => self.with(worker, fate, Self::publish),
            Step::Record { worker, results, fate } => {
                self.with(worker, fate, |actors, hand| actors.record(hand, results));
            }
            Step::Renew { worker, fate } => self.with(worker, fate, Self::renew),
            Step::End { worker, fate } => self.with(worker, fate, Self::end),
            Step::HandOver { worker, fate } => self.with(worker, fate, |actors, mut hand| {
                hand.order = hand.order.max(Order::GiveBack);
                actors.end(hand)
            }),
            Step::Crash { worker } => self.crash(worker),
            Step::Freeze { worker } => self.freeze(worker),
            Step::Late { ghost, write } => self.late(ghost, write),
            Step::Relay { calls, fate } => {
                self.fate = fate;
                self.relay(calls);
            }
            Step::Rescue { fate } => {
                self.fate = fate;
                let _ = self.call("give_up", |world| world.give_up(BATCH));
            }
            Step::Reconcile { fate } => {
                self.fate = fate;
                self.reconcile();
            }
            Step::DoubleToken { task } if self.submitted > 0 => {
                let task = task % self.submitted;
                let _ = self.call("notify", |world| world.notify(task));
            }
            Step::LoseToken => {
                let _ = self.call("receive", |world| world.receive(WORKERS));
                let _ = self.call("ack", |world| world.ack(WORKERS));
            }
            Step::Pass { ms } => self.world.pass(ms),
            Step::Trim { user, keep } => self.world.trim(user, keep),
            Step::Wipe { user } => self.world.wipe(user),
            Step::Control { .. } | Step::DoubleToken { .. } => {}
            Step::Connect { .. } | Step::Read { .. } | Step::Cut { .. } => {}
        }
    }

    /// Makes one call, under the fate of the step if it is the first one.
    fn call<T: Debug>(&mut self, what: &str, ask: impl FnOnce(&mut W) -> Answer<T>) -> Answer<T> {
        let answer = match std::mem::take(&mut self.fate) {
            Fate::Fine => ask(&mut self.world),
            Fate::Before => Err(No::Away),
            Fate::After => {
                let lost = ask(&mut self.world);
                self.log.push(format!("{what}, reply lost: {lost:?}"));
                self.tally.lost_replies += 1;
                Err(No::Away)
            }
        };
        self.tally.fenced += u32::from(matches!(answer, Err(No::Fenced)));
        self.log.push(format!("{what}: {answer:?}"));
        answer
    }

    // The gateway: commit, tell, wake.

    fn submit(&mut self, user: usize, items: u32, key: Option<(u8, u8)>, calls: u8) {
        let new = New { id: self.submitted, user, items, key };
        self.submitted += 1;
        let made = self.call("create", |world| world.create(&new));
        match (made, key) {
            (Ok(Made::New(id) | Made::Existing(id)), Some((key, _))) => {
                self.tally.same_keys += u32::from(made == Ok(Made::Existing(id)));
                let first = *self.keyed.entry((user, key)).or_insert(id);
                assert_eq!(first, id, "I9: a key was answered with two tasks");
            }
            (Err(No::KeyConflict(_)), _) => self.tally.key_conflicts += 1,
            _ => {}
        }
        let Ok(Made::New(id)) = made else { return };
        let (kind, status, counts) = (EventKind::Queued, Status::Queued, Counts::new(items));
        let event = Told { task: id, attempt: 0, seq: 1, kind, status, counts, items: Vec::new() };
        if calls > 1 {
            let _ = self.call("publish", |world| world.publish(user, &event));
        }
        if calls > 2 {
            let _ = self.call("notify", |world| world.notify(id));
        }
    }

    fn control(&mut self, task: Id, control: Control, calls: u8) {
        let held = self.world.shown(task).is_some_and(|shown| shown.held);
        let changed = self.call("control", |world| world.control(task, control));
        let Ok(Some(changed)) = changed else { return };
        if let Some(row) = &changed.row
            && calls > 1
        {
            self.tell_committed(row, calls > 2);
        }
        if calls > 1 && !held && !changed.held {
            match control {
                Control::Cancel | Control::Concurrency(_) => {}
                Control::Pause => self.tell_control(task, &changed, EventKind::Paused),
                Control::Resume => self.tell_control(task, &changed, EventKind::Resumed),
            }
        }
        if calls > 2 && control == Control::Resume {
            let _ = self.call("notify", |world| world.notify(task));
        }
    }

    /// Publishes a committed event, then notes it.
    fn tell_committed(&mut self, row: &Row, mark: bool) {
        let put = self.call("publish", |world| world.publish(row.user, &row.event));
        if mark && !matches!(put, Err(No::Away)) {
            let _ = self.call("published", |world| world.published(&[row.id]));
        }
    }

    fn tell_control(&mut self, task: Id, changed: &Changed, kind: EventKind) {
        let user = changed.user;
        let Ok(newest) = self.call("live", |world| world.newest(user, task)) else { return };
        let seq = newest.filter(|(attempt, _)| *attempt == changed.attempt).map_or(1, |(_, seq)| seq + 1);
        let Changed { status, attempt, counts, .. } = *changed;
        let event = Told { task, attempt, seq, kind, status, counts, items: Vec::new() };
        let _ = self.call("publish", |world| world.publish(user, &event));
    }

    // Maintenance.

    fn relay(&mut self, calls: u8) {
        let Ok(rows) = self.call("unpublished", |world| world.unpublished(BATCH)) else { return };
        let mut done = Vec::new();
        for row in rows.iter().take(usize::from(calls)) {
            if self.call("publish", |world| world.publish(row.user, &row.event)) != Err(No::Away) {
                done.push(row.id);
            }
        }
        if usize::from(calls) > rows.len() {
            let _ = self.call("published", |world| world.published(&done));
        }
    }

    fn reconcile(&mut self) {
        let Ok(tasks) = self.call("claimable", |world| world.claimable(BATCH)) else { return };
        for task in tasks {
            let _ = self.call("notify", |world| world.notify(task));
        }
    }

    // After the faults.

    /// Faults are over: ghosts say their last, users resume what they paused, and work goes on until nothing is left.
    pub fn heal(&mut self) {
        (self.fate, self.log) = (Fate::Fine, Vec::new());
        for ghost in 0..self.ghosts.len() {
            for write in [Write::Publish, Write::Record, Write::Finish, Write::HandOver, Write::Renew] {
                self.late(ghost, write);
            }
        }
        for task in 0..self.submitted {
            self.control(task, Control::Resume, 9);
        }
        for _ in 0..super::HEALING_MAX {
            if self.world.waiting() == super::world::NOTHING {
                return;
            }
            self.work_on();
        }
        panic!("I10: after healing there is still {:?}", self.world.waiting());
    }

    fn work_on(&mut self) {
        for worker in 0..WORKERS {
            self.claim(worker, 9);
            for _ in 0..3 {
                self.run(worker, true);
            }
            for _ in 0..4 {
                self.with(worker, Fate::Fine, Self::renew);
                self.with(worker, Fate::Fine, Self::end);
            }
        }
        if self.hands.iter().all(Option::is_none) {
            // Only what nobody holds is left: its lease ends, and maintenance looks after it.
            self.world.pass(super::world::LEASE_MS);
            let _ = self.call("give_up", |world| world.give_up(BATCH));
            self.reconcile();
            self.relay(u8::MAX);
        }
    }
}
