//! A history, sorted by what the checks ask: per task, per socket, per fault. Grows with the lines, about a hundred bytes
//! for each event. Not here: judgement ([`super::checks`]).

use std::collections::{BTreeMap, HashMap};

use super::read::Place;
use super::record::{
    Call, EventSeen, Execution, FaultStep, Gauge, ItemRow, ItemsDump, Link, Meta, Phase, Record,
    SnapshotSeen, SocketStep, TaskDump, TaskSeen,
};
use crate::task::{Attempt, Counts, ItemState, Seq, Status, TaskId};

/// `deliver_within_ms` when a history does not say.
const DELIVER_WITHIN_MS: u64 = 30_000;
/// `settle_ms` when a history does not say.
const SETTLE_MS: u64 = 15_000;

/// Everything that was noted of a run.
#[derive(Debug, Default)]
pub struct History {
    /// About the run.
    pub meta: Meta,
    /// Faults by id.
    pub faults: BTreeMap<u64, FaultFacts>,
    /// Calls in the order of their answers.
    pub calls: Vec<(Place, Call)>,
    /// What is known of each task.
    pub tasks: BTreeMap<TaskId, TaskFacts>,
    /// What is known of each socket.
    pub sockets: Vec<SocketFacts>,
    /// Numbers at the end.
    pub gauges: Vec<(Place, Gauge)>,
    /// When the run was over and quiet.
    pub end_us: Option<i64>,
    /// The latest time in it.
    pub last_us: i64,
    /// Lines read.
    pub lines: u64,
    /// Lines of kinds that this release does not know.
    pub unknown: u64,
    by_name: HashMap<String, usize>,
}

/// A fault over its life.
#[derive(Debug, Clone, Default)]
pub struct FaultFacts {
    /// Where it first appears.
    pub place: Place,
    /// What kind.
    pub fault: String,
    /// To whom.
    pub target: Option<String>,
    /// When it was made.
    pub injected_us: Option<i64>,
    /// What proves that it hit something.
    pub bit: Option<String>,
    /// When it was taken away.
    pub healed_us: Option<i64>,
    /// When everything worked again.
    pub recovered_us: Option<i64>,
    /// Whether it may take published events.
    pub loses: bool,
}

/// What is known of a task.
#[derive(Debug, Default)]
pub struct TaskFacts {
    /// Where its submit was answered well, and to whom.
    pub accepted: Vec<(Place, usize)>,
    /// Whether its submit said that it must be given up.
    pub poison: bool,
    /// When a user paused it, or asked for another change that gives an attempt back.
    pub paused_us: Vec<i64>,
    /// Its record at the end. More than one line must agree.
    pub dumps: Vec<(Place, TaskDump)>,
    /// Its items at the end.
    pub rows: Vec<(Place, ItemRow)>,
    /// Executions of its items.
    pub executions: Vec<(Place, Execution)>,
}

impl TaskFacts {
    /// The record at the end.
    #[must_use]
    pub fn dump(&self) -> Option<&TaskDump> {
        self.dumps.last().map(|(_, dump)| dump)
    }
}

/// What is known of a socket.
#[derive(Debug, Default)]
pub struct SocketFacts {
    /// Its name.
    pub name: String,
    /// Whose tasks it watches; unknown when its connects were not noted.
    pub user: Option<String>,
    /// Whether its frames are noted as they came.
    pub raw: bool,
    /// What it saw, in order.
    pub sights: Vec<(Place, i64, Sight)>,
}

/// Something that a socket saw.
#[derive(Debug)]
pub enum Sight {
    /// A gateway greeted it.
    Connected {
        /// Whether nothing was lost.
        recovered: bool,
    },
    /// The connection is gone.
    Lost,
    /// It went away for good.
    Left,
    /// A snapshot.
    Snapshot(Vec<TaskSeen>),
    /// An event.
    Event(Box<EventFacts>),
}

/// What is kept of an event.
#[derive(Debug)]
pub struct EventFacts {
    /// Which task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: Attempt,
    /// Its number.
    pub seq: Seq,
    /// How many events it stands for.
    pub merged: u64,
    /// Status after it.
    pub status: Status,
    /// Counts after it.
    pub counts: Counts,
    /// Items that ended with it.
    pub ended: Box<[(u32, ItemState)]>,
    /// Fingerprint of its body.
    pub body: Option<u64>,
    /// Whether the client dropped it.
    pub repeat: bool,
}

impl EventFacts {
    /// Where it stands among the events of its task.
    #[must_use]
    pub fn order(&self) -> (Attempt, Seq) {
        (self.attempt, self.seq)
    }
}

impl History {
    /// Takes in one line. `None` is a line of a kind that this release does not know.
    pub fn push(&mut self, place: Place, record: Option<Record>) {
        self.lines += 1;
        let Some(record) = record else {
            self.unknown += 1;
            return;
        };
        self.last_us = self.last_us.max(time(&record));
        match record {
            Record::Meta(meta) => self.meta = meta,
            Record::Fault(step) => self.fault(place, step),
            Record::Call(call) => self.call(place, call),
            Record::Socket(step) => self.socket_step(place, step),
            Record::Snapshot(SnapshotSeen { at_us, socket, tasks, .. }) => {
                self.socket(&socket).sights.push((place, at_us, Sight::Snapshot(tasks)));
            }
            Record::Event(event) => self.event(place, event),
            Record::Execution(run) => self.task(run.task).executions.push((place, run)),
            Record::Task(dump) => self.task(dump.task).dumps.push((place, dump)),
            Record::Items(ItemsDump { task, items }) => {
                self.task(task).rows.extend(items.into_iter().map(|row| (place, row)));
            }
            Record::Gauge(gauge) => self.gauges.push((place, gauge)),
            Record::End(end) => self.end_us = Some(end.at_us),
        }
    }

    /// A history of these records, as if each were a line of one file.
    #[must_use]
    pub fn of(records: impl IntoIterator<Item = Record>) -> Self {
        let mut history = Self::default();
        for (line, record) in (1..).zip(records) {
            history.push(Place { file: 0, line }, Some(record));
        }
        history
    }

    fn task(&mut self, id: TaskId) -> &mut TaskFacts {
        self.tasks.entry(id).or_default()
    }

    fn socket(&mut self, name: &str) -> &mut SocketFacts {
        let place = self.by_name.get(name).copied().unwrap_or_else(|| {
            self.sockets.push(SocketFacts { name: name.to_owned(), ..SocketFacts::default() });
            self.by_name.insert(name.to_owned(), self.sockets.len() - 1);
            self.sockets.len() - 1
        });
        &mut self.sockets[place]
    }

    fn fault(&mut self, place: Place, step: FaultStep) {
        let facts = self.faults.entry(step.id).or_insert_with(|| FaultFacts {
            place,
            fault: step.fault.clone(),
            target: step.target.clone(),
            ..FaultFacts::default()
        });
        facts.loses |= step.loses;
        match step.phase {
            Phase::Injected => facts.injected_us = Some(step.at_us),
            Phase::Bit => facts.bit = Some(step.evidence.unwrap_or_default()),
            Phase::Healed => facts.healed_us = Some(step.at_us),
            Phase::Recovered => facts.recovered_us = Some(step.at_us),
        }
    }

    fn call(&mut self, place: Place, call: Call) {
        let nth = self.calls.len();
        if let Some(id) = call.task {
            let facts = self.task(id);
            match call.call.as_str() {
                "submit" if call.is_accepted() => {
                    facts.accepted.push((place, nth));
                    facts.poison |= call.poison;
                }
                "pause" => facts.paused_us.push(call.at_us),
                _ => {}
            }
        }
        self.calls.push((place, call));
    }

    fn socket_step(&mut self, place: Place, step: SocketStep) {
        let facts = self.socket(&step.socket);
        facts.user = Some(step.user);
        facts.raw |= step.raw;
        let sight = match step.link {
            Link::Connected => Sight::Connected { recovered: step.recovered },
            Link::Lost => Sight::Lost,
            Link::Left => Sight::Left,
        };
        facts.sights.push((place, step.at_us, sight));
    }

    fn event(&mut self, place: Place, event: EventSeen) {
        let facts = EventFacts {
            task: event.task,
            attempt: event.attempt,
            seq: event.seq,
            merged: event.merged,
            status: event.status,
            counts: event.counts,
            ended: event.ended.into(),
            body: event.body.and_then(|body| u64::from_str_radix(&body, 16).ok()),
            repeat: event.repeat,
        };
        let sight = Sight::Event(Box::new(facts));
        self.socket(&event.socket).sights.push((place, event.at_us, sight));
    }

    /// Every event that any socket saw.
    pub fn events(&self) -> impl Iterator<Item = (Place, &SocketFacts, &EventFacts)> {
        self.sockets.iter().flat_map(|socket| {
            socket.sights.iter().filter_map(move |(place, _, sight)| match sight {
                Sight::Event(event) => Some((*place, socket, &**event)),
                _ => None,
            })
        })
    }

    /// The accepted submits of a task.
    pub fn submits(&self, task: &TaskFacts) -> impl Iterator<Item = (Place, &Call)> {
        task.accepted.iter().map(|(place, nth)| (*place, &self.calls[*nth].1))
    }

    /// Who owns a task, by the record or else by its submit.
    #[must_use]
    pub fn owner<'a>(&'a self, task: &'a TaskFacts) -> Option<&'a str> {
        let by_submit = || self.submits(task).next().map(|(_, call)| call.user.as_str());
        task.dump().map(|dump| dump.owner.as_str()).or_else(by_submit)
    }

    /// Whether the record at the end was noted.
    #[must_use]
    pub fn has_dump(&self) -> bool {
        self.tasks.values().any(|task| !task.dumps.is_empty())
    }

    /// How long a socket may take to hold the end of a task, in microseconds.
    #[must_use]
    pub fn deliver_within_us(&self) -> i64 {
        us(self.meta.deliver_within_ms.unwrap_or(DELIVER_WITHIN_MS))
    }

    /// How long after its healing a fault may still show, in microseconds.
    #[must_use]
    pub fn settle_us(&self) -> i64 {
        us(self.meta.settle_ms.unwrap_or(SETTLE_MS))
    }

    /// When the last fault was taken away.
    #[must_use]
    pub fn calm_since_us(&self) -> i64 {
        self.faults.values().filter_map(|fault| fault.healed_us.or(fault.injected_us)).max().unwrap_or(0)
    }

    /// Faults that may show somewhere in this span of time.
    pub fn faults_between(&self, from_us: i64, to_us: i64) -> impl Iterator<Item = &FaultFacts> {
        let settle = self.settle_us();
        self.faults.values().filter(move |fault| {
            let Some(injected) = fault.injected_us else { return false };
            let gone = fault.healed_us.unwrap_or(injected).saturating_add(settle);
            injected <= to_us && gone >= from_us
        })
    }
}

fn us(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000)
}

fn time(record: &Record) -> i64 {
    match record {
        Record::Meta(meta) => meta.at_us,
        Record::Fault(step) => step.at_us,
        Record::Call(call) => call.at_us,
        Record::Socket(step) => step.at_us,
        Record::Snapshot(snapshot) => snapshot.at_us,
        Record::Event(event) => event.at_us,
        Record::Execution(run) => run.at_us,
        Record::End(end) => end.at_us,
        Record::Task(_) | Record::Items(_) | Record::Gauge(_) => 0,
    }
}
