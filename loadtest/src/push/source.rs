//! Where events come from: published straight onto the bus, as a worker does it, at a rate or all at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use milepost::bus::{Published, Publisher, RedisPublisher};
use milepost::config::{BusConfig, RedisConfig};
use milepost::redis::Redis;
use milepost::task::{
    Attempt, ClusterName, Counts, Effect, Event, EventKind, ItemChange, ItemName, ItemState, Seq, Status,
    TaskId, UserId,
};
use milepost::telemetry::metrics::Metrics;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock::now_us;

/// Items of each task: none of them ever ends it.
const ITEMS: u32 = 1_000_000;
/// Pause between looks at what is due.
const TICK: Duration = Duration::from_millis(1);

/// One user with one task that goes on and on.
pub struct Stream {
    user: UserId,
    task: TaskId,
    seq: u64,
}

impl Stream {
    /// A new task of this user.
    ///
    /// # Errors
    /// For a name that no user may have.
    pub fn of(user: &str) -> Result<Self> {
        Ok(Self { user: UserId::new(user)?, task: TaskId::generate(), seq: 0 })
    }

    /// The task's id.
    pub fn task(&self) -> String {
        self.task.to_string()
    }

    /// The next event, of one item that ended at `done_us`.
    ///
    /// # Errors
    /// Never, in the time of man.
    pub fn next(&mut self, done_us: i64) -> Result<Event> {
        self.seq += 1;
        let index = u32::try_from(self.seq)?;
        let name = ItemName::new(format!("node-{index:06}"))?;
        let counts = Counts { succeeded: index, ..Counts::new(ITEMS) };
        let item = ItemChange {
            index,
            name: name.clone(),
            state: ItemState::Succeeded,
            effect: Some(Effect::Changed),
            error: None,
            done_us: Some(done_us),
            tries: Some(1),
            step: None,
        };
        Ok(Event {
            task_id: self.task,
            attempt: Attempt(1),
            seq: Seq(self.seq),
            kind: EventKind::Progress,
            status: Status::Running,
            action: "cordon".to_owned(),
            cluster: ClusterName::new("production")?,
            parent_id: None,
            concurrency: None,
            current: counts.current(),
            counts,
            progress: 0,
            current_node: Some(name),
            items: vec![item],
            stalled_since: None,
            wave: None,
            waits_for: None,
            message: None,
            error: None,
            timestamp: Timestamp::from_microsecond(done_us)?,
        })
    }
}

/// Publishes the events of many users.
pub struct Source {
    publisher: Arc<RedisPublisher>,
    streams: Vec<Stream>,
    next: usize,
}

impl Source {
    /// Publishes onto the bus in this Redis.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(redis_url: &str, streams: Vec<Stream>) -> Result<Self> {
        // A source that waits is seen in the latencies; it is not to fail.
        let command_timeout = Duration::from_secs(10);
        let config =
            RedisConfig { url: Some(redis_url.to_owned().into()), command_timeout, ..RedisConfig::default() };
        let redis = Redis::connect(&config, &Metrics::new())?;
        let publisher = Arc::new(RedisPublisher::start(&redis, &BusConfig::default()));
        Ok(Self { publisher, streams, next: 0 })
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.streams.len()
    }

    /// Publishes an event of each user in turn, `rate` a second for so long, without waiting for one before the next. Each is
    /// stamped when it is published. Returns how many there were.
    ///
    /// # Errors
    /// When one could not be published.
    pub async fn at_rate(&mut self, rate: u32, for_time: Duration) -> Result<u64> {
        let begin = Instant::now();
        let total = for_time.as_micros() * u128::from(rate) / 1_000_000;
        let (mut sending, mut sent) = (JoinSet::new(), 0);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while sent < total {
            ticks.tick().await;
            let due = total.min(begin.elapsed().as_micros() * u128::from(rate) / 1_000_000);
            while sent < due {
                let stream = &mut self.streams[self.next];
                let (user, event) = (stream.user.clone(), stream.next(now_us())?);
                sending.spawn(publish(Arc::clone(&self.publisher), user, event));
                self.next = (self.next + 1) % self.streams.len();
                sent += 1;
            }
            while let Some(published) = sending.try_join_next() {
                published??;
            }
        }
        while let Some(published) = sending.join_next().await {
            published??;
        }
        Ok(u64::try_from(total)?)
    }

    /// Publishes so many events of the first user, all at once.
    ///
    /// # Errors
    /// When one could not be published.
    pub async fn at_once(&mut self, events: u32) -> Result<()> {
        let stream = self.streams.first_mut().context("there is no user")?;
        let mut sending = Vec::new();
        for _ in 0..events {
            let event = stream.next(now_us())?;
            sending.push(publish(Arc::clone(&self.publisher), stream.user.clone(), event));
        }
        futures_util::future::try_join_all(sending).await?;
        Ok(())
    }
}

async fn publish(publisher: Arc<RedisPublisher>, user: UserId, event: Event) -> Result<()> {
    let published = publisher.publish(&user, &event).await?;
    ensure!(matches!(published, Published::Appended(_)), "an event was there already");
    Ok(())
}
