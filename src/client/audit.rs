//! The audit over the HTTP API.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::http::{Api, ApiError, Call, page_size};
use super::types::ItemInfo;
use crate::task::{Counts, Status, TaskId};

/// Which rows to read, newest first. What is left out is not asked for.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// What this user did.
    pub user: Option<String>,
    /// On this cluster.
    pub cluster: Option<String>,
    /// Tasks on this node, each with what came of it there.
    pub node: Option<String>,
    /// Of this task.
    pub task: Option<TaskId>,
    /// Of this action.
    pub action: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
}

impl AuditFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let texts = [
            ("user", self.user.clone()),
            ("cluster", self.cluster.clone()),
            ("node", self.node.clone()),
            ("task", self.task.map(|task| task.to_string())),
            ("action", self.action.clone()),
            ("since", self.since.map(|at| at.to_string())),
            ("until", self.until.map(|at| at.to_string())),
        ];
        texts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
    }
}

/// A row of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditInfo {
    /// When.
    pub at: Timestamp,
    /// What it tells of, such as `submit`, `cancel`, `refused`.
    pub kind: String,
    /// What came of it at once.
    pub outcome: String,
    /// Who; nobody when a worker claimed a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The role they had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Address of their client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What their client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whose task it is.
    pub owner: String,
    /// On which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What is done to nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Which task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// How many nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// Why, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of a claim: which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Of a claim: which worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Parameters and whatever else was asked for.
    #[serde(default)]
    pub detail: serde_json::Value,
    /// What came of the task by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<AuditTask>,
    /// What came of the node that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<AuditNode>,
}

/// What came of a task by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditTask {
    /// Its status.
    pub status: Status,
    /// Its nodes by how they ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// Why the task itself failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// A node of a task, with what came of it by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditNode {
    /// The node and its result.
    #[serde(flatten)]
    pub item: ItemInfo,
    /// The attempt that recorded the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The worker of that attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

#[derive(Deserialize)]
struct AuditPage {
    rows: Vec<AuditInfo>,
    #[serde(default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct NodePage {
    nodes: Vec<AuditNode>,
    #[serde(default)]
    next: Option<u32>,
}

impl Api {
    /// Rows of the audit, newest first, as many pages as the limit needs; and whether there are more.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn audit(&self, filter: &AuditFilter) -> Result<(Vec<AuditInfo>, bool), ApiError> {
        let (mut rows, mut before): (Vec<AuditInfo>, Option<String>) = (Vec::new(), None);
        loop {
            let mut query = filter.query();
            query.push(("limit", page_size(filter.limit - rows.len())));
            query.extend(before.map(|before| ("before", before)));
            let page: AuditPage = self.send_retrying(&Call::get("/audit").with_query(query)).await?;
            rows.extend(page.rows);
            before = page.next;
            if before.is_none() || rows.len() >= filter.limit {
                rows.truncate(filter.limit);
                return Ok((rows, before.is_some()));
            }
        }
    }

    /// All nodes of a task with what came of them, in order, also of a task that is gone.
    ///
    /// # Errors
    /// See [`ApiError`]; status 404 when the audit tells of no such task that the caller may see.
    pub async fn audit_nodes(&self, task: TaskId) -> Result<Vec<AuditNode>, ApiError> {
        let (mut nodes, mut after): (Vec<AuditNode>, Option<u32>) = (Vec::new(), None);
        loop {
            let mut query = vec![("limit", page_size(usize::MAX))];
            query.extend(after.map(|after| ("after", after.to_string())));
            let call = Call::get(format!("/audit/tasks/{task}/nodes")).with_query(query);
            let page: NodePage = self.send_retrying(&call).await?;
            nodes.extend(page.nodes);
            after = page.next;
            if after.is_none() {
                return Ok(nodes);
            }
        }
    }
}
