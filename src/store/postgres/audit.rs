//! The audit in SQL: pages of it, and rows that stand alone. Rows of submits and claims are added by the statements that record
//! those.

use async_trait::async_trait;
use jiff_sqlx::{Timestamp, ToSqlx};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::rows::{ItemRow, Place, name};
use super::statements::audit as statements;
use super::{Failure, PostgresStore, int, text, while_};
use crate::store::audit::{AUDIT_PAGE_MAX, Asked, AuditKind, AuditedTask};
use crate::store::{Audit, AuditEntry, AuditPlace, AuditQuery, AuditRow, AuditedNode, StoreError};
use crate::task::{Attempt, By, ClusterName, Counts, Item, ItemName, Origin, ReplicaId, TaskId, UserId};

/// Places before and after every row: the years 2000 and 9000, which Postgres knows as well.
const FIRST: AuditPlace = AuditPlace { at: jiff::Timestamp::constant(946_684_800, 0), id: i64::MIN };
const LAST: AuditPlace = AuditPlace { at: jiff::Timestamp::constant(221_845_392_000, 0), id: i64::MAX };

#[async_trait]
impl Audit for PostgresStore {
    async fn note_refusal(&self, asked: &Asked, message: &str, by: &By) -> Result<(), StoreError> {
        let entry = AuditEntry::refused(asked, message, by.clone());
        let call = async { Ok::<_, Failure>(note(&mut *self.db.pool().acquire().await?, &entry).await?) };
        self.db.write(call).await.map_err(while_("adding to the audit"))
    }

    async fn audited(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        let rows = self.db.read(self.audit_page(query)).await.map_err(while_("reading the audit"))?;
        rows.into_iter().map(|row| row.read(query.node.as_ref())).collect()
    }

    async fn audited_nodes(
        &self,
        task: TaskId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<AuditedNode>, StoreError> {
        let first = after.map_or(0, |after| after.saturating_add(1));
        let call = async {
            let rows = sqlx::query_as::<_, NamedNodeRow>(statements::AUDITED_NODES)
                .bind(task.as_uuid())
                .bind(int(first))
                .bind(int(limit.min(AUDIT_PAGE_MAX)));
            Ok(rows.fetch_all(self.db.pool()).await?)
        };
        let rows = self.db.read(call).await.map_err(while_("reading the nodes of the audit"))?;
        rows.into_iter().map(|row| row.node.read(task, row.node_name)).collect()
    }
}

impl PostgresStore {
    /// By the narrowest index that the question allows.
    async fn audit_page(&self, query: &AuditQuery) -> Result<Vec<Row>, Failure> {
        let (owner, user) =
            (query.owner.as_ref().map(UserId::as_str), query.user.as_ref().map(UserId::as_str));
        let node = query.node.as_ref().map(ItemName::as_str);
        let (task, before) = (query.task.map(|task| task.as_uuid()), query.before.unwrap_or(LAST));
        let statement = match (node, task, owner, user) {
            (Some(_), ..) => statements::AUDIT_OF_NODE,
            (None, Some(_), ..) => statements::AUDIT_OF_TASK,
            (None, None, Some(_), _) => statements::AUDIT_OF_OWNER,
            (None, None, None, Some(_)) => statements::AUDIT_OF_ACTOR,
            (None, None, None, None) => statements::AUDIT,
        };
        let rows = sqlx::query_as::<_, Row>(statement)
            .bind(before.at.to_sqlx())
            .bind(before.id)
            .bind(query.since.unwrap_or(FIRST.at).max(FIRST.at).to_sqlx())
            .bind(query.until.unwrap_or(LAST.at).min(LAST.at).to_sqlx())
            .bind(user)
            .bind(owner)
            .bind(query.cluster.as_ref().map(ClusterName::as_str))
            .bind(query.action.as_deref())
            .bind(query.kind.map(AuditKind::as_str))
            .bind(task)
            .bind(i64::from(query.limit.min(AUDIT_PAGE_MAX)));
        let rows = match (node, task) {
            (Some(_), _) => rows.bind(node),
            (None, Some(task)) => rows.bind(task),
            (None, None) if owner.is_some() || user.is_some() => rows.bind(owner.or(user)),
            (None, None) => rows,
        };
        Ok(rows.fetch_all(self.db.pool()).await?)
    }
}

/// Adds a row, as a part of what it tells of.
pub(super) async fn note(connection: &mut PgConnection, entry: &AuditEntry) -> Result<(), sqlx::Error> {
    let by = entry.by.as_ref();
    let origin = by.map(|by| &by.origin);
    let row = sqlx::query(statements::NOTE)
        .bind(entry.kind.as_str())
        .bind(by.map(|by| by.user.as_str()))
        .bind(origin.and_then(|origin| origin.role.as_deref()))
        .bind(origin.and_then(|origin| origin.address).map(|address| address.to_string()))
        .bind(origin.and_then(|origin| origin.agent.as_deref()))
        .bind(origin.and_then(|origin| origin.request.as_deref()))
        .bind(entry.owner.as_str())
        .bind(entry.cluster.as_ref().map(ClusterName::as_str))
        .bind(entry.action.as_deref())
        .bind(entry.task.map(|task| task.as_uuid()))
        .bind(entry.items.map(int))
        .bind(entry.reason.as_deref().map(text))
        .bind(&entry.outcome)
        .bind(entry.message.as_deref().map(text))
        .bind(Json(&entry.detail));
    row.execute(connection).await.map(drop)
}

/// A row of a page.
#[derive(sqlx::FromRow)]
struct Row {
    at: Timestamp,
    id: i64,
    kind: String,
    actor: Option<String>,
    role: Option<String>,
    address: Option<String>,
    agent: Option<String>,
    request: Option<String>,
    owner: String,
    cluster: Option<String>,
    action: Option<String>,
    task_id: Option<Uuid>,
    items: Option<i32>,
    reason: Option<String>,
    outcome: String,
    message: Option<String>,
    attempt: Option<i64>,
    worker: Option<String>,
    detail: Option<Json<Value>>,
    #[sqlx(flatten)]
    task: TaskColumns,
    #[sqlx(flatten)]
    node: NodeRow,
}

impl Row {
    fn read(self, node: Option<&ItemName>) -> Result<AuditRow, StoreError> {
        let from = Place { table: "audit", id: &self.id };
        let task = self.task_id.map(TaskId::from_uuid);
        let node = match (node, task) {
            (Some(name), Some(task)) => Some(self.node.read(task, name.to_string())?),
            _ => None,
        };
        let attempt = self.attempt.map(|n| from.read("attempt", u32::try_from(n))).transpose()?.map(Attempt);
        let worker = self.worker.map(|worker| from.read("worker", worker.parse())).transpose()?;
        let origin = Origin {
            role: self.role,
            address: self.address.and_then(|address| address.parse().ok()),
            agent: self.agent,
            request: self.request,
        };
        let user = self.actor.map(|user| from.read("actor", user.parse::<UserId>())).transpose()?;
        let entry = AuditEntry {
            kind: from.read("kind", self.kind.parse::<AuditKind>())?,
            by: user.map(|user| By { user, origin }),
            owner: from.read("owner", self.owner.parse())?,
            cluster: self.cluster.map(|name| from.read("cluster", name.parse())).transpose()?,
            action: self.action,
            task,
            items: self.items.map(i32::unsigned_abs),
            reason: self.reason,
            outcome: self.outcome,
            message: self.message,
            claim: attempt.zip(worker),
            detail: self.detail.map_or_else(|| serde_json::json!({}), |detail| detail.0),
        };
        let task = self.task.read(&from)?;
        Ok(AuditRow { place: AuditPlace { at: self.at.to_jiff(), id: self.id }, entry, task, node })
    }
}

/// What came of a task: all missing in rows that are no submits.
#[derive(sqlx::FromRow)]
struct TaskColumns {
    ended_status: Option<String>,
    total: Option<i32>,
    succeeded: Option<i32>,
    failed: Option<i32>,
    skipped: Option<i32>,
    cancelled: Option<i32>,
    ended_error: Option<String>,
    ended_at: Option<Timestamp>,
}

impl TaskColumns {
    fn read(self, from: &Place<'_>) -> Result<Option<AuditedTask>, StoreError> {
        let Some(status) = self.ended_status else { return Ok(None) };
        let count = |n: Option<i32>| n.unwrap_or(0).unsigned_abs();
        let counts = Counts {
            total: count(self.total),
            succeeded: count(self.succeeded),
            failed: count(self.failed),
            skipped: count(self.skipped),
            cancelled: count(self.cancelled),
        };
        let (error, finished_at) = (self.ended_error, self.ended_at.map(Timestamp::to_jiff));
        Ok(Some(AuditedTask { status: from.read("status", status.parse())?, counts, error, finished_at }))
    }
}

/// What came of a node: all missing where no node was asked for.
#[derive(sqlx::FromRow)]
struct NodeRow {
    node_idx: Option<i32>,
    node_state: Option<String>,
    node_effect: Option<String>,
    node_message: Option<String>,
    node_tries: i32,
    node_finished_at: Option<Timestamp>,
    node_attempt: Option<i32>,
    node_worker: Option<String>,
}

/// The same, with the node's name.
#[derive(sqlx::FromRow)]
struct NamedNodeRow {
    node_name: String,
    #[sqlx(flatten)]
    node: NodeRow,
}

impl NodeRow {
    fn read(self, task: TaskId, name_of_node: String) -> Result<AuditedNode, StoreError> {
        let idx = self.node_idx.unwrap_or(0);
        if self.node_state.is_none() {
            let item = Item { index: idx.unsigned_abs(), name: name(task, &name_of_node)?, result: None };
            return Ok(AuditedNode { item, attempt: None, worker: None });
        }
        let row = ItemRow {
            idx,
            name: name_of_node,
            state: self.node_state,
            effect: self.node_effect,
            message: self.node_message,
            tries: self.node_tries,
            finished_at: self.node_finished_at,
        };
        let from = Place { table: "audit", id: &task };
        let worker = self.node_worker.map(|worker| from.read("worker", worker.parse::<ReplicaId>()));
        let attempt = self.node_attempt.map(|n| Attempt(n.unsigned_abs()));
        Ok(AuditedNode { item: row.item(task)?, attempt, worker: worker.transpose()? })
    }
}
