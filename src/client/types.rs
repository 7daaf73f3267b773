//! What the HTTP API answers, as far as a client needs it. Unknown fields are ignored, so that a newer gateway may add
//! some.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::action::nodes::{NodeMore, Summary};
use crate::action::{Freshness, NodePods, NodeView};
use crate::task::plan::Differences;
use crate::task::spec::Fault;
use crate::task::template::{TemplateAction, TemplateEntry, TemplateName, TemplateSpec};
use crate::task::{
    Counts, Effect, FailureBudget, ItemState, PlanHash, Status, StrategyDraft, TaskId, TaskView,
};

/// Problem details (RFC 9457): why a request was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem it is, in a few words.
    pub title: String,
    /// What went wrong this time.
    pub detail: Option<String>,
    /// Every field that is wrong.
    pub errors: Vec<Fault>,
    /// How the plan that was demanded is another one by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanChange>,
}

/// How a plan that was agreed to is another one by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    /// The hash of the plan of now.
    pub hash: PlanHash,
    /// What became different, where the server knows the plan from before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<Differences>,
}

impl Problem {
    /// Reads the body of an answer; one that is no problem document gives a problem of its status alone.
    #[must_use]
    pub fn read(status: u16, body: &[u8]) -> Self {
        let told: Self = serde_json::from_slice(body).unwrap_or_default();
        let title = if told.title.is_empty() { format!("the server answered {status}") } else { told.title };
        Self { status, title, ..told }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.errors.as_slice(), &self.detail) {
            ([_, _, ..], _) => {
                f.write_str("the request has several faults:")?;
                self.errors.iter().try_for_each(|fault| write!(f, "\n  {} {}", fault.field, fault.words()))
            }
            (_, Some(detail)) => f.write_str(detail),
            (_, None) => f.write_str(&self.title),
        }
    }
}

/// A task as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// What watchers see as well.
    #[serde(flatten)]
    pub view: TaskView,
    /// Who submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Parameters of the action.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub parameters: serde_json::Value,
    /// How many workers may try before it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// How many items may fail before it is stopped, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_budget: Option<FailureBudget>,
    /// In which waves, order and windows, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyDraft>,
    /// Its retries, oldest first, when one task was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<RetryInfo>,
    /// Its items by their newest results, when one task was asked for and that was retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<Counts>,
    /// When it was first claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// A retry of a task, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryInfo {
    /// Which task.
    pub task_id: TaskId,
    /// Its status.
    pub status: Status,
    /// Its items.
    #[serde(flatten)]
    pub counts: Counts,
}

/// An item as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemInfo {
    /// Place in the task, from 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ItemState,
    /// For one that succeeded: whether it was touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// For one that failed or was skipped: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Times the action was run for it in the attempt that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u16>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// A one-use ticket for a live connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ticket {
    /// The text to put into the address.
    pub ticket: String,
}

/// A page of tasks.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskPage {
    /// The tasks, newest first.
    pub tasks: Vec<TaskInfo>,
    /// What to ask for next: tasks before this one. `None` on the last page.
    #[serde(default)]
    pub next: Option<TaskId>,
}

/// A page of items.
#[derive(Debug, Clone, Deserialize)]
pub struct ItemPage {
    /// The items, in order.
    pub items: Vec<ItemInfo>,
    /// What to ask for next: items after this index. `None` on the last page.
    #[serde(default)]
    pub next: Option<u32>,
}

/// The configured clusters.
#[derive(Debug, Clone, Deserialize)]
pub struct ClusterList {
    /// Their names, sorted.
    pub clusters: Vec<String>,
}

/// A page of the nodes of a cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct NodePage {
    /// The nodes, by name.
    pub nodes: Vec<NodeView>,
    /// What to ask for next: nodes after this name. `None` on the last page.
    #[serde(default)]
    pub next: Option<String>,
    /// How many nodes there are of each kind, whatever was asked for.
    #[serde(default)]
    pub summary: Summary,
    /// How current they are.
    #[serde(default)]
    pub freshness: Freshness,
}

/// Nodes that were asked for, of all pages.
#[derive(Debug, Clone, Default)]
pub struct NodeListing {
    /// By name.
    pub nodes: Vec<NodeView>,
    /// How many nodes there are of each kind, whatever was asked for.
    pub summary: Summary,
    /// How current they are.
    pub freshness: Freshness,
}

/// A node with its particulars.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// What lists show.
    #[serde(flatten)]
    pub node: NodeView,
    /// The rest.
    #[serde(flatten)]
    pub more: NodeMore,
    /// The pods on it; `None` when they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NodePods>,
    /// How current it is.
    #[serde(default)]
    pub freshness: Freshness,
}

/// A template as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateInfo {
    /// Its name.
    pub name: TemplateName,
    /// What it says.
    #[serde(flatten)]
    pub spec: TemplateSpec,
    /// Grows with every change.
    pub version: i64,
    /// Who changed it last.
    pub updated_by: String,
    /// When that was.
    pub updated_at: Timestamp,
}

/// Read by hand: what a template says knows no fields of a newer gateway.
impl<'de> Deserialize<'de> for TemplateInfo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            name: TemplateName,
            #[serde(default)]
            description: String,
            action: TemplateAction,
            entries: Vec<TemplateEntry>,
            version: i64,
            updated_by: String,
            updated_at: Timestamp,
        }
        let Plain { name, description, action, entries, version, updated_by, updated_at } =
            Plain::deserialize(deserializer)?;
        let spec = TemplateSpec { description, action, entries };
        Ok(Self { name, spec, version, updated_by, updated_at })
    }
}

/// All templates.
#[derive(Debug, Clone, Deserialize)]
pub struct TemplateList {
    /// By name.
    pub templates: Vec<TemplateInfo>,
}
