//! A watch: JSON lines, one per change, until its time is over.
//!
//! There is no queue per watch. Each reads the collection's memory of changes at its own pace, and one that was too slow
//! gets the 410 that a real API would send.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::collection::{Change, Collection};
use super::object::Object;
use super::query::Query;
use super::selector::Selector;
use super::status::Refusal;
use super::view::View;

/// How often an idle watch that wants bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);
/// How long a watch lasts when the client does not say.
const LASTS: Duration = Duration::from_secs(1_800);
/// The longest that a client may ask for.
const LASTS_MAX_SECS: u64 = 86_400;
/// Changes sent in one piece.
const BATCH: usize = 100;

pub(super) struct Watch<T> {
    collection: Arc<Collection<T>>,
    head: tokio::sync::watch::Receiver<u64>,
    selector: Selector,
    view: View,
    bookmarks: bool,
    position: u64,
    ends: Instant,
    /// What is told before anything else: the objects that exist already.
    first: std::vec::IntoIter<Arc<T>>,
    /// That the bookmark at the end of those is due.
    say_when_done: bool,
    over: bool,
}

impl<T: Object> Watch<T> {
    pub(super) fn new(
        collection: Arc<Collection<T>>,
        query: &Query,
        selector: Selector,
        view: View,
    ) -> Result<Self, Refusal> {
        let lasts = query.timeout_seconds.map_or(LASTS, |secs| Duration::from_secs(secs.min(LASTS_MAX_SECS)));
        let mut watch = Self {
            head: collection.follow(),
            selector,
            view,
            bookmarks: query.bookmarks(),
            position: 0,
            ends: Instant::now() + lasts,
            first: Vec::new().into_iter(),
            say_when_done: false,
            over: false,
            collection,
        };
        match query.version()? {
            Some(version) if version > watch.collection.version() => {
                return Err(Refusal::version_ahead(version, watch.collection.version()));
            }
            Some(version) if !query.initial_events() => watch.position = version,
            _ => watch.begin_with_everything(query.initial_events()),
        }
        Ok(watch)
    }

    fn begin_with_everything(&mut self, say_when_done: bool) {
        let page = self.collection.list(&self.selector, None, usize::MAX);
        self.position = page.version;
        self.first = page.items.into_iter();
        self.say_when_done = say_when_done;
    }

    /// The watch as the body of an answer.
    pub(super) fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        stream::unfold(self, |mut watch| async move {
            let lines = watch.next().await?;
            Some((Ok(Bytes::from(lines)), watch))
        })
    }

    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut lines = self.beginning();
        if !lines.is_empty() {
            return Some(lines);
        }
        while !self.over {
            self.head.borrow_and_update();
            match self.collection.after(self.position, BATCH) {
                Ok(changes) => changes.iter().for_each(|change| self.tell(&mut lines, change)),
                Err(refusal) => {
                    line(&mut lines, "ERROR", &refusal.object());
                    self.over = true;
                }
            }
            if lines.is_empty() {
                self.wait(&mut lines).await;
            }
            if !lines.is_empty() {
                return Some(lines);
            }
        }
        None
    }

    /// The next lines about what exists already; empty when all is told.
    fn beginning(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        for object in self.first.by_ref().take(BATCH) {
            line(&mut lines, "ADDED", &self.view.one(&*object));
        }
        if self.first.len() == 0 && std::mem::take(&mut self.say_when_done) {
            let bookmark = self.bookmark(&json!({"k8s.io/initial-events-end": "true"}));
            line(&mut lines, "BOOKMARK", &bookmark);
        }
        lines
    }

    async fn wait(&mut self, lines: &mut Vec<u8>) {
        let until = self.ends.min(Instant::now() + BOOKMARK_EVERY);
        if timeout_at(until, self.head.changed()).await.is_ok() {
            return;
        }
        self.over = Instant::now() >= self.ends;
        if self.bookmarks {
            line(lines, "BOOKMARK", &self.bookmark(&Value::Null));
        }
    }

    /// Tells a change from the watcher's side: an object that stops matching is gone for it.
    fn tell(&mut self, lines: &mut Vec<u8>, change: &Change<T>) {
        self.position = change.version;
        let seen = |object: &Option<Arc<T>>| object.clone().filter(|object| self.selector.matches(&**object));
        match (seen(&change.before), seen(&change.after)) {
            (None, None) => {}
            (None, Some(after)) => line(lines, "ADDED", &self.view.one(&*after)),
            (Some(_), Some(after)) => line(lines, "MODIFIED", &self.view.one(&*after)),
            (Some(before), None) => {
                let mut last = T::clone(&before);
                last.stamp(change.version);
                line(lines, "DELETED", &self.view.one(&last));
            }
        }
    }

    fn bookmark(&self, annotations: &Value) -> Value {
        let mut metadata = json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if !annotations.is_null() {
            metadata["annotations"] = annotations.clone();
        }
        json!({"kind": self.view.resource.kind, "apiVersion": self.view.resource.api_version(), "metadata": metadata})
    }
}

fn line(lines: &mut Vec<u8>, kind: &str, object: &Value) {
    lines.extend_from_slice(json!({"type": kind, "object": object}).to_string().as_bytes());
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::super::resources::RESOURCES;
    use super::super::view::Shape;
    use super::*;

    fn collection() -> Arc<Collection<Value>> {
        let objects = ["a", "b"].map(|name| json!({"metadata": {"name": name, "labels": {"zone": "x"}}}));
        Arc::new(Collection::new("nodes", Arc::default(), 3, objects))
    }

    fn set_zone(nodes: &Collection<Value>, name: &str, zone: &str) {
        let edit = |old: &Value| {
            let mut new = old.clone();
            new["metadata"]["labels"]["zone"] = zone.into();
            Ok(new)
        };
        nodes.update(name, false, edit).unwrap();
    }

    fn watch(nodes: &Arc<Collection<Value>>, query: &str) -> Result<Watch<Value>, Refusal> {
        let query = Query::parse(&format!("/?{query}").parse().unwrap())?;
        let view = View { shape: Shape::Object, now: jiff::Timestamp::UNIX_EPOCH, resource: &RESOURCES[0] };
        let selector = query.selector(view.resource, "")?;
        Watch::new(Arc::clone(nodes), &query, selector, view)
    }

    /// Every line to the end, as "TYPE name version".
    async fn all(watch: Watch<Value>) -> Vec<String> {
        let pieces: Vec<_> = watch.lines().map(|piece| piece.unwrap().to_vec()).collect().await;
        let text = String::from_utf8(pieces.concat()).unwrap();
        let brief = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
            let what = object["metadata"]["name"].as_str().or(object["reason"].as_str()).unwrap_or("-");
            format!("{kind} {what} {}", object["metadata"]["resourceVersion"].as_str().unwrap_or("-"))
        };
        text.lines().map(brief).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sees_changes_from_its_side_and_ends_in_time() {
        let nodes = collection();
        let watch = watch(&nodes, "labelSelector=zone%3Dx&resourceVersion=2&timeoutSeconds=5").unwrap();
        set_zone(&nodes, "a", "y");
        set_zone(&nodes, "b", "z");
        set_zone(&nodes, "a", "x");
        assert_eq!(all(watch).await, ["DELETED a 3", "DELETED b 4", "ADDED a 5"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_version_it_begins_with_everything() {
        let lines = all(watch(&collection(), "timeoutSeconds=1&sendInitialEvents=true").unwrap()).await;
        assert_eq!(lines, ["ADDED a 1", "ADDED b 2", "BOOKMARK - 2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn too_old_is_told_and_too_new_is_refused() {
        let nodes = collection();
        for zone in ["1", "2", "3", "4"] {
            set_zone(&nodes, "a", zone);
        }
        assert_eq!(all(watch(&nodes, "resourceVersion=2").unwrap()).await, ["ERROR Expired -"]);
        assert_eq!(watch(&nodes, "resourceVersion=99").err().unwrap().code, 504);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_watches_get_bookmarks_if_they_want() {
        let lines = all(
            watch(&collection(), "resourceVersion=2&timeoutSeconds=15&allowWatchBookmarks=true").unwrap()
        )
        .await;
        assert_eq!(lines, ["BOOKMARK - 2", "BOOKMARK - 2"]);
    }
}
