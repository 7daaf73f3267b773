//! One live connection from hello to goodbye, over any transport.
//!
//! The socket is in the hub before the first frame is sent: entries that arrive while the client is brought up to
//! date wait in the outbox, and those that were replayed already are left out by position. So nothing is lost and
//! nothing comes twice. When the feed reports a loss, the same is done again in the middle of the connection.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use super::close::Close;
use super::outbox::{Batch, Item};
use super::protocol::{Control, Frame};
use super::snapshot::SnapshotError;
use super::wire::{Gone, Wire, facts};
use crate::bus::{BusError, Entry, Loss, Replay};
use crate::gateway::Shared;
use crate::gateway::error::chain;
use crate::gateway::hub::Membership;
use crate::task::{Attempt, Position, Seq, TaskId, UserId};
use crate::telemetry::metrics::Kind;

/// Entries read at once while replaying.
const REPLAY_PAGE: usize = 500;
/// Fresh starts in a row before the connection is ended: a stream that is lost each time is of no use to anybody.
const FRESH_STARTS_MAX: usize = 10;
/// Over how long the sockets that lost their place fetch snapshots.
const RESYNC_SPREAD_MS: u64 = 500;

/// One client's connection.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) user: UserId,
    pub(crate) membership: Membership,
    /// Where the client wants to go on; `None` for a snapshot.
    pub(crate) from: Option<Position>,
}

/// Why a session ends before somebody asks for it.
enum End {
    Gone,
    Stuck,
    Unavailable(crate::BoxError),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<BusError> for End {
    fn from(error: BusError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<SnapshotError> for End {
    fn from(error: SnapshotError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// A place in the gauge of sockets, given back on drop.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What of the events to come is in the snapshot that was just sent.
type Known = HashMap<TaskId, (Attempt, Seq)>;

impl Session {
    /// Runs the connection to its end.
    pub(crate) async fn run<W: Wire>(mut self, mut wire: W) {
        let _counted =
            Counted::new(self.shared.parts.metrics.sockets.get_or_create_owned(&Kind { kind: W::KIND }));
        let close = match self.drive(&mut wire).await {
            Ok(close) => close,
            Err(end) => self.close_for(&end),
        };
        self.membership.socket().outbox.close(close);
        wire.close(close).await;
    }

    fn close_for(&self, end: &End) -> Close {
        match end {
            End::Gone => Close::Gone,
            End::Stuck => {
                self.shared.parts.metrics.slow_sockets.inc();
                Close::Gone
            }
            End::Unavailable(error) => {
                tracing::warn!(user.id = %self.user, error = chain(error), "a live connection is ended");
                Close::Unavailable
            }
        }
    }

    async fn drive<W: Wire>(&mut self, wire: &mut W) -> Result<Close, End> {
        // Boxed, as below: bringing a client up to date takes much state, and an idle connection should not carry
        // the room for it.
        let mut seen = Box::pin(self.begin(wire)).await?;
        loop {
            let batch = self.membership.socket().outbox.take().await;
            if batch.close == Some(Close::Gone) {
                return Ok(Close::Gone);
            }
            self.write(wire, &batch, &mut seen).await?;
            if let Some(close) = batch.close {
                return Ok(close);
            }
        }
    }

    /// Says hello and brings the client up to date. Returns the last position it has.
    async fn begin<W: Wire>(&mut self, wire: &mut W) -> Result<Position, End> {
        let Some(from) = self.from.take() else {
            return self.start_over(wire, None).await;
        };
        match self.shared.parts.feed.replay(&self.user, &from, REPLAY_PAGE).await? {
            Replay::Lost(loss) => self.start_over(wire, Some(loss)).await,
            page => {
                let hello = self.hello(&from, true, None);
                self.bounded(wire.control(hello)).await?;
                match self.replay(wire, from, page, &Known::new()).await? {
                    Ok(seen) => Ok(seen),
                    Err(loss) => self.start_over(wire, Some(loss)).await,
                }
            }
        }
    }

    /// Says that the past is void, sends a snapshot and what came after it.
    async fn start_over<W: Wire>(&self, wire: &mut W, reason: Option<Loss>) -> Result<Position, End> {
        let mut reason = reason;
        for _ in 0..FRESH_STARTS_MAX {
            if let Some(loss) = reason {
                self.shared.parts.metrics.resyncs.get_or_create(&Kind { kind: loss.as_str() }).inc();
            }
            let (head, snapshot) = self.shared.snapshots.read(&self.user).await?;
            let known = snapshot.tasks().map(|view| (view.task_id, (view.attempt, view.seq))).collect();
            self.bounded(wire.control(self.hello(&head, false, reason))).await?;
            for part in Control::snapshot(&head, &snapshot.into_tasks()) {
                self.bounded(wire.control(part)).await?;
            }
            let page = self.shared.parts.feed.replay(&self.user, &head, REPLAY_PAGE).await?;
            match self.replay(wire, head, page, &known).await? {
                Ok(seen) => return Ok(seen),
                Err(loss) => reason = Some(loss),
            }
            tokio::time::sleep(jitter()).await;
        }
        Err(End::Unavailable("the stream is lost again and again".into()))
    }

    /// Sends a page of entries and all that follow. Returns the last position, or why the place was lost.
    async fn replay<W: Wire>(
        &self,
        wire: &mut W,
        from: Position,
        first: Replay,
        known: &Known,
    ) -> Result<Result<Position, Loss>, End> {
        let (mut seen, mut page) = (from, first);
        loop {
            let (entries, complete) = match page {
                Replay::Lost(loss) => return Ok(Err(loss)),
                Replay::Page { entries, complete } => (entries, complete),
            };
            let complete = complete || entries.is_empty();
            for entry in entries {
                seen = entry.position.clone();
                self.replay_one(wire, entry, known).await?;
            }
            self.bounded(wire.flush()).await?;
            if complete {
                return Ok(Ok(seen));
            }
            page = self.shared.parts.feed.replay(&self.user, &seen, REPLAY_PAGE).await?;
        }
    }

    async fn replay_one<W: Wire>(&self, wire: &mut W, entry: Entry, known: &Known) -> Result<(), End> {
        let order = (entry.attempt, entry.seq);
        if known.get(&entry.task_id).is_some_and(|known| order <= *known) {
            return Ok(());
        }
        if let Some(frame) = Frame::new(entry) {
            self.bounded(wire.event(&frame, 1)).await?;
            if frame.terminal {
                self.shared.parts.metrics.terminal_delivered.inc();
            }
        }
        Ok(())
    }

    /// Writes all that waited, with one flush. The batch is dropped after it, and with it the receipts.
    async fn write<W: Wire>(&self, wire: &mut W, batch: &Batch, seen: &mut Position) -> Result<(), End> {
        for item in &batch.items {
            match item {
                Item::Event { frame, merged } => {
                    // What waited from before a fresh start is in its snapshot. An entry of a later life of the stream
                    // comes after the news of the loss, and so after another fresh start.
                    if frame.position.epoch == seen.epoch && frame.position.id > seen.id {
                        seen.id = frame.position.id;
                        self.bounded(wire.event(frame, *merged)).await?;
                    }
                }
                Item::Resync(loss) => {
                    self.bounded(wire.flush()).await?;
                    tokio::time::sleep(jitter()).await;
                    *seen = Box::pin(self.start_over(wire, Some(*loss))).await?;
                }
            }
        }
        if batch.ping {
            self.bounded(wire.ping()).await?;
        }
        self.bounded(wire.flush()).await?;
        self.measure(&batch.items);
        Ok(())
    }

    fn measure(&self, items: &[Item]) {
        let metrics = &self.shared.parts.metrics;
        let (terminal, done) = facts(items);
        if terminal > 0 {
            metrics.terminal_delivered.inc_by(terminal);
        }
        let now_us = self.shared.parts.clock.now().as_microsecond();
        done.for_each(|done_us| metrics.observe_delivery(done_us, now_us));
    }

    fn hello(&self, position: &Position, recovered: bool, reason: Option<Loss>) -> Control {
        let parts = &self.shared.parts;
        Control::hello(position, parts.replica.as_str(), &parts.mode, recovered, reason)
    }

    /// A write that takes longer than the time-out ends the connection: its reader is gone or as good as gone.
    async fn bounded(&self, write: impl Future<Output = Result<(), Gone>>) -> Result<(), End> {
        let mut write = std::pin::pin!(write);
        // Almost every write is done at once; a timer is made only for one that is not.
        let first = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
        if let Poll::Ready(written) = first {
            return Ok(written?);
        }
        match tokio::time::timeout(self.shared.parts.live.write_timeout, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(End::Stuck),
        }
    }
}

fn jitter() -> Duration {
    Duration::from_millis(rand::random_range(0..RESYNC_SPREAD_MS))
}
