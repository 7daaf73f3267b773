//! What happened to pods, for assertions: who was evicted when, and when it was gone. Bounded: the oldest go first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::object::Object;
use super::pod::Pod;

/// What happened to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodChange {
    /// An eviction was accepted and made it end.
    Evicted,
    /// A delete was accepted and made it end.
    Deleted,
    /// It is no longer there.
    Gone,
    /// A controller or a client made it.
    Created,
    /// It became ready.
    Ready,
}

/// One change of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// When, since the start of the simulator; comparable to [`super::LoggedRequest::at`].
    pub at: Duration,
    /// What happened.
    pub change: PodChange,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod: another pod may have had the same name.
    pub uid: String,
    /// Where it runs; empty when it is bound nowhere.
    pub node: String,
}

#[derive(Debug)]
pub(super) struct Journal {
    start: Instant,
    max: usize,
    events: Mutex<VecDeque<PodEvent>>,
}

impl Journal {
    pub(super) fn new(max: usize, start: Instant) -> Self {
        Self { start, max, events: Mutex::default() }
    }

    pub(super) fn note(&self, change: PodChange, pod: &Pod) {
        let event = PodEvent {
            at: self.start.elapsed(),
            change,
            namespace: pod.namespace().to_owned(),
            pod: pod.name().to_owned(),
            uid: (*pod.uid).to_owned(),
            node: pod.node.as_deref().unwrap_or_default().to_owned(),
        };
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push_back(event);
        while events.len() > self.max {
            events.pop_front();
        }
    }

    pub(super) fn entries(&self) -> Vec<PodEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
