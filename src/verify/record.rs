//! The lines of a history: what was asked, what was seen, what was run, what went wrong, and how it all ended.
//!
//! One JSON object per line, told apart by `record`. Version 1 of the format; readers leave out fields and kinds that
//! they do not know. Times are microseconds since the Unix epoch. Documented with an example in `docs/verify.md`. Not
//! here: reading a file ([`super::read`]) and what follows from the lines ([`super::check`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::task::{Attempt, Counts, Event, ItemChange, ItemState, Seq, Status, TaskId, TaskView};

/// The version of the format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// A line of a history.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// About the run.
    Meta(Meta),
    /// A step in the life of a fault.
    Fault(FaultStep),
    /// A call of a client, with its answer.
    Call(Call),
    /// A step in the life of a socket.
    Socket(SocketStep),
    /// A snapshot that a socket received.
    Snapshot(SnapshotSeen),
    /// An event that a socket received.
    Event(EventSeen),
    /// An item was acted on.
    Execution(Execution),
    /// The end of a task, from the record.
    Task(TaskDump),
    /// The ends of items, from the record.
    Items(ItemsDump),
    /// A number that must be within a bound at the end.
    Gauge(Gauge),
    /// The run is over and quiet: whoever was to be told has been told by now.
    End(End),
}

/// About the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the format.
    pub format: u32,
    /// When the run began.
    #[serde(default)]
    pub at_us: i64,
    /// What the run's decisions were drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Versions of what took part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// Faults that were planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Planned>,
    /// How soon a socket must hold the end of a task, counted from the latest of: the end, the socket's last connect, the
    /// last healed fault. 30 seconds when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_within_ms: Option<u64>,
    /// How long after its healing a fault may still be why an item ran again or a number is missing. 15 seconds when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_ms: Option<u64>,
}

/// A fault that was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// What kind.
    pub fault: String,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Where a fault is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It was made.
    Injected,
    /// Proof that it hit something; `evidence` says what.
    Bit,
    /// It was taken away.
    Healed,
    /// Everything works again.
    Recovered,
}

/// A step in the life of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultStep {
    /// When.
    pub at_us: i64,
    /// Tells faults of one run apart.
    pub id: u64,
    /// What kind, such as `kill-worker`.
    pub fault: String,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Which step.
    pub phase: Phase,
    /// What the fault hit, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Whether it may take progress events that were published: the loss of a stream, or of its tail.
    #[serde(default, skip_serializing_if = "is_false")]
    pub loses: bool,
}

/// A call of a client, with its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When the answer came, or the client stopped waiting.
    pub at_us: i64,
    /// What was asked: `submit`, `cancel`, `pause`, `resume`, or another word, which is not checked.
    pub call: String,
    /// Who asked.
    pub user: String,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Fingerprint of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// HTTP status of the answer; left out when none came, and the outcome is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The task of the answer, or the one that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Of a submit: whether an item kills whoever runs it, so that the task must be given up in the end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub poison: bool,
}

impl Call {
    /// Whether the answer promises that it was done.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Where a socket is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// A gateway greeted it.
    Connected,
    /// The connection is gone; it will come back.
    Lost,
    /// It went away for good, and is owed nothing from here on.
    Left,
}

/// A step in the life of a socket: one watcher of one user, over all of its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStep {
    /// When.
    pub at_us: i64,
    /// Its name, unique in the history.
    pub socket: String,
    /// Whose tasks it watches.
    pub user: String,
    /// Which step.
    pub link: Link,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Of a connect: the position that it asked to continue from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// Of a connect: whether the gateway said that nothing was lost.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recovered: bool,
    /// Whether frames are noted as they came, without the removal of repeats.
    #[serde(default, skip_serializing_if = "is_false")]
    pub raw: bool,
    /// Why a connection was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A whole snapshot that a socket received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSeen {
    /// When its last part came.
    pub at_us: i64,
    /// Which socket.
    pub socket: String,
    /// Its position.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub position: String,
    /// The tasks in it.
    pub tasks: Vec<TaskSeen>,
}

/// A task in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSeen {
    /// Which task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: Attempt,
    /// Number of the newest event in it; 0 when the view is from the record.
    #[serde(default)]
    pub seq: Seq,
    /// Its status.
    pub status: Status,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

impl From<&TaskView> for TaskSeen {
    fn from(view: &TaskView) -> Self {
        let TaskView { task_id, attempt, seq, status, counts, .. } = *view;
        Self { task: task_id, attempt, seq, status, counts }
    }
}

/// An event that a socket received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSeen {
    /// When.
    pub at_us: i64,
    /// Which socket.
    pub socket: String,
    /// Its position.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub position: String,
    /// Which task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: Attempt,
    /// Its number.
    pub seq: Seq,
    /// How many events it stands for, itself included.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub merged: u64,
    /// Status of the task after it.
    pub status: Status,
    /// Counts after it.
    #[serde(flatten)]
    pub counts: Counts,
    /// Items that ended with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<(u32, ItemState)>,
    /// [`fingerprint`] of the frame without its `position` and `merged`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Whether the client dropped it because it had seen it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub repeat: bool,
}

impl EventSeen {
    /// What a line says of an event that the socket got at a position. Body and repeat are left to be filled in.
    #[must_use]
    pub fn of(event: &Event, socket: &str, position: &str, merged: u64, at_us: i64) -> Self {
        let ended = |item: &ItemChange| item.done_us.map(|_| (item.index, item.state));
        Self {
            at_us,
            socket: socket.to_owned(),
            position: position.to_owned(),
            task: event.task_id,
            attempt: event.attempt,
            seq: event.seq,
            merged,
            status: event.status,
            counts: event.counts,
            ended: event.items.iter().filter_map(ended).collect(),
            body: None,
            repeat: false,
        }
    }
}

/// An item was acted on: seen by the target, or told by the executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// When it began.
    pub at_us: i64,
    /// Which task.
    pub task: TaskId,
    /// Name of the item.
    pub item: String,
    /// By which attempt. All that one attempt does to an item counts as one execution; lines without an attempt count
    /// one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// By which worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// What was done, such as `get` or `patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<String>,
}

/// The end of a task, from the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDump {
    /// Which task.
    pub task: TaskId,
    /// Who submitted it.
    pub owner: String,
    /// Its status.
    pub status: Status,
    /// Its attempt.
    pub attempt: Attempt,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// How many claims it may use up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_us: Option<i64>,
}

/// The ends of items of a task, from the record. Large tasks come in several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemsDump {
    /// Which task.
    pub task: TaskId,
    /// Its items.
    pub items: Vec<ItemRow>,
}

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemRow {
    /// Place of the item in the task, from 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ItemState,
}

/// What a number at the end stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaugeKind {
    /// Work that is not done.
    Backlog,
    /// Memory and queues.
    Size,
    /// What somebody should have given back: sockets, leases, consumers, connections.
    Leak,
}

/// A number that must be within a bound at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub kind: GaugeKind,
    /// The number.
    pub value: f64,
    /// The most that is in order.
    pub max: f64,
}

/// The run is over and quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub at_us: i64,
}

/// A short text that is the same for the same JSON, however it is spelled.
#[must_use]
pub fn fingerprint(value: &serde_json::Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// [`fingerprint`] of a frame without its place: the same event is the same body at every gateway. `None` when the
/// frame is no JSON object.
#[must_use]
pub fn frame_fingerprint(frame: &str) -> Option<String> {
    let mut value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(frame).ok()?;
    value.remove("position");
    value.remove("merged");
    Some(fingerprint(&value.into()))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(merged: &u64) -> bool {
    *merged == 1
}
