//! The calls of a drain: pods, their `DaemonSets`, evictions. What they mean is decided elsewhere.

use std::time::Duration;

use futures_util::stream::BoxStream;
use hyper::header::HeaderValue;
use k8s_openapi::api::apps::v1::DaemonSet as DaemonSetObject;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{
    DeleteParams, GetParams, ListParams, ObjectList, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::core::{PartialObjectMeta, Request};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::cluster::Cluster;
use super::super::errors::{Call, CallError};
use super::answer::Answer;
use super::classify::DaemonSet;
use super::machine::Found;
use super::pod::PodFacts;
use crate::action::ActionError;

/// The cluster tries for ten seconds by itself to note an eviction in a busy budget.
const EVICT_TIMEOUT: Duration = Duration::from_secs(20);
/// Pods of one page of a list, as kubectl asks for them.
const PAGE_LEN: u32 = 500;
/// Most pages of the pods of one node.
const PAGES_MAX: usize = 100;
/// Lists that were too slow for their own pages before one is given up.
const LIST_TRIES: usize = 3;
/// How long a watch is asked to last.
const WATCH_SECS: u32 = 240;

/// A watch of the pods of one node, which tells of them by their metadata alone.
pub(super) type PodEvents = BoxStream<'static, kube::Result<WatchEvent<PartialObjectMeta<Pod>>>>;

/// The calls of one task to one cluster.
#[derive(Clone, Copy)]
pub(super) struct Calls<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) sender: &'a HeaderValue,
}

impl Calls<'_> {
    /// All pods of a node, of those that are selected, and the version from which a watch goes on.
    pub(super) async fn pods(
        &self,
        node: &str,
        selector: Option<&str>,
    ) -> Result<(Vec<PodFacts>, String), CallError> {
        self.all_pods(Some(node), selector, PAGES_MAX).await
    }

    /// All pods that are selected, of a node or of the cluster, as far as `T` looks at them.
    pub(super) async fn all_pods<T: From<Pod>>(
        &self,
        node: Option<&str>,
        selector: Option<&str>,
        pages_max: usize,
    ) -> Result<(Vec<T>, String), CallError> {
        let mut asked = ListParams::default().limit(PAGE_LEN);
        asked.field_selector = node.map(on_node);
        asked.label_selector = selector.map(str::to_owned);
        let mut tries = 1;
        loop {
            match self.list(&pods(None), asked.clone(), pages_max, T::from).await {
                // The pages that were to follow are forgotten: begin again.
                Err(error) if is_expired(&error) && tries < LIST_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Everything of a list, page by page, and its version. Each object is cut down to what is needed as it comes.
    pub(super) async fn list<O: Clone + DeserializeOwned, T>(
        &self,
        objects: &Request,
        mut page: ListParams,
        pages_max: usize,
        seen: impl Fn(O) -> T,
    ) -> Result<(Vec<T>, String), CallError> {
        let mut all = Vec::new();
        for _ in 0..pages_max {
            let request = objects.list(&page).map_err(kube::Error::BuildRequest)?;
            let list: ObjectList<O> = self.cluster.call(request, self.sender).await?;
            all.extend(list.items.into_iter().map(&seen));
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                return Ok((all, list.metadata.resource_version.unwrap_or_default()));
            }
        }
        let path = &objects.url_path;
        Err(kube::Error::Service(format!("{path} has more than {pages_max} pages").into()).into())
    }

    /// Opens a watch of all pods of a node.
    pub(super) async fn watch(&self, node: &str, version: &str) -> Result<PodEvents, CallError> {
        let asked = WatchParams::default().fields(&on_node(node)).timeout(WATCH_SECS).disable_bookmarks();
        let request = pods(None).watch_metadata(&asked, version).map_err(kube::Error::BuildRequest)?;
        self.cluster.watch(request, self.sender).await
    }

    /// Looks whether a pod still exists.
    pub(super) async fn look(&self, pod: &PodFacts) -> Found {
        let Ok(request) = pods(Some(&pod.namespace)).get(&pod.name, &GetParams::default()) else {
            return Found::Unknown;
        };
        match self.cluster.call::<Pod>(request, self.sender).await.map(PodFacts::from) {
            Ok(found) if found.uid == pod.uid => Found::There(Box::new(found)),
            Ok(_) => Found::Gone,
            Err(error) if error.code() == Some(404) => Found::Gone,
            Err(_) => Found::Unknown,
        }
    }

    /// What there is of a `DaemonSet`. An error that may pass is one; any other is an answer.
    pub(super) async fn daemon_set(&self, namespace: &str, name: &str) -> Result<DaemonSet, CallError> {
        let path = DaemonSetObject::url_path(&(), Some(namespace));
        let request = Request::new(path).get(name, &GetParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        match self.cluster.call::<IgnoredAny>(request, self.sender).await {
            Ok(_) => Ok(DaemonSet::Exists),
            Err(CallError::Kube(kube::Error::Api(status))) if status.code == 404 => Ok(DaemonSet::Missing),
            Err(CallError::Kube(kube::Error::Api(status))) if (400..408).contains(&status.code) => {
                Ok(DaemonSet::Unknown(status.message.clone()))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for the eviction of a pod, or deletes it where no budget is to be asked, unless told to stop before the question
    /// is sent. A question that was sent is waited for: nobody could tell what became of it.
    pub(super) async fn let_go(&self, pod: &PodFacts, how: How, halt: &CancellationToken) -> Answer {
        let turn = tokio::select! {
            biased;
            () = halt.cancelled() => return Answer::NotSent,
            turn = self.cluster.turn() => turn,
        };
        let request = request(pod, how);
        let sent = async {
            turn?;
            let request = request.map_err(kube::Error::BuildRequest)?;
            self.cluster.send::<IgnoredAny>(request, self.sender, EVICT_TIMEOUT).await.map(drop)
        };
        sent.await.into()
    }

    /// What an error of a call about pods means for the item.
    pub(super) fn failed(&self, error: CallError, node: &str, verb: &'static str, what: &str) -> ActionError {
        let cluster = &self.cluster.name;
        match error.code() {
            Some(403) => {
                ActionError::permanent(format!("forbidden: needs {verb} on {what} in cluster {cluster}"))
            }
            Some(404) => ActionError::permanent(format!("cluster {cluster} does not serve {what}")),
            _ => error.into_action(Call { cluster, node, verb }),
        }
    }
}

/// How a pod is let go.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Time to end by itself, if it is not the pod's own.
    pub(super) grace: Option<i64>,
    /// Delete it, so that no budget is asked.
    pub(super) bypass_pdb: bool,
}

fn request(pod: &PodFacts, how: How) -> Result<hyper::Request<Vec<u8>>, kube::core::request::Error> {
    let path = pods(Some(&pod.namespace));
    if !how.bypass_pdb {
        let body = eviction(pod, how.grace).to_string().into_bytes();
        return path.create_subresource("eviction", &pod.name, &PostParams::default(), body);
    }
    let uid = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
    let grace_period_seconds = how.grace.and_then(|secs| u32::try_from(secs).ok());
    let preconditions = Some(uid);
    path.delete(&pod.name, &DeleteParams { grace_period_seconds, preconditions, ..DeleteParams::default() })
}

/// The request itself, since the client's own function drops the options: another pod of the same name is not meant.
fn eviction(pod: &PodFacts, grace: Option<i64>) -> Value {
    let mut options = json!({"preconditions": {"uid": pod.uid}});
    if let Some(secs) = grace {
        options["gracePeriodSeconds"] = secs.into();
    }
    json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": options,
    })
}

/// Whether what was asked for is so old that it is forgotten.
pub(super) fn is_expired(error: &CallError) -> bool {
    error.code() == Some(410)
}

fn on_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

fn pods(namespace: Option<&str>) -> Request {
    Request::new(Pod::url_path(&(), namespace))
}
