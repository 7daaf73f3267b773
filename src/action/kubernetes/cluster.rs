//! One cluster: its client, made when first needed and again when its kubeconfig changes, and the calls we make.
//!
//! Every call passes the cluster's breaker, waits a little for its turn and for room, and has a deadline; what comes of it
//! is told to the pace and to the breaker. None is retried here.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::stream::{BoxStream, StreamExt};
use hyper::header::{HeaderValue, USER_AGENT};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{
    ApiResource, DynamicObject, GetParams, ListParams, ObjectList, Patch, PatchParams, WatchEvent,
    WatchParams,
};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{PartialObjectMeta, Request};
use kube::{Client, Config, Resource};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

use super::breaker::{Breaker, Pass, Turned};
use super::errors::{CallError, Meaning, root_cause};
use super::guard::Safety;
use super::meter::Meter;
use super::pace::Pace;
use super::rights::Rights;
use super::{agent, busy};
use crate::BoxError;
use crate::task::ClusterName;
use crate::task::safety::{Rule, Rules};
use crate::telemetry::Metrics;

/// Who writes, as `managedFields` show it.
pub(super) const FIELD_MANAGER: &str = "milepost";
/// How long a call may wait for its turn, and then for room. An item that would wait longer leaves its lane to others.
const TURN_MAX: Duration = Duration::from_secs(2);
/// Between looks at whether the kubeconfig has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Nodes of one page of a list.
const PAGE_LEN: u32 = 500;
/// Most nodes that are listed; Kubernetes itself supports 5,000.
pub(super) const NODES_MAX: usize = 100_000;
/// How long a watch of the nodes lasts before the server ends it, in seconds. One that falls silent is noticed soon after.
const WATCH_SECS: u32 = 30;

/// A watch of the nodes.
pub(super) type NodeEvents = BoxStream<'static, kube::Result<WatchEvent<DynamicObject>>>;

/// Where the way to a cluster is written.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A kubeconfig and a context in it, by default its current one.
    Kubeconfig { path: PathBuf, context: Option<String>, allow_exec: bool },
    /// The service account of the pod.
    InCluster,
}

/// What a file was like when it was read.
type Stamp = (Option<SystemTime>, u64);

impl Source {
    /// How the kubeconfig looks from outside; `None` when there is none to look at.
    async fn stamp(&self) -> Option<Stamp> {
        let Self::Kubeconfig { path, .. } = self else { return None };
        let metadata = timeout(TURN_MAX, tokio::fs::metadata(path)).await.ok()?.ok()?;
        Some((metadata.modified().ok(), metadata.len()))
    }
}

/// How much a cluster may be asked.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) call_timeout: Duration,
    /// Reads, and as many writes.
    pub(super) per_second: u32,
    /// Calls on their way.
    pub(super) at_once: usize,
}

/// A client, and the kubeconfig it was made from.
struct Made {
    client: Client,
    stamp: Option<Stamp>,
    looked: Instant,
}

pub(super) struct Cluster {
    pub(super) name: ClusterName,
    source: Source,
    made: Mutex<Option<Made>>,
    /// How many clients were made.
    clients: AtomicU64,
    reads: Pace,
    writes: Pace,
    room: Semaphore,
    breaker: Breaker,
    pub(super) rights: Rights,
    call_timeout: Duration,
    pub(super) meter: Meter,
    /// Which nodes may be taken out of service.
    pub(super) safety: Safety,
}

impl Cluster {
    /// A cluster that nobody has talked to yet.
    pub(super) fn new(name: ClusterName, source: Source, limits: &Limits, metrics: Metrics) -> Self {
        Self {
            meter: Meter::new(name.clone(), metrics),
            name,
            source,
            made: Mutex::new(None),
            clients: AtomicU64::new(0),
            reads: Pace::new(limits.per_second),
            writes: Pace::new(limits.per_second),
            room: Semaphore::new(limits.at_once.max(1)),
            breaker: Breaker::default(),
            rights: Rights::default(),
            call_timeout: limits.call_timeout,
            safety: Safety::default(),
        }
    }

    /// The same, under these rules.
    pub(super) fn with_rules(self, rules: Rules) -> Self {
        Self { safety: Safety::new(rules), ..self }
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Notes that a rule has kept a node as it is.
    pub(super) fn count_refusal(&self, rule: Rule) {
        self.meter.refusal(rule);
    }

    /// The client. Reads the configuration when that has not been done, or the kubeconfig has changed since; one that
    /// cannot be read any more leaves the old client in use. Does not talk to the cluster.
    pub(super) async fn connect(&self) -> Result<Client, BoxError> {
        let mut made = self.made.lock().await;
        let now = Instant::now();
        if let Some(made) = made.as_ref().filter(|made| now < made.looked + LOOK_INTERVAL) {
            return Ok(made.client.clone());
        }
        let stamp = self.source.stamp().await;
        if let Some(made) = made.as_mut().filter(|made| made.stamp == stamp) {
            made.looked = now;
            return Ok(made.client.clone());
        }
        match (connect(&self.source, self.call_timeout).await, made.as_mut()) {
            (Ok(client), _) => {
                self.clients.fetch_add(1, Ordering::Relaxed);
                *made = Some(Made { client: client.clone(), stamp, looked: now });
                Ok(client)
            }
            (Err(error), Some(made)) => {
                tracing::warn!(cluster = %self.name, %error, "the changed kubeconfig cannot be used; the old one stays");
                made.looked = now;
                Ok(made.client.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The node as it is.
    pub(super) async fn get(&self, name: &str, sender: &HeaderValue) -> Result<DynamicObject, CallError> {
        let request = nodes().get(name, &GetParams::default());
        self.call(request.map_err(kube::Error::BuildRequest)?, sender).await
    }

    /// Sends a JSON merge patch.
    pub(super) async fn patch(
        &self,
        name: &str,
        patch: &Value,
        sender: &HeaderValue,
    ) -> Result<(), CallError> {
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let request = nodes().patch_metadata(name, &parameters, &Patch::Merge(patch));
        self.call::<IgnoredAny>(request.map_err(kube::Error::BuildRequest)?, sender).await.map(drop)
    }

    /// Which client [`Self::connect`] gives: another number is another kubeconfig, and maybe another API server.
    pub(super) async fn client_number(&self) -> Result<u64, CallError> {
        self.connect().await.map_err(kube::Error::Service)?;
        Ok(self.clients.load(Ordering::Relaxed))
    }

    /// Hands every node to `each`, page by page, and gives back the version from which a watch goes on.
    pub(super) async fn list(&self, mut each: impl FnMut(DynamicObject)) -> Result<String, CallError> {
        let page = |asked: &ListParams| nodes().list(asked);
        self.pages(ListParams::default(), page, |node: DynamicObject| each(node)).await
    }

    /// Names of the nodes that are cordoned now.
    pub(super) async fn cordoned(&self) -> Result<BTreeSet<String>, CallError> {
        let mut names = BTreeSet::new();
        let asked = ListParams::default().fields("spec.unschedulable=true");
        let page = |asked: &ListParams| nodes().list_metadata(asked);
        let each = |node: PartialObjectMeta<Node>| names.extend(node.metadata.name);
        self.pages(asked, page, each).await?;
        Ok(names)
    }

    async fn pages<T: Clone + DeserializeOwned>(
        &self,
        asked: ListParams,
        request: impl Fn(&ListParams) -> Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
        mut each: impl FnMut(T),
    ) -> Result<String, CallError> {
        let (mut asked, mut count) = (asked.limit(PAGE_LEN), 0);
        loop {
            let request = request(&asked).map_err(kube::Error::BuildRequest)?;
            let list: ObjectList<T> = self.call(request, &agent::of_nobody()).await?;
            count += list.items.len();
            list.items.into_iter().for_each(&mut each);
            asked.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if asked.continue_token.is_none() {
                return Ok(list.metadata.resource_version.unwrap_or_default());
            }
            if count >= NODES_MAX {
                let many = format!("it has more than {NODES_MAX} nodes, which is too many to keep");
                return Err(kube::Error::Service(many.into()).into());
            }
        }
    }

    /// The pods on a node, the first page of them, and whether there are more.
    pub(super) async fn pods_on(&self, node: &str) -> Result<(Vec<Pod>, bool), CallError> {
        let asked = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(PAGE_LEN);
        let request =
            Request::new(Pod::url_path(&(), None)).list(&asked).map_err(kube::Error::BuildRequest)?;
        let list: ObjectList<Pod> = self.call(request, &agent::of_nobody()).await?;
        let more = list.metadata.continue_.is_some_and(|token| !token.is_empty());
        Ok((list.items, more))
    }

    /// Watches all nodes from a version on.
    pub(super) async fn watch_nodes(&self, version: &str) -> Result<NodeEvents, CallError> {
        let asked = WatchParams::default().timeout(WATCH_SECS);
        let request = nodes().watch(&asked, version).map_err(kube::Error::BuildRequest)?;
        self.watch(request, &agent::of_nobody()).await
    }

    /// Makes a call when its turn has come.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        request: hyper::Request<Vec<u8>>,
        sender: &HeaderValue,
    ) -> Result<T, CallError> {
        self.turn_of(self.pace_of(&request)).await?;
        self.send(request, sender, self.call_timeout).await
    }

    /// Asks a question that is put as a create and changes nothing: its turn is that of a read.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        request: hyper::Request<Vec<u8>>,
        sender: &HeaderValue,
    ) -> Result<T, CallError> {
        self.turn_of(&self.reads).await?;
        self.send(request, sender, self.call_timeout).await
    }

    /// Waits a little for the turn of one write. Cancel-safe.
    pub(super) async fn turn(&self) -> Result<(), CallError> {
        self.turn_of(&self.writes).await
    }

    async fn turn_of(&self, pace: &Pace) -> Result<(), CallError> {
        self.breaker.check()?;
        pace.turn(TURN_MAX).await.map_err(CallError::Crowded)
    }

    fn pace_of(&self, request: &hyper::Request<Vec<u8>>) -> &Pace {
        if request.method() == hyper::Method::GET { &self.reads } else { &self.writes }
    }

    /// Makes a call whose turn has come, and that may take longer than others: at least `limit`.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        mut request: hyper::Request<Vec<u8>>,
        sender: &HeaderValue,
        limit: Duration,
    ) -> Result<T, CallError> {
        let client = self.connect().await.map_err(kube::Error::Service)?;
        request.headers_mut().insert(USER_AGENT, sender.clone());
        let room = timeout(TURN_MAX, self.room.acquire()).await;
        let _room = room.map_err(|_| CallError::Crowded(TURN_MAX))?;
        let (pace, pass) = (self.pace_of(&request), self.breaker.pass()?);
        let limit = limit.max(self.call_timeout);
        let answer = timeout(limit, client.request(request)).await;
        let answer = answer.map_err(|_| CallError::TimedOut(limit)).and_then(|answer| Ok(answer?));
        self.learn(pace, pass, answer.as_ref().err());
        answer
    }

    /// Opens a watch; that it is opened has a deadline, how long it lasts is the server's choice.
    pub(super) async fn watch<T: Clone + DeserializeOwned + Send + 'static>(
        &self,
        mut request: hyper::Request<Vec<u8>>,
        sender: &HeaderValue,
    ) -> Result<BoxStream<'static, kube::Result<WatchEvent<T>>>, CallError> {
        self.turn_of(&self.reads).await?;
        let client = self.connect().await.map_err(kube::Error::Service)?;
        request.headers_mut().insert(USER_AGENT, sender.clone());
        let (limit, pass) = (self.call_timeout, self.breaker.pass()?);
        let opened = timeout(limit, client.request_events::<T>(request)).await;
        let opened = opened.map_err(|_| CallError::TimedOut(limit)).and_then(|opened| Ok(opened?));
        self.learn(&self.reads, pass, opened.as_ref().err());
        Ok(opened?.boxed())
    }

    /// Tells the pace and the breaker what came of a call.
    fn learn(&self, pace: &Pace, pass: Pass<'_>, error: Option<&CallError>) {
        let meaning = error.map_or(Meaning::Answered, CallError::meaning);
        self.meter.call(meaning.label());
        let turned = match meaning {
            Meaning::Unanswered => pass.failed(),
            Meaning::Answered | Meaning::Overloaded => pass.answered(),
        };
        match meaning {
            Meaning::Answered => pace.answered(),
            Meaning::Overloaded if pace.refused() => {
                tracing::info!(cluster = %self.name, "the cluster has too much to do; asking less");
            }
            Meaning::Overloaded | Meaning::Unanswered => {}
        }
        if let Some(turned) = turned {
            self.turned(turned);
        }
    }

    fn turned(&self, turned: Turned) {
        self.meter.reachable(turned == Turned::Closed);
        match turned {
            Turned::Opened => {
                tracing::warn!(cluster = %self.name, "the cluster does not answer; calls to it fail at once until it does");
            }
            Turned::Closed => tracing::info!(cluster = %self.name, "the cluster answers again"),
        }
    }

    #[cfg(test)]
    pub(super) fn with_client(client: Client, call_timeout: Duration) -> Self {
        let name = ClusterName::new("prod").unwrap();
        let limits = Limits { call_timeout, per_second: 1_000, at_once: 64 };
        let made = Mutex::new(Some(Made { client, stamp: None, looked: Instant::now() }));
        Self { made, ..Self::new(name, Source::InCluster, &limits, Metrics::new()) }
    }
}

/// Requests about nodes.
fn nodes() -> Request {
    Request::new(DynamicObject::url_path(&ApiResource::erase::<Node>(&()), None))
}

async fn connect(source: &Source, limit: Duration) -> Result<Client, BoxError> {
    let mut config = match source {
        Source::InCluster => Config::incluster()?,
        Source::Kubeconfig { path, context, allow_exec } => {
            let kubeconfig = Kubeconfig::read_from(path)
                .map_err(|error| format!("kubeconfig {}: {}", path.display(), root_cause(&error)))?;
            if !allow_exec {
                runs_nothing(&kubeconfig, context.as_deref())?;
            }
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        }
    };
    // The client's own retries would take the time of an item without anybody seeing why.
    config.default_retry = false;
    // A kubeconfig may name a program that fetches credentials, and the client waits for it on its thread.
    let build = tokio::task::spawn_blocking(move || ClientBuilder::try_from(config).map(busy::client));
    Ok(timeout(limit, build).await???)
}

/// Refuses a kubeconfig whose user gets its credentials from a program: reading it would run that program here.
fn runs_nothing(kubeconfig: &Kubeconfig, context: Option<&str>) -> Result<(), BoxError> {
    let context = context.or(kubeconfig.current_context.as_deref());
    let chosen = kubeconfig.contexts.iter().find(|named| Some(named.name.as_str()) == context);
    let user = chosen.and_then(|named| named.context.as_ref()?.user.as_deref());
    let named = kubeconfig.auth_infos.iter().find(|named| Some(named.name.as_str()) == user);
    let Some(info) = named.and_then(|named| named.auth_info.as_ref()) else { return Ok(()) };
    let how = match (&info.exec, &info.auth_provider) {
        (Some(_), _) => "exec",
        (None, Some(_)) => "auth-provider",
        (None, None) => return Ok(()),
    };
    Err(format!(
        "its kubeconfig runs a program for credentials ({how}); allow_exec: true permits it for this cluster"
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(user: &str, context: Option<&str>) -> Option<String> {
        let yaml = format!(
            "users: [{{name: u, user: {user}}}, {{name: plain, user: {{token: t}}}}]\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}, {{name: d, context: {{cluster: k, user: plain}}}}]\n"
        );
        runs_nothing(&Kubeconfig::from_yaml(&yaml).unwrap(), context).err().map(|error| error.to_string())
    }

    #[test]
    fn a_kubeconfig_that_runs_a_program_is_refused_and_files_and_tokens_are_not() {
        assert!(refused("{exec: {apiVersion: v1, command: /bin/true}}", None).unwrap().contains("(exec)"));
        assert!(refused("{auth-provider: {name: gcp}}", None).unwrap().contains("(auth-provider)"));
        for user in ["{token: t}", "{client-certificate: /c, client-key: /k}", "{tokenFile: /t}", "{}"] {
            assert_eq!(refused(user, None), None, "{user}");
        }
        assert_eq!(refused("{exec: {apiVersion: v1, command: /bin/true}}", Some("d")), None, "another user");
    }
}
