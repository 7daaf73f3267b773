//! `POST nodes/batch/*`: an action on many nodes of one cluster, with its parameters at the top level.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::strategy::StrategyBody;
use super::tasks::{BudgetBody, TaskBody, accepted};
use crate::gateway::Shared;
use crate::gateway::auth::Caller;
use crate::gateway::error::{ApiError, Problem};
use crate::gateway::extract::Body;
use crate::gateway::submit::{BATCH_FIELDS, submit};
use crate::task::{Draft, FailureBudget, StrategyDraft};

/// Declares the body of a batch: what all batches have, and the parameters of its action.
macro_rules! batch {
    ($(#[$doc:meta])* $name:ident, $action:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The cluster, as `GET clusters` names it.
            pub cluster_name: String,
            /// Names of 1 to 100,000 nodes, in the order they should be started.
            pub node_names: Vec<String>,
            /// Why, for people and audit; at most 500 characters.
            pub reason: Option<String>,
            /// Higher is started first among your tasks: -100 to 100.
            pub priority: Option<i16>,
            /// Most nodes worked on at once.
            pub concurrency: Option<u16>,
            /// Time-out of one node, in milliseconds.
            pub item_timeout_ms: Option<u64>,
            /// How many workers may try before the task is given up.
            pub max_attempts: Option<u16>,
            /// How many nodes may fail before the task is stopped.
            #[schema(value_type = Option<BudgetBody>)]
            pub failure_budget: Option<FailureBudget>,
            /// In which waves, order and windows; all at once, as given and at any time when left out.
            #[schema(value_type = Option<StrategyBody>)]
            pub strategy: Option<StrategyDraft>,
            /// The hash of a plan: refuse the task, with what is different, if it would do something else by now.
            pub plan_hash: Option<String>,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl From<$name> for Draft {
            fn from(body: $name) -> Self {
                let parameters: Value = json!({ $(stringify!($field): body.$field),* });
                Self {
                    action: $action.to_owned(),
                    cluster: body.cluster_name,
                    items: body.node_names,
                    parameters,
                    reason: body.reason,
                    priority: body.priority,
                    concurrency: body.concurrency,
                    item_timeout_ms: body.item_timeout_ms,
                    max_attempts: body.max_attempts,
                    failure_budget: body.failure_budget,
                    strategy: body.strategy,
                    plan_hash: body.plan_hash,
                }
            }
        }
    };
}

batch! {
    /// Makes nodes unschedulable.
    CordonBatch, "cordon" {}
}

batch! {
    /// Makes nodes schedulable.
    UncordonBatch, "uncordon" {
        /// Whether cordons that Milepost did not make are undone too; without it such a node is skipped.
        #[serde(default)] foreign: bool,
        /// Undo only the cordons that this task made, and skip every other node: to roll a batch back.
        of_task: Option<String>,
    }
}

batch! {
    /// Makes nodes unschedulable and evicts their pods, by the rules of `kubectl drain`. Disruption budgets are
    /// respected unless `bypass_pdb` is set. `item_timeout_ms` is refused: `timeout_seconds` says how long a node may take.
    DrainBatch, "drain" {
        /// Seconds for each pod to end by itself; left out or -1 for the pod's own.
        grace_period_seconds: Option<i64>,
        /// How long one node may take from its first eviction, in seconds: 1 to 86,400, 1,800 when left out.
        timeout_seconds: Option<u32>,
        /// Leave pods of DaemonSets where they are; without it a node with such pods is refused.
        #[serde(default)] ignore_daemonsets: bool,
        /// Evict pods with emptyDir volumes, whose data is lost; without it a node with such pods is refused.
        #[serde(default)] delete_emptydir_data: bool,
        /// Evict pods that nothing makes anew; without it a node with such pods is refused.
        #[serde(default)] force: bool,
        /// Delete pods instead of evicting them, so that no disruption budget is asked. Takes the capability `bypass-pdb`.
        #[serde(default)] bypass_pdb: bool,
        /// Only pods that this label selector selects.
        pod_selector: Option<String>,
        /// Do not wait for pods that have been terminating for longer than this; 0 or left out: wait for all.
        skip_wait_for_delete_timeout_seconds: Option<u32>,
    }
}

batch! {
    /// Sets labels on nodes.
    LabelBatch, "label" {
        /// Labels to set.
        labels: BTreeMap<String, String>,
        /// Whether a label that has another value may be changed.
        #[serde(default)] overwrite: bool,
    }
}

batch! {
    /// Removes labels from nodes.
    UnlabelBatch, "unlabel" {
        /// Keys of the labels to remove.
        keys: Vec<String>,
    }
}

batch! {
    /// Sets taints on nodes.
    TaintBatch, "taint" {
        /// Taints to set.
        taints: Vec<TaintBody>,
        /// Whether a taint of the same key and effect may get another value.
        #[serde(default)] overwrite: bool,
    }
}

batch! {
    /// Removes taints from nodes.
    UntaintBatch, "untaint" {
        /// Taints to remove.
        taints: Vec<TaintRefBody>,
    }
}

batch! {
    /// Adds the taints of one node to others. What controllers keep there is left out.
    CopyTaintsBatch, "copy_taints" {
        /// The node whose taints are copied.
        from: String,
        /// Whether a taint of the same key and effect may get another value.
        #[serde(default)] overwrite: bool,
    }
}

batch! {
    /// Sets annotations on nodes.
    AnnotateBatch, "annotate" {
        /// Annotations to set.
        annotations: BTreeMap<String, String>,
        /// Whether an annotation that has another value may be changed.
        #[serde(default)] overwrite: bool,
    }
}

batch! {
    /// Removes annotations from nodes.
    UnannotateBatch, "unannotate" {
        /// Keys of the annotations to remove.
        keys: Vec<String>,
    }
}

/// A taint.
#[derive(Debug, serde::Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaintBody {
    /// Key, with the grammar of a label key.
    pub key: String,
    /// Value, empty by default.
    #[serde(default)]
    pub value: String,
    /// What it does to pods.
    pub effect: TaintEffectBody,
}

/// Which taints to remove: all of a key, or the one with this effect.
#[derive(Debug, serde::Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaintRefBody {
    /// Key of the taint.
    pub key: String,
    /// Effect of the taint; every effect when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffectBody>,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, serde::Serialize, Deserialize, ToSchema)]
pub enum TaintEffectBody {
    /// New pods are not scheduled here.
    NoSchedule,
    /// New pods are scheduled elsewhere if possible.
    PreferNoSchedule,
    /// Running pods are evicted as well.
    NoExecute,
}

/// Declares the route of a batch.
macro_rules! route {
    ($(#[$doc:meta])* $name:ident, $body:ty, $path:literal) => {
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "nodes", request_body = $body,
            params(("Idempotency-Key" = Option<String>, Header, description = "Repeating a submit with the same key and body returns the first task")),
            responses(
                (status = 202, description = "The task is recorded", body = TaskBody),
                (status = 200, description = "The key had made this task before", body = TaskBody),
                (status = 409, description = "The key was used with another body, or the plan is not what it was", body = Problem),
                (status = 422, description = "The request breaks rules; each field is named", body = Problem),
                (status = 429, description = "Too many requests, or too many tasks that are not over", body = Problem),
                (status = 503, description = "The record cannot be reached", body = Problem),
            )
        )]
        pub(crate) async fn $name(
            State(shared): State<Arc<Shared>>,
            caller: Caller,
            headers: HeaderMap,
            body: Body<$body>,
        ) -> Result<Response, ApiError> {
            submit(&shared, &caller, &headers, body.0.into(), BATCH_FIELDS).await.map(accepted)
        }
    };
}

route!(/** Cordon nodes */ cordon, CordonBatch, "/api/v1/nodes/batch/cordon");
route!(/** Uncordon nodes */ uncordon, UncordonBatch, "/api/v1/nodes/batch/uncordon");
route!(/** Drain nodes */ drain, DrainBatch, "/api/v1/nodes/batch/drain");
route!(/** Label nodes */ label, LabelBatch, "/api/v1/nodes/batch/label");
route!(/** Remove labels from nodes */ unlabel, UnlabelBatch, "/api/v1/nodes/batch/unlabel");
route!(/** Taint nodes */ taint, TaintBatch, "/api/v1/nodes/batch/taint");
route!(/** Remove taints from nodes */ untaint, UntaintBatch, "/api/v1/nodes/batch/untaint");
route!(/** Copy the taints of a node */ copy_taints, CopyTaintsBatch, "/api/v1/nodes/batch/copy_taints");
route!(/** Annotate nodes */ annotate, AnnotateBatch, "/api/v1/nodes/batch/annotate");
route!(/** Remove annotations from nodes */ unannotate, UnannotateBatch, "/api/v1/nodes/batch/unannotate");
