//! One user's stream in memory: what is appended, kept, trimmed and replayed. Pure; time comes in as a value.
//!
//! Not here: locks and delivery ([`super`]).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::bus::{BusError, Entry, FENCE_TTL, Loss, Published, Replay};
use crate::config::BusConfig;
use crate::planted::{self, Bug};
use crate::task::{Attempt, EntryId, Epoch, Event, ItemResult, Position, Seq, TaskId};

/// Tasks of one user whose newest event is kept. Past it the one that was silent longest is forgotten, and with it
/// its fence here; the fence of the record stays.
const LIVE_MAX: usize = 1_000;

/// The bounds of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    entries_max: usize,
    retention: Duration,
    /// How long a stream and a task's live state outlive their last event.
    pub(super) ttl: Duration,
}

impl From<&BusConfig> for Limits {
    fn from(config: &BusConfig) -> Self {
        Self { entries_max: config.entries_max.max(1), retention: config.retention, ttl: config.stream_ttl }
    }
}

/// One life of a user's stream.
#[derive(Debug)]
pub(super) struct Stream {
    epoch: Epoch,
    entries: VecDeque<Kept>,
    /// Id of the newest entry ever appended; ids are dense from 1.
    head: u64,
    live: HashMap<TaskId, Live>,
    touched: Instant,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    at: Instant,
}

#[derive(Debug)]
struct Live {
    event: Event,
    /// Results told by events before this one are recorded.
    kept_from: (Attempt, Seq),
    at: Instant,
}

impl Live {
    /// Whether the fence has outlived everybody who may still try to write.
    fn is_over(&self, limits: &Limits, now: Instant) -> bool {
        let ttl = if self.event.is_terminal() { limits.ttl } else { limits.ttl.max(FENCE_TTL) };
        now.duration_since(self.at) >= ttl
    }
}

impl Stream {
    pub(super) fn new(now: Instant) -> Self {
        let (entries, live) = (VecDeque::new(), HashMap::new());
        Self { epoch: Epoch::generate(), entries, head: 0, live, touched: now }
    }

    /// The place after the newest entry.
    pub(super) fn position(&self) -> Position {
        Position::new(self.epoch.clone(), EntryId::counted(self.head))
    }

    /// Whether nothing was appended for the whole time to live, and no task needs its fence any more.
    pub(super) fn is_idle(&self, limits: &Limits, now: Instant) -> bool {
        now.duration_since(self.touched) >= limits.ttl
            && self.live.values().all(|live| live.is_over(limits, now))
    }

    /// Checks the fence and appends. Results of events up to `recorded` need not be kept any more.
    pub(super) fn append(
        &mut self,
        event: &Event,
        recorded: Option<Seq>,
        body: Bytes,
        limits: &Limits,
        now: Instant,
    ) -> Result<Published, BusError> {
        let known = self.live.get(&event.task_id);
        if let Some(last) = known.map(|live| live.event.order()) {
            if event.attempt < last.0 {
                return Err(BusError::Fenced { current: last.0 });
            }
            if event.order() <= last {
                return Ok(Published::Repeat);
            }
        }
        let known_from = known.map_or((Attempt(0), Seq(0)), |live| live.kept_from);
        let kept_from = recorded.map_or(known_from, |recorded| (event.attempt, recorded.next()));
        self.head += 1;
        self.touched = now;
        let position = self.position();
        self.entries.push_back(Kept { entry: entry(event, position.clone(), body), at: now });
        self.live.insert(event.task_id, Live { event: without_items(event), kept_from, at: now });
        self.trim(limits, now);
        Ok(Published::Appended(position))
    }

    /// Forgets entries past the bounds, and tasks that were silent for the whole time to live.
    pub(super) fn trim(&mut self, limits: &Limits, now: Instant) {
        self.keep(limits.entries_max);
        let is_old = |kept: &Kept| now.duration_since(kept.at) >= limits.retention;
        while self.entries.front().is_some_and(is_old) {
            self.entries.pop_front();
        }
        if self.live.len() > LIVE_MAX {
            self.live.retain(|_, live| !live.is_over(limits, now));
        }
        if self.live.len() > LIVE_MAX {
            let silent = self.live.iter().min_by_key(|(_, live)| live.at).map(|(task, _)| *task);
            silent.and_then(|task| self.live.remove(&task));
        }
    }

    /// Forgets all but the newest entries.
    pub(super) fn keep(&mut self, newest: usize) {
        let excess = self.entries.len().saturating_sub(newest);
        self.entries.drain(..excess);
    }

    /// Entries after a position, or why it cannot be continued.
    pub(super) fn after(&self, after: &Position, limit: usize) -> Replay {
        let oldest = self.head - self.entries.len() as u64;
        if after.epoch != self.epoch && !planted::is(Bug::CursorWithoutEpoch) {
            return Replay::Lost(Loss::Epoch);
        }
        if after.id > EntryId::counted(self.head) {
            return Replay::Lost(Loss::Ahead);
        }
        if after.id < EntryId::counted(oldest) {
            return Replay::Lost(Loss::Trimmed);
        }
        let seen = usize::try_from(after.id.major - oldest).unwrap_or(usize::MAX);
        let kept = self.entries.iter().skip(seen);
        let entries: Vec<_> = kept.take(limit.max(1)).map(|kept| kept.entry.clone()).collect();
        Replay::Page { complete: seen + entries.len() == self.entries.len(), entries }
    }

    /// Results told by attempts of a task before `attempt` and not known to be recorded.
    pub(super) fn unrecorded(&self, task: TaskId, attempt: Attempt) -> Vec<ItemResult> {
        let Some(live) = self.live.get(&task).filter(|live| !live.event.is_terminal()) else {
            return Vec::new();
        };
        let entries = self.entries.iter().map(|kept| &kept.entry).filter(|entry| {
            entry.task_id == task && entry.attempt < attempt && (entry.attempt, entry.seq) >= live.kept_from
        });
        let events = entries.filter_map(|entry| serde_json::from_slice::<Event>(&entry.body).ok());
        events.flat_map(|event| event.results().collect::<Vec<_>>()).collect()
    }

    /// The newest events of these tasks, without their items.
    pub(super) fn live(&self, tasks: &[TaskId]) -> Vec<Event> {
        tasks.iter().filter_map(|task| self.live.get(task)).map(|live| live.event.clone()).collect()
    }
}

fn entry(event: &Event, position: Position, body: Bytes) -> Entry {
    Entry {
        position,
        task_id: event.task_id,
        attempt: event.attempt,
        seq: event.seq,
        terminal: event.is_terminal(),
        body,
        receipt: None,
    }
}

fn without_items(event: &Event) -> Event {
    let mut event = event.clone();
    event.items = Vec::new();
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract::{progress, terminal};

    fn limits() -> Limits {
        Limits { entries_max: 3, retention: Duration::from_secs(60), ttl: Duration::from_secs(600) }
    }

    fn ids(replay: Replay) -> Vec<u64> {
        match replay {
            Replay::Page { entries, .. } => entries.iter().map(|entry| entry.position.id.major).collect(),
            Replay::Lost(loss) => panic!("lost: {loss:?}"),
        }
    }

    fn filled(now: Instant, entries: u64) -> (Stream, Position, TaskId) {
        let (mut stream, task) = (Stream::new(now), TaskId::generate());
        let start = stream.position();
        for seq in 1..=entries {
            stream.append(&progress(task, 1, seq), None, Bytes::new(), &limits(), now).unwrap();
        }
        (stream, start, task)
    }

    #[test]
    fn only_the_newest_entries_are_kept_and_the_gap_is_told() {
        let (stream, start, _) = filled(Instant::now(), 5);
        assert!(matches!(stream.after(&start, 10), Replay::Lost(Loss::Trimmed)));
        let kept = Position::new(start.epoch, EntryId::counted(2));
        assert_eq!(ids(stream.after(&kept, 10)), [3, 4, 5]);
    }

    #[test]
    fn old_entries_go_after_the_retention_but_the_head_stays() {
        let now = Instant::now();
        let (mut stream, _, task) = filled(now, 2);
        let head = stream.position();
        stream.trim(&limits(), now + Duration::from_secs(61));
        assert_eq!(ids(stream.after(&head, 10)), Vec::<u64>::new());
        assert_eq!(head, stream.position());
        assert!(!stream.is_idle(&limits(), now + Duration::from_secs(600)), "its task may go on");
        assert!(stream.is_idle(&limits(), now + FENCE_TTL));
        stream.append(&terminal(task, 1, 3), None, Bytes::new(), &limits(), now).unwrap();
        assert!(!stream.is_idle(&limits(), now + Duration::from_secs(61)));
        assert!(stream.is_idle(&limits(), now + Duration::from_secs(600)));
    }

    #[test]
    fn live_state_of_a_user_is_bounded_and_the_silent_go_first() {
        let (now, mut stream) = (Instant::now(), Stream::new(Instant::now()));
        let tasks: Vec<_> = (0..=LIVE_MAX as u64).map(|n| (n, TaskId::generate())).collect();
        for (n, task) in &tasks {
            let at = now + Duration::from_millis(*n);
            stream.append(&progress(*task, 1, 1), None, Bytes::new(), &limits(), at).unwrap();
        }
        let all: Vec<_> = tasks.iter().map(|(_, task)| *task).collect();
        assert_eq!(stream.live(&all).len(), LIVE_MAX);
        assert!(stream.live(&all[..1]).is_empty());
    }
}
