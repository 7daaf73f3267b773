//! The HTTP API as functions.
//!
//! Every call has a deadline. Calls that are safe to repeat are tried again with jitter, on the next server if there
//! are several: reads, and submits, because each carries an Idempotency-Key. A refusal comes back as the server's own
//! problem document. Not here: following tasks live ([`super::live`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::history::ClientHistory;
use super::types::{ClusterList, ItemInfo, ItemPage, Problem, TaskInfo, TaskPage, Ticket};
use crate::BoxError;
use crate::store::Control;
use crate::task::{Draft, ItemState, Plan, RetryDraft, Status, TaskId};

/// How long one try of a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Tries after the first one of a call that is safe to repeat.
const RETRIES: usize = 3;
/// A call that the server puts off for longer is not repeated: whoever waits for it is told instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Tasks, items and nodes asked for at once.
pub(super) const PAGE: u32 = 500;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No server could be reached, or none answered in time. Whether the call had an effect is unknown.
    #[error("{server} cannot be reached")]
    Unreachable {
        /// The server tried last.
        server: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The server refused.
    #[error("{problem}")]
    Refused {
        /// Why.
        problem: Problem,
        /// The least time to wait before trying again, when the server said so.
        retry_after: Option<Duration>,
    },
    /// The answer is not what this client understands; maybe the address is not a Milepost gateway.
    #[error("the answer of {server} cannot be read")]
    Malformed {
        /// Which server.
        server: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

impl ApiError {
    /// The HTTP status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { problem, .. } => Some(problem.status),
            _ => None,
        }
    }

    /// Whether the same call may work in a moment, or on another server.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => matches!(problem.status, 429 | 502 | 503 | 504),
            Self::Malformed { .. } => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Which tasks to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only with one of these statuses; all when empty.
    pub statuses: Vec<Status>,
    /// Only on this cluster.
    pub cluster: Option<String>,
    /// Of this user, or `*` for everyone's; for administrators. The caller's own when left out.
    pub owner: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A client of one installation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    servers: Arc<[String]>,
    current: Arc<AtomicUsize>,
    token: Option<SecretString>,
    history: Option<ClientHistory>,
}

impl Api {
    /// A client of the gateways at these addresses, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When TLS cannot be set up, or an address is none.
    pub fn new(servers: &[String], token: Option<SecretString>) -> Result<Self, BoxError> {
        for server in servers {
            let url =
                reqwest::Url::parse(server).map_err(|error| format!("{server} is no address: {error}"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(format!("{server} must begin with http:// or https://").into());
            }
        }
        if servers.is_empty() {
            return Err("no server is given".into());
        }
        // No proxy from the environment: the live connection does not use one either.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .user_agent(concat!("milepost/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()?;
        let servers = servers.iter().map(|server| server.trim_end_matches('/').to_owned()).collect();
        Ok(Self { http, servers, current: Arc::default(), token, history: None })
    }

    /// The same client, which notes its submits and controls.
    #[must_use]
    pub fn noting(self, history: ClientHistory) -> Self {
        Self { history: Some(history), ..self }
    }

    /// Where it notes.
    #[must_use]
    pub fn history(&self) -> Option<&ClientHistory> {
        self.history.as_ref()
    }

    /// The addresses of the gateways.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// The bearer token.
    #[must_use]
    pub fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// Submits a task. The same key and draft give the same task, so a repeat is safe.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn submit(&self, draft: &Draft, idempotency_key: &str) -> Result<TaskInfo, ApiError> {
        let call = Call::post("/tasks").with_body(draft).with_key(idempotency_key);
        let answer: Result<TaskInfo, ApiError> = self.send_retrying(&call).await;
        self.note_submit(idempotency_key, draft, &answer);
        answer
    }

    /// What a submit of this draft would do. Changes nothing.
    ///
    /// # Errors
    /// See [`ApiError`]; status 503 while the cluster cannot be reached.
    pub async fn plan(&self, draft: &Draft) -> Result<Plan, ApiError> {
        self.send_retrying(&Call::post("/plans").with_body(draft)).await
    }

    /// One task.
    ///
    /// # Errors
    /// See [`ApiError`]; status 404 when there is none that the caller may see.
    pub async fn task(&self, id: TaskId) -> Result<TaskInfo, ApiError> {
        self.send_retrying(&Call::get(format!("/tasks/{id}"))).await
    }

    /// Tasks, newest first, as many pages as the limit needs.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskInfo>, ApiError> {
        let (mut tasks, mut before): (Vec<TaskInfo>, Option<TaskId>) = (Vec::new(), None);
        loop {
            let mut query: Vec<(&str, String)> = vec![("limit", page_size(filter.limit - tasks.len()))];
            let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
            if !statuses.is_empty() {
                query.push(("status", statuses.join(",")));
            }
            query.extend(filter.cluster.iter().map(|cluster| ("cluster", cluster.clone())));
            query.extend(filter.owner.iter().map(|owner| ("owner", owner.clone())));
            query.extend(before.map(|before| ("before", before.to_string())));
            let page: TaskPage = self.send_retrying(&Call::get("/tasks").with_query(query)).await?;
            tasks.extend(page.tasks);
            before = page.next;
            if before.is_none() || tasks.len() >= filter.limit {
                tasks.truncate(filter.limit);
                return Ok(tasks);
            }
        }
    }

    /// Items of a task in order, at most `limit`, as many pages as that needs.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn items(
        &self,
        task: TaskId,
        state: Option<ItemState>,
        limit: usize,
    ) -> Result<Vec<ItemInfo>, ApiError> {
        let (mut items, mut after): (Vec<ItemInfo>, Option<u32>) = (Vec::new(), None);
        loop {
            let mut query: Vec<(&str, String)> = vec![("limit", page_size(limit - items.len()))];
            query.extend(state.map(|state| ("state", state.as_str().to_owned())));
            query.extend(after.map(|after| ("after", after.to_string())));
            let call = Call::get(format!("/tasks/{task}/items")).with_query(query);
            let page: ItemPage = self.send_retrying(&call).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() || items.len() >= limit {
                items.truncate(limit);
                return Ok(items);
            }
        }
    }

    /// Cancels, pauses or resumes a task, or changes how many of its items are worked on at once.
    ///
    /// # Errors
    /// See [`ApiError`]; status 409 when the change does not fit the task's status.
    pub async fn control(&self, task: TaskId, control: Control) -> Result<TaskInfo, ApiError> {
        let call = |verb: &str| Call::post(format!("/tasks/{task}/{verb}"));
        let (verb, call) = match control {
            Control::Cancel => ("cancel", call("cancel")),
            Control::Pause => ("pause", call("pause")),
            Control::Resume => ("resume", call("resume")),
            Control::Concurrency(n) => {
                ("concurrency", call("concurrency").with_body(&json!({ "concurrency": n })))
            }
        };
        let answer = self.send(&call).await;
        if let Some(history) = &self.history {
            history.called(verb, task, answer.as_ref().err());
        }
        answer
    }

    /// Retries what did not end well of a task that is over. The same key and draft give the same retry, so a repeat is
    /// safe.
    ///
    /// # Errors
    /// See [`ApiError`]; status 409 when there is nothing to retry, or it is being done.
    pub async fn retry(
        &self,
        task: TaskId,
        draft: &RetryDraft,
        idempotency_key: &str,
    ) -> Result<TaskInfo, ApiError> {
        let call = Call::post(format!("/tasks/{task}/retry")).with_body(draft).with_key(idempotency_key);
        let answer = self.send_retrying(&call).await;
        self.note_submit(idempotency_key, draft, &answer);
        answer
    }

    /// Names of the configured clusters.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn clusters(&self) -> Result<Vec<String>, ApiError> {
        let list: ClusterList = self.send_retrying(&Call::get("/clusters")).await?;
        Ok(list.clusters)
    }

    /// A ticket for one live connection of a browser.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn ticket(&self) -> Result<String, ApiError> {
        self.send::<Ticket>(&Call::post("/live/tickets")).await.map(|ticket| ticket.ticket)
    }

    fn note_submit(&self, key: &str, body: &impl Serialize, answer: &Result<TaskInfo, ApiError>) {
        if let Some(history) = &self.history {
            let task = answer.as_ref().map(|info| info.view.task_id);
            history.submitted(key, serde_json::to_value(body).ok(), &task);
        }
    }

    pub(super) async fn send_retrying<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(RETRIES)
            .with_jitter();
        (|| self.send(call))
            .retry(waits)
            .when(|error| error.is_transient() && error.retry_after() <= Some(RETRY_AFTER_MAX))
            .adjust(|error, wait| wait.map(|wait| wait.max(error.retry_after().unwrap_or_default())))
            .await
    }

    pub(super) async fn send<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let place = self.current.load(Ordering::Relaxed);
        let server = &self.servers[place % self.servers.len()];
        let result = self.send_to(server, call).await;
        self.turn_from(place, result.as_ref().err());
        result
    }

    fn request(&self, server: &str, call: &Call) -> RequestBuilder {
        let request = self.http.request(call.method.clone(), format!("{server}/api/v1{}", call.path));
        let request = request.query(&call.query);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// Begins to read an answer that does not end by itself, on the next server when this one is away. Not retried.
    pub(super) async fn stream(&self, call: &Call, lasts: Duration) -> Result<Response, ApiError> {
        let place = self.current.load(Ordering::Relaxed);
        let server = &self.servers[place % self.servers.len()];
        let result = self.begin_stream(server, call, lasts).await;
        self.turn_from(place, result.as_ref().err());
        result
    }

    async fn begin_stream(&self, server: &str, call: &Call, lasts: Duration) -> Result<Response, ApiError> {
        let unreachable = |source| ApiError::Unreachable { server: server.to_owned(), source };
        let sent = tokio::time::timeout(CALL_TIMEOUT, self.request(server, call).timeout(lasts).send()).await;
        let response =
            sent.map_err(|late| unreachable(late.into()))?.map_err(|error| unreachable(innermost(error)))?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        if status.is_success() {
            return Ok(response);
        }
        let body = read(server, response).await?;
        Err(ApiError::Refused { problem: Problem::read(status.as_u16(), &body), retry_after })
    }

    /// Goes to the next server after what may work there.
    fn turn_from(&self, place: usize, error: Option<&ApiError>) {
        if error.is_some_and(ApiError::is_transient) {
            let next = place.wrapping_add(1);
            let _ = self.current.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    async fn send_to<T: DeserializeOwned>(&self, server: &str, call: &Call) -> Result<T, ApiError> {
        let mut request = self.request(server, call);
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        let unreachable = |source: reqwest::Error| ApiError::Unreachable {
            server: server.to_owned(),
            source: innermost(source),
        };
        let response = request.send().await.map_err(unreachable)?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        let body = read(server, response).await?;
        if status.is_success() {
            let malformed =
                |error| ApiError::Malformed { server: server.to_owned(), source: Box::new(error) };
            // An answer without a body says all by its status.
            let body = if body.is_empty() { b"null" } else { body.as_slice() };
            return serde_json::from_slice(body).map_err(malformed);
        }
        Err(ApiError::Refused { problem: Problem::read(status.as_u16(), &body), retry_after })
    }
}

/// A call, ready to be sent more than once.
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<bytes::Bytes>,
    key: Option<String>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body: None, key: None }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(super) fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(super) fn with_query(self, query: Vec<(&'static str, String)>) -> Self {
        Self { query, ..self }
    }

    pub(super) fn with_body(self, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("a body is plain texts, numbers and JSON");
        Self { body: Some(body.into()), ..self }
    }

    fn with_key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }
}

pub(super) fn page_size(left: usize) -> String {
    u32::try_from(left).unwrap_or(PAGE).min(PAGE).to_string()
}

/// The root of a transport error: what the operating system said, without the layers above.
pub(super) fn innermost(error: reqwest::Error) -> BoxError {
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    let mut last = None;
    while let Some(cause) = source {
        last = Some(cause.to_string());
        source = cause.source();
    }
    match last {
        Some(text) => text.into(),
        None => error.without_url().into(),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let waiting = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let header = response.headers().get(RETRY_AFTER).filter(|_| waiting.contains(&response.status()))?;
    let seconds = header.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Reads a body up to [`ANSWER_BYTES_MAX`].
async fn read(server: &str, mut response: Response) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                let source = format!("it has more than {ANSWER_BYTES_MAX} bytes").into();
                return Err(ApiError::Malformed { server: server.to_owned(), source });
            }
            Ok(None) => return Ok(body),
            Err(error) => {
                return Err(ApiError::Unreachable { server: server.to_owned(), source: innermost(error) });
            }
        }
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
