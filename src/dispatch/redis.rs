//! Wake-ups in a Redis stream that all workers read as one consumer group.
//!
//! The stream holds tokens, not jobs: it is never cut by length, and a token leaves it when it is acked. A consumer is
//! a worker process. Tokens of one that died are taken over once they have been idle for [`CLAIM_IDLE`]; the ack looks
//! at the owner, so a worker that was only slow ends nothing that has passed on. A group that is gone with its server's
//! memory is made again from the beginning of the stream. Not here: the function library (`redis/functions`).

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value, cmd};
use tokio::time::Instant;

use super::{DispatchError, Dispatcher, Token, TokenSource};
use crate::config::duration::millis;
use crate::planted::{self, Bug};
use crate::redis::{Call, CallError, Reaction, Redis, WORKERS, reaction};
use crate::task::{ReplicaId, TaskId};

/// How long a token may lie with a worker before others take it over. A claim in the store takes far less.
pub const CLAIM_IDLE: Duration = Duration::from_secs(15);
/// Pause between looks for such tokens.
const CLAIM_EVERY: Duration = Duration::from_secs(5);
/// Consumers that have not read for this long and hold nothing are removed.
const CONSUMER_IDLE: Duration = Duration::from_secs(600);
/// Most tokens looked through at once after a reply was lost.
const RECOVER_MAX: usize = 1_000;

/// Wake-ups through a Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisDispatch {
    redis: Redis,
    claim_idle: Duration,
}

impl RedisDispatch {
    /// Rings through `redis`.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self { redis, claim_idle: CLAIM_IDLE }
    }

    /// Takes tokens over after another time than [`CLAIM_IDLE`]. For tests, which cannot wait that long.
    #[must_use]
    pub fn with_claim_idle(self, claim_idle: Duration) -> Self {
        Self { claim_idle, ..self }
    }
}

impl RedisDispatch {
    /// Tokens that are in the stream, less those in the hands of a worker: an acked one is in neither.
    async fn unread(&self) -> Result<u64, CallError> {
        let stream = self.redis.keys().dispatch();
        let mut held = cmd("XPENDING");
        held.arg(&stream).arg(WORKERS);
        let held = match self.redis.query::<Value>(&held).await {
            Ok(Value::Array(summary)) => summary.into_iter().next().unwrap_or(Value::Int(0)),
            // Without a group nobody has taken any.
            Err(error) if reaction(&error) == Reaction::RecreateGroup => Value::Int(0),
            Ok(other) => return Err(CallError::Reply(format!("{other:?}"))),
            Err(error) => return Err(error),
        };
        let all: u64 = self.redis.query(cmd("XLEN").arg(&stream)).await?;
        Ok(all.saturating_sub(redis::from_redis_value(held)?))
    }
}

fn unavailable(doing: &'static str) -> impl FnOnce(CallError) -> DispatchError {
    move |error| DispatchError { doing, source: error.into() }
}

#[async_trait]
impl Dispatcher for RedisDispatch {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        let mut add = cmd("XADD");
        add.arg(self.redis.keys().dispatch());
        if planted::is(Bug::TrimmedDispatch) {
            add.arg("MAXLEN").arg(16);
        }
        add.arg("*").arg("t").arg(task.to_string());
        self.redis.query::<Value>(&add).await.map_err(unavailable("ringing a worker"))?;
        Ok(())
    }

    async fn waiting(&self) -> Result<u64, DispatchError> {
        self.unread().await.map_err(unavailable("counting tokens"))
    }

    async fn receiver(&self, worker: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
        let receiver = Receiver {
            stream: self.redis.keys().dispatch(),
            redis: self.redis.clone(),
            consumer: worker.clone(),
            claim_idle: self.claim_idle,
            claim_at: Instant::now(),
            in_hand: HashSet::new(),
            // What an earlier life of this consumer left pending is looked for first.
            doubtful: true,
        };
        receiver.make_group().await.map_err(unavailable("opening the dispatch stream"))?;
        Ok(Box::new(receiver))
    }
}

/// One consumer of the group.
struct Receiver {
    redis: Redis,
    stream: String,
    consumer: ReplicaId,
    claim_idle: Duration,
    claim_at: Instant,
    /// Entry ids given to the caller and not acked.
    in_hand: HashSet<String>,
    /// Whether a reply may have been lost, with tokens in it.
    doubtful: bool,
}

impl Receiver {
    /// Makes stream and group, from the first entry on: what was rung while nobody listened counts.
    async fn make_group(&self) -> Result<(), CallError> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(WORKERS).arg("0").arg("MKSTREAM");
        match self.redis.query::<Value>(&create).await {
            Err(error) if reaction(&error) != Reaction::AlreadyThere => Err(error),
            _ => Ok(()),
        }
    }

    /// One look for tokens: lost ones first, then those of the dead, then new ones, waiting up to `wait` for these.
    async fn look(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, CallError> {
        if self.doubtful {
            let tokens = self.recover(max).await?;
            if !tokens.is_empty() {
                return Ok(tokens);
            }
        }
        if Instant::now() >= self.claim_at {
            self.claim_at = Instant::now() + CLAIM_EVERY.min(self.claim_idle);
            let tokens = self.take_over(max).await?;
            if !tokens.is_empty() {
                return Ok(tokens);
            }
        }
        self.wait_for_new(max, wait).await
    }

    /// Reads this consumer's own pending entries: a lost reply has left its tokens there.
    async fn recover(&mut self, max: usize) -> Result<Vec<Token>, CallError> {
        let mut read = self.read(RECOVER_MAX);
        read.arg("STREAMS").arg(&self.stream).arg("0");
        let reply = self.redis.query(&read).await?;
        let tokens = self.take(first_stream(reply), max);
        // More may wait than were asked for.
        self.doubtful = tokens.len() == max;
        Ok(tokens)
    }

    async fn take_over(&mut self, max: usize) -> Result<Vec<Token>, CallError> {
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(&self.stream).arg(WORKERS).arg(self.consumer.as_str()).arg(millis(self.claim_idle));
        claim.arg("0").arg("COUNT").arg(max);
        let (_next, entries, vanished): (Value, Value, Vec<String>) = self.redis.query(&claim).await?;
        if !vanished.is_empty() {
            tracing::warn!(
                tokens = vanished.len(),
                "dispatch tokens vanished while pending; the poll finds their tasks"
            );
        }
        self.reap().await?;
        // Even what the caller had before: idle for so long, it was dropped and should come again.
        let tokens: Vec<Token> = tokens(entries).collect();
        self.in_hand.extend(tokens.iter().map(|token| token.receipt.clone()));
        Ok(tokens)
    }

    async fn reap(&self) -> Result<(), CallError> {
        let mut reap = Call::Reap.on(&[&self.stream]);
        reap.arg(WORKERS).arg(millis(CONSUMER_IDLE));
        self.redis.call(reap).await?;
        Ok(())
    }

    async fn wait_for_new(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, CallError> {
        let mut read = self.read(max);
        // BLOCK 0 would wait for ever.
        read.arg("BLOCK").arg(millis(wait).max(1)).arg("STREAMS").arg(&self.stream).arg(">");
        self.doubtful = true;
        let reply = self.redis.blocking(&read, wait).await?;
        self.doubtful = false;
        Ok(self.take(first_stream(reply), max))
    }

    fn read(&self, count: usize) -> Cmd {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(WORKERS).arg(self.consumer.as_str()).arg("COUNT").arg(count);
        read
    }

    /// Makes tokens of entries that the caller does not hold yet.
    fn take(&mut self, entries: Value, max: usize) -> Vec<Token> {
        let new: Vec<Token> =
            tokens(entries).filter(|token| !self.in_hand.contains(&token.receipt)).take(max).collect();
        self.in_hand.extend(new.iter().map(|token| token.receipt.clone()));
        new
    }
}

#[async_trait]
impl TokenSource for Receiver {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, DispatchError> {
        let end = Instant::now() + wait;
        let mut made = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let block = left.min(self.redis.config().block).min(self.claim_idle);
            match self.look(max.max(1), block).await {
                Ok(tokens) if tokens.is_empty() && !left.is_zero() => {}
                Ok(tokens) => return Ok(tokens),
                // Once: a group that is gone again at once is a fault to wait out, not to spin on.
                Err(error) if reaction(&error) == Reaction::RecreateGroup && !made => {
                    made = true;
                    tracing::warn!(%error, "the dispatch stream or its group is gone; making it again");
                    self.in_hand.clear();
                    self.make_group().await.map_err(unavailable("making the dispatch group again"))?;
                }
                Err(error) => return Err(unavailable("waiting for tokens")(error)),
            }
        }
    }

    async fn ack(&mut self, token: Token) -> Result<bool, DispatchError> {
        if token.receipt.is_empty() {
            return Ok(true);
        }
        let mut ack = Call::Ack.on(&[&self.stream]);
        ack.arg(WORKERS).arg(self.consumer.as_str()).arg(&token.receipt);
        let ended = self.redis.call(ack).await.map_err(unavailable("acking a token"))?;
        self.in_hand.remove(&token.receipt);
        Ok(ended != Value::Int(0))
    }

    async fn close(self: Box<Self>) -> Result<(), DispatchError> {
        let mut leave = Call::Leave.on(&[&self.stream]);
        leave.arg(WORKERS).arg(self.consumer.as_str());
        self.redis.call(leave).await.map_err(unavailable("leaving the dispatch group"))?;
        Ok(())
    }
}

/// The entries of the first stream of an `XREADGROUP` reply.
fn first_stream(reply: Value) -> Value {
    let first = |value: Value| match value {
        Value::Array(items) => items.into_iter().next(),
        _ => None,
    };
    match first(reply) {
        Some(Value::Array(mut stream)) if stream.len() == 2 => stream.remove(1),
        _ => Value::Nil,
    }
}

/// The tokens in a list of entries. Entries whose fields are gone are left out: they were trimmed by somebody's hand.
fn tokens(entries: Value) -> impl Iterator<Item = Token> {
    let entries = match entries {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    };
    entries.into_iter().filter_map(|entry| {
        let (receipt, fields): (String, Option<Vec<String>>) = redis::from_redis_value(entry).ok()?;
        let task = fields?.chunks_exact(2).find(|pair| pair[0] == "t").map(|pair| pair[1].parse().ok());
        Some(Token { task_id: task.flatten(), receipt })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn tokens_are_read_from_a_reply() {
        let task = TaskId::generate();
        let entry = |id: &str, fields: Value| Value::Array(vec![bulk(id), fields]);
        let whole = Value::Array(vec![bulk("t"), bulk(&task.to_string()), bulk("later"), bulk("x")]);
        let odd = Value::Array(vec![bulk("t"), bulk("not a task")]);
        let entries = Value::Array(vec![entry("1-0", whole), entry("2-0", odd), entry("3-0", Value::Nil)]);
        let reply = Value::Array(vec![Value::Array(vec![bulk("mp:dispatch"), entries])]);
        let tokens: Vec<_> = tokens(first_stream(reply)).collect();
        assert_eq!(tokens.len(), 2);
        assert_eq!((tokens[0].task_id, tokens[0].receipt.as_str()), (Some(task), "1-0"));
        assert_eq!((tokens[1].task_id, tokens[1].receipt.as_str()), (None, "2-0"));
    }

    #[test]
    fn an_empty_reply_has_no_tokens() {
        assert_eq!(tokens(first_stream(Value::Nil)).count(), 0);
    }
}
