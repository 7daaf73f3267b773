//! What becomes of a node's pods, seen through one watch for all of them.
//!
//! A watch may end, be forgotten (410) or fall silent without saying so. Then all pods are listed, which cannot miss
//! anything, and watched on from there. Not here: what a sight means ([`super::machine`]).

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::WatchEvent;
use kube::core::PartialObjectMeta;
use tokio::time::{sleep, timeout};

use super::super::errors::CallError;
use super::calls::{Calls, PodEvents};
use super::pod::PodFacts;

/// A watch that says nothing for so long is not trusted any more.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The shortest pause before a list, and the longest after failures.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub(super) enum Sight {
    /// This pod, which is there.
    Seen(Box<PodFacts>),
    /// The pod with this UID is gone.
    Gone(String),
    /// All pods of the node. The node itself may have been replaced meanwhile.
    Listed(Vec<PodFacts>),
    /// Nothing more will be seen: why.
    Blind(CallError),
}

enum State {
    /// From this version on, after so many failures in a row.
    Open {
        version: String,
        failures: u32,
    },
    Live(PodEvents),
    List {
        failures: u32,
    },
    Over,
}

/// Watches the pods of a node from a version on. Polling it again after a dropped wait loses nothing.
pub(super) fn sights<'a>(calls: Calls<'a>, node: &'a str, version: String) -> BoxStream<'a, Sight> {
    stream::unfold(State::Open { version, failures: 0 }, move |mut state| async move {
        loop {
            state = match state {
                State::Open { version, failures } => match calls.watch(node, &version).await {
                    Ok(events) => State::Live(events),
                    // A list tells what is wrong, and makes up for a watch that cannot be had.
                    Err(_) => State::List { failures: failures + 1 },
                },
                State::Live(mut events) => match timeout(SILENCE_MAX, events.next()).await {
                    Ok(Some(Ok(event))) => match sight(event) {
                        Some(sight) => return Some((sight, State::Live(events))),
                        None => State::List { failures: 0 },
                    },
                    _ => State::List { failures: 0 },
                },
                State::List { failures } => {
                    sleep(pause(failures)).await;
                    match calls.pods(node, None).await {
                        Ok((pods, version)) => {
                            return Some((Sight::Listed(pods), State::Open { version, failures }));
                        }
                        Err(error) if may_pass(&error) => State::List { failures: failures + 1 },
                        Err(error) => return Some((Sight::Blind(error), State::Over)),
                    }
                }
                State::Over => return None,
            }
        }
    })
    .boxed()
}

fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX)
}

/// Whether the cluster may answer another time: it was busy, away, or broken.
fn may_pass(error: &CallError) -> bool {
    error.code().is_none_or(|code| matches!(code, 408 | 410 | 429 | 500..))
}

/// What an event shows; `None` when the watch is at its end, or says what it was not asked for.
fn sight(event: WatchEvent<PartialObjectMeta<Pod>>) -> Option<Sight> {
    match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => Some(Sight::Seen(Box::new(facts(pod)))),
        WatchEvent::Deleted(pod) => Some(Sight::Gone(pod.metadata.uid.unwrap_or_default())),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => None,
    }
}

fn facts(pod: PartialObjectMeta<Pod>) -> PodFacts {
    Pod { metadata: pod.metadata, ..Pod::default() }.into()
}
