//! From a checked request to a recorded task that somebody will work on.
//!
//! Order: check everything, record it, then tell watchers and workers. Once it is recorded the answer is a 2xx, even
//! when telling fails: watchers see the task in their next snapshot, and maintenance wakes a worker.

use std::time::Duration;

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Shared;
use super::auth::Caller;
use super::error::ApiError;
use super::plan;
use super::refusals::told;
use super::rights::{may_act, may_submit};
use crate::bus::BusError;
use crate::store::audit::Asked;
use crate::store::{Created, IdempotencyKey, NewRetry, NewTask, OutboxRow, StoreError, Task};
use crate::task::{
    ActionSpec, ClusterName, Draft, Event, EventKind, Fault, Retry, RetryDraft, Seq, TaskId, TaskSpec, UserId,
};

/// The header that makes a repeated submit return the first task.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest key.
const KEY_LEN_MAX: usize = 255;
/// How long a submit waits for watchers and workers to be told, each.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys of others that are named in one refusal.
const FAULTS_MAX: usize = 20;

/// How the fields of a request are called by the route it came through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldNames {
    pub(crate) cluster: &'static str,
    pub(crate) items: &'static str,
    /// What stands before the name of an action's parameter.
    pub(crate) parameters: &'static str,
}

/// The names of `POST tasks`.
pub(crate) const TASK_FIELDS: FieldNames =
    FieldNames { cluster: "cluster", items: "items", parameters: "parameters." };

/// The names of `POST nodes/batch/*`.
pub(crate) const BATCH_FIELDS: FieldNames =
    FieldNames { cluster: "cluster_name", items: "node_names", parameters: "" };

/// Checks, records and announces a draft.
pub(crate) async fn submit(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    draft: Draft,
    names: FieldNames,
) -> Result<Created, ApiError> {
    let asked = Asked::submit(&draft);
    let outcome = submit_admitted(shared, caller, headers, draft, names).await;
    told(shared, caller, || asked, outcome).await
}

async fn submit_admitted(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    draft: Draft,
    names: FieldNames,
) -> Result<Created, ApiError> {
    let agreed = draft.plan_hash.as_deref().and_then(|hash| hash.parse().ok());
    let spec = admit(shared, caller, draft, names)?;
    let key = key(headers, || spec.fingerprint())?;
    if let Some(agreed) = agreed
        && let Some(task) = plan::demand(shared, caller, (&spec, key.as_ref(), agreed), names).await?
    {
        return Ok(Created::Existing(task));
    }
    let (id, open_max) = (TaskId::generate(), shared.parts.limits.open_tasks_per_user);
    let new = NewTask { id, owner: caller.user.clone(), spec, key, open_max, origin: caller.origin() };
    let created = shared.parts.store.create(new).await?;
    announce_created(shared, &created).await;
    Ok(created)
}

/// Checks, records and announces a retry of a task that the caller may see.
pub(crate) async fn submit_retry(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    parent: &Task,
    draft: RetryDraft,
) -> Result<Created, ApiError> {
    if parent.owner != caller.user {
        return Err(ApiError::Forbidden("only who submitted a task may retry it"));
    }
    let access = may_submit(shared, caller, &parent.cluster, &parent.action)?;
    let key = key(headers, || fingerprint_of_retry(parent.id, &draft))?;
    let mut retry = Retry::new(draft).map_err(|error| ApiError::Invalid(error.faults))?;
    retry.may = access.may;
    let (id, open_max) = (TaskId::generate(), shared.parts.limits.open_tasks_per_user);
    let (owner, origin) = (caller.user.clone(), caller.origin());
    let new = NewRetry { id, parent: parent.id, owner, retry, key, open_max, origin };
    let created = shared.parts.store.retry(new).await.map_err(|error| match error {
        StoreError::Refused { status, .. } => {
            ApiError::Conflict(format!("the task is {status}; it can be retried when it is over"))
        }
        other => other.into(),
    })?;
    let created = created.ok_or(ApiError::NotFound("there is no such task"))?;
    announce_created(shared, &created).await;
    Ok(created)
}

async fn announce_created(shared: &Shared, created: &Created) {
    if let Created::New(task) = created {
        shared.parts.metrics.tasks_submitted.inc();
        let queued = task.event(EventKind::Queued, Seq::FIRST, shared.parts.clock.now());
        announce(shared, &task.owner, &queued).await;
        wake_worker(shared, task.id).await;
    }
}

/// A draft in which every rule holds, of somebody who may ask for it, with what they hold.
pub(crate) fn admit(
    shared: &Shared,
    caller: &Caller,
    draft: Draft,
    names: FieldNames,
) -> Result<TaskSpec, ApiError> {
    if let Ok(cluster) = ClusterName::new(&draft.cluster)
        && caller.access(shared, &cluster).may_see()
    {
        may_act(shared, caller, &cluster)?;
    }
    let spec = check(shared, caller, draft, names)?;
    let may = may_submit(shared, caller, &spec.cluster, &spec.action)?.may;
    Ok(TaskSpec { may, ..spec })
}

/// Every rule, those of this installation included. A cluster that the caller may not see is not there.
fn check(shared: &Shared, caller: &Caller, draft: Draft, names: FieldNames) -> Result<TaskSpec, ApiError> {
    let invalid = |faults: Vec<Fault>| {
        let renamed = faults.into_iter().map(|fault| fault.renamed(|field| name_of(field, names)));
        ApiError::Invalid(renamed.collect())
    };
    let spec = TaskSpec::new(draft).map_err(|error| invalid(error.faults))?;
    let faults = shared.parts.clusters.faults(&spec.action);
    if !faults.is_empty() {
        return Err(invalid(faults.into_iter().take(FAULTS_MAX).collect()));
    }
    if matches!(spec.action, ActionSpec::Wait(_)) {
        return match shared.parts.wait_action {
            true => Ok(spec),
            false => Err(ApiError::invalid(
                "action",
                "wait is not allowed here; the setting actions.wait allows it",
            )),
        };
    }
    let mut clusters = shared.parts.clusters.names();
    clusters.retain(|name| caller.access(shared, name).may_see());
    match clusters.contains(&spec.cluster) {
        true => Ok(spec),
        false => Err(ApiError::invalid(names.cluster, unknown_cluster(&spec.cluster, &clusters))),
    }
}

/// Names the cluster that is not there, and some that are.
fn unknown_cluster(asked: &ClusterName, there: &[ClusterName]) -> String {
    const NAMED_MAX: usize = 10;
    let named: Vec<&str> = there.iter().take(NAMED_MAX).map(ClusterName::as_str).collect();
    match named.is_empty() {
        true => format!("is {asked}, and no cluster is configured"),
        false => format!("must be a configured cluster such as {}; {asked} is none", named.join(", ")),
    }
}

/// What the route calls a field of a draft.
fn name_of(field: &str, names: FieldNames) -> String {
    if let Some(rest) = field.strip_prefix("parameters.") {
        return format!("{}{rest}", names.parameters);
    }
    match field.strip_prefix("items") {
        Some(rest) if rest.is_empty() || rest.starts_with('[') => format!("{}{rest}", names.items),
        _ if field == "cluster" => names.cluster.to_owned(),
        _ => field.to_owned(),
    }
}

fn key(
    headers: &HeaderMap,
    fingerprint: impl FnOnce() -> [u8; 32],
) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = (1..=KEY_LEN_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    let key = value.to_str().ok().filter(|_| fits);
    let key = key.ok_or_else(|| {
        ApiError::malformed("Idempotency-Key", format!("must be 1 to {KEY_LEN_MAX} visible ASCII characters"))
    })?;
    Ok(Some(IdempotencyKey { key: key.to_owned(), fingerprint: fingerprint() }))
}

/// A retry in one fixed form. Not its items: a repeat must find the first retry, whatever that has come to.
#[derive(Serialize)]
struct CanonicalRetry<'a> {
    retry_of: String,
    #[serde(flatten)]
    draft: &'a RetryDraft,
}

fn fingerprint_of_retry(parent: TaskId, draft: &RetryDraft) -> [u8; 32] {
    let canonical = CanonicalRetry { retry_of: parent.to_string(), draft };
    Sha256::digest(super::live::protocol::json(&canonical)).into()
}

/// Publishes an event that tells what the record already says. Returns whether it is out.
pub(crate) async fn announce(shared: &Shared, owner: &UserId, event: &Event) -> bool {
    let publish = shared.parts.publisher.publish(owner, event);
    let why = match tokio::time::timeout(TELL_TIMEOUT, publish).await {
        Ok(Ok(_)) => {
            shared.parts.metrics.events_published.inc();
            return true;
        }
        // A worker was faster: watchers know more than this event says.
        Ok(Err(BusError::Fenced { .. })) => return true,
        Ok(Err(error)) => super::error::chain(&error.into()),
        Err(_) => "no answer in time".to_owned(),
    };
    shared.parts.metrics.publish_errors.inc();
    tracing::warn!(task.id = %event.task_id, error = why, "an event could not be published; the record has it");
    false
}

/// Publishes an event that was committed with a change, and notes that. Maintenance does it when this fails.
pub(crate) async fn announce_committed(shared: &Shared, row: &OutboxRow) {
    if !announce(shared, &row.owner, &row.event).await {
        return;
    }
    if let Err(error) = shared.parts.store.published(&[row.id]).await {
        let error = super::error::chain(&error.into());
        tracing::warn!(task.id = %row.event.task_id, error, "an event will be published again");
    }
}

/// Wakes a worker. Maintenance does it when this fails.
pub(crate) async fn wake_worker(shared: &Shared, task: TaskId) {
    let why = match tokio::time::timeout(TELL_TIMEOUT, shared.parts.dispatcher.notify(task)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => super::error::chain(&error.into()),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(task.id = %task, error = why, "no worker was woken; maintenance will do it");
}

/// Tells watchers that a task nobody works on was paused or resumed. While a worker holds the task, the worker tells.
///
/// The event follows the newest one that the bus knows, if it has not lost all of them. If a worker claims the task
/// meanwhile, the fence drops it.
pub(crate) async fn announce_control(shared: &Shared, task: &Task, kind: EventKind) {
    if task.worker.is_some() {
        return;
    }
    let ids = [task.id];
    let live = shared.parts.feed.live(&task.owner, &ids);
    let Ok(Ok(newest)) = tokio::time::timeout(TELL_TIMEOUT, live).await else { return };
    let newest =
        newest.iter().filter(|event| event.attempt == task.state.attempt).max_by_key(|event| event.seq);
    let seq = newest.map_or_else(|| after_a_loss(shared.parts.clock.now()), |newest| newest.seq.next());
    let mut event = task.event(kind, seq, shared.parts.clock.now());
    // The record is a moment behind what the worker tells: counts must not fall for who watches.
    if let Some(newest) = newest.filter(|newest| newest.counts.current() > event.counts.current()) {
        event.set_counts(newest.counts);
    }
    announce(shared, &task.owner, &event).await;
}

/// A number past all that an attempt may have used, of which the bus knows nothing any more: a number stands for one event
/// only, whatever was lost. Milliseconds fit into what every client counts with.
fn after_a_loss(now: Timestamp) -> Seq {
    Seq(now.as_millisecond().unsigned_abs().max(Seq::FIRST.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_as_the_route_names_its_fields() {
        let renamed = |field: &str| name_of(field, BATCH_FIELDS);
        assert_eq!(renamed("items[3]"), "node_names[3]");
        assert_eq!(renamed("cluster"), "cluster_name");
        assert_eq!(renamed("parameters.labels.a"), "labels.a");
        assert_eq!(renamed("item_timeout_ms"), "item_timeout_ms");
        assert_eq!(renamed("parameters.taints[0]"), "taints[0]");
    }
}
