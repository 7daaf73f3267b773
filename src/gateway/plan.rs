//! Plans: made on request, and made anew when a submit demands one.
//!
//! A plan asks the cluster, so a gateway makes few at a time and turns others away at once. It remembers the newest ones,
//! to say what became different; another replica can refuse as well, and then names no differences. A submit that demands
//! nothing asks no cluster. Not here: what a plan is (core) and how a cluster is read (action).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Shared;
use super::auth::{Caller, Role};
use super::error::{ApiError, PlanChange};
use super::submit::FieldNames;
use crate::store::{IdempotencyKey, Task, TaskQuery};
use crate::task::plan::{Known, PLAN_ITEMS_MAX, Past};
use crate::task::{Plan, PlanHash, Status, TaskSpec, UserId};

/// Plans made at once.
const AT_ONCE: usize = 4;
/// Plans remembered.
const KNOWN_MAX: usize = 16;
/// Tasks looked at to learn how long one takes, and tasks learned from.
const LOOK_BACK: u32 = 200;
const PAST_MAX: usize = 10;

/// What a gateway keeps about plans.
pub(crate) struct Plans {
    room: Semaphore,
    known: Mutex<VecDeque<(UserId, Known)>>,
}

impl Plans {
    pub(crate) fn new() -> Self {
        Self { room: Semaphore::new(AT_ONCE), known: Mutex::default() }
    }

    /// Room for one plan. Nobody waits for it: clusters would be asked long after who asked has gone.
    fn enter(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let full = "this gateway makes as many plans as it can at once";
        self.room.try_acquire().map_err(|_| ApiError::Unavailable(full, None))
    }

    fn remember(&self, user: &UserId, plan: &Plan) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(owner, before)| owner != user || before.hash != plan.hash);
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back((user.clone(), Known::from(plan)));
    }

    /// What became different since a plan of this user; `None` when that one is not known here.
    fn change(&self, user: &UserId, agreed: PlanHash, now: &Plan) -> PlanChange {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.iter().find(|(owner, before)| owner == user && before.hash == agreed);
        PlanChange { hash: now.hash, differences: before.map(|(_, before)| before.differences(now)) }
    }
}

/// Makes a plan of a checked request, and remembers it.
pub(crate) async fn make(
    shared: &Shared,
    caller: &Caller,
    spec: &TaskSpec,
    names: FieldNames,
) -> Result<Plan, ApiError> {
    if spec.items.len() > PLAN_ITEMS_MAX {
        let why = format!("must hold at most {PLAN_ITEMS_MAX} names for a plan, holds {}", spec.items.len());
        return Err(ApiError::invalid(names.items, why));
    }
    let room = shared.plans.enter()?;
    let survey = shared.parts.clusters.survey(spec, &caller.user).await?;
    drop(room);
    let (lanes, past) = (shared.parts.lanes_per_task, past(shared, caller, spec).await);
    Ok(Plan::new(spec, survey, lanes, &past, shared.parts.clock.now()))
}

/// Makes a plan for somebody who looks at it, and remembers it.
pub(crate) async fn show(
    shared: &Shared,
    caller: &Caller,
    spec: &TaskSpec,
    names: FieldNames,
) -> Result<Plan, ApiError> {
    let plan = make(shared, caller, spec, names).await?;
    shared.plans.remember(&caller.user, &plan);
    Ok(plan)
}

/// Refuses a submit whose plan is another one by now. Returns the task that its key has made before, if any: what that has
/// done since is no reason to refuse the repeat.
pub(crate) async fn demand(
    shared: &Shared,
    caller: &Caller,
    (spec, key, agreed): (&TaskSpec, Option<&IdempotencyKey>, PlanHash),
    names: FieldNames,
) -> Result<Option<Task>, ApiError> {
    if let Some(key) = key
        && let Some(task) = shared.parts.store.of_key(&caller.user, key).await?
    {
        return Ok(Some(task));
    }
    let plan = make(shared, caller, spec, names).await?;
    if plan.hash == agreed {
        return Ok(None);
    }
    Err(ApiError::PlanChanged(Box::new(shared.plans.change(&caller.user, agreed, &plan))))
}

/// Tasks of the same kind that ended on the same cluster, of those that the caller may see. None when the record does not
/// answer: a plan needs no estimate to be true.
async fn past(shared: &Shared, caller: &Caller, spec: &TaskSpec) -> Vec<Past> {
    let query = TaskQuery {
        owner: (caller.role != Role::Admin).then(|| caller.user.clone()),
        statuses: vec![Status::Completed, Status::CompletedWithErrors],
        cluster: Some(spec.cluster.clone()),
        before: None,
        limit: LOOK_BACK,
    };
    let Ok(tasks) = shared.parts.store.list(&query).await else { return Vec::new() };
    let lanes = shared.parts.lanes_per_task;
    let alike = tasks.iter().filter(|task| {
        task.action.name() == spec.action.name() && task.strategy.is_none() && task.state.attempt.0 == 1
    });
    alike.filter_map(|task| past_of(task, lanes)).take(PAST_MAX).collect()
}

fn past_of(task: &Task, lanes: u32) -> Option<Past> {
    let took = task.finished_at?.duration_since(task.started_at?).try_into().ok()?;
    let lanes = task.concurrency.map_or(lanes, |wanted| lanes.min(wanted.into()));
    Some(Past { items: task.counts.total, took, lanes })
}
