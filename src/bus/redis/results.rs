//! Reading what older attempts of a task told and may not have recorded: the little stream beside the task's fence.
//!
//! Read in pages, so that no reply is large. Not here: writing and trimming it, which the publish function does.

use redis::{Value, cmd};

use super::entry::bodies;
use crate::redis::{CallError, Redis};
use crate::task::{Attempt, Event, ItemResult, TaskId, UserId};

/// Events in one reply: at most 500 results each.
const PAGE: usize = 100;

/// The results told by attempts before `attempt`, in the order they were told.
pub(super) async fn read(
    redis: &Redis,
    user: &UserId,
    task: TaskId,
    attempt: Attempt,
) -> Result<Vec<ItemResult>, CallError> {
    let key = redis.keys().results(user, task);
    let (mut results, mut after) = (Vec::new(), "-".to_owned());
    loop {
        let mut page = cmd("XRANGE");
        page.arg(&key).arg(&after).arg(format!("({attempt}-0")).arg("COUNT").arg(PAGE);
        let page = bodies(redis.query::<Value>(&page).await?);
        for (_, body) in &page {
            // One that cannot be read is of a release that tells results in another way: its items run again.
            results.extend(serde_json::from_slice::<Event>(body).iter().flat_map(Event::results));
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = format!("({last}"),
            _ => return Ok(results),
        }
    }
}
