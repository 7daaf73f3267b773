//! `POST plans`: what a task would do. Takes the body of a submit, and changes nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa::ToSchema;

use super::tasks::DraftBody;
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::Body;
use crate::gateway::plan::show;
use crate::gateway::submit::{TASK_FIELDS, admit};
use crate::task::{Draft, Plan};

/// Plan a task
#[utoipa::path(post, path = "/api/v1/plans", tag = "tasks", request_body = DraftBody,
    responses(
        (status = 200, description = "What a submit of this body would do; a submit with its hash as `plan_hash` is refused when that became something else", body = PlanBody),
        (status = 413, description = "The body is too large", body = Problem),
        (status = 422, description = "The request breaks rules, or has more items than a plan may have; each field is named", body = Problem),
        (status = 429, description = "Too many requests", body = Problem),
        (status = 503, description = "The cluster cannot be reached, or too many plans are being made", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Body(draft): Body<Draft>,
) -> Result<Json<Plan>, ApiError> {
    let spec = admit(&shared, &caller, draft, TASK_FIELDS)?;
    show(&shared, &caller, &spec, TASK_FIELDS).await.map(Json)
}

/// What a task would do, as far as that can be known now.
#[derive(Debug, ToSchema)]
#[schema(as = Plan)]
#[expect(dead_code, reason = "describes answers, which are the core's own")]
pub struct PlanBody {
    /// Stands for everything that would be done: 64 hexadecimal digits. Heartbeats, other labels and the like do not change it.
    hash: String,
    /// What is done to each item.
    action: String,
    /// The cluster.
    cluster: String,
    /// How many items come to what.
    summary: SummaryBody,
    /// Rights that the task needs and the account of Milepost does not have in the cluster.
    missing: Vec<RightBody>,
    /// Why no item would be begun, if that is so.
    refused: Option<String>,
    /// What is to be known about the task as a whole.
    warnings: Vec<String>,
    /// Items of each wave, in order; a single one for a task without waves.
    waves: Vec<u32>,
    /// What decides the order, in a sentence.
    order: String,
    /// How long it may take.
    estimate: EstimateBody,
    /// Every item, in the order in which they would be started.
    nodes: Vec<NodePlanBody>,
}

/// How many items come to what.
#[derive(Debug, ToSchema)]
#[schema(as = PlanSummary)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct SummaryBody {
    /// All items.
    nodes: u32,
    /// Items that would be changed.
    change: u32,
    /// Items that are as asked for already.
    already: u32,
    /// Items that would be left alone on purpose.
    skip: u32,
    /// Items that would fail.
    fail: u32,
    /// Items that do not exist; they would fail.
    missing: u32,
    /// Items that could not be looked at.
    unknown: u32,
    /// Pods that would be evicted.
    evictions: u32,
    /// Items with pods that a disruption budget would not let go now.
    held_by_budgets: u32,
}

/// A right in a cluster.
#[derive(Debug, ToSchema)]
#[schema(as = Right)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct RightBody {
    /// The Kubernetes verb.
    verb: String,
    /// Plural name of the resource, with its subresource.
    resource: String,
    /// In this namespace; in the whole cluster when left out.
    namespace: Option<String>,
}

/// How long a task may take.
#[derive(Debug, ToSchema)]
#[schema(as = Estimate)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct EstimateBody {
    /// From the first item to the last, without waiting for people, windows and room.
    seconds: u64,
    /// `history`: tasks of this kind on this cluster; `request`: the request says it; `guess`: nothing is known.
    basis: String,
    /// The same in a sentence.
    says: String,
}

/// What would become of one item.
#[derive(Debug, ToSchema)]
#[schema(as = NodePlan)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct NodePlanBody {
    /// Its name.
    name: String,
    /// The wave it is in, from 1.
    wave: u32,
    /// `change`, `already`, `skip`, `fail`, `missing` (it does not exist) or `unknown` (it could not be looked at).
    outcome: String,
    /// The same in a sentence.
    says: String,
    /// Which node it is: a later one of the same name has another.
    uid: Option<String>,
    /// How it is now.
    now: Option<NodeNowBody>,
    /// What would be written to the node itself.
    changes: Option<Vec<FieldChangeBody>>,
    /// Its pods by what becomes of them; only of a drain.
    pods: Option<Vec<PodGroupBody>>,
    /// Disruption budgets that would hold pods back now.
    budgets: Option<Vec<BudgetHoldBody>>,
    /// What is to be known about it.
    warnings: Option<Vec<String>>,
    /// Stands for what would be done to it.
    digest: String,
}

/// A node as it is, in brief.
#[derive(Debug, ToSchema)]
#[schema(as = NodeNow)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct NodeNowBody {
    /// Whether its `Ready` condition is true.
    ready: bool,
    /// Whether it is cordoned.
    unschedulable: bool,
    /// By whom and why, if it is.
    cordoned: Option<String>,
    /// Its roles.
    roles: Option<Vec<String>>,
    /// Its zone, if it says one.
    zone: Option<String>,
}

/// One thing that would be written to a node. A value that is left out is not there.
#[derive(Debug, ToSchema)]
#[schema(as = FieldChange)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct FieldChangeBody {
    /// `unschedulable`, `label`, `annotation` or `taint`.
    field: String,
    /// The key of a label or an annotation, `key:effect` of a taint.
    key: Option<String>,
    /// The value before.
    before: Option<String>,
    /// The value after.
    after: Option<String>,
    /// There is a value after that nobody knows before it is done: the id of the task, the time.
    at_run: Option<bool>,
}

/// Pods of one node that share their fate and what they are.
#[derive(Debug, ToSchema)]
#[schema(as = PodGroup)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct PodGroupBody {
    /// `evict`, `leave`, or `refuse`: they keep the node from being drained.
    fate: String,
    /// `ordinary`, `finished`, `terminating`, `empty_dir`, `unmanaged`, `daemon_set`, `orphan`, `unclear` or `mirror`.
    class: String,
    /// How many.
    count: u32,
    /// The first of them as `namespace/name`, sorted.
    names: Vec<String>,
}

/// A disruption budget that would hold pods of a node back.
#[derive(Debug, ToSchema)]
#[schema(as = BudgetHold)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct BudgetHoldBody {
    /// The budget as `namespace/name`.
    budget: String,
    /// Pods of the node that it covers and that would be evicted.
    pods: u32,
    /// How many it lets go now.
    allowed: u32,
    /// Whether not one of them can go as things are.
    blocks: bool,
    /// Why, in a sentence.
    why: String,
}

/// How a plan that a submit demanded is another one by now.
#[derive(Debug, ToSchema)]
#[schema(as = PlanChange)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct PlanChangeBody {
    /// The hash of the plan of now.
    hash: String,
    /// What became different; left out when this gateway does not know the plan that was demanded.
    differences: Option<DifferencesBody>,
}

/// What became different between two plans.
#[derive(Debug, ToSchema)]
#[schema(as = PlanDifferences)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct DifferencesBody {
    /// What is different about the task as a whole.
    task: Vec<String>,
    /// The nodes to which something else would be done; at most 100.
    nodes: Vec<DifferenceBody>,
    /// How many more there are.
    more: u32,
}

/// A node to which something else would be done.
#[derive(Debug, ToSchema)]
#[schema(as = PlanDifference)]
#[expect(dead_code, reason = "describes a part of answers, which are the core's own")]
pub struct DifferenceBody {
    /// Its name.
    name: String,
    /// What was planned.
    planned: String,
    /// What would be done now.
    now: String,
}
