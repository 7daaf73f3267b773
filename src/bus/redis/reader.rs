//! The reader: takes rung users, reads their streams in one pipeline, and hands the entries on.
//!
//! A round is one pipeline on one pooled connection: acknowledgements of earlier entries, then one non-blocking
//! `XREADGROUP` for each shard with rung users. The reader's own cursor is the truth and the group follows it: after a
//! reply that may have been lost, the group is set back to the cursor, so what was swallowed is read again. Every entry
//! names its predecessor ([`super::entry`]): a gap has the group set back too, and is a loss when it is there again.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, cmd};
use tokio::time::{Instant, sleep_until};

use super::entry::{Fields, Raw, Step, follow_chain, streams};
use super::follow::{Acks, Follow, Lane};
use super::groups::{Groups, Resumed};
use super::status::Status;
use crate::bus::{AckSink, Entry, Loss, Receipt};
use crate::config::bus::Ack;
use crate::redis::{Backoff, CallError, Reaction, Redis, Reply, reaction};
use crate::task::{EntryId, Epoch, Position};
use crate::telemetry::metrics::Kind;

/// Users read in one round.
const USERS_MAX: usize = 256;
/// Entries read of one user in one round; who has more is read again in the next one.
const ENTRIES_MAX: usize = 128;
/// Entries acknowledged of one user in one round.
const ACKS_MAX: usize = 1_000;
/// Users to read in a second past which news are let gather for a moment before they are read: a call for each would take
/// more of the processor than all that follows.
const BUSY_USERS: u128 = 2_500;
/// How long news gather then.
const GATHER: Duration = Duration::from_millis(1);
/// Over how long it is judged how fast they come.
const PACE_WINDOW: Duration = Duration::from_millis(10);
/// How long acknowledgements wait for a read to ride along with.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// The one consumer of a group.
const CONSUMER: &str = "gateway";

/// Reads for the users of one lane.
pub(super) struct Reader {
    pub(super) redis: Redis,
    pub(super) lane: Arc<Lane>,
    pub(super) groups: Groups,
    pub(super) status: Arc<Status>,
    pub(super) ack: Ack,
}

/// Why a round was not a good one.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Call(#[from] CallError),
    /// Groups were missing, or keys are not ours. The next round asks for each, and reads the others.
    #[error("consumer groups were missing")]
    GroupsMissing,
}

type AckList = Vec<(Arc<Follow>, Vec<EntryId>)>;

/// How fast news come.
struct Pace {
    since: Instant,
    users: u128,
    busy: bool,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, users: 0, busy: false }
    }

    /// Notes how many users were read in a round. Whether the next ones are to gather.
    fn note(&mut self, users: usize, now: Instant) -> bool {
        self.users += u128::try_from(users).unwrap_or(u128::MAX);
        let window = now.duration_since(self.since);
        if window >= PACE_WINDOW {
            let busy = self.users * 1_000_000 / window.as_micros() >= BUSY_USERS;
            *self = Self { since: now, users: 0, busy };
        }
        self.busy
    }
}

impl Reader {
    /// Reads for ever. Dropping the future leaves what is in flight pending in the group.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::default();
        let (mut ack_due, mut missing, mut pace) = (None, false, Pace::new(Instant::now()));
        loop {
            self.wait(&mut ack_due).await;
            let (acks, rung) = (self.lane.take_acks(ACKS_MAX), self.lane.take_rung(USERS_MAX));
            let busy = pace.note(rung.len(), Instant::now()) && rung.len() < USERS_MAX;
            let result = self.round(rung, acks).await;
            // Missing groups are made at once; when that does not help, it is like any other failure.
            let again = matches!(result, Err(Trouble::GroupsMissing)) && !missing;
            missing = matches!(result, Err(Trouble::GroupsMissing));
            match result {
                Ok(()) => {
                    self.recovered(&mut backoff);
                    if busy {
                        tokio::time::sleep(GATHER).await;
                    }
                }
                Err(_) if again => {}
                Err(error) => tokio::time::sleep(self.failed(&mut backoff, &error)).await,
            }
        }
    }

    fn recovered(&self, backoff: &mut Backoff) {
        if backoff.succeeded() {
            self.status.reader_recovered();
            tracing::info!("streams in Redis are read again");
        }
    }

    fn failed(&self, backoff: &mut Backoff, error: &Trouble) -> Duration {
        if backoff.failures() == 0 {
            self.status.reader_failed();
            tracing::warn!(%error, "streams in Redis cannot be read");
        }
        backoff.failed()
    }

    /// Waits until there is something to read, or acknowledgements have waited long enough.
    async fn wait(&self, ack_due: &mut Option<Instant>) {
        loop {
            let due = ack_due.unwrap_or_else(Instant::now);
            tokio::select! {
                () = self.lane.rings.notified() => break,
                () = self.lane.acks.notified(), if ack_due.is_none() => *ack_due = Some(Instant::now() + ACK_DELAY),
                () = sleep_until(due), if ack_due.is_some() => break,
            }
        }
        *ack_due = None;
    }

    async fn round(&self, mut follows: Vec<Arc<Follow>>, mut acks: AckList) -> Result<(), Trouble> {
        follows.sort_unstable_by_key(|follow| follow.shard);
        let result = self.try_round(&follows, &mut acks).await;
        for (follow, ids) in acks {
            follow.add_acks(ids);
        }
        result
    }

    /// Leaves in `acks` what was not acknowledged.
    async fn try_round(&self, follows: &[Arc<Follow>], acks: &mut AckList) -> Result<(), Trouble> {
        if let Err(error) = self.resume_suspects(follows).await {
            follows.iter().for_each(Follow::doubt);
            return Err(error.into());
        }
        // One that is suspect by now is read when it is no longer.
        let follows: Vec<_> = follows.iter().filter(|follow| !follow.state().suspect).cloned().collect();
        let mut pipeline = Pipeline::new();
        for (follow, ids) in acks.iter() {
            pipeline.add_command(self.ack_cmd(follow, ids));
        }
        for follow in &follows {
            self.set_back(&mut pipeline, follow);
        }
        let before = pipeline.len();
        let shards: Vec<_> = follows.chunk_by(|one, other| one.shard == other.shard).collect();
        for shard in &shards {
            pipeline.add_command(self.read_cmd(shard));
        }
        let mut replies = self.redis.pipeline(&pipeline).await;
        let reads = replies.split_off(before);
        replies.truncate(acks.len());
        let mut result = keep_refused(acks, replies);
        for (shard, reply) in shards.into_iter().zip(reads) {
            result = result.and(self.take(shard, reply));
        }
        result
    }

    fn ack_cmd(&self, follow: &Follow, ids: &[EntryId]) -> Cmd {
        let mut ack = cmd("XACK");
        ack.arg(&follow.events).arg(&*self.groups.name);
        for id in ids {
            ack.arg(id.to_string());
        }
        ack
    }

    /// Sets the group of a user in doubt back to what was delivered.
    fn set_back(&self, pipeline: &mut Pipeline, follow: &Follow) {
        let state = follow.state();
        if let (true, Some(place)) = (state.doubtful, &state.place) {
            pipeline
                .cmd("XGROUP")
                .arg("SETID")
                .arg(&follow.events)
                .arg(&*self.groups.name)
                .arg(place.id.to_string());
        }
    }

    fn read_cmd(&self, shard: &[Arc<Follow>]) -> Cmd {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&*self.groups.name).arg(CONSUMER).arg("COUNT").arg(ENTRIES_MAX);
        if self.ack == Ack::None {
            read.arg("NOACK");
        }
        read.arg("STREAMS");
        for follow in shard {
            read.arg(&follow.events);
        }
        for _ in shard {
            read.arg(">");
        }
        read
    }

    /// Asks the server about users whose group or stream may be another one, and goes on where that is possible.
    async fn resume_suspects(&self, follows: &[Arc<Follow>]) -> Result<(), CallError> {
        let suspects: Vec<_> = follows.iter().filter(|follow| follow.state().suspect).cloned().collect();
        if suspects.is_empty() {
            return Ok(());
        }
        for (follow, resumed) in suspects.iter().zip(self.groups.resume(&suspects).await?) {
            match resumed {
                Ok(resumed) => self.resume(follow, resumed),
                Err(error) if reaction(&error) == Reaction::ForeignKey => refuse(follow, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn resume(&self, follow: &Arc<Follow>, resumed: Resumed) {
        if resumed.made {
            self.count_repair("group");
        }
        let mut state = follow.state();
        state.suspect = false;
        if std::mem::take(&mut state.refused) {
            tracing::info!(key = follow.events, "the user's stream in Redis can be read again");
        }
        state.place = Some(resumed.place);
        drop(state);
        if let Some(loss) = resumed.loss {
            self.lose(follow, loss);
        }
    }

    fn lose(&self, follow: &Follow, loss: Loss) {
        self.count_repair(loss.as_str());
        if !follow.is_closed() {
            follow.inbox.lost(&follow.user, loss);
        }
    }

    fn count_repair(&self, kind: &'static str) {
        self.redis.metrics().bus_repairs.get_or_create(&Kind { kind }).inc();
    }

    /// Hands on what one call for the users of a shard has read.
    fn take(&self, shard: &[Arc<Follow>], reply: Reply) -> Result<(), Trouble> {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) if matches!(reaction(&error), Reaction::RecreateGroup | Reaction::ForeignKey) => {
                // One missing group or foreign key fails the call for all of them, and nothing was read.
                shard.iter().for_each(Follow::suspect);
                return Err(Trouble::GroupsMissing);
            }
            Err(error) => {
                shard.iter().for_each(Follow::doubt);
                return Err(error.into());
            }
        };
        // Those in doubt were set back in the same pipeline, so this reply is whole for them.
        let whole: Vec<bool> =
            shard.iter().map(|follow| std::mem::take(&mut follow.state().doubtful)).collect();
        for (key, entries) in streams(reply) {
            if let Some(index) = shard.iter().position(|follow| follow.events.as_bytes() == key) {
                self.deliver(&shard[index], entries, whole[index]);
            }
        }
        Ok(())
    }

    fn deliver(&self, follow: &Arc<Follow>, raws: Vec<Raw>, whole: bool) {
        if raws.len() == ENTRIES_MAX {
            follow.ring();
        }
        let Some((epoch, steps)) = advance(follow, raws, whole) else { return };
        let acks: Arc<dyn AckSink> = Arc::new(Acks(Arc::clone(follow)));
        let mut entries = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::New(id, fields) => entries.push(self.entry(follow, &epoch, id, fields, &acks)),
                Step::Known(id) => self.pass_over(follow, id),
                Step::Lost(loss) => {
                    hand_on(follow, std::mem::take(&mut entries));
                    self.lose(follow, loss);
                }
                Step::Doubt => follow.doubt(),
            }
        }
        hand_on(follow, entries);
    }

    /// An entry that was delivered before: acknowledged again, and a reason to compare with the server.
    fn pass_over(&self, follow: &Arc<Follow>, id: EntryId) {
        if self.ack == Ack::Batched {
            follow.add_acks([id]);
        }
        follow.suspect();
    }

    fn entry(
        &self,
        follow: &Follow,
        epoch: &Epoch,
        id: EntryId,
        fields: Fields,
        acks: &Arc<dyn AckSink>,
    ) -> Entry {
        let receipt = || Arc::new(Receipt::new(follow.user.clone(), id, Arc::clone(acks)));
        entry(epoch, id, fields, (self.ack == Ack::Batched).then(receipt))
    }
}

/// Moves a user's place over what was read.
fn advance(follow: &Follow, raws: Vec<Raw>, whole: bool) -> Option<(Epoch, Vec<Step>)> {
    let mut state = follow.state();
    let place = state.place.as_mut()?;
    let steps = follow_chain(&mut place.id, raws, whole);
    Some((place.epoch.clone(), steps))
}

fn hand_on(follow: &Follow, entries: Vec<Entry>) {
    if !entries.is_empty() && !follow.is_closed() {
        follow.inbox.deliver(&follow.user, entries);
    }
}

/// The port's entry for one that was read.
pub(super) fn entry(epoch: &Epoch, id: EntryId, fields: Fields, receipt: Option<Arc<Receipt>>) -> Entry {
    Entry {
        position: Position::new(epoch.clone(), id),
        task_id: fields.task_id,
        attempt: fields.attempt,
        seq: fields.seq,
        terminal: fields.terminal,
        body: fields.body,
        receipt,
    }
}

/// A key of the user is of another type: told once, and left alone until a sweep asks for it again.
fn refuse(follow: &Follow, error: &CallError) {
    if !std::mem::replace(&mut follow.state().refused, true) {
        let key = &follow.events;
        tracing::warn!(%error, key, "a key of this user's stream is not ours; no live progress until it is deleted");
    }
}

/// Keeps the acknowledgements that were refused. A refusal is the round's trouble; not so for a key that is of another
/// type by now, where there is nothing left to acknowledge.
fn keep_refused(acks: &mut AckList, replies: Vec<Reply>) -> Result<(), Trouble> {
    let (mut result, mut replies) = (Ok(()), replies.into_iter());
    acks.retain(|_| match replies.next() {
        Some(Err(error)) if reaction(&error) != Reaction::ForeignKey => {
            tracing::debug!(%error, "an acknowledgement was refused");
            result = Err(error.into());
            true
        }
        _ => false,
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_gather_only_while_they_come_fast() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut pace = Pace::new(begin);
        let slow: Vec<bool> = (1..=40).map(|ms| pace.note(1, at(ms))).collect();
        assert!(!slow.contains(&true), "a thousand a second are read one by one");
        let fast: Vec<bool> = (41..=80).map(|ms| pace.note(6, at(ms))).collect();
        assert!(fast[20..].iter().all(|busy| *busy), "six thousand are not: {fast:?}");
        assert!(!pace.note(1, at(1_000)), "after a pause the first is read at once");
    }
}
