//! A task in a worker's hands: what is left to run, to record and to tell.

use std::collections::VecDeque;

use milepost::task::{Counts, EventKind, ItemOutcome, Status};

use crate::model::world::{Fence, Held, Told};

/// What a worker was told to do with its task. Later ones outrank earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Run,
    GiveBack,
    Cancel,
}

/// A task in a worker's hands.
#[derive(Debug, Clone)]
pub(super) struct Hand {
    pub(super) fence: Fence,
    pub(super) user: usize,
    pub(super) order: Order,
    pub(super) status: Status,
    pub(super) recorded: Counts,
    pub(super) counted: Counts,
    pub(super) pending: VecDeque<u32>,
    pub(super) unrecorded: Vec<(u32, ItemOutcome)>,
    pub(super) untold: Vec<u32>,
    pub(super) said: VecDeque<(EventKind, Status)>,
    pub(super) seq: u64,
    pub(super) unknown: Option<Told>,
    pub(super) terminal: Option<Told>,
    /// How far leaving has come.
    pub(super) left: Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Not,
    Committed,
    Published,
    GivenBack(Status),
}

impl Hand {
    pub(super) fn new(held: &Held) -> Self {
        let order = if held.status == Status::Cancelling { Order::Cancel } else { Order::Run };
        Self {
            fence: held.fence,
            user: held.user,
            order,
            status: held.status,
            recorded: held.counts,
            counted: held.counts,
            pending: held.pending.iter().copied().collect(),
            unrecorded: Vec::new(),
            untold: Vec::new(),
            said: VecDeque::from([(EventKind::Started, held.status)]),
            seq: 0,
            unknown: None,
            terminal: None,
            left: Left::Not,
        }
    }

    pub(super) fn settle(&mut self, index: u32, outcome: ItemOutcome) {
        self.counted.add(&outcome);
        self.untold.push(index);
        self.unrecorded.push((index, outcome));
    }

    /// The event to publish; the same one until it is known to be out.
    pub(super) fn next(&mut self) -> Option<Told> {
        if self.unknown.is_none() {
            let progress = (!self.untold.is_empty()).then_some((EventKind::Progress, self.status));
            let (kind, status) = self.said.pop_front().or(progress)?;
            self.status = status;
            self.seq += 1;
            let items = std::mem::take(&mut self.untold);
            self.unknown = Some(self.event(kind, self.counted, items));
        }
        self.unknown.clone()
    }

    fn event(&self, kind: EventKind, counts: Counts, items: Vec<u32>) -> Told {
        let Fence { task, attempt } = self.fence;
        Told { task, attempt, seq: self.seq, kind, status: self.status, counts, items }
    }

    /// The terminal event, once all is recorded.
    pub(super) fn terminal(&mut self) -> Option<Told> {
        let status = self.recorded.verdict()?;
        let next = Self { seq: self.seq + 1, status, ..self.clone() };
        let event = next.event(EventKind::terminal(status), self.recorded, Vec::new());
        Some(self.terminal.get_or_insert(event).clone())
    }

    pub(super) fn obey(&mut self, status: Status) {
        let order = match status {
            Status::Cancelling => Order::Cancel,
            Status::Paused | Status::Queued => Order::GiveBack,
            _ => Order::Run,
        };
        if order > self.order {
            self.order = order;
            match order {
                Order::Cancel => self.said.push_back((EventKind::Cancelling, Status::Cancelling)),
                _ => self.said.push_back((EventKind::Paused, Status::Paused)),
            }
        }
    }
}
