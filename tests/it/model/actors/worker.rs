//! Workers: claim, first event, items, results, end, last event, and what may become of a worker in between.

use milepost::task::{Effect, EventKind, ItemOutcome, Status};

use super::hand::{Hand, Left, Order};
use super::{Actors, GHOSTS_MAX};
use crate::model::steps::{Fate, Write};
use crate::model::world::{Fence, No, Put, Told, World};

impl<W: World> Actors<W> {
    pub(super) fn claim(&mut self, worker: usize, calls: u8) {
        if self.hands[worker].is_some() {
            return;
        }
        let _ = self.call("receive", |world| world.receive(worker));
        let claimed = self.call("claim", |world| world.claim(worker));
        let Ok(claimed) = claimed else { return };
        if calls > 1 {
            let _ = self.call("ack", |world| world.ack(worker));
        }
        if let Some(held) = claimed {
            self.tally.claims += 1;
            let Fence { task, attempt } = held.fence;
            let cut_short = self.ran.open.insert(task, attempt).is_some();
            *self.ran.cut_short.entry(task).or_default() += u32::from(cut_short);
            self.tally.takeovers += u32::from(held.tries > 1);
            self.hands[worker] = Some(Hand::new(&held));
        }
        if calls > 2 {
            self.with(worker, Fate::Fine, Self::publish);
        }
    }

    /// Lets a worker do something with its task. It keeps the task if it gets it back.
    pub(super) fn with(
        &mut self,
        worker: usize,
        fate: Fate,
        act: impl FnOnce(&mut Self, Hand) -> Option<Hand>,
    ) {
        self.fate = fate;
        if let Some(hand) = self.hands[worker].take() {
            self.hands[worker] = act(self, hand);
        }
    }

    pub(super) fn run(&mut self, worker: usize, good: bool) {
        if let Some(hand) = &mut self.hands[worker]
            && hand.order == Order::Run
            && let Some(index) = hand.pending.pop_front()
        {
            let outcome = if good {
                ItemOutcome::Succeeded { effect: Effect::Changed }
            } else {
                ItemOutcome::failed("no")
            };
            hand.settle(index, outcome);
            *self.ran.items.entry((hand.fence.task, index)).or_default() += 1;
        }
    }

    /// All that a worker ran of the task is recorded.
    fn ended_in_order(&mut self, hand: &Hand) {
        let Fence { task, attempt } = hand.fence;
        if self.ran.open.get(&task) == Some(&attempt) && hand.unrecorded.is_empty() {
            self.ran.open.remove(&task);
        }
    }

    pub(super) fn publish(&mut self, mut hand: Hand) -> Option<Hand> {
        if hand.terminal.is_some() {
            return Some(hand);
        }
        let Some(event) = hand.next() else { return Some(hand) };
        match self.call("publish", |world| world.publish(hand.user, &event)) {
            Ok(put) => {
                self.tally.repeats += u32::from(put == Put::Repeat);
                hand.unknown = None;
                Some(hand)
            }
            Err(No::Fenced) => None,
            Err(_) => Some(hand),
        }
    }

    pub(super) fn record(&mut self, mut hand: Hand, results: usize) -> Option<Hand> {
        let n = hand.unrecorded.len().min(results);
        if n == 0 {
            return Some(hand);
        }
        match self.call("record", |world| world.record(hand.fence, &hand.unrecorded[..n])) {
            Ok(counts) => {
                hand.recorded = counts;
                hand.unrecorded.drain(..n);
                Some(hand)
            }
            Err(No::Away) => Some(hand),
            Err(_) => None,
        }
    }

    pub(super) fn renew(&mut self, mut hand: Hand) -> Option<Hand> {
        if hand.left != Left::Not || hand.terminal.is_some() {
            return Some(hand);
        }
        match self.call("renew", |world| world.renew(hand.fence)) {
            Ok(Some(status)) => hand.obey(status),
            Ok(None) => return None,
            Err(_) => {}
        }
        Some(hand)
    }

    /// The next call of leaving: what is left is recorded, then told, then the task is ended or given back.
    pub(super) fn end(&mut self, mut hand: Hand) -> Option<Hand> {
        match hand.left {
            Left::Committed => return Some(self.tell_end(hand)),
            Left::Published => return self.mark(hand),
            Left::GivenBack(status) => return self.tell_given_back(hand, status),
            Left::Not => {}
        }
        if let Some(event) = hand.terminal.clone() {
            return self.finish(hand, &event);
        }
        if hand.order == Order::Cancel {
            while let Some(index) = hand.pending.pop_front() {
                hand.settle(index, ItemOutcome::Cancelled);
            }
        }
        if hand.order == Order::Run && !hand.pending.is_empty() {
            return Some(hand);
        }
        if !hand.unrecorded.is_empty() {
            return self.record(hand, usize::MAX);
        }
        if hand.unknown.is_some() || !hand.said.is_empty() || !hand.untold.is_empty() {
            return self.publish(hand);
        }
        match hand.terminal() {
            Some(event) => self.finish(hand, &event),
            None => self.hand_over(hand),
        }
    }

    fn finish(&mut self, mut hand: Hand, event: &Told) -> Option<Hand> {
        match self.call("finish", |world| world.finish(event)) {
            Ok(_) => {
                self.tally.ends += 1;
                self.ended_in_order(&hand);
                hand.left = Left::Committed;
                Some(hand)
            }
            Err(No::Refused(_)) => {
                hand.terminal = None;
                self.hand_over(hand)
            }
            Err(No::Away) => Some(hand),
            Err(_) => None,
        }
    }

    fn hand_over(&mut self, mut hand: Hand) -> Option<Hand> {
        match self.call("hand_over", |world| world.hand_over(hand.fence)) {
            Ok(status) => {
                let kind = if status == Status::Queued { EventKind::Requeued } else { EventKind::Paused };
                hand.said.push_back((kind, status));
                self.ended_in_order(&hand);
                hand.left = Left::GivenBack(status);
                Some(hand)
            }
            Err(No::Refused(Status::Cancelling)) => {
                hand.obey(Status::Cancelling);
                Some(hand)
            }
            Err(No::Away) => Some(hand),
            Err(_) => None,
        }
    }

    fn tell_end(&mut self, mut hand: Hand) -> Hand {
        let event = hand.terminal.clone().expect("it was committed");
        if self.call("publish", |world| world.publish(hand.user, &event)) != Err(No::Away) {
            hand.left = Left::Published;
        }
        hand
    }

    fn mark(&mut self, hand: Hand) -> Option<Hand> {
        let marked = self.call("published", |world| world.published(&[hand.fence.task]));
        marked.is_err().then_some(hand)
    }

    fn tell_given_back(&mut self, hand: Hand, status: Status) -> Option<Hand> {
        if hand.unknown.is_some() || !hand.said.is_empty() {
            return self.publish(hand);
        }
        if status == Status::Queued {
            let _ = self.call("notify", |world| world.notify(hand.fence.task));
        }
        None
    }

    // What happens to workers.

    pub(super) fn crash(&mut self, worker: usize) {
        self.world.die(worker);
        self.hands[worker] = None;
    }

    pub(super) fn freeze(&mut self, worker: usize) {
        let Some(hand) = self.hands[worker].take() else { return };
        self.ghosts.push_back(hand);
        if self.ghosts.len() > GHOSTS_MAX {
            self.ghosts.pop_front();
        }
    }

    /// A ghost keeps trying, whatever it was answered before.
    pub(super) fn late(&mut self, ghost: usize, write: Write) {
        if self.ghosts.is_empty() {
            return;
        }
        let ghost = ghost % self.ghosts.len();
        let hand = &mut self.ghosts[ghost];
        match write {
            Write::Record if hand.left == Left::Not => {
                if let Some(index) = hand.pending.pop_front() {
                    hand.settle(index, ItemOutcome::failed("late"));
                    *self.ran.items.entry((hand.fence.task, index)).or_default() += 1;
                }
            }
            Write::Publish if hand.unknown.is_none() && hand.said.is_empty() => {
                hand.said.push_back((EventKind::Progress, hand.status));
            }
            _ => {}
        }
        let mut hand = hand.clone();
        let kept = match write {
            Write::Renew => self.renew(hand),
            Write::Record => self.record(hand, usize::MAX),
            Write::Publish => self.publish(hand),
            Write::Finish => match hand.terminal().filter(|_| hand.unrecorded.is_empty()) {
                Some(event) => self.finish(hand, &event),
                None => Some(hand),
            },
            Write::HandOver => self.hand_over(hand),
        };
        if let Some(hand) = kept {
            self.ghosts[ghost] = hand;
        }
    }
}
