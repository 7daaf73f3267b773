//! Readers: the gateway's side of a live connection, step by step, with the product's own client behind it.
//!
//! A connection follows first, then continues at the client's position or takes the head, reads the record, merges
//! what is live, and replays from that head. Anything may happen between two of these steps. What the client is given
//! is compared with what was appended: nothing lost, nothing twice, nothing backwards, nothing invented.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use milepost::bus::{Entry, Following, Inbox, Loss, Replay};
use milepost::client::frame::{EventFrame, Frame, Hello, SnapshotFrame};
use milepost::client::session::{Session, Taken};
use milepost::store::Task;
use milepost::task::{Attempt, Event, Position, Seq, Snapshot, TaskId, UserId};

use super::mutant::{self, Mutant};
use super::real::{Real, number, user_id};
use super::world::{Id, USERS};

/// Readers, shared out among the users.
pub const READERS: usize = 3;
/// Entries in a page, few so that there are many.
const PAGE: usize = 2;
/// Finished tasks in a snapshot: all of them.
const RECENT: u32 = 1_000;

/// What a follow delivered and nobody has written yet.
#[derive(Default)]
struct Waiting(Mutex<VecDeque<Delivery>>);

enum Delivery {
    Entry(Entry),
    Lost,
}

impl Inbox for Waiting {
    fn deliver(&self, _: &UserId, entries: Vec<Entry>) {
        self.0.lock().unwrap().extend(entries.into_iter().map(Delivery::Entry));
    }

    fn lost(&self, _: &UserId, _: Loss) {
        self.0.lock().unwrap().push_back(Delivery::Lost);
    }
}

/// One connection.
struct Link {
    _following: Following,
    inbox: Arc<Waiting>,
    stage: Stage,
}

/// What of the events to come is in the snapshot that was just sent.
type Known = HashMap<TaskId, (Attempt, Seq)>;

enum Stage {
    Begin,
    Head,
    Record { head: Position },
    Live { head: Position, recorded: Vec<Task> },
    Replay { seen: Position, known: Known },
    Follow { seen: Position },
}

/// One client, over all its connections.
pub struct Reader {
    user: usize,
    owner: UserId,
    client: Session,
    link: Option<Link>,
    /// The last frame's place, and what the client may leave out after it because its snapshot has it.
    last: Option<Position>,
    known: Known,
    /// The newest event of each task since the last snapshot, and how many items it said were done.
    newest: HashMap<Id, (Attempt, Seq, u32)>,
    pub snapshots: u32,
    pub recoveries: u32,
    pub losses: u32,
    pub events: u32,
}

impl Reader {
    pub fn new(reader: usize) -> Self {
        Self {
            user: reader % USERS,
            owner: user_id(reader % USERS),
            client: Session::default(),
            link: None,
            last: None,
            known: Known::new(),
            newest: HashMap::new(),
            snapshots: 0,
            recoveries: 0,
            losses: 0,
            events: 0,
        }
    }

    pub fn cut(&mut self) {
        self.link = None;
    }

    pub fn connect(&mut self, real: &Real) {
        if self.link.is_some() {
            return;
        }
        let inbox = Arc::new(Waiting::default());
        let follow = real.feed.follow(&self.owner, Arc::clone(&inbox) as Arc<dyn Inbox>);
        let following = real.runtime.block_on(follow).expect("memory answers");
        self.link = Some(Link { _following: following, inbox, stage: Stage::Begin });
    }

    /// Makes one step. Whether there was one to make.
    pub fn step(&mut self, real: &Real) -> bool {
        let Some(mut link) = self.link.take() else { return false };
        let (stage, went_on) = self.next(&link.inbox, link.stage, real);
        link.stage = stage;
        self.link = Some(link);
        went_on
    }

    /// Makes so many steps, or all there are.
    pub fn steps(&mut self, real: &Real, n: u8) {
        let _ = (0..n).take_while(|_| self.step(real)).count();
    }

    fn next(&mut self, inbox: &Waiting, stage: Stage, real: &Real) -> (Stage, bool) {
        let stage = match stage {
            Stage::Begin => self.begin(real),
            Stage::Head => {
                let head = real.feed.head(&self.owner);
                Stage::Record { head: real.runtime.block_on(head).expect("memory answers") }
            }
            Stage::Record { head } => {
                let recorded = real.runtime.block_on(real.store.snapshot(&self.owner, RECENT));
                Stage::Live { head, recorded: recorded.expect("memory answers") }
            }
            Stage::Live { head, recorded } => self.snapshot(real, head, &recorded),
            Stage::Replay { seen, known } => self.replay(real, seen, known),
            Stage::Follow { seen } => return self.follow(inbox, seen, real),
        };
        (stage, true)
    }

    fn begin(&mut self, real: &Real) -> Stage {
        let Some(position) = self.client.position() else { return Stage::Head };
        let seen: Position = position.parse().expect("a position that a gateway gave");
        match page(real, &self.owner, &seen) {
            Replay::Lost(_) if mutant::is(Mutant::ForgetsTheEpoch) => {
                let head = real.runtime.block_on(real.feed.head(&self.owner)).expect("memory answers");
                let seen = Position::new(head.epoch, seen.id);
                self.last = Some(seen.clone());
                Stage::Replay { seen, known: Known::new() }
            }
            Replay::Lost(_) => {
                self.losses += 1;
                Stage::Head
            }
            Replay::Page { .. } => {
                self.recoveries += 1;
                self.client.take(Frame::Hello(Hello { recovered: true, position: None }));
                assert_eq!(self.last.as_ref(), Some(&seen), "a client continues where it was");
                Stage::Replay { seen, known: Known::new() }
            }
        }
    }

    fn snapshot(&mut self, real: &Real, head: Position, recorded: &[Task]) -> Stage {
        let mut snapshot = Snapshot::new(recorded.iter().map(Task::view));
        let open = recorded.iter().filter(|task| !task.state.status.is_terminal());
        let open: Vec<_> = open.map(|task| task.id).collect();
        let live = real.feed.live(&self.owner, &open);
        for event in real.runtime.block_on(live).expect("memory answers") {
            snapshot.fold(&event);
        }
        let head = match mutant::is(Mutant::ReadsTheSnapshotFirst) {
            true => real.runtime.block_on(real.feed.head(&self.owner)).expect("memory answers"),
            false => head,
        };
        let known: Known = snapshot.tasks().map(|view| (view.task_id, (view.attempt, view.seq))).collect();
        let newest = snapshot.tasks().map(|view| {
            (
                number(view.task_id),
                (view.attempt, view.seq, if view.seq == Seq(0) { 0 } else { view.current }),
            )
        });
        self.newest = newest.collect();
        self.client.take(Frame::Hello(Hello { recovered: false, position: Some(head.to_string()) }));
        let frame = SnapshotFrame { position: head.to_string(), tasks: snapshot.into_tasks(), more: false };
        assert_eq!(self.client.take(Frame::Snapshot(frame)), Taken::Snapshot);
        (self.last, self.known) = (Some(head.clone()), known.clone());
        self.snapshots += 1;
        Stage::Replay { seen: head, known }
    }

    fn replay(&mut self, real: &Real, mut seen: Position, known: Known) -> Stage {
        let (entries, complete) = match page(real, &self.owner, &seen) {
            Replay::Lost(_) => {
                self.losses += 1;
                return Stage::Head;
            }
            Replay::Page { entries, complete } => (entries, complete),
        };
        for entry in entries {
            seen = entry.position.clone();
            let order = (entry.attempt, entry.seq);
            if known.get(&entry.task_id).is_none_or(|known| order > *known) {
                self.give(real, &entry);
            }
        }
        if complete { Stage::Follow { seen } } else { Stage::Replay { seen, known } }
    }

    fn follow(&mut self, inbox: &Waiting, mut seen: Position, real: &Real) -> (Stage, bool) {
        match inbox.0.lock().unwrap().pop_front() {
            None => return (Stage::Follow { seen }, false),
            Some(Delivery::Lost) => {
                self.losses += 1;
                return (Stage::Head, true);
            }
            Some(Delivery::Entry(entry)) => {
                if entry.position.epoch == seen.epoch && entry.position.id > seen.id {
                    seen = entry.position.clone();
                    self.give(real, &entry);
                }
            }
        }
        (Stage::Follow { seen }, true)
    }

    /// Gives the client an event, and holds what it makes of it to the promises.
    fn give(&mut self, real: &Real, entry: &Entry) {
        let event: Event = serde_json::from_slice(&entry.body).expect("an event");
        self.check_place(real, entry, &event);
        if mutant::is(Mutant::TellsRepeatsByPlace) {
            self.check_order(&event);
        }
        let frame = EventFrame { position: entry.position.to_string(), merged: 1, event };
        if let Taken::Event(received) = self.client.take(Frame::Event(Box::new(frame))) {
            self.events += 1;
            self.check_order(&received.event);
        }
    }

    /// I4 and I8: the entry is what was appended there, and nothing between it and the last one was left out.
    fn check_place(&mut self, real: &Real, entry: &Entry, event: &Event) {
        let appended = real.appended.get(&self.user).map_or(&[][..], Vec::as_slice);
        let here = appended.iter().position(|appended| appended.position == entry.position);
        let here = here.unwrap_or_else(|| panic!("I4: nothing was appended at {}", entry.position));
        assert_eq!(appended[here].event, *event, "I4: the event is not what was published");
        let last = self.last.replace(entry.position.clone()).expect("a hello came first");
        if last.epoch == entry.position.epoch {
            let between = appended[..here].iter().filter(|appended| appended.position.epoch == last.epoch);
            for left_out in between.filter(|appended| appended.position.id > last.id) {
                let event = &left_out.event;
                let known = self.known.get(&event.task_id);
                assert!(
                    known.is_some_and(|known| event.order() <= *known),
                    "lost: {event:?}, in no snapshot"
                );
            }
            assert!(entry.position.id > last.id, "I8: {} came after {last}", entry.position);
        }
    }

    /// I3: events that the client took as new are newer than all it knew of the task, and counts do not fall.
    fn check_order(&mut self, event: &Event) {
        let task = number(event.task_id);
        if let Some((attempt, seq, done)) = self.newest.get(&task) {
            assert!(event.order() > (*attempt, *seq), "I3: {:?} after {:?}", event.order(), (attempt, seq));
            let fell = event.attempt == *attempt && event.current < *done;
            assert!(!fell, "I3: {} done after {done} in one attempt: {event:?}", event.current);
        }
        self.newest.insert(task, (event.attempt, event.seq, event.current));
    }

    /// I2 and I7: the client knows the end of every task of its user, as the record has it.
    pub fn check_end(&self, real: &Real) {
        let tasks = real.runtime.block_on(real.store.snapshot(&self.owner, RECENT));
        for task in tasks.expect("memory answers") {
            let view = self.client.snapshot().get(task.id);
            let view =
                view.unwrap_or_else(|| panic!("I2: the client never heard of task {}", number(task.id)));
            assert_eq!(view.status, task.state.status, "I2: task {}: {view:?}", number(task.id));
            assert_eq!(view.counts, task.counts, "I7: task {}", number(task.id));
        }
    }
}

fn page(real: &Real, owner: &UserId, after: &Position) -> Replay {
    real.runtime.block_on(real.feed.replay(owner, after, PAGE)).expect("memory answers")
}
