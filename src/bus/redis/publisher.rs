//! Publishing: one function call per event, and one connection for all events that wait.
//!
//! Callers hand their call to a task that sends whatever has gathered in one pipeline. An event alone goes out at once;
//! under load a check-out of the pool carries up to [`BATCH_MAX`] events. The task belongs to the publisher and ends
//! with it.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::results;
use crate::BoxError;
use crate::bus::{BusError, FENCE_TTL, Published, Publisher};
use crate::config::BusConfig;
use crate::config::duration::millis;
use crate::redis::{Call, CallError, Reaction, Redis, Reply, reaction};
use crate::task::{Attempt, EntryId, Epoch, Event, ItemResult, Position, Seq, TaskId, UserId};

/// Events that go out in one pipeline.
const BATCH_MAX: usize = 128;
/// Events that may wait; callers past it wait for a place.
const QUEUE_MAX: usize = 1_024;
/// Events with results that are kept for a takeover. A worker leaves no more than half as many unrecorded.
const RESULTS_MAX: usize = 10_000;
/// How long the fence of a task is kept after its terminal event, but no longer than a stream without events: long enough
/// for a repeat by the relay to be seen as one.
const TERMINAL_TTL: Duration = Duration::from_secs(15 * 60);

const DOING: &str = "publishing an event";

/// Publishes events to their users' streams. Share it in an `Arc`; dropping it ends its task.
#[derive(Debug)]
pub struct RedisPublisher {
    redis: Redis,
    limits: Limits,
    queue: mpsc::Sender<Waiting>,
    deadline: Duration,
    _task: AbortOnDropHandle<()>,
}

/// How much of a stream is kept.
#[derive(Debug, Clone, Copy)]
struct Limits {
    entries_max: usize,
    retention_ms: u64,
    stream_ttl_ms: u64,
    terminal_ttl: Duration,
}

#[derive(Debug)]
struct Waiting {
    call: Cmd,
    reply: oneshot::Sender<Reply>,
}

impl RedisPublisher {
    /// Starts the task that sends. Must be called inside the runtime.
    #[must_use]
    pub fn start(redis: &Redis, config: &BusConfig) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let task = AbortOnDropHandle::new(tokio::spawn(send_all(redis.clone(), waiting)));
        let limits = Limits {
            entries_max: config.entries_max,
            retention_ms: millis(config.retention),
            stream_ttl_ms: millis(config.stream_ttl),
            terminal_ttl: TERMINAL_TTL.min(config.stream_ttl),
        };
        // A batch that is under way and the one after it may each take their time.
        let deadline = (redis.config().command_timeout + redis.config().connect_timeout) * 2;
        Self { redis: redis.clone(), limits, queue, deadline, _task: task }
    }

    async fn send(&self, call: Cmd) -> Reply {
        let gone = || CallError::NoConnection("the sending task is gone".into());
        let (reply, answer) = oneshot::channel();
        self.queue.send(Waiting { call, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    fn call(&self, user: &UserId, event: &Event, recorded: Option<Seq>) -> Result<Cmd, BoxError> {
        let (body, live) = bodies(event)?;
        let keys = self.redis.keys();
        let (events, epoch) = (keys.events(user), keys.epoch(user));
        let (task, doorbell) = (keys.task(user, event.task_id), keys.doorbell(user));
        let results = keys.results(user, event.task_id);
        let task_ttl = if event.is_terminal() { self.limits.terminal_ttl } else { FENCE_TTL };
        let kept_from = recorded.map_or_else(String::new, |recorded| recorded.next().to_string());
        let mut call = Call::Publish.on(&[&events, &epoch, &task, &doorbell, &results]);
        call.arg(event.attempt.0).arg(event.seq.0).arg(event.task_id.to_string());
        call.arg(u8::from(event.is_terminal())).arg(body).arg(live);
        call.arg(Epoch::generate().as_str()).arg(self.limits.entries_max);
        call.arg(self.limits.retention_ms).arg(self.limits.stream_ttl_ms).arg(millis(task_ttl));
        call.arg(kept_from).arg(u8::from(event.has_results())).arg(RESULTS_MAX);
        Ok(call)
    }
}

#[async_trait]
impl Publisher for RedisPublisher {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        let call = self.call(user, event, recorded).map_err(unavailable)?;
        let reply = timeout(self.deadline, self.send(call)).await.unwrap_or(Err(CallError::Late));
        outcome(reply.map_err(failed)?)
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        let doing = "reading results that may not be recorded";
        results::read(&self.redis, user, task, attempt)
            .await
            .map_err(|error| BusError::Unavailable { doing, source: error.into() })
    }
}

/// The event, and the event without its items for the live snapshot.
fn bodies(event: &Event) -> Result<(Vec<u8>, Vec<u8>), serde_json::Error> {
    let body = serde_json::to_vec(event)?;
    if event.items.is_empty() {
        return Ok((body.clone(), body));
    }
    let live = serde_json::to_vec(&Event { items: Vec::new(), ..event.clone() })?;
    Ok((body, live))
}

fn unavailable(source: BoxError) -> BusError {
    BusError::Unavailable { doing: DOING, source }
}

fn failed(error: CallError) -> BusError {
    match reaction(&error) {
        Reaction::ForeignKey => BusError::Taken { doing: DOING, source: error.into() },
        _ => unavailable(error.into()),
    }
}

/// What the function's reply means.
fn outcome(reply: Value) -> Result<Published, BusError> {
    let words: Vec<String> = redis::from_redis_value(reply).map_err(|error| unavailable(error.into()))?;
    let odd = || unavailable(CallError::Reply(words.join(" ")).into());
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["appended", epoch, id] => {
            let id: EntryId = id.parse().map_err(|_| odd())?;
            Ok(Published::Appended(Position::new(Epoch::new(epoch).map_err(|_| odd())?, id)))
        }
        ["repeat"] => Ok(Published::Repeat),
        ["fenced", attempt] => {
            Err(BusError::Fenced { current: Attempt(attempt.parse().map_err(|_| odd())?) })
        }
        _ => Err(odd()),
    }
}

async fn send_all(redis: Redis, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // Nobody waits any more for what was dropped meanwhile; it counts as not published.
        batch.retain(|waiting| !waiting.reply.is_closed());
        send(&redis, &mut batch).await;
    }
}

async fn send(redis: &Redis, batch: &mut Vec<Waiting>) {
    let mut calls = Pipeline::with_capacity(batch.len());
    let mut replies = Vec::with_capacity(batch.len());
    for Waiting { call, reply } in batch.drain(..) {
        calls.add_command(call);
        replies.push(reply);
    }
    for (reply, value) in replies.into_iter().zip(redis.call_all(&calls).await) {
        let _ = reply.send(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn replies_of_the_function_are_understood() {
        let position = Position::new(Epoch::new("abc").unwrap(), EntryId { major: 5, minor: 1 });
        assert_eq!(outcome(reply(&["appended", "abc", "5-1"])).unwrap(), Published::Appended(position));
        assert_eq!(outcome(reply(&["repeat"])).unwrap(), Published::Repeat);
        let fenced = outcome(reply(&["fenced", "7"])).unwrap_err();
        assert!(matches!(fenced, BusError::Fenced { current: Attempt(7) }));
    }

    #[test]
    fn anything_else_is_an_error_and_no_panic() {
        for words in [&["appended", "abc"][..], &["appended", "a b", "5-1"], &["fenced", "x"], &["new"], &[]]
        {
            let error = outcome(reply(words)).unwrap_err();
            assert!(matches!(error, BusError::Unavailable { .. }), "{words:?}: {error}");
        }
    }
}
