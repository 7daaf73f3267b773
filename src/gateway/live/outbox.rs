//! What waits to be written to one socket.
//!
//! Empty and without memory while idle: a vector behind a mutex and one waker. Bounded in bytes. Past
//! `coalesce_bytes`, a newer progress of a task takes the place of the older one that still waits, moves to the end,
//! and counts how many events it stands for; moving keeps what is written in order of position, so that a client can
//! resume from the last frame it got. Anything but progress is never dropped. Past `bytes_max` the socket is closed
//! as slow, and its client resumes. Not here: writing ([`super::session`]).

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::close::Close;
use super::protocol::Frame;
use crate::bus::Loss;
use crate::task::TaskId;

/// What a queued frame costs beside its bytes, about.
const SLOT_BYTES: usize = 64;
/// Empty slots past which the queue is packed, if they are also half of it.
const HOLES_MAX: usize = 64;

/// Bounds of one outbox.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes past which progress is merged.
    pub coalesce_bytes: usize,
    /// Bytes past which the socket is closed.
    pub bytes_max: usize,
}

/// Something to write.
#[derive(Debug, Clone)]
pub enum Item {
    /// An event, and how many it stands for.
    Event {
        /// Its frame.
        frame: Arc<Frame>,
        /// How many events the frame stands for; 1 for itself alone.
        merged: u32,
    },
    /// Entries may be missing here: the client needs a fresh snapshot.
    Resync(Loss),
}

/// Everything that waited, taken at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// What to write, in order.
    pub items: Vec<Item>,
    /// Whether to send a ping.
    pub ping: bool,
    /// Whether to end the connection after writing.
    pub close: Option<Close>,
}

/// What a push did. Nothing, for a socket that is being closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Events that took the place of an older one, which need not be written any more.
    pub merged: u64,
    /// Whether the queue was full: this push made the socket slow, and it is being closed.
    pub overflow: bool,
}

/// The queue of one socket. Filled by anyone, emptied by its writer.
#[derive(Debug)]
pub struct Outbox {
    bounds: Bounds,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Vec<Option<Item>>,
    bytes: usize,
    holes: usize,
    /// Where the waiting progress of each task is. Made when there is pressure, gone with the next take.
    newest: Option<HashMap<TaskId, usize>>,
    ping: bool,
    close: Option<Close>,
    waker: Option<Waker>,
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, inner: Mutex::default() }
    }

    /// Queues events that came together, so that they are written together.
    pub fn push(&self, frames: &[Arc<Frame>]) -> Pushed {
        let (pushed, waker) = {
            let mut inner = self.lock();
            let mut pushed = Pushed::default();
            for frame in frames {
                inner.push(frame, self.bounds, &mut pushed);
            }
            (pushed, inner.waker.take())
        };
        wake(waker);
        pushed
    }

    /// Queues the news that entries may be missing. Another one that already waits last is enough.
    pub fn resync(&self, loss: Loss) {
        self.change(|inner| {
            if inner.close.is_none() && !matches!(inner.queue.last(), Some(Some(Item::Resync(_)))) {
                inner.queue.push(Some(Item::Resync(loss)));
            }
        });
    }

    /// Asks for a ping.
    pub fn ping(&self) {
        self.change(|inner| inner.ping = true);
    }

    /// Ends the connection once what waits is written; at once for [`Close::Gone`] and [`Close::Slow`], of which the
    /// client would not get to read it. The first reason stays, but for `Gone`, which overrules any.
    pub fn close(&self, close: Close) {
        self.change(|inner| inner.end(close));
    }

    /// Whether the connection is being ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().close.is_some()
    }

    /// Waits until there is something and takes all of it. One caller at a time. Cancel-safe: nothing is lost.
    pub async fn take(&self) -> Batch {
        poll_fn(|context| self.poll_take(context)).await
    }

    fn poll_take(&self, context: &Context<'_>) -> Poll<Batch> {
        let mut inner = self.lock();
        if inner.queue.is_empty() && !inner.ping && inner.close.is_none() {
            inner.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(inner.take())
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = self.lock();
            change(&mut inner);
            inner.waker.take()
        };
        wake(waker);
    }

    /// Every change leaves the queue whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Inner {
    fn push(&mut self, frame: &Arc<Frame>, bounds: Bounds, pushed: &mut Pushed) {
        if self.close.is_some() {
            return;
        }
        let merged = if frame.is_progress() { self.absorb(frame, bounds) } else { 0 };
        let cost = cost(frame);
        if self.bytes + cost > bounds.bytes_max && self.bytes > 0 {
            self.end(Close::Slow);
            pushed.overflow = true;
            return;
        }
        self.bytes += cost;
        if frame.is_progress()
            && let Some(newest) = &mut self.newest
        {
            newest.insert(frame.task, self.queue.len());
        }
        self.queue.push(Some(Item::Event { frame: Arc::clone(frame), merged: merged + 1 }));
        pushed.merged += u64::from(merged > 0);
    }

    /// Under pressure, takes the waiting progress of the frame's task out and says how many events it stood for.
    fn absorb(&mut self, frame: &Frame, bounds: Bounds) -> u32 {
        if self.bytes + cost(frame) <= bounds.coalesce_bytes {
            return 0;
        }
        if self.newest.is_none() {
            self.index();
        }
        let at = self.newest.as_mut().and_then(|newest| newest.remove(&frame.task));
        let older = at.and_then(|at| self.queue[at].take());
        let Some(Item::Event { frame: older, merged }) = older else {
            return 0;
        };
        self.bytes -= cost(&older);
        self.holes += 1;
        self.pack();
        merged
    }

    fn index(&mut self) {
        let progress = self.queue.iter().enumerate().filter_map(|(at, item)| match item {
            Some(Item::Event { frame, .. }) if frame.is_progress() => Some((frame.task, at)),
            _ => None,
        });
        self.newest = Some(progress.collect());
    }

    /// Takes empty slots out once they are many, so that merging does not make the queue longer and longer.
    fn pack(&mut self) {
        if self.holes > HOLES_MAX && self.holes * 2 > self.queue.len() {
            self.queue.retain(Option::is_some);
            self.holes = 0;
            self.index();
        }
    }

    fn end(&mut self, close: Close) {
        if self.close.is_none() || close == Close::Gone {
            self.close = Some(close);
        }
        if matches!(close, Close::Gone | Close::Slow) {
            self.clear();
        }
    }

    fn clear(&mut self) -> Vec<Option<Item>> {
        (self.bytes, self.holes) = (0, 0);
        self.newest = None;
        std::mem::take(&mut self.queue)
    }

    fn take(&mut self) -> Batch {
        let items = self.clear().into_iter().flatten().collect();
        Batch { items, ping: std::mem::take(&mut self.ping), close: self.close }
    }
}

fn cost(frame: &Frame) -> usize {
    frame.len() + SLOT_BYTES
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::bus::Entry;
    use crate::task::{Attempt, EntryId, Epoch, Position, Seq};

    /// A frame of task number `task`: progress, or its end.
    fn frame(at: u64, task: u128, terminal: bool, padding: usize) -> Arc<Frame> {
        let kind = if terminal { "complete" } else { "progress" };
        let body = format!(r#"{{"type":"{kind}","message":"{}"}}"#, "m".repeat(padding));
        let entry = Entry {
            position: Position::new(Epoch::new("e").unwrap(), EntryId::counted(at)),
            task_id: TaskId::from_uuid(uuid::Uuid::from_u128(task)),
            attempt: Attempt(1),
            seq: Seq(at),
            terminal,
            body: body.into_bytes().into(),
            receipt: None,
        };
        Arc::new(Frame::new(entry).unwrap())
    }

    fn outbox(coalesce_bytes: usize, bytes_max: usize) -> Outbox {
        Outbox::new(Bounds { coalesce_bytes, bytes_max })
    }

    fn push(outbox: &Outbox, frame: &Arc<Frame>) -> Pushed {
        outbox.push(std::slice::from_ref(frame))
    }

    /// What waits, as `(place, terminal, merged)`.
    fn taken(outbox: &Outbox) -> (Vec<(u64, bool, u32)>, Option<Close>) {
        let batch = outbox.take().now_or_never().unwrap_or_default();
        let events = batch.items.into_iter().filter_map(|item| match item {
            Item::Event { frame, merged } => Some((frame.position.id.major, frame.terminal, merged)),
            Item::Resync(_) => None,
        });
        (events.collect(), batch.close)
    }

    #[test]
    fn without_pressure_everything_waits_in_order() {
        let outbox = outbox(1 << 20, 1 << 20);
        for at in 1..=3 {
            assert_eq!(push(&outbox, &frame(at, 7, false, 0)), Pushed::default());
        }
        assert_eq!(taken(&outbox).0, [(1, false, 1), (2, false, 1), (3, false, 1)]);
        assert!(outbox.take().now_or_never().is_none(), "and then nothing does");
    }

    #[test]
    fn what_comes_together_waits_in_order_under_pressure_too() {
        let outbox = outbox(0, 1 << 20);
        let frames: Vec<_> = (1..=4).map(|at| frame(at, 7, at == 4, 0)).collect();
        assert_eq!(outbox.push(&frames), Pushed { merged: 2, overflow: false });
        assert_eq!(taken(&outbox).0, [(3, false, 3), (4, true, 1)]);
    }

    #[test]
    fn under_pressure_newer_progress_stands_for_the_older_and_comes_last() {
        let outbox = outbox(0, 1 << 20);
        push(&outbox, &frame(1, 7, false, 0));
        push(&outbox, &frame(2, 8, false, 0));
        assert_eq!(push(&outbox, &frame(3, 7, false, 0)).merged, 1);
        push(&outbox, &frame(4, 7, true, 0));
        assert_eq!(taken(&outbox).0, [(2, false, 1), (3, false, 2), (4, true, 1)]);
    }

    #[test]
    fn an_endless_flow_of_one_task_takes_bounded_room() {
        let outbox = outbox(0, 1 << 20);
        for at in 1..=100_000 {
            push(&outbox, &frame(at, 7, false, 0));
        }
        assert!(outbox.lock().queue.len() < 4 * HOLES_MAX);
        assert_eq!(taken(&outbox).0, [(100_000, false, 100_000)]);
    }

    #[test]
    fn what_cannot_be_merged_overflows_into_a_close() {
        let outbox = outbox(0, 1_000);
        assert!(!push(&outbox, &frame(1, 1, true, 2_000)).overflow, "one frame always fits");
        assert!(push(&outbox, &frame(2, 2, true, 0)).overflow);
        assert!(!push(&outbox, &frame(3, 3, true, 0)).overflow, "that is told once");
        assert_eq!(taken(&outbox), (Vec::new(), Some(Close::Slow)));
    }

    #[test]
    fn a_shutdown_lets_what_waits_be_written_first() {
        let outbox = outbox(0, 1_000);
        push(&outbox, &frame(1, 1, true, 0));
        outbox.close(Close::Expired);
        outbox.close(Close::Idle);
        assert_eq!(taken(&outbox), (vec![(1, true, 1)], Some(Close::Expired)), "the first reason stays");
        outbox.close(Close::Gone);
        assert_eq!(taken(&outbox), (Vec::new(), Some(Close::Gone)));
    }

    #[test]
    fn losses_in_a_row_are_one_resync() {
        let outbox = outbox(0, 1_000);
        outbox.resync(Loss::Epoch);
        outbox.resync(Loss::Reader);
        push(&outbox, &frame(1, 1, false, 0));
        outbox.resync(Loss::Reader);
        let items = outbox.take().now_or_never().unwrap().items;
        assert!(matches!(
            items[..],
            [Item::Resync(Loss::Epoch), Item::Event { .. }, Item::Resync(Loss::Reader)]
        ));
    }

    #[tokio::test]
    async fn a_waiting_writer_is_woken() {
        let outbox = Arc::new(outbox(0, 1_000));
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.take().await.items.len() }
        });
        tokio::task::yield_now().await;
        push(&outbox, &frame(1, 1, false, 0));
        assert_eq!(waiting.await.unwrap(), 1);
    }

    proptest! {
        /// Whatever is pushed and whenever it is taken: order by position, every end present, every event accounted
        /// for, no more bytes than allowed.
        #[test]
        fn order_is_kept_ends_are_kept_and_bytes_are_bounded(
            pushes in prop::collection::vec((0_u128..5, prop::bool::weighted(0.2), 0_usize..400, prop::bool::weighted(0.05)), 0..400),
            coalesce_bytes in 0_usize..3_000,
            bytes_max in 10_000_usize..200_000,
        ) {
            let bounds = Bounds { coalesce_bytes, bytes_max };
            let outbox = Outbox::new(bounds);
            let (mut written, mut ends, mut accepted) = (Vec::new(), Vec::new(), 0_u64);
            for (at, (task, terminal, padding, take)) in (1_u64..).zip(pushes) {
                if push(&outbox, &frame(at, task, terminal, padding)).overflow {
                    return Ok(());
                }
                accepted += 1;
                if terminal {
                    ends.push(at);
                }
                prop_assert!(outbox.lock().bytes <= bounds.bytes_max);
                if take {
                    written.extend(taken(&outbox).0);
                }
            }
            written.extend(taken(&outbox).0);
            prop_assert!(written.is_sorted_by(|a, b| a.0 < b.0), "{:?}", written);
            let written_ends: Vec<_> = written.iter().filter(|(_, terminal, _)| *terminal).map(|(at, ..)| *at).collect();
            prop_assert_eq!(written_ends, ends);
            prop_assert_eq!(written.iter().map(|(.., merged)| u64::from(*merged)).sum::<u64>(), accepted);
        }
    }
}
