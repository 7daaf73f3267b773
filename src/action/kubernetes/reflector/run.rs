//! Keeps what is known of a cluster's nodes current: a list, and a watch from there on, for as long as it is let.
//!
//! A watch that ends goes on from the version it had reached, which costs one request and misses nothing. What it cannot go
//! on from, because the server has forgotten the version (410), does not know it (a restored server), or refuses again and
//! again, is listed. Every failure is followed by a pause that grows; a list alone does not end the growing, or a server
//! that cannot be watched would be listed all the time. The library's own watcher is not used: its calls have no deadline,
//! pass the breaker by, and begin for ever from a version that is refused with an HTTP status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{DynamicObject, WatchEvent};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::annotations::Annotations;
use super::super::cluster::{Cluster, NODES_MAX, NodeEvents};
use super::super::errors::{CallError, root_cause};
use super::super::node::known as read;
use super::known::{Entry, Known};

/// A watch that says nothing for so long is dead: the server ends each after 30 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// A watch that was lost has told what it had to tell once nothing more comes for so long.
const SETTLED: Duration = Duration::from_millis(100);
/// And after so long in any case: in a large cluster there is always something.
const SETTLED_MAX: Duration = Duration::from_secs(2);
/// A watch that ends sooner, without a word, did not work.
const LASTS_MIN: Duration = Duration::from_secs(1);
/// Failures in a row after which the nodes are listed, whatever they were.
const RELIST_AFTER: u32 = 3;
/// The first pause after a failure, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Whose nodes are kept, and where.
pub(super) struct Run {
    pub(super) cluster: Arc<Cluster>,
    pub(super) known: Arc<Known>,
    pub(super) annotations: Annotations,
}

/// What is done next.
enum Next {
    List,
    Watch(Place),
}

/// Where a watch goes on: a version, and the client of the server that it is of.
struct Place {
    version: String,
    client: u64,
}

/// Why a step came to nothing, and what is next after a pause.
struct Trouble {
    why: String,
    next: Next,
}

impl Trouble {
    /// Lists are made anew whatever went wrong with them.
    fn listing(error: &CallError) -> Self {
        Self { why: words(error, "list"), next: Next::List }
    }

    fn of_watch(why: String, next: Next) -> Self {
        Self { why, next }
    }
}

impl Run {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let (mut next, mut failures) = (Next::List, 0_u32);
        loop {
            let step = match next {
                Next::List => self.list().await,
                Next::Watch(place) => self.watch(place, &mut failures).await,
            };
            next = match step {
                Ok(next) => next,
                Err(trouble) => {
                    failures = failures.saturating_add(1);
                    self.lost(&trouble.why, failures);
                    sleep(pause(failures)).await;
                    if failures.is_multiple_of(RELIST_AFTER) { Next::List } else { trouble.next }
                }
            };
        }
    }

    fn lost(&self, why: &str, failures: u32) {
        self.known.lost(why);
        self.cluster.meter.watched(false);
        if failures == RELIST_AFTER {
            tracing::warn!(cluster = %self.cluster.name, why, "the nodes of the cluster cannot be watched");
        }
    }

    async fn list(&self) -> Result<Next, Trouble> {
        let client = self.cluster.client_number().await.map_err(|error| Trouble::listing(&error))?;
        let (began, mut listed) = (Instant::now(), BTreeMap::<_, Entry>::new());
        let take = |node: DynamicObject| {
            let (node, more) = read(node, &self.annotations);
            listed.insert(node.name.clone(), (Arc::new(node), Arc::new(more)));
        };
        let version = self.cluster.list(take).await.map_err(|error| Trouble::listing(&error))?;
        let again = self.known.freshness().is_some();
        // First the rules, which are asked by whoever hears of a change.
        self.cluster.safety.replace(listed.values().map(|(node, _)| &**node), began);
        self.known.replace(listed);
        let meter = &self.cluster.meter;
        meter.relisted(u64::from(again));
        meter.heard();
        meter.watched(true);
        Ok(Next::Watch(Place { version, client }))
    }

    async fn watch(&self, mut place: Place, failures: &mut u32) -> Result<Next, Trouble> {
        match self.cluster.client_number().await {
            Ok(client) if client != place.client => return Ok(Next::List),
            Ok(_) => {}
            Err(error) => return Err(Trouble::of_watch(words(&error, "watch"), Next::Watch(place))),
        }
        let mut events = match self.cluster.watch_nodes(&place.version).await {
            Ok(events) => events,
            Err(error) => {
                let next = if is_of_version(&error) { Next::List } else { Next::Watch(place) };
                return Err(Trouble::of_watch(words(&error, "watch"), next));
            }
        };
        let (began, mut told) = (Instant::now(), false);
        loop {
            match self.next(&mut events, began).await {
                Some(Ok(WatchEvent::Error(status))) => {
                    let next = if status.code == 410 { Next::List } else { Next::Watch(place) };
                    return Err(Trouble::of_watch(status.message.clone(), next));
                }
                Some(Ok(event)) => {
                    (told, *failures) = (true, 0);
                    self.cluster.meter.heard();
                    self.take(event, &mut place)?;
                }
                Some(Err(why)) => return Err(Trouble::of_watch(why, Next::Watch(place))),
                None if told || began.elapsed() >= LASTS_MIN => {
                    *failures = 0;
                    self.known.heard();
                    self.cluster.meter.heard();
                    return Ok(Next::Watch(place));
                }
                None => return Err(Trouble::of_watch("its watches end at once".into(), Next::Watch(place))),
            }
        }
    }

    /// The next event. A watch that was lost counts as live once it has told what it had to tell.
    async fn next(
        &self,
        events: &mut NodeEvents,
        began: Instant,
    ) -> Option<Result<WatchEvent<DynamicObject>, String>> {
        if self.known.is_lost() {
            let until = (Instant::now() + SETTLED).min(began + SETTLED_MAX);
            if let Ok(event) = timeout_at(until, events.next()).await {
                return Some(event?.map_err(|error| root_cause(&error).to_string()));
            }
            self.known.live();
            self.cluster.meter.watched(true);
        }
        match timeout(SILENCE_MAX, events.next()).await {
            Ok(event) => Some(event?.map_err(|error| root_cause(&error).to_string())),
            Err(_) => Some(Err("its watch fell silent".to_owned())),
        }
    }

    fn take(&self, event: WatchEvent<DynamicObject>, place: &mut Place) -> Result<(), Trouble> {
        let version = match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                let version = node.metadata.resource_version.clone();
                let (node, more) = read(node, &self.annotations);
                self.cluster.safety.apply(&node);
                self.known.apply((Arc::new(node), Arc::new(more)));
                version
            }
            WatchEvent::Deleted(node) => {
                let version = node.metadata.resource_version.clone();
                let (gone, _) = read(node, &self.annotations);
                if self.known.delete(&gone) {
                    self.cluster.safety.delete(&gone.name);
                }
                version
            }
            WatchEvent::Bookmark(bookmark) => {
                self.known.heard();
                Some(bookmark.metadata.resource_version)
            }
            WatchEvent::Error(_) => None,
        };
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            place.version = version;
        }
        match self.known.len() <= NODES_MAX {
            true => Ok(()),
            // The list says so in its own words, and what is known goes on being stale.
            false => Err(Trouble::of_watch("it has too many nodes".into(), Next::List)),
        }
    }
}

/// Half of it is chance: all replicas lose their watches in the same moment.
fn pause(failures: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(PAUSE_MAX);
    longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// Whether the version to go on from is the trouble: forgotten, or not known yet to a server that was restored.
fn is_of_version(error: &CallError) -> bool {
    matches!(error.code(), Some(400 | 410 | 504))
}

/// Why a call came to nothing, for people who look at nodes.
fn words(error: &CallError, verb: &str) -> String {
    match error {
        CallError::Kube(kube::Error::Api(status)) => match status.code {
            401 => "it does not accept the credentials it was given".to_owned(),
            403 => format!("forbidden: needs {verb} on nodes"),
            code => format!("{code}: {}", status.message),
        },
        CallError::Kube(error) => root_cause(error).to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        for failures in 1..40 {
            let longest = PAUSE_MIN.saturating_mul(1 << (failures - 1).min(8)).min(PAUSE_MAX);
            let pause = pause(failures);
            assert!(pause >= longest / 2 && pause <= longest, "{failures}: {pause:?}");
        }
        assert!(pause(40) >= PAUSE_MAX / 2);
    }
}
