//! Reads outside the live path: the head of a stream, its entries after a position, and live snapshots.

use redis::{Pipeline, Value};

use super::entry::{Fields, Raw, entries, gap};
use super::reader::entry;
use crate::bus::{Entry, Loss, Replay};
use crate::config::duration::millis;
use crate::planted::{self, Bug};
use crate::redis::{Call, CallError, Redis};
use crate::task::{EntryId, Epoch, Event, Position, TaskId, UserId};

/// Snapshots read in one pipeline.
const LIVE_MAX: usize = 256;

/// The place after the newest entry of `user`; makes the stream if there is none.
pub(super) async fn head(
    redis: &Redis,
    user: &UserId,
    stream_ttl: std::time::Duration,
) -> Result<Position, CallError> {
    let keys = redis.keys();
    let mut call = Call::Head.on(&[&keys.events(user), &keys.epoch(user)]);
    call.arg(Epoch::generate().as_str()).arg(millis(stream_ttl));
    let (epoch, last): (String, String) = redis::from_redis_value(redis.call(call).await?)?;
    let odd = || CallError::Reply(format!("{epoch} {last}"));
    Ok(Position::new(Epoch::new(&epoch).map_err(|_| odd())?, last.parse().map_err(|_| odd())?))
}

/// Up to `limit` entries of `user` after a position, or why it cannot be continued.
pub(super) async fn replay(
    redis: &Redis,
    user: &UserId,
    after: &Position,
    limit: usize,
    stream_ttl: std::time::Duration,
) -> Result<Replay, CallError> {
    let keys = redis.keys();
    let mut call = Call::Replay.on(&[&keys.events(user), &keys.epoch(user)]);
    call.arg(Epoch::generate().as_str()).arg(millis(stream_ttl)).arg(after.id.to_string()).arg(limit.max(1));
    let (epoch, last, list): (String, String, Value) = redis::from_redis_value(redis.call(call).await?)?;
    let last = last.parse().map_err(|_| CallError::Reply(format!("{epoch} {last}")))?;
    if epoch == after.epoch.as_str() || planted::is(Bug::CursorWithoutEpoch) {
        Ok(page(after, last, entries(list)))
    } else {
        Ok(Replay::Lost(Loss::Epoch))
    }
}

/// Judges what was found after `after` in a stream of the same epoch that ends at `last`.
fn page(after: &Position, last: EntryId, raws: Vec<Raw>) -> Replay {
    if after.id > last {
        return Replay::Lost(Loss::Ahead);
    }
    let found = match raws.first() {
        Some(Raw { fields: Some(fields), .. }) => gap(after.id, fields.previous),
        Some(_) => Some(Loss::Reader),
        None => (after.id < last).then_some(Loss::Trimmed),
    };
    if let Some(loss) = found {
        return Replay::Lost(loss);
    }
    let complete = raws.last().is_none_or(|raw| raw.id >= last);
    match readable(after, raws) {
        Some(entries) => Replay::Page { entries, complete },
        None => Replay::Lost(Loss::Reader),
    }
}

fn readable(after: &Position, raws: Vec<Raw>) -> Option<Vec<Entry>> {
    let one = |raw: Raw| -> Option<Entry> {
        let fields: Fields = raw.fields?;
        Some(entry(&after.epoch, raw.id, fields, None))
    };
    raws.into_iter().map(one).collect()
}

/// The newest event of each of these tasks of `user`, without items, as far as known.
pub(super) async fn live(redis: &Redis, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, CallError> {
    let mut events = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks(LIVE_MAX) {
        let mut pipeline = Pipeline::with_capacity(tasks.len());
        for task in tasks {
            pipeline.cmd("HGET").arg(redis.keys().task(user, *task)).arg("live");
        }
        for reply in redis.pipeline(&pipeline).await {
            let live: Option<Vec<u8>> = redis::from_redis_value(reply?)?;
            events.extend(live.and_then(|live| serde_json::from_slice::<Event>(&live).ok()));
        }
    }
    Ok(events)
}
