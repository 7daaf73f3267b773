//! The frames of a live connection: JSON objects, described for people in `docs/protocol.md`.
//!
//! An event's frame is its published body with the position put in front, so it is never taken apart and put
//! together again; its bytes are built once and shared by all of a user's sockets. Not here: when which frame is
//! sent ([`super::session`]).

use std::sync::{Arc, OnceLock};

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bus::{Entry, Loss, Receipt};
use crate::task::{Event, Position, TaskId, TaskView};

/// Most bytes of one frame. Larger events are sent without their items, larger snapshots in parts.
pub const FRAME_BYTES_MAX: usize = 56 * 1024;

/// The first frame: whether the client's position was continued.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "hello")]
pub struct Hello<'a> {
    /// True: events after the client's position follow. False: a snapshot follows, forget what you had.
    pub recovered: bool,
    /// Where the connection begins.
    pub position: &'a Position,
    /// The replica that answers, for people.
    pub replica: &'a str,
    /// The mode it runs in, for people.
    pub mode: &'a str,
    /// Why the position could not be continued; left out when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// The state of the user's tasks at a position.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "snapshot")]
pub struct SnapshotPart<'a> {
    /// Resume from here once the last part has come.
    pub position: &'a Position,
    /// Tasks, oldest first.
    pub tasks: &'a [TaskView],
    /// Whether another part of the same snapshot follows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The last event of an SSE stream, in place of a close frame.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "close")]
pub struct Goodbye {
    /// The close code.
    pub code: u16,
    /// Why.
    pub reason: String,
    /// Whether to connect again.
    pub reconnect: bool,
}

/// What a socket needs to know of an event without reading the whole of it.
#[derive(Deserialize)]
struct Peek {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    items: Vec<PeekItem>,
}

#[derive(Deserialize)]
struct PeekItem {
    done_us: Option<i64>,
}

/// An event as it is written to sockets.
#[derive(Debug)]
pub struct Frame {
    /// Which task it is about.
    pub task: TaskId,
    /// Its place in the user's stream.
    pub position: Position,
    /// Its type, as on the wire.
    pub kind: Box<str>,
    /// Whether it says that the task is over.
    pub terminal: bool,
    /// When its items ended, in microseconds since the Unix epoch.
    pub done_us: Box<[i64]>,
    text: Utf8Bytes,
    /// Where the fields of the event begin, after the position.
    body_at: usize,
    sse: OnceLock<Bytes>,
    /// Acknowledges the entry once every socket has let go of the frame.
    _receipt: Option<Arc<Receipt>>,
}

impl Frame {
    /// The frame of an entry; `None` for an entry that is not an event.
    #[must_use]
    pub fn new(entry: Entry) -> Option<Self> {
        let peek: Peek = serde_json::from_slice(&entry.body).ok()?;
        let body = if entry.body.len() > FRAME_BYTES_MAX { without_items(&entry.body)? } else { entry.body };
        let fields = std::str::from_utf8(&body).ok()?.trim_start().strip_prefix('{')?;
        let head = format!("{{\"position\":\"{}\",", entry.position);
        let body_at = head.len();
        Some(Self {
            task: entry.task_id,
            position: entry.position,
            kind: peek.kind.into(),
            terminal: entry.terminal,
            done_us: peek.items.iter().filter_map(|item| item.done_us).collect(),
            text: Utf8Bytes::from(head + fields),
            body_at,
            sse: OnceLock::new(),
            _receipt: entry.receipt,
        })
    }

    /// Whether a newer frame of this kind makes this one needless.
    #[must_use]
    pub fn is_progress(&self) -> bool {
        !self.terminal && &*self.kind == "progress"
    }

    /// Bytes of the frame, for bounds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Never: a frame has at least a position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text; shared unless the frame stands for `merged` events, more than one.
    #[must_use]
    pub fn text(&self, merged: u32) -> Utf8Bytes {
        if merged <= 1 {
            return self.text.clone();
        }
        let (head, fields) = self.text.as_str().split_at(self.body_at);
        Utf8Bytes::from(format!("{head}\"merged\":{merged},{fields}"))
    }

    /// The same as an SSE event; shared in the same way.
    #[must_use]
    pub fn sse(&self, merged: u32) -> Bytes {
        let build = || sse_event(&self.kind, Some(&self.position), self.text(merged).as_str());
        if merged <= 1 { self.sse.get_or_init(build).clone() } else { build() }
    }
}

/// The event without its items, for one with so many changed items that no socket could take it. Its counts are
/// absolute, so a client still ends up right; the items are in the record.
fn without_items(body: &[u8]) -> Option<Bytes> {
    let event: Event = serde_json::from_slice(body).ok()?;
    serde_json::to_vec(&Event { items: Vec::new(), ..event }).ok().map(Bytes::from)
}

/// One SSE event. The text has no line breaks: it is JSON as serde writes it, or a published body.
pub(crate) fn sse_event(kind: &str, position: Option<&Position>, text: &str) -> Bytes {
    let id = position.map(|position| format!("id: {position}\n")).unwrap_or_default();
    let kind: String = kind.chars().filter(|c| !c.is_control()).collect();
    let data = if text.contains(['\n', '\r']) {
        text.replace(['\n', '\r'], " ").into()
    } else {
        std::borrow::Cow::from(text)
    };
    Bytes::from(format!("{id}event: {kind}\ndata: {data}\n\n"))
}

/// A control frame: built for one socket.
#[derive(Debug, Clone)]
pub struct Control {
    /// Its type, as on the wire.
    pub kind: &'static str,
    /// The position a client may resume from once it has this frame.
    pub position: Option<Position>,
    /// Its JSON.
    pub text: String,
}

impl Control {
    /// The hello frame. Only a recovered one is a place to resume from: otherwise the snapshot is still to come.
    #[must_use]
    pub fn hello(
        position: &Position,
        replica: &str,
        mode: &str,
        recovered: bool,
        reason: Option<Loss>,
    ) -> Self {
        let reason = reason.map(Loss::as_str);
        let hello = Hello { recovered, position, replica, mode, reason };
        Self { kind: "hello", position: recovered.then(|| position.clone()), text: json(&hello) }
    }

    /// The snapshot as one frame, or several when it is large.
    #[must_use]
    pub fn snapshot(position: &Position, tasks: &[TaskView]) -> Vec<Self> {
        let parts = parts(tasks);
        let last = parts.len() - 1;
        let part = |(i, tasks): (usize, &&[TaskView])| Self {
            kind: "snapshot",
            position: (i == last).then(|| position.clone()),
            text: json(&SnapshotPart { position, tasks, more: i < last }),
        };
        parts.iter().enumerate().map(part).collect()
    }
}

/// Cuts things into runs that each fit into a frame. At least one run, which may be empty.
pub(crate) fn parts<T: Serialize>(things: &[T]) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (i, thing) in things.iter().enumerate() {
        let len = json(thing).len() + 1;
        if i > from && bytes + len > FRAME_BYTES_MAX - 256 {
            parts.push(&things[from..i]);
            (from, bytes) = (i, 0);
        }
        bytes += len;
    }
    parts.push(&things[from..]);
    parts
}

pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("frames are plain maps, lists and texts")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::task::snapshot::tests::event;
    use crate::task::{Counts, EntryId, Epoch, ItemChange, ItemName, ItemState, Status};

    fn entry(event: &Event) -> Entry {
        Entry {
            position: Position::new(Epoch::new("e1").unwrap(), EntryId::counted(9)),
            task_id: event.task_id,
            attempt: event.attempt,
            seq: event.seq,
            terminal: event.is_terminal(),
            body: serde_json::to_vec(event).unwrap().into(),
            receipt: None,
        }
    }

    fn with_items(n: u32, error: &str) -> Event {
        let item = |index| ItemChange {
            index,
            name: ItemName::new(format!("n{index}")).unwrap(),
            state: ItemState::Failed,
            effect: None,
            error: Some(error.to_owned()),
            done_us: Some(i64::from(index)),
            tries: Some(1),
            step: None,
        };
        Event { items: (0..n).map(item).collect(), ..event(1, 2, Status::Running, Counts::new(n)) }
    }

    #[test]
    fn a_frame_is_the_body_with_its_position_in_front() {
        let event = with_items(2, "no");
        let frame = Frame::new(entry(&event)).unwrap();
        let mut expected = serde_json::to_value(&event).unwrap();
        expected["position"] = json!("e1.9-0");
        assert_eq!(serde_json::from_str::<Value>(frame.text(1).as_str()).unwrap(), expected);
        expected["merged"] = json!(3);
        assert_eq!(serde_json::from_str::<Value>(frame.text(3).as_str()).unwrap(), expected);
        assert_eq!((&*frame.kind, &*frame.done_us, frame.is_progress()), ("progress", &[0, 1][..], true));
    }

    #[test]
    fn an_event_too_large_for_a_frame_goes_without_its_items() {
        let event = with_items(500, &"e".repeat(1_000));
        let frame = Frame::new(entry(&event)).unwrap();
        assert!(frame.len() <= FRAME_BYTES_MAX);
        let sent: Event = serde_json::from_str(frame.text(1).as_str()).unwrap();
        assert_eq!(sent, Event { items: Vec::new(), ..event });
    }

    #[test]
    fn what_is_not_an_event_makes_no_frame() {
        for body in ["", "null", "[]", "{}", r#"{"type":7}"#, "{\"type\":\"progress\""] {
            let entry = Entry { body: body.to_owned().into(), ..entry(&with_items(0, "")) };
            assert!(Frame::new(entry).is_none(), "{body}");
        }
    }

    #[test]
    fn an_sse_event_cannot_be_forged_by_its_content() {
        let text = sse_event("pro\ngress", None, "{\"a\":\n1}");
        assert_eq!(text, "event: progress\ndata: {\"a\": 1}\n\n");
    }
}
