//! The sweep: compares every followed user with the server, so that a lost doorbell costs delay and never data.
//!
//! One small read per user says whether the stream is in the epoch the reader is in and whether it has news. So a
//! stream that was wiped or that fell behind a lost primary is noticed too, where no error would come. So is a primary
//! that took the place of another, by its replication id. The sweep also keeps the streams of followed users from
//! running out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::follow::{Follow, Registry};
use crate::config::duration::millis;
use crate::redis::{CallError, Reaction, Redis, Reply, Shard, reaction};
use crate::task::EntryId;

/// Users compared in one pipeline.
const BATCH_MAX: usize = 256;

/// Compares users with the server.
pub(super) struct Sweeper {
    pub(super) redis: Redis,
    pub(super) registry: Arc<Registry>,
    pub(super) interval: Duration,
    pub(super) stream_ttl: Duration,
}

/// What the data of each shard's server came from, at the last sweep.
type Origins = HashMap<Shard, String>;

/// What a comparison says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The reader is where the stream is.
    Level,
    /// There is something to read.
    News,
    /// There was something to read at the last sweep already, and the reader has not moved.
    Stuck,
    /// The stream is another one, has lost what the reader has read, or could not be read at all.
    Changed,
}

impl Sweeper {
    /// Sweeps for ever.
    pub(super) async fn run(self) {
        let (mut extend_at, mut origins) = (Instant::now() + self.stream_ttl / 3, Origins::new());
        loop {
            tokio::time::sleep(self.interval).await;
            let extend = Instant::now() >= extend_at;
            if extend {
                extend_at = Instant::now() + self.stream_ttl / 3;
            }
            self.compare_servers(&mut origins).await;
            self.sweep(extend).await;
        }
    }

    /// Has the users compared whose server's data is of another origin than before: its newest entries may be gone, and
    /// nothing else would tell a reader that had not come so far.
    async fn compare_servers(&self, origins: &mut Origins) {
        let Ok(layout) = self.redis.layout().await else { return };
        let ids = layout.nodes().iter().map(async |node| (node, node.replication_id().await));
        let mut changed = HashSet::new();
        for (node, id) in join_all(ids).await {
            let Ok(id) = id else { continue };
            let here = |shard: &Shard| layout.owner(*shard).is_some_and(|owner| Arc::ptr_eq(owner, node));
            for shard in Shard::all().filter(here) {
                if origins.insert(shard, id.clone()).is_some_and(|before| before != id) {
                    changed.insert(shard);
                }
            }
        }
        if !changed.is_empty() {
            tracing::info!(
                shards = changed.len(),
                "users are on another server of Redis, or on one that began anew"
            );
            let follows = self.registry.all();
            follows.iter().filter(|follow| changed.contains(&follow.shard)).for_each(Follow::suspect);
        }
    }

    /// What fails for one server is tried by the next sweep, and does not keep the users of others from theirs.
    async fn sweep(&self, extend: bool) {
        let mut follows = self.registry.all();
        follows.sort_unstable_by_key(|follow| follow.shard);
        for batch in follows.chunks(BATCH_MAX) {
            if extend {
                self.extend(batch).await;
            }
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for follow in batch {
                pipeline.cmd("HMGET").arg(&follow.epoch).arg("epoch").arg("last");
            }
            let mut failed = None;
            for (follow, reply) in batch.iter().zip(self.redis.pipeline(&pipeline).await) {
                failed = self.look_at(follow, reply).err().or(failed);
            }
            if let Some(error) = failed {
                tracing::debug!(%error, "a sweep for lost doorbells failed");
            }
        }
    }

    async fn extend(&self, batch: &[Arc<Follow>]) {
        let mut pipeline = Pipeline::with_capacity(batch.len() * 2);
        for follow in batch {
            for key in [&follow.events, &follow.epoch] {
                pipeline.cmd("PEXPIRE").arg(key).arg(millis(self.stream_ttl));
            }
        }
        let failed = self.redis.pipeline(&pipeline).await.into_iter().find_map(Result::err);
        if let Some(error) = failed {
            tracing::debug!(%error, "streams of followed users were not extended");
        }
    }

    fn look_at(&self, follow: &Arc<Follow>, reply: Reply) -> Result<(), CallError> {
        if follow.state().missed(Instant::now()) {
            self.redis.metrics().doorbells_missed.inc();
        }
        match reply {
            Err(error) if reaction(&error) == Reaction::ForeignKey => {
                // The reader will find the same, and tell it.
                follow.suspect();
                Ok(())
            }
            reply => compare(follow, reply?),
        }
    }
}

fn compare(follow: &Arc<Follow>, reply: Value) -> Result<(), CallError> {
    let (epoch, last): (Option<String>, Option<String>) = redis::from_redis_value(reply)?;
    let last = last.and_then(|last| last.parse().ok());
    match verdict(follow, epoch.as_deref(), last) {
        Some(Verdict::News) => follow.ring(),
        Some(Verdict::Stuck | Verdict::Changed) => follow.suspect(),
        Some(Verdict::Level) | None => {}
    }
    Ok(())
}

/// Judges a user against what the server says. `None` while it has no place yet.
fn verdict(follow: &Follow, epoch: Option<&str>, last: Option<EntryId>) -> Option<Verdict> {
    let mut state = follow.state();
    let place = state.place.as_ref()?;
    let behind_at = place.id;
    let verdict = match last {
        // It has to be asked anew whether that is over.
        _ if state.refused => Verdict::Changed,
        Some(last) if epoch == Some(place.epoch.as_str()) => match last.cmp(&place.id) {
            std::cmp::Ordering::Equal => Verdict::Level,
            std::cmp::Ordering::Less => Verdict::Changed,
            std::cmp::Ordering::Greater if state.behind_at == Some(behind_at) => Verdict::Stuck,
            std::cmp::Ordering::Greater => {
                state.found(last, Instant::now());
                Verdict::News
            }
        },
        _ => Verdict::Changed,
    };
    state.behind_at = matches!(verdict, Verdict::News | Verdict::Stuck).then_some(behind_at);
    Some(verdict)
}
