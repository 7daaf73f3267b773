//! One cluster: its client, made when first needed, and the calls we make. Every call waits for its turn in the cluster's
//! token bucket and has a deadline; none is retried here.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::header::{HeaderValue, USER_AGENT};
use k8s_openapi::api::core::v1::Node;
use kube::api::{
    ApiResource, DynamicObject, GetParams, ListParams, ObjectList, Patch, PatchParams, WatchEvent,
};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config, Resource};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::errors::CallError;
use super::{agent, busy};
use crate::BoxError;
use crate::task::ClusterName;

/// Who writes, as `managedFields` show it.
pub(super) const FIELD_MANAGER: &str = "milepost";
/// How long a call may wait for its turn.
const TURN_MAX: Duration = Duration::from_secs(60);
/// Nodes of one page of a list.
const PAGE_LEN: u32 = 500;
/// Most nodes that are listed; Kubernetes itself supports 5,000.
const NODES_MAX: usize = 20_000;

/// Where the way to a cluster is written.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A kubeconfig and a context in it, by default its current one.
    Kubeconfig { path: PathBuf, context: Option<String> },
    /// The service account of the pod.
    InCluster,
}

pub(super) struct Cluster {
    pub(super) name: ClusterName,
    source: Source,
    client: OnceCell<Client>,
    turns: DefaultDirectRateLimiter,
    call_timeout: Duration,
}

impl Cluster {
    /// A cluster that nobody has talked to yet. Its bucket holds twice the calls of a second.
    pub(super) fn new(
        name: ClusterName,
        source: Source,
        call_timeout: Duration,
        calls_per_second: u32,
    ) -> Self {
        let rate = NonZeroU32::new(calls_per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        let turns = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        Self { name, source, client: OnceCell::new(), turns, call_timeout }
    }

    /// Reads the configuration, if that has not been done. Does not talk to the cluster.
    pub(super) async fn connect(&self) -> Result<&Client, BoxError> {
        self.client.get_or_try_init(|| connect(&self.source, self.call_timeout)).await
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

    /// Every node, page by page.
    pub(super) async fn list(&self) -> Result<Vec<DynamicObject>, CallError> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        while all.len() < NODES_MAX {
            let mut page = ListParams::default().limit(PAGE_LEN);
            page.continue_token = next.take();
            let request = nodes().list(&page).map_err(kube::Error::BuildRequest)?;
            let list: ObjectList<DynamicObject> = self.call(request, &agent::of_nobody()).await?;
            all.extend(list.items);
            next = list.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        all.truncate(NODES_MAX);
        Ok(all)
    }

    /// Makes a call when its turn has come.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        request: hyper::Request<Vec<u8>>,
        sender: &HeaderValue,
    ) -> Result<T, CallError> {
        self.turn().await?;
        self.send(request, sender, self.call_timeout).await
    }

    /// Waits for the turn of one call. Cancel-safe.
    pub(super) async fn turn(&self) -> Result<(), CallError> {
        timeout(TURN_MAX, self.turns.until_ready()).await.map_err(|_| CallError::Crowded(TURN_MAX))
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
        let limit = limit.max(self.call_timeout);
        Ok(timeout(limit, client.request(request)).await.map_err(|_| CallError::TimedOut(limit))??)
    }

    /// Opens a watch; that it is opened has a deadline, how long it lasts is the server's choice.
    pub(super) async fn watch<T: Clone + DeserializeOwned + Send + 'static>(
        &self,
        mut request: hyper::Request<Vec<u8>>,
        sender: &HeaderValue,
    ) -> Result<BoxStream<'static, kube::Result<WatchEvent<T>>>, CallError> {
        self.turn().await?;
        let client = self.connect().await.map_err(kube::Error::Service)?;
        request.headers_mut().insert(USER_AGENT, sender.clone());
        let limit = self.call_timeout;
        let opened = timeout(limit, client.request_events::<T>(request)).await;
        Ok(opened.map_err(|_| CallError::TimedOut(limit))??.boxed())
    }

    #[cfg(test)]
    pub(super) fn with_client(client: Client, call_timeout: Duration) -> Self {
        let name = ClusterName::new("prod").unwrap();
        Self {
            client: OnceCell::new_with(Some(client)),
            ..Self::new(name, Source::InCluster, call_timeout, 1_000)
        }
    }
}

/// Requests about nodes.
fn nodes() -> Request {
    Request::new(DynamicObject::url_path(&ApiResource::erase::<Node>(&()), None))
}

async fn connect(source: &Source, limit: Duration) -> Result<Client, BoxError> {
    let mut config = match source {
        Source::InCluster => Config::incluster()?,
        Source::Kubeconfig { path, context } => {
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?
        }
    };
    // The client's own retries would take the time of an item without anybody seeing why.
    config.default_retry = false;
    // A kubeconfig may name a program that fetches credentials, and the client waits for it on its thread.
    let build = tokio::task::spawn_blocking(move || ClientBuilder::try_from(config).map(busy::client));
    Ok(timeout(limit, build).await???)
}
