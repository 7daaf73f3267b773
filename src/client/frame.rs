//! What a gateway sends, read into types.
//!
//! Readers ignore fields and frames that they do not know, so that a newer gateway may add some.

use serde::Deserialize;

use crate::task::{Event, TaskView};

/// A frame of the live connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// The first frame of a connection.
    Hello(Hello),
    /// The state of the user's tasks at a place in the stream.
    Snapshot(SnapshotFrame),
    /// A fact about a task.
    Event(Box<EventFrame>),
    /// A frame of a newer release.
    Unknown,
}

/// Whether the connection continues where the client left off.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hello {
    /// `true` when nothing was lost since the client's position; otherwise a snapshot follows.
    pub recovered: bool,
    /// The place from which events follow. Opaque.
    #[serde(default)]
    pub position: Option<String>,
}

/// The state of the user's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SnapshotFrame {
    /// The place in the stream that the snapshot stands for. Opaque.
    pub position: String,
    /// The tasks.
    pub tasks: Vec<TaskView>,
    /// Whether another part of the same snapshot follows.
    #[serde(default)]
    pub more: bool,
}

/// An event at its place.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EventFrame {
    /// The place after the event: where to continue. Opaque.
    pub position: String,
    /// How many events of its task this one stands for, itself included.
    #[serde(default = "one")]
    pub merged: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

fn one() -> u64 {
    1
}

/// What must be known of a frame before it can be read.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    task_id: Option<serde::de::IgnoredAny>,
}

impl Frame {
    /// Reads a frame from its text.
    ///
    /// # Errors
    /// When it is not JSON, or lacks a field that its type always has.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let head: Head = serde_json::from_str(text)?;
        Ok(match head.kind.as_str() {
            "hello" => Self::Hello(serde_json::from_str(text)?),
            "snapshot" => Self::Snapshot(serde_json::from_str(text)?),
            _ if head.task_id.is_some() => Self::Event(serde_json::from_str(text)?),
            _ => Self::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::EventKind;

    const EVENT: &str = r#"{"position":"a.1-0","task_id":"0190a000-0000-7000-8000-000000000001","attempt":1,"seq":9,
        "type":"progress","status":"running","action":"cordon","cluster":"prod","current":1,"total":3,"succeeded":1,
        "failed":0,"skipped":0,"cancelled":0,"progress":33,"timestamp":"2026-11-23T08:00:00Z","merged":4}"#;

    #[test]
    fn frames_are_read_by_their_type() {
        let Frame::Event(frame) = Frame::parse(EVENT).unwrap() else { panic!("not an event") };
        assert_eq!((frame.position.as_str(), frame.merged), ("a.1-0", 4));
        assert_eq!(frame.event.kind, EventKind::Progress);
        let hello =
            Frame::parse(r#"{"type":"hello","recovered":true,"position":"a.1-0","server":"x"}"#).unwrap();
        assert_eq!(hello, Frame::Hello(Hello { recovered: true, position: Some("a.1-0".into()) }));
        let snapshot = Frame::parse(r#"{"type":"snapshot","position":"a.1-0","tasks":[]}"#).unwrap();
        assert!(matches!(snapshot, Frame::Snapshot(_)));
    }

    #[test]
    fn frames_of_a_newer_release_are_left_alone_and_broken_ones_are_errors() {
        assert_eq!(Frame::parse(r#"{"type":"notice","text":"hi"}"#).unwrap(), Frame::Unknown);
        assert!(Frame::parse(r#"{"type":"snapshot"}"#).is_err());
        assert!(Frame::parse("hello").is_err());
    }
}
