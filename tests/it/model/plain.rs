//! The reference: what must be true, as plain maps. Written from the promises of the ports, not from their code.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use milepost::store::Control;
use milepost::task::{Counts, EventKind, ItemOutcome, Status};

use super::world::{
    Answer, CLUSTER_MAX, Changed, Fence, Held, Id, LEASE_MS, Made, New, No, OPEN_MAX, Put, Row, Shown,
    TRIES_MAX, Told, USERS, Waiting, World,
};

/// The plain maps.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    now_ms: u64,
    tasks: BTreeMap<Id, Task>,
    keys: HashMap<(usize, u8), (u8, Id)>,
    /// In order of commit; a task has one at most, numbered like the task.
    rows: Vec<Row>,
    told: BTreeSet<Id>,
    claims: u64,
    served: [u64; USERS],
    tokens: VecDeque<Id>,
    in_hand: HashMap<usize, Vec<Id>>,
    streams: [Stream; USERS],
}

#[derive(Debug, Clone)]
struct Task {
    user: usize,
    status: Status,
    attempt: u32,
    tries: u16,
    held: bool,
    until_ms: u64,
    results: Vec<Option<ItemOutcome>>,
}

#[derive(Debug, Clone, Default)]
struct Stream {
    all: Vec<Told>,
    cut: usize,
    newest: BTreeMap<Id, (u32, u64)>,
}

impl Task {
    fn counts(&self) -> Counts {
        let mut counts = Counts::new(u32::try_from(self.results.len()).unwrap());
        self.results.iter().flatten().for_each(|outcome| counts.add(outcome));
        counts
    }

    fn lapsed(&self, now_ms: u64) -> bool {
        self.status.is_held() && self.until_ms <= now_ms
    }

    fn claimable(&self, now_ms: u64) -> bool {
        self.status == Status::Queued || (self.lapsed(now_ms) && self.tries < TRIES_MAX)
    }
}

impl Plain {
    fn fenced(&mut self, fence: Fence) -> Answer<&mut Task> {
        self.tasks.get_mut(&fence.task).filter(|task| task.attempt == fence.attempt).ok_or(No::Fenced)
    }

    fn made(&self, id: Id) -> Changed {
        let task = &self.tasks[&id];
        let (status, attempt) = (task.status, task.attempt);
        Changed { user: task.user, status, attempt, counts: task.counts(), held: task.held, row: None }
    }

    /// Ends a task that nobody decided for, under a new attempt.
    fn end(&mut self, id: Id, status: Status, rest: &ItemOutcome) -> Row {
        let task = self.tasks.get_mut(&id).unwrap();
        for result in &mut task.results {
            result.get_or_insert_with(|| rest.clone());
        }
        (task.status, task.attempt, task.held) = (status, task.attempt + 1, false);
        let (user, attempt, counts) = (task.user, task.attempt, task.counts());
        let kind = EventKind::terminal(status);
        let event = Told { task: id, attempt, seq: 1, kind, status, counts, items: Vec::new() };
        self.commit(user, event)
    }

    fn commit(&mut self, user: usize, event: Told) -> Row {
        let row = Row { id: event.task, user, event };
        self.rows.push(row.clone());
        row
    }
}

impl World for Plain {
    fn create(&mut self, new: &New) -> Answer<Made> {
        if let Some((key, body)) = new.key
            && let Some((first, id)) = self.keys.get(&(new.user, key))
        {
            return if *first == body { Ok(Made::Existing(*id)) } else { Err(No::KeyConflict(*id)) };
        }
        let open = self.tasks.values().filter(|task| task.user == new.user && !task.status.is_terminal());
        if open.count() >= OPEN_MAX as usize {
            return Err(No::TooManyOpen);
        }
        if let Some((key, body)) = new.key {
            self.keys.insert((new.user, key), (body, new.id));
        }
        let task = Task {
            user: new.user,
            status: Status::Queued,
            attempt: 0,
            tries: 0,
            held: false,
            until_ms: 0,
            results: vec![None; new.items as usize],
        };
        self.tasks.insert(new.id, task);
        Ok(Made::New(new.id))
    }

    fn control(&mut self, id: Id, control: Control) -> Answer<Option<Changed>> {
        use Status::{Cancelled, Cancelling, Paused, Queued, Running};
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(None) };
        let mut row = None;
        match (control, task.status) {
            (Control::Cancel, Queued | Paused) => {
                row = Some(self.end(id, Cancelled, &ItemOutcome::Cancelled));
            }
            (Control::Cancel, Running) => task.status = Cancelling,
            (Control::Cancel, Cancelling | Cancelled) | (Control::Pause, Paused) => {}
            (Control::Pause, Queued) => task.status = Paused,
            (Control::Pause, Running) => (task.status, task.tries) = (Paused, task.tries - 1),
            (Control::Resume, Paused) => (task.status, task.held) = (Queued, false),
            (Control::Concurrency(_), status) if !status.is_terminal() => {}
            (_, status) => return Err(No::Refused(status)),
        }
        Ok(Some(Changed { row, ..self.made(id) }))
    }

    fn claim(&mut self, _: usize) -> Answer<Option<Held>> {
        let now_ms = self.now_ms;
        let held = |user: usize| {
            self.tasks.values().filter(|task| task.user == user && task.status.is_held()).count()
        };
        let all: usize = (0..USERS).map(held).sum();
        let fits = |task: &Task| all - usize::from(task.status.is_held()) < CLUSTER_MAX as usize;
        let open = self.tasks.iter().filter(|(_, task)| task.claimable(now_ms) && fits(task));
        let best = open.min_by_key(|(id, task)| (held(task.user), self.served[task.user], **id));
        let Some(id) = best.map(|(id, _)| *id) else { return Ok(None) };
        self.claims += 1;
        let task = self.tasks.get_mut(&id).unwrap();
        self.served[task.user] = self.claims;
        if task.status == Status::Queued {
            task.status = Status::Running;
        }
        (task.attempt, task.tries, task.held) = (task.attempt + 1, task.tries + 1, true);
        task.until_ms = now_ms + LEASE_MS;
        let pending = (0..).zip(&task.results).filter(|(_, result)| result.is_none()).map(|(i, _)| i);
        Ok(Some(Held {
            fence: Fence { task: id, attempt: task.attempt },
            user: task.user,
            status: task.status,
            tries: task.tries,
            counts: task.counts(),
            pending: pending.collect(),
        }))
    }

    fn renew(&mut self, fence: Fence) -> Answer<Option<Status>> {
        let until_ms = self.now_ms + LEASE_MS;
        Ok(self.fenced(fence).ok().filter(|task| task.held).map(|task| {
            task.until_ms = until_ms;
            task.status
        }))
    }

    fn record(&mut self, fence: Fence, results: &[(u32, ItemOutcome)]) -> Answer<Counts> {
        let task = self.fenced(fence)?;
        if task.status.is_terminal() {
            return Err(No::Fenced);
        }
        for (index, outcome) in results {
            if let Some(place @ None) = task.results.get_mut(*index as usize) {
                *place = Some(outcome.clone());
            }
        }
        Ok(task.counts())
    }

    fn finish(&mut self, event: &Told) -> Answer<Id> {
        let task = self.fenced(Fence { task: event.task, attempt: event.attempt })?;
        if task.status == event.status {
            return Ok(event.task);
        }
        if !task.status.is_held() || task.counts().pending() > 0 {
            return Err(No::Refused(task.status));
        }
        (task.status, task.held) = (event.status, false);
        let user = task.user;
        Ok(self.commit(user, event.clone()).id)
    }

    fn hand_over(&mut self, fence: Fence) -> Answer<Status> {
        let task = self.fenced(fence)?;
        match task.status {
            Status::Running => (task.status, task.tries) = (Status::Queued, task.tries - 1),
            Status::Queued | Status::Paused => {}
            status => return Err(No::Refused(status)),
        }
        task.held = false;
        Ok(task.status)
    }

    fn unpublished(&mut self, limit: u32) -> Answer<Vec<Row>> {
        let open = self.rows.iter().filter(|row| !self.told.contains(&row.id));
        Ok(open.take(limit as usize).cloned().collect())
    }

    fn published(&mut self, rows: &[Id]) -> Answer<()> {
        self.told.extend(rows);
        Ok(())
    }

    fn claimable(&mut self, limit: u32) -> Answer<Vec<Id>> {
        let open = self.tasks.iter().filter(|(_, task)| task.claimable(self.now_ms));
        Ok(open.take(limit as usize).map(|(id, _)| *id).collect())
    }

    fn give_up(&mut self, limit: u32) -> Answer<Vec<Status>> {
        let used_up = |task: &Task| task.lapsed(self.now_ms) && task.tries >= TRIES_MAX;
        let found = self.tasks.iter().filter(|(_, task)| used_up(task)).take(limit as usize);
        let found: Vec<_> = found.map(|(id, task)| (*id, task.status, task.tries)).collect();
        let end = |(id, status, tries): (Id, Status, u16)| match status {
            Status::Cancelling => self.end(id, Status::Cancelled, &ItemOutcome::Cancelled).event.status,
            _ => {
                let rest = ItemOutcome::failed(format!("gave up after {tries} attempts"));
                self.end(id, Status::Failed, &rest).event.status
            }
        };
        Ok(found.into_iter().map(end).collect())
    }

    fn publish(&mut self, user: usize, event: &Told) -> Answer<Put> {
        let stream = &mut self.streams[user];
        if let Some(newest) = stream.newest.get(&event.task) {
            if event.attempt < newest.0 {
                return Err(No::Fenced);
            }
            if event.order() <= *newest {
                return Ok(Put::Repeat);
            }
        }
        stream.newest.insert(event.task, event.order());
        stream.all.push(event.clone());
        Ok(Put::Added)
    }

    fn newest(&mut self, user: usize, task: Id) -> Answer<Option<(u32, u64)>> {
        Ok(self.streams[user].newest.get(&task).copied())
    }

    fn notify(&mut self, task: Id) -> Answer<()> {
        self.tokens.push_back(task);
        Ok(())
    }

    fn receive(&mut self, worker: usize) -> Answer<Option<Id>> {
        let token = self.tokens.pop_front();
        self.in_hand.entry(worker).or_default().extend(token);
        Ok(token)
    }

    fn ack(&mut self, worker: usize) -> Answer<()> {
        self.in_hand.remove(&worker);
        Ok(())
    }

    fn die(&mut self, worker: usize) {
        self.tokens.extend(self.in_hand.remove(&worker).unwrap_or_default());
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn trim(&mut self, user: usize, keep: usize) {
        let stream = &mut self.streams[user];
        stream.cut = stream.cut.max(stream.all.len().saturating_sub(keep));
    }

    fn wipe(&mut self, user: usize) {
        self.streams[user] = Stream::default();
    }

    fn shown(&mut self, task: Id) -> Option<Shown> {
        self.tasks.get(&task).map(|task| Shown {
            status: task.status,
            attempt: task.attempt,
            tries: task.tries,
            held: task.held,
            counts: task.counts(),
            results: task.results.clone(),
        })
    }

    fn waiting(&mut self) -> Waiting {
        let count = |is: &dyn Fn(&Task) -> bool| self.tasks.values().filter(|task| is(task)).count() as u64;
        Waiting {
            queued: count(&|task| task.status == Status::Queued),
            held: count(&|task| task.status.is_held()),
            lapsed: count(&|task| task.lapsed(self.now_ms)),
            outbox: (self.rows.len() - self.told.len()) as u64,
        }
    }

    fn stream(&mut self, user: usize) -> (Vec<(Id, u32, u64)>, usize) {
        let stream = &self.streams[user];
        let kept = stream.all[stream.cut..].iter().map(|event| (event.task, event.attempt, event.seq));
        (kept.collect(), stream.all.len())
    }
}
