//! From request to answer: the log, then the rules, then the resource.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response};
use serde_json::Value;

use super::collection::Collection;
use super::discovery;
use super::log::RequestLog;
use super::nodes;
use super::patch::PatchKind;
use super::query::{Query, continue_after};
use super::rules::{Fault, Rules};
use super::status::Refusal;
use super::view::{Shape, View};
use super::watch::Watch;
use crate::clock::Clock;

/// The largest request body, as in the real API.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How long a request body may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);
const NODES: &str = "/api/v1/nodes";

/// The connection is to be reset instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("a rule resets this connection")]
pub(super) struct Reset;

pub(super) struct Api {
    pub(super) nodes: Arc<Collection>,
    pub(super) rules: Rules,
    pub(super) log: RequestLog,
    pub(super) clock: Arc<dyn Clock>,
}

impl Api {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        let uri = request.uri().clone();
        let query = Query::parse(&uri);
        let verb = verb(request.method(), uri.path(), query.as_ref().is_ok_and(Query::is_watch));
        let agent = header(request.headers(), USER_AGENT.as_str()).to_owned();
        let number = self.log.arrived(verb, uri.path(), uri.query().unwrap_or_default(), &agent);
        let verdict = self.rules.meet(verb, uri.path());
        tokio::time::sleep(verdict.delay).await;
        let response = match verdict.fault {
            Some(Fault::Reset) => return Err(Reset),
            Some(Fault::Status(code)) => refuse(&Refusal::injected(code)),
            Some(Fault::Throttle { retry_after_secs }) => throttle(retry_after_secs),
            Some(Fault::ResetAfter) => {
                let _done = self.serve(verb, query, request).await;
                return Err(Reset);
            }
            Some(Fault::Latency { .. }) | None => {
                self.serve(verb, query, request).await.unwrap_or_else(|refusal| refuse(&refusal))
            }
        };
        self.log.answered(number, response.status().as_u16());
        Ok(response)
    }

    async fn serve(
        &self,
        verb: &str,
        query: Result<Query, Refusal>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        if let Some(document) = discovery::document(&path) {
            return Ok(json(200, &document));
        }
        match node_name(&path) {
            None if matches!(path.as_str(), "/livez" | "/readyz" | "/healthz") => Ok(text(200, "ok")),
            Some(name) if !name.contains('/') => self.node_request(verb, name, &query?, request).await,
            _ => Err(Refusal::no_such_path()),
        }
    }

    async fn node_request(
        &self,
        verb: &str,
        name: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let shape = Shape::from_accept(header(request.headers(), ACCEPT.as_str()));
        let view = View { shape, now: self.clock.now() };
        match (verb, name) {
            ("list", "") => self.list(query, view),
            ("watch", "") => {
                let lines = Watch::new(Arc::clone(&self.nodes), query, view)?.lines();
                Ok(reply(200, "application/json", Body::from_stream(lines)))
            }
            ("get", name) if !name.is_empty() => Ok(json(200, &view.one(&*self.nodes.get(name)?))),
            ("patch", name) if !name.is_empty() => self.patch(name, query, view, request).await,
            _ => Err(Refusal::method_not_allowed()),
        }
    }

    fn list(&self, query: &Query, view: View) -> Result<Response<Body>, Refusal> {
        let current = self.nodes.version();
        if let Some(asked) = query.version()?.filter(|asked| *asked > current) {
            return Err(Refusal::version_ahead(asked, current));
        }
        let page = self.nodes.list(&query.selector()?, query.after()?.as_deref(), query.limit());
        let next = page.last.as_deref().map(continue_after);
        Ok(json(200, &view.list(&page, next)))
    }

    async fn patch(
        &self,
        name: &str,
        query: &Query,
        view: View,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let kind = PatchKind::from_content_type(header(request.headers(), CONTENT_TYPE.as_str()))?;
        let dry_run = query.dry_run()?;
        let patch = body(request).await?;
        let edit = |old: &Value| nodes::admit(old, kind.apply(old, &patch)?);
        let node = self.nodes.update(name, dry_run, edit)?;
        Ok(json(200, &view.one(&node)))
    }
}

/// The rest of a path to nodes: empty for all of them.
fn node_name(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(NODES)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// The Kubernetes verb of a request.
fn verb(method: &Method, path: &str, watches: bool) -> &'static str {
    let collection = path.trim_end_matches('/') == NODES;
    match *method {
        Method::GET if collection && watches => "watch",
        Method::GET if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::PATCH => "patch",
        Method::PUT => "update",
        Method::POST => "create",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "unknown",
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let read = axum::body::to_bytes(Body::new(request.into_body()), BODY_BYTES_MAX);
    let bytes = tokio::time::timeout(BODY_WAIT, read)
        .await
        .map_err(|_| Refusal::bad_request("the body did not arrive in time"))?
        .map_err(|_| Refusal::too_large(BODY_BYTES_MAX))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    json(refusal.code, &refusal.object())
}

fn throttle(retry_after_secs: u32) -> Response<Body> {
    let mut response = text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(RETRY_AFTER, retry_after_secs.into());
    response
}

fn text(code: u16, text: &'static str) -> Response<Body> {
    reply(code, "text/plain; charset=utf-8", Body::from(text))
}

fn json(code: u16, value: &Value) -> Response<Body> {
    reply(code, "application/json", Body::from(value.to_string()))
}

fn reply(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code.try_into().unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_to_nodes_are_paths_to_nodes() {
        let paths = ["/api/v1/nodes", "/api/v1/nodes/n", "/api/v1/nodesn", "/api/v1/pods"];
        assert_eq!(paths.map(node_name), [Some(""), Some("n"), None, None]);
    }

    #[test]
    fn verbs_are_those_of_kubernetes() {
        assert_eq!(verb(&Method::GET, NODES, true), "watch");
        assert_eq!(verb(&Method::GET, NODES, false), "list");
        assert_eq!(verb(&Method::GET, "/api/v1/nodes/n", false), "get");
        assert_eq!(verb(&Method::PUT, "/api/v1/nodes/n", false), "update");
    }
}
