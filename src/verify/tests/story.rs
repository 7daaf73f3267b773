//! Makes histories of runs that could have been: a small world with tasks, workers that die, and sockets that come and go.

use proptest::prelude::*;

use crate::task::{Attempt, Counts, ItemState, Seq, Status, TaskId};
use crate::verify::record::{
    Call, End, EventSeen, Execution, FaultStep, Gauge, GaugeKind, ItemRow, ItemsDump, Link, Meta, Phase,
    Record, SnapshotSeen, SocketStep, TaskDump, TaskSeen,
};

/// What happens to one task.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// How each item ends.
    pub(super) items: Vec<ItemState>,
    /// The worker dies before these items; the item before may run again.
    pub(super) deaths: Vec<usize>,
    /// How many of the owner's sockets lose their connection at each event, by index; `true` resumes, `false` resyncs.
    pub(super) breaks: Vec<(usize, bool)>,
}

pub(super) fn id(n: u128) -> TaskId {
    TaskId::from_uuid(uuid::Uuid::from_u128(n))
}

/// The task, in the small: 3 items, one fails, no faults.
pub(super) fn calm() -> Plan {
    use ItemState::{Failed, Succeeded};
    Plan { items: vec![Succeeded, Failed, Succeeded], deaths: Vec::new(), breaks: Vec::new() }
}

/// The same with a crash before the third item, and a resumed and a resynced connection.
pub(super) fn rough() -> Plan {
    Plan { deaths: vec![2], breaks: vec![(2, true), (3, false)], ..calm() }
}

pub(super) fn any_plan() -> impl Strategy<Value = Plan> {
    let ends = vec![ItemState::Succeeded, ItemState::Failed, ItemState::Skipped];
    let items = prop::collection::vec(proptest::sample::select(ends), 1..12);
    let deaths = prop::collection::vec(0_usize..12, 0..3);
    let breaks = prop::collection::vec((0_usize..20, any::<bool>()), 0..4);
    (items, deaths, breaks).prop_map(|(items, deaths, breaks)| Plan { items, deaths, breaks })
}

/// A run of such tasks, each with an owner and two sockets of its own: one with dedupe, one raw.
pub(super) struct Story {
    lines: Vec<Record>,
    now: i64,
    faults: u64,
}

impl Story {
    pub(super) fn tell(plans: &[Plan]) -> Vec<Record> {
        let mut story = Self { lines: Vec::new(), now: 1_000_000, faults: 0 };
        story.lines.push(Record::Meta(Meta { format: 1, at_us: 0, seed: Some(7), ..Meta::default() }));
        for (n, plan) in (1..).zip(plans) {
            story.task(n, plan);
        }
        for name in ["outbox", "dispatch pending"] {
            story.gauge(name, GaugeKind::Backlog);
        }
        story.gauge("gateway memory", GaugeKind::Size);
        story.gauge("sockets", GaugeKind::Leak);
        let at_us = story.tick(60_000_000);
        story.lines.push(Record::End(End { at_us }));
        story.lines
    }

    fn tick(&mut self, by: i64) -> i64 {
        self.now += by;
        self.now
    }

    fn gauge(&mut self, name: &str, kind: GaugeKind) {
        self.lines.push(Record::Gauge(Gauge { name: name.into(), kind, value: 0.0, max: 0.0 }));
    }

    fn task(&mut self, n: u128, plan: &Plan) {
        let mut act = Act {
            user: format!("user-{n}"),
            task: id(n),
            done: Counts::new(len(&plan.items)),
            attempt: 0,
            seq: 0,
        };
        for socket in act.sockets() {
            self.link(&act, &socket, Link::Connected, false);
            self.snapshot(&socket, Vec::new());
        }
        self.tick(2_000_000);
        let at_us = self.tick(10);
        self.lines.push(Record::Call(Call {
            at_us,
            call: "submit".into(),
            user: act.user.clone(),
            key: Some(format!("key-{n}")),
            body: Some(format!("body-{n}")),
            status: Some(202),
            task: Some(act.task),
            poison: false,
        }));
        self.event(&mut act, Status::Queued, &[]);
        (act.attempt, act.seq) = (1, 0);
        self.event(&mut act, Status::Running, &[]);
        for (index, state) in plan.items.iter().enumerate() {
            if plan.deaths.contains(&index) && index > 0 {
                self.death(&mut act, index);
            }
            self.execute(&act, index);
            add(&mut act.done, *state);
            self.event(&mut act, Status::Running, &[(u32::try_from(index).unwrap(), *state)]);
            let breaks = plan.breaks.iter().filter(|(at, _)| *at == index);
            breaks.for_each(|(_, resumed)| self.reconnect(&act, *resumed));
        }
        let end = act.done.verdict().unwrap();
        self.event(&mut act, end, &[]);
        self.dump(&act, plan, end);
    }

    fn execute(&mut self, act: &Act, index: usize) {
        for did in ["get", "patch"] {
            let at_us = self.tick(10);
            self.lines.push(Record::Execution(Execution {
                at_us,
                task: act.task,
                item: format!("node-{index}"),
                attempt: Some(Attempt(act.attempt)),
                worker: Some(format!("worker-{}", act.attempt)),
                did: Some(did.into()),
            }));
        }
    }

    /// The worker dies after it began the item, and another goes on.
    fn death(&mut self, act: &mut Act, index: usize) {
        self.execute(act, index);
        self.faults += 1;
        for phase in [Phase::Injected, Phase::Bit, Phase::Healed, Phase::Recovered] {
            let at_us = self.tick(1_000);
            self.lines.push(Record::Fault(FaultStep {
                at_us,
                id: self.faults,
                fault: "kill-worker".into(),
                target: Some(format!("worker-{}", act.attempt)),
                phase,
                evidence: None,
                loses: false,
            }));
        }
        (act.attempt, act.seq) = (act.attempt + 1, 0);
        self.event(act, Status::Running, &[]);
    }

    fn event(&mut self, act: &mut Act, status: Status, ended: &[(u32, ItemState)]) {
        act.seq += 1;
        for socket in act.sockets() {
            let at_us = self.tick(10);
            self.lines.push(Record::Event(EventSeen {
                at_us,
                socket,
                position: String::new(),
                task: act.task,
                attempt: Attempt(act.attempt),
                seq: Seq(act.seq),
                merged: 1,
                status,
                counts: act.done,
                ended: ended.to_owned(),
                body: Some(format!("{:016x}", u64::from(act.attempt) * 1_000 + act.seq)),
                repeat: false,
            }));
        }
    }

    /// Every socket loses its connection and comes back. A raw one may then get an event again.
    fn reconnect(&mut self, act: &Act, resumed: bool) {
        for socket in act.sockets() {
            self.link(act, &socket, Link::Lost, false);
            self.link(act, &socket, Link::Connected, resumed);
            if resumed {
                let last = self.lines.iter().rev().find_map(|line| match line {
                    Record::Event(event) if event.socket == socket => Some(event.clone()),
                    _ => None,
                });
                let mut again = last.unwrap();
                again.repeat = !socket.ends_with("raw");
                self.lines.push(Record::Event(again));
            } else {
                let (attempt, seq) = (Attempt(act.attempt), Seq(act.seq));
                let seen =
                    TaskSeen { task: act.task, attempt, seq, status: Status::Running, counts: act.done };
                self.snapshot(&socket, vec![seen]);
            }
        }
    }

    fn link(&mut self, act: &Act, socket: &str, link: Link, recovered: bool) {
        let at_us = self.tick(10);
        self.lines.push(Record::Socket(SocketStep {
            at_us,
            socket: socket.to_owned(),
            user: act.user.clone(),
            link,
            server: None,
            position: None,
            recovered,
            raw: socket.ends_with("raw"),
            reason: None,
        }));
    }

    fn snapshot(&mut self, socket: &str, tasks: Vec<TaskSeen>) {
        let at_us = self.tick(10);
        let snapshot = SnapshotSeen { at_us, socket: socket.to_owned(), position: String::new(), tasks };
        self.lines.push(Record::Snapshot(snapshot));
    }

    fn dump(&mut self, act: &Act, plan: &Plan, status: Status) {
        self.lines.push(Record::Task(TaskDump {
            task: act.task,
            owner: act.user.clone(),
            status,
            attempt: Attempt(act.attempt),
            counts: act.done,
            max_attempts: Some(5),
            finished_us: Some(self.now),
        }));
        let row = |(index, state): (usize, &ItemState)| ItemRow {
            index: u32::try_from(index).unwrap(),
            name: format!("node-{index}"),
            state: *state,
        };
        let items = plan.items.iter().enumerate().map(row).collect();
        self.lines.push(Record::Items(ItemsDump { task: act.task, items }));
    }
}

struct Act {
    user: String,
    task: TaskId,
    done: Counts,
    attempt: u32,
    seq: u64,
}

impl Act {
    fn sockets(&self) -> [String; 2] {
        [format!("{}-tab", self.user), format!("{}-raw", self.user)]
    }
}

fn len<T>(things: &[T]) -> u32 {
    u32::try_from(things.len()).unwrap()
}

fn add(counts: &mut Counts, state: ItemState) {
    match state {
        ItemState::Succeeded => counts.succeeded += 1,
        ItemState::Failed => counts.failed += 1,
        _ => counts.skipped += 1,
    }
}
