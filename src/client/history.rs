//! Notes what a client asks and receives into a history, for [`crate::verify`].
//!
//! A client that is given one notes by itself: calls of [`super::Api`] with their answers, and all that a [`super::Live`]
//! receives, repeats included. Not here: what follows from the notes.

use std::sync::Arc;

use super::frame::{EventFrame, Frame};
use super::http::ApiError;
use super::session::{Session, Taken};
use crate::clock::Clock;
use crate::task::TaskId;
use crate::verify::HistoryLog;
use crate::verify::record::{
    Call, EventSeen, Link, Record, SnapshotSeen, SocketStep, TaskSeen, fingerprint, frame_fingerprint,
};

/// Where one user's clients note. Cheap to clone.
#[derive(Clone)]
pub struct ClientHistory {
    log: HistoryLog,
    user: Arc<str>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for ClientHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHistory").field("user", &self.user).finish_non_exhaustive()
    }
}

impl ClientHistory {
    /// Notes as this user.
    #[must_use]
    pub fn new(log: HistoryLog, user: &str, clock: Arc<dyn Clock>) -> Self {
        Self { log, user: user.into(), clock }
    }

    /// Whose clients these are.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn now_us(&self) -> i64 {
        self.clock.now().as_microsecond()
    }

    /// Notes a submit with its answer.
    pub(super) fn submitted(
        &self,
        key: &str,
        body: Option<serde_json::Value>,
        answer: &Result<TaskId, &ApiError>,
    ) {
        self.log.note(&Record::Call(Call {
            key: Some(key.to_owned()),
            body: body.map(|body| fingerprint(&body)),
            ..self.call("submit", *answer)
        }));
    }

    /// Notes another call about a task.
    pub(super) fn called(&self, call: &str, task: TaskId, error: Option<&ApiError>) {
        let call = self.call(call, error.map_or(Ok(task), Err));
        self.log.note(&Record::Call(Call { task: Some(task), ..call }));
    }

    fn call(&self, call: &str, answer: Result<TaskId, &ApiError>) -> Call {
        Call {
            at_us: self.now_us(),
            call: call.to_owned(),
            user: self.user.to_string(),
            status: answer.map_or_else(ApiError::status, |_| Some(202)),
            task: answer.ok(),
            ..Call::default()
        }
    }

    /// Notes of one socket. The name must be unique in the history.
    #[must_use]
    pub fn socket(&self, name: &str, raw: bool) -> SocketHistory {
        SocketHistory { of: self.clone(), name: name.to_owned(), raw }
    }
}

/// Where one socket notes. It has left when this is dropped.
#[derive(Debug)]
pub struct SocketHistory {
    of: ClientHistory,
    name: String,
    raw: bool,
}

impl SocketHistory {
    /// Notes a greeting by a gateway.
    pub fn greeted(&self, server: &str, position: Option<&str>, recovered: bool) {
        self.step(SocketStep {
            server: Some(server.to_owned()),
            position: position.map(str::to_owned),
            recovered,
            ..self.link(Link::Connected)
        });
    }

    /// Notes that the connection is gone.
    pub fn lost(&self, reason: &str) {
        self.step(SocketStep { reason: Some(reason.to_owned()), ..self.link(Link::Lost) });
    }

    /// Notes a whole snapshot.
    pub fn snapshot(&self, position: &str, tasks: Vec<TaskSeen>) {
        let (at_us, socket, position) = (self.of.now_us(), self.name.clone(), position.to_owned());
        self.of.log.note(&Record::Snapshot(SnapshotSeen { at_us, socket, position, tasks }));
    }

    /// Notes an event, with the text that it came as.
    pub fn event(&self, frame: &EventFrame, text: &str, repeat: bool) {
        let seen = EventSeen::of(&frame.event, &self.name, &frame.position, frame.merged, self.of.now_us());
        self.of.log.note(&Record::Event(EventSeen { body: frame_fingerprint(text), repeat, ..seen }));
    }

    /// Takes a frame into a session and notes it.
    pub(super) fn taken(&self, session: &mut Session, server: &str, frame: Frame, text: &str) -> Taken {
        let position = session.position().map(str::to_owned);
        let event = if let Frame::Event(event) = &frame { Some(event.clone()) } else { None };
        let taken = session.take(frame);
        match (&taken, event) {
            (Taken::Hello { recovered }, _) => self.greeted(server, position.as_deref(), *recovered),
            (Taken::Snapshot, _) => {
                let tasks = session.snapshot().tasks().map(TaskSeen::from).collect();
                self.snapshot(session.position().unwrap_or_default(), tasks);
            }
            (taken, Some(event)) => self.event(&event, text, *taken == Taken::Nothing),
            _ => {}
        }
        taken
    }

    fn link(&self, link: Link) -> SocketStep {
        SocketStep {
            at_us: self.of.now_us(),
            socket: self.name.clone(),
            user: self.of.user.to_string(),
            link,
            server: None,
            position: None,
            recovered: false,
            raw: self.raw,
            reason: None,
        }
    }

    fn step(&self, step: SocketStep) {
        self.of.log.note(&Record::Socket(step));
    }
}

impl Drop for SocketHistory {
    fn drop(&mut self) {
        self.step(self.link(Link::Left));
    }
}
