//! Consumer groups of this gateway: one per followed user stream, an index of them, and a lease that says we live.
//!
//! Redis never removes a group by itself. A gateway removes its own when a user's last socket leaves; those of one that
//! died are found through the index and removed by [`collect_dead_groups`] once its lease is over. Not by how long a
//! group was idle: an idle stream looks just like a dead reader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::follow::{Follow, Registry};
use crate::bus::Loss;
use crate::config::duration::millis;
use crate::redis::{Call, CallError, Redis, Reply, Shard, group};
use crate::task::{EntryId, Epoch, Position, ReplicaId};

/// How long a gateway counts as alive after a heartbeat.
const LEASE: Duration = Duration::from_secs(30);
/// Pause between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Groups removed in one pipeline.
const COLLECT_MAX: usize = 256;
/// Dead gateways looked at in one pass of the collector.
const DEAD_MAX: usize = 16;

/// Makes and removes the groups of one replica.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    redis: Redis,
    replica: ReplicaId,
    /// Name of the group on every stream.
    pub(super) name: Arc<str>,
    stream_ttl: Duration,
    lease: Arc<Lease>,
}

/// What this process knows of its lease.
#[derive(Debug, Default)]
struct Lease {
    renewed: Mutex<Option<Instant>>,
    /// Groups were left behind that only the collector can remove, and it finds them through the lease.
    needed: AtomicBool,
}

/// Where a reader goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resumed {
    /// Its place from now on.
    pub(super) place: Position,
    /// Why that is not the place it was at.
    pub(super) loss: Option<Loss>,
    /// Whether the group was missing.
    pub(super) made: bool,
}

impl Groups {
    pub(super) fn new(redis: Redis, replica: ReplicaId, stream_ttl: Duration) -> Self {
        let name = group(replica.as_str()).into();
        Self { redis, replica, name, stream_ttl, lease: Arc::default() }
    }

    /// Makes sure of the groups of these users, each where its reader can go on; at the newest entry for a new reader.
    ///
    /// The lease comes first, and is taken anew where Redis may have forgotten it: a group is never without one, however
    /// this process ends.
    pub(super) async fn resume(
        &self,
        follows: &[Arc<Follow>],
    ) -> Result<Vec<Result<Resumed, CallError>>, CallError> {
        let again = follows.iter().any(|follow| follow.state().place.is_some());
        if again || !self.is_leased() {
            self.renew().await?;
        }
        let mut calls = Pipeline::with_capacity(follows.len());
        for follow in follows {
            calls.add_command(self.resume_call(follow));
        }
        let all: Vec<_> = self.redis.call_all(&calls).await.into_iter().map(resumed).collect();
        let forgot =
            |resumed: &Result<Resumed, CallError>| resumed.as_ref().is_ok_and(|resumed| resumed.made);
        if again && all.iter().any(forgot) {
            // Whatever Redis forgot, it may have done so after the lease was taken.
            self.renew().await?;
        }
        Ok(all)
    }

    fn resume_call(&self, follow: &Follow) -> Cmd {
        let index = self.redis.keys().groups(follow.shard, self.replica.as_str());
        let place = follow.state().place.clone();
        let (epoch, cursor) = match &place {
            Some(place) => (place.epoch.as_str(), place.id),
            None => ("", EntryId::START),
        };
        let mut call = Call::Follow.on(&[&follow.events, &follow.epoch, &index]);
        call.arg(&*self.name).arg(follow.user.as_str()).arg(Epoch::generate().as_str());
        call.arg(millis(self.stream_ttl)).arg(epoch).arg(cursor.to_string());
        call
    }

    /// Removes the group of a user.
    pub(super) async fn remove(&self, follow: &Follow) -> Result<(), CallError> {
        let index = self.redis.keys().groups(follow.shard, self.replica.as_str());
        let mut call = Call::Unfollow.on(&[&follow.events, &index]);
        call.arg(&*self.name).arg(follow.user.as_str());
        self.redis.call(call).await?;
        Ok(())
    }

    /// Leaves a group to the collector.
    pub(super) fn leave_behind(&self) {
        self.lease.needed.store(true, Ordering::SeqCst);
    }

    /// Renews the lease until told to stop, then ends it, unless groups are left: then it lapses, and the collector finds
    /// them.
    pub(super) async fn live(self, registry: Arc<Registry>, done: CancellationToken) {
        while !done.is_cancelled() {
            if let Err(error) = self.renew().await {
                tracing::debug!(%error, "the lease of this gateway was not renewed");
            }
            let _ = tokio::time::timeout(HEARTBEAT, done.cancelled()).await;
        }
        if self.lease.needed.load(Ordering::SeqCst) || !registry.is_empty() {
            return;
        }
        let mut end = cmd("ZREM");
        end.arg(self.redis.keys().gateways()).arg(self.replica.as_str());
        if let Err(error) = self.redis.query::<Value>(&end).await {
            tracing::debug!(%error, "the lease of this gateway was not ended; it will lapse");
        }
    }

    async fn renew(&self) -> Result<(), CallError> {
        let mut lease = Call::Lease.on(&[&self.redis.keys().gateways()]);
        lease.arg(self.replica.as_str()).arg(millis(LEASE));
        let sent = Instant::now();
        self.redis.call(lease).await?;
        *self.lease.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        Ok(())
    }

    /// Whether the lease was renewed not long ago.
    fn is_leased(&self) -> bool {
        let renewed = *self.lease.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|renewed| renewed.elapsed() < LEASE / 2)
    }
}

fn resumed(reply: Reply) -> Result<Resumed, CallError> {
    let (epoch, cursor, loss, made): (String, String, String, u8) = redis::from_redis_value(reply?)?;
    let odd = || CallError::Reply(format!("{epoch} {cursor} {loss}"));
    let place = Position::new(Epoch::new(&epoch).map_err(|_| odd())?, cursor.parse().map_err(|_| odd())?);
    let loss = match loss.as_str() {
        "" => None,
        "epoch" => Some(Loss::Epoch),
        "ahead" => Some(Loss::Ahead),
        "trimmed" => Some(Loss::Trimmed),
        _ => return Err(odd()),
    };
    Ok(Resumed { place, loss, made: made == 1 })
}

/// Removes the groups of gateways whose lease is over, and says how many. Idempotent; for maintenance. A gateway that
/// was only paused makes its groups again where it had stopped, and misses nothing.
///
/// # Errors
/// When Redis answers with an error, too late or not at all; what was removed stays removed.
pub async fn collect_dead_groups(redis: &Redis) -> Result<u64, CallError> {
    let gateways = redis.keys().gateways();
    let mut lapsed = Call::Lapsed.on(&[&gateways]);
    lapsed.arg(DEAD_MAX);
    let dead: Vec<String> = redis::from_redis_value(redis.call(lapsed).await?)?;
    let mut removed = 0;
    for replica in dead {
        for shard in Shard::all() {
            removed += collect_shard(redis, shard, &replica).await?;
        }
        let mut forget = Call::Forget.on(&[&gateways]);
        forget.arg(&replica);
        redis.call(forget).await?;
        tracing::info!(replica, removed, "removed what a dead gateway left in Redis");
    }
    Ok(removed)
}

async fn collect_shard(redis: &Redis, shard: Shard, replica: &str) -> Result<u64, CallError> {
    let index = redis.keys().groups(shard, replica);
    let mut removed = 0;
    loop {
        let users: Vec<String> = redis.query(cmd("SRANDMEMBER").arg(&index).arg(COLLECT_MAX)).await?;
        if users.is_empty() {
            return Ok(removed);
        }
        let mut calls = Pipeline::with_capacity(users.len());
        for user in &users {
            calls.add_command(unfollow_call(redis, &index, replica, user));
        }
        for reply in redis.call_all(&calls).await {
            removed += redis::from_redis_value::<u64>(reply?)?;
        }
    }
}

fn unfollow_call(redis: &Redis, index: &str, replica: &str, user: &str) -> Cmd {
    // A member that is no user name was put there by somebody else; it is dropped from the index alone.
    let events =
        crate::task::UserId::new(user).map_or_else(|_| index.to_owned(), |user| redis.keys().events(&user));
    let mut call = Call::Unfollow.on(&[&events, index]);
    call.arg(group(replica)).arg(user);
    call
}
