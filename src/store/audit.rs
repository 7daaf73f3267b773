//! The audit: who did what, why, from where, and what came of it.
//!
//! A row tells of one deed: a submit, an order to a task, a change of a template, or that somebody was refused. It is added in
//! the transaction of what it tells of, never changed, and goes by its own age. What came of each node is not told a
//! second time: it is the recorded result of the item, which stays for as long as the audit of its task, also when the
//! task is pruned. So the audit costs nothing per item, and a result can never be recorded without being in it. Which
//! worker ran an item follows from the attempt that recorded it: each claim is a row.
//!
//! Not here: who may read it (gateway).

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Control, StoreError, Task};
use crate::task::{
    Attempt, By, Capabilities, ClusterName, Counts, Draft, Item, ItemName, ReplicaId, Status, TaskId,
    TaskSpec, UserId,
};

/// Most rows in one answer.
pub const AUDIT_PAGE_MAX: u32 = 1_000;

/// Most characters of parameters, as JSON, that are kept; of longer ones the beginning.
const PARAMETERS_LEN_MAX: usize = 4_000;

/// What a row tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditKind {
    /// A task was submitted.
    Submit,
    /// A task was submitted that retries another.
    Retry,
    /// A task was cancelled.
    Cancel,
    /// A task was paused.
    Pause,
    /// A task was resumed.
    Resume,
    /// How many items of a task are worked on at once was changed.
    Concurrency,
    /// Somebody was refused what they asked for.
    Refused,
    /// A template was made or changed.
    Template,
    /// A template was removed.
    TemplateRemoved,
    /// A worker claimed a task. Only ever told of one task.
    Claim,
}

impl AuditKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Submit,
        Self::Retry,
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::Concurrency,
        Self::Refused,
        Self::Template,
        Self::TemplateRemoved,
        Self::Claim,
    ];

    /// The word on the wire and in storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Concurrency => "concurrency",
            Self::Refused => "refused",
            Self::Template => "template",
            Self::TemplateRemoved => "template_removed",
            Self::Claim => "claim",
        }
    }

    /// Whether it made a task.
    #[must_use]
    pub fn is_submit(self) -> bool {
        matches!(self, Self::Submit | Self::Retry)
    }
}

impl std::str::FromStr for AuditKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        kind.ok_or_else(|| {
            format!("must be one of {}; {word:?} is none", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

impl From<Control> for AuditKind {
    fn from(control: Control) -> Self {
        match control {
            Control::Cancel => Self::Cancel,
            Control::Pause => Self::Pause,
            Control::Resume => Self::Resume,
            Control::Concurrency(_) => Self::Concurrency,
        }
    }
}

/// What a row tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Of what.
    pub kind: AuditKind,
    /// Who asked, from where; `None` of a claim.
    pub by: Option<By>,
    /// Whose task it is; of what has no task, who asked. They may read it.
    pub owner: UserId,
    /// On which cluster.
    pub cluster: Option<ClusterName>,
    /// What is done to nodes, such as `cordon`.
    pub action: Option<String>,
    /// Which task.
    pub task: Option<TaskId>,
    /// How many nodes.
    pub items: Option<u32>,
    /// Why, in the user's words.
    pub reason: Option<String>,
    /// What came of it at once: `accepted`, the status of the task after an order, `refused`, `kept`, `removed`, `claimed`.
    pub outcome: String,
    /// Why it was refused.
    pub message: Option<String>,
    /// Of a claim: under which attempt, by which worker.
    pub claim: Option<(Attempt, ReplicaId)>,
    /// Parameters and whatever else was asked for.
    pub detail: Value,
}

impl AuditEntry {
    /// A submit, or a retry.
    #[must_use]
    pub fn submit(task: &Task, spec: &TaskSpec, by: By) -> Self {
        let kind = if task.parent.is_some() { AuditKind::Retry } else { AuditKind::Submit };
        Self {
            by: Some(by),
            items: Some(task.counts.total),
            reason: task.reason.clone(),
            outcome: "accepted".to_owned(),
            detail: detail_of(spec, task.parent),
            ..Self::of_task(kind, task)
        }
    }

    /// A user's order; the task is as it is after that.
    #[must_use]
    pub fn order(task: &Task, control: Control, by: By) -> Self {
        let detail = match control {
            Control::Concurrency(n) => json!({"concurrency": n}),
            Control::Cancel | Control::Pause | Control::Resume => json!({}),
        };
        Self { by: Some(by), detail, ..Self::of_task(control.into(), task) }
    }

    /// A claim; the task is as it is after that.
    #[must_use]
    pub fn claim(task: &Task, worker: &ReplicaId) -> Self {
        let claim = Some((task.state.attempt, worker.clone()));
        Self { claim, outcome: "claimed".to_owned(), ..Self::of_task(AuditKind::Claim, task) }
    }

    /// A change of a template, which has that version now, or its removal.
    #[must_use]
    pub fn template(name: &str, version: Option<i64>, by: By) -> Self {
        let (kind, outcome) = match version {
            Some(_) => (AuditKind::Template, "kept"),
            None => (AuditKind::TemplateRemoved, "removed"),
        };
        let detail = template_detail(name, version);
        Self { outcome: outcome.to_owned(), detail, ..Self::of_nothing(kind, by) }
    }

    /// That somebody was refused, and why.
    #[must_use]
    pub fn refused(asked: &Asked, message: &str, by: By) -> Self {
        Self {
            cluster: asked.cluster.as_deref().and_then(|name| name.parse().ok()),
            action: asked.action.clone(),
            task: asked.task,
            items: asked.items,
            reason: asked.reason.clone(),
            outcome: "refused".to_owned(),
            message: Some(message.to_owned()),
            detail: json!({"asked": asked.what}),
            ..Self::of_nothing(AuditKind::Refused, by)
        }
    }

    fn of_task(kind: AuditKind, task: &Task) -> Self {
        Self {
            kind,
            by: None,
            owner: task.owner.clone(),
            cluster: Some(task.cluster.clone()),
            action: Some(task.action.name().to_owned()),
            task: Some(task.id),
            items: None,
            reason: None,
            outcome: task.state.status.to_string(),
            message: None,
            claim: None,
            detail: json!({}),
        }
    }

    fn of_nothing(kind: AuditKind, by: By) -> Self {
        Self {
            kind,
            owner: by.user.clone(),
            by: Some(by),
            cluster: None,
            action: None,
            task: None,
            items: None,
            reason: None,
            outcome: String::new(),
            message: None,
            claim: None,
            detail: json!({}),
        }
    }
}

/// What somebody asked for who was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// In a word or two, such as `submit`, `cancel`, `template tiers`.
    pub what: String,
    /// On which cluster.
    pub cluster: Option<String>,
    /// What was to be done to nodes.
    pub action: Option<String>,
    /// To which task.
    pub task: Option<TaskId>,
    /// To how many nodes.
    pub items: Option<u32>,
    /// Why, in the user's words.
    pub reason: Option<String>,
}

impl Asked {
    /// Something that is neither a task nor about one.
    #[must_use]
    pub fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    /// Something about a task.
    #[must_use]
    pub fn about(what: &str, task: TaskId) -> Self {
        Self { task: Some(task), ..Self::of(what) }
    }

    /// A submit. Nothing of it is checked yet, so texts are kept up to a bound.
    #[must_use]
    pub fn submit(draft: &Draft) -> Self {
        let cut = |text: &String| text.chars().take(500).collect::<String>().replace('\0', "\u{FFFD}");
        Self {
            what: "submit".to_owned(),
            cluster: Some(cut(&draft.cluster)),
            action: Some(cut(&draft.action)),
            task: None,
            items: Some(u32::try_from(draft.items.len()).unwrap_or(u32::MAX)),
            reason: draft.reason.as_ref().map(cut),
        }
    }
}

/// What was asked for beside action, cluster and nodes.
pub(super) fn detail_of(spec: &TaskSpec, parent: Option<TaskId>) -> Value {
    let mut detail = json!({"parameters": short(spec.action.parameters())});
    let more = [
        ("priority", (spec.priority.0 != 0).then(|| json!(spec.priority.0))),
        ("concurrency", spec.concurrency.map(Value::from)),
        ("failure_budget", spec.budget.map(|budget| json!(budget))),
        ("strategy", spec.strategy.as_ref().map(|strategy| json!(strategy.draft()))),
        ("may", (spec.may != Capabilities::default()).then(|| json!(spec.may))),
        ("retry_of", parent.map(|parent| json!(parent))),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            detail[name] = value;
        }
    }
    detail
}

/// Which template, in which version by now.
pub(crate) fn template_detail(name: &str, version: Option<i64>) -> Value {
    match version {
        Some(version) => json!({"template": name, "version": version}),
        None => json!({"template": name}),
    }
}

/// The value, or the beginning of its text if that is long.
fn short(value: Value) -> Value {
    let text = value.to_string();
    match text.char_indices().nth(PARAMETERS_LEN_MAX) {
        Some((end, _)) => Value::from(format!("{}…", &text[..end])),
        None => value,
    }
}

/// The place of a row. Rows are ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditPlace {
    /// When it was added.
    pub at: Timestamp,
    /// Tells rows of one moment apart.
    pub id: i64,
}

/// A row as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place.
    pub place: AuditPlace,
    /// What it tells.
    pub entry: AuditEntry,
    /// Of a submit: what came of the task by now.
    pub task: Option<AuditedTask>,
    /// Of a submit, when a node was asked for: what came of that node by now.
    pub node: Option<AuditedNode>,
}

/// What came of a task by now, or at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedTask {
    /// Its status.
    pub status: Status,
    /// Its nodes by how they ended.
    pub counts: Counts,
    /// Why the task itself failed.
    pub error: Option<String>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// What came of a node by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedNode {
    /// The node with its result, if it has one.
    pub item: Item,
    /// The attempt that recorded the result; `None` when nobody worked on it.
    pub attempt: Option<Attempt>,
    /// The worker of that attempt.
    pub worker: Option<ReplicaId>,
}

/// Which rows to read, newest first. What is left out is not asked for.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only what this user may read: rows of their tasks and of their own deeds.
    pub owner: Option<UserId>,
    /// Only what this user did.
    pub user: Option<UserId>,
    /// Only on this cluster.
    pub cluster: Option<ClusterName>,
    /// Only submits that name this node, each with what came of it.
    pub node: Option<ItemName>,
    /// Only of this task; claims are told then too.
    pub task: Option<TaskId>,
    /// Only of this action, such as `cordon`.
    pub action: Option<String>,
    /// Only of this kind.
    pub kind: Option<AuditKind>,
    /// Only from then on.
    pub since: Option<Timestamp>,
    /// Only before then.
    pub until: Option<Timestamp>,
    /// Only older than this place: the last of the page before.
    pub before: Option<AuditPlace>,
    /// At most so many, and at most [`AUDIT_PAGE_MAX`].
    pub limit: u32,
}

impl AuditQuery {
    /// Whether a row is asked for, its node aside.
    pub(super) fn fits(&self, place: AuditPlace, entry: &AuditEntry) -> bool {
        let actor = entry.by.as_ref().map(|by| &by.user);
        (self.task.is_some() || entry.kind != AuditKind::Claim)
            && self.owner.as_ref().is_none_or(|owner| *owner == entry.owner)
            && self.user.as_ref().is_none_or(|user| Some(user) == actor)
            && self.cluster.as_ref().is_none_or(|cluster| Some(cluster) == entry.cluster.as_ref())
            && self.task.is_none_or(|task| Some(task) == entry.task)
            && self.action.as_ref().is_none_or(|action| Some(action) == entry.action.as_ref())
            && self.kind.is_none_or(|kind| kind == entry.kind)
            && self.since.is_none_or(|since| place.at >= since)
            && self.until.is_none_or(|until| place.at < until)
            && self.before.is_none_or(|before| place < before)
    }
}

/// The gateway's side of the audit. Every call is cancel-safe. What is done through the other calls of the store is told by
/// them.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Notes that somebody was refused, which no other call of the store tells.
    async fn note_refusal(&self, asked: &Asked, message: &str, by: &By) -> Result<(), StoreError>;

    /// A page of rows, newest first.
    async fn audited(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError>;

    /// A page of a task's nodes with what came of them by now, in order of index, above `after`; also of a task that is
    /// pruned. A task that the audit does not know has none.
    async fn audited_nodes(
        &self,
        task: TaskId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<AuditedNode>, StoreError>;
}
