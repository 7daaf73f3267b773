//! Progress through Redis Streams: one stream per user, a doorbell per user, a consumer group per gateway and user.
//!
//! Publishing is one function call: fence, append, live snapshot, doorbell. A gateway hears the doorbells of its users
//! on one subscription connection to each server, and reads only the streams that rang, without blocking: blocking on
//! all of them would cost Redis about a microsecond per stream and wake-up. Doorbells may get lost: everybody is
//! compared with the server after each new subscription, and by a sweep.
//!
//! Files, in the order of an event: `publisher` · `doorbells` a `subscription` to each server hears the bell · `follow`
//! who rang · `reader` · `entry` what was read and whether it is whole · `groups` · `sweep` · `replay` for those who
//! reconnect · `results` for a takeover · `status` for readiness.
//! Not here: keys, connections and what errors mean ([`crate::redis`]).

mod doorbells;
mod entry;
mod follow;
mod groups;
mod publisher;
mod reader;
mod replay;
mod results;
mod status;
mod subscription;
mod sweep;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use doorbells::{Doorbells, Supervisor};
use follow::{Follow, LANES, Lane, Registry};
use groups::Groups;
use reader::Reader;
use status::Status;
use sweep::Sweeper;

pub use groups::collect_dead_groups;
pub use publisher::RedisPublisher;

use super::{BusError, Feed, Following, Health, Inbox, Published, Publisher, Replay};
use crate::config::BusConfig;
use crate::lifecycle::Lifecycle;
use crate::redis::{CallError, Redis, SetupError};
use crate::task::{Attempt, Event, ItemResult, Position, ReplicaId, Seq, TaskId, UserId};

/// Unfollows that run at once.
const CLEAN_UPS: usize = 32;
/// Tries to clean up after an unfollow, and the pause between them. Past them the collector of dead groups has it.
const CLEAN_UP_TRIES: u32 = 5;
const CLEAN_UP_PAUSE: Duration = Duration::from_millis(500);

/// Both sides of the bus, for processes with a gateway. The others take [`RedisPublisher`], which runs no readers.
pub struct RedisBus {
    publisher: RedisPublisher,
    redis: Redis,
    stream_ttl: Duration,
    lanes: [Arc<Lane>; LANES],
    shared: Arc<Shared>,
}

/// What the bus and its tasks share.
struct Shared {
    registry: Arc<Registry>,
    status: Arc<Status>,
    doorbells: Doorbells,
    groups: Groups,
    /// One turn per shard: the end of one follow and the start of the next one of the same user keep their order.
    turns: Vec<tokio::sync::Mutex<()>>,
    ended: Mutex<Vec<Arc<Follow>>>,
    ends: Notify,
}

impl std::fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBus").field("group", &self.shared.groups.name).finish_non_exhaustive()
    }
}

impl RedisBus {
    /// Starts the readers, the subscription, the sweep and the heartbeat of this replica on `life`. They end once a
    /// soft stop was asked for and nobody is followed any more, or at a hard stop.
    ///
    /// # Errors
    /// For a configuration that cannot work.
    pub fn start(
        redis: Redis,
        config: &BusConfig,
        replica: &ReplicaId,
        life: &Lifecycle,
    ) -> Result<Self, SetupError> {
        let (registry, status) = <(Arc<Registry>, Arc<Status>)>::default();
        let (doorbells, supervisor) =
            Supervisor::new(redis.clone(), Arc::clone(&registry), Arc::clone(&status), replica.clone());
        let groups = Groups::new(redis.clone(), replica.clone(), config.stream_ttl);
        let turns =
            std::iter::repeat_with(tokio::sync::Mutex::default).take(crate::redis::SHARDS.into()).collect();
        let (ended, ends) = <(Mutex<_>, Notify)>::default();
        let shared = Arc::new(Shared { registry, status, doorbells, groups, turns, ended, ends });
        let bus = Self {
            publisher: RedisPublisher::start(&redis, config),
            stream_ttl: config.stream_ttl,
            redis,
            lanes: <[Arc<Lane>; LANES]>::default(),
            shared,
        };
        bus.spawn(config, supervisor, life);
        Ok(bus)
    }

    fn spawn(&self, config: &BusConfig, supervisor: Supervisor, life: &Lifecycle) {
        let done = life.hard().child_token();
        let spawn = |name, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let done = done.clone();
            life.spawn(name, async move {
                done.run_until_cancelled(task).await;
            });
        };
        let (redis, shared) = (&self.redis, &self.shared);
        spawn("redis subscription", Box::pin(supervisor.run()));
        for lane in &self.lanes {
            let reader = Reader {
                redis: redis.clone(),
                lane: Arc::clone(lane),
                groups: shared.groups.clone(),
                status: Arc::clone(&shared.status),
                ack: config.ack,
            };
            spawn("redis reader", Box::pin(reader.run()));
        }
        let sweeper = Sweeper {
            redis: redis.clone(),
            registry: Arc::clone(&shared.registry),
            interval: config.sweep_interval,
            stream_ttl: config.stream_ttl,
        };
        spawn("redis sweep", Box::pin(sweeper.run()));
        life.spawn("redis heartbeat", shared.groups.clone().live(Arc::clone(&shared.registry), done.clone()));
        life.spawn("redis unfollows", Arc::clone(shared).clean_up(life.soft().clone(), done));
    }
}

impl Shared {
    /// Ends a follow. Does not block; the rest is done in the background.
    fn end(&self, follow: Arc<Follow>) {
        follow.close();
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(follow);
        self.ends.notify_one();
    }

    fn take_ended(&self) -> Vec<Arc<Follow>> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Cleans up after unfollows until `soft` is cancelled and nobody is followed; then `done`, which ends the others.
    async fn clean_up(self: Arc<Self>, soft: CancellationToken, done: CancellationToken) {
        let _end_the_others = done.clone().drop_guard();
        let work = async {
            loop {
                let ended = self.take_ended();
                stream::iter(ended).for_each_concurrent(CLEAN_UPS, |follow| self.remove(follow)).await;
                if soft.is_cancelled() && self.registry.is_empty() {
                    return;
                }
                tokio::select! {
                    () = self.ends.notified() => {}
                    () = soft.cancelled(), if !soft.is_cancelled() => {}
                }
            }
        };
        done.run_until_cancelled(work).await;
    }

    async fn remove(&self, follow: Arc<Follow>) {
        for _ in 0..CLEAN_UP_TRIES {
            match self.try_remove(&follow).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "what a follow left in Redis was not removed"),
            }
            tokio::time::sleep(CLEAN_UP_PAUSE).await;
        }
        let _turn = self.turns[follow.shard.index()].lock().await;
        self.groups.leave_behind();
        self.registry.remove(&follow);
    }

    async fn try_remove(&self, follow: &Arc<Follow>) -> Result<(), CallError> {
        let _turn = self.turns[follow.shard.index()].lock().await;
        let current = self.registry.get(follow.channel.as_bytes());
        if !current.is_some_and(|current| Arc::ptr_eq(&current, follow)) {
            // The user is followed again; channel and group belong to that follow.
            return Ok(());
        }
        self.doorbells.unsubscribe(follow.shard, &follow.channel).await?;
        self.groups.remove(follow).await?;
        self.registry.remove(follow);
        Ok(())
    }

    /// In this order, so that no entry falls between: hear the bell, make the group, read once.
    async fn begin(&self, follow: &Arc<Follow>) -> Result<(), CallError> {
        let _turn = self.turns[follow.shard.index()].lock().await;
        self.registry.insert(follow);
        self.doorbells.subscribe(follow.shard, &follow.channel).await?;
        let resumed = self.groups.resume(std::slice::from_ref(follow)).await?.pop();
        let resumed = resumed.ok_or_else(|| CallError::Reply("no reply".into()))??;
        follow.state().place = Some(resumed.place);
        follow.ring();
        Ok(())
    }
}

fn unavailable(doing: &'static str) -> impl FnOnce(CallError) -> BusError {
    move |error| BusError::Unavailable { doing, source: error.into() }
}

#[async_trait]
impl Publisher for RedisBus {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        self.publisher.report(user, event, recorded).await
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        self.publisher.unrecorded(user, task, attempt).await
    }
}

#[async_trait]
impl Feed for RedisBus {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        let follow = Arc::new(Follow::new(user, inbox, self.redis.keys(), &self.lanes));
        let (shared, ending) = (Arc::clone(&self.shared), Arc::clone(&follow));
        // Made first, so that a dropped or failed call is cleaned up as well.
        let following = Following::new(move || shared.end(ending));
        self.shared.begin(&follow).await.map_err(unavailable("following a user"))?;
        Ok(following)
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        replay::head(&self.redis, user, self.stream_ttl)
            .await
            .map_err(unavailable("reading the head of a stream"))
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        replay::replay(&self.redis, user, after, limit, self.stream_ttl)
            .await
            .map_err(unavailable("replaying a stream"))
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        replay::live(&self.redis, user, tasks).await.map_err(unavailable("reading live snapshots"))
    }

    fn health(&self) -> Health {
        self.shared.status.health()
    }
}
