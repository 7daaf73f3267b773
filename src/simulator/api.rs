//! From request to answer: the log, then the rules, then what is served ([`super::serve`]).

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response};
use serde_json::Value;

use super::access::Access;
use super::cluster::Cluster;
use super::discovery;
use super::log::RequestLog;
use super::protobuf;
use super::query::Query;
use super::reply;
use super::resources::Target;
use super::rules::{Fault, Rules};
use super::serve::Call;
use super::status::Refusal;
use super::view::{Shape, View};

/// The largest request body, as in the real API.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How long a request body may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// The connection is to be reset instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("a rule resets this connection")]
pub(super) struct Reset;

pub(super) struct Api {
    pub(super) cluster: Arc<Cluster>,
    pub(super) access: Access,
    pub(super) rules: Rules,
    pub(super) log: RequestLog,
}

impl Api {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        let uri = request.uri().clone();
        let query = Query::parse(&uri);
        let target = Target::read(uri.path());
        let verb = verb(request.method(), target.as_ref(), query.as_ref().is_ok_and(Query::is_watch));
        let agent = header(request.headers(), USER_AGENT.as_str()).to_owned();
        let number = self.log.arrived(verb, uri.path(), uri.query().unwrap_or_default(), &agent);
        let verdict = self.rules.meet(verb, uri.path());
        tokio::time::sleep(verdict.delay).await;
        let response = match verdict.fault {
            Some(Fault::Reset) => return Err(Reset),
            Some(Fault::Status(code)) => reply::refuse(&Refusal::injected(code)),
            Some(Fault::Throttle { retry_after_secs }) => reply::throttle(retry_after_secs),
            fault => {
                if let (Some(Fault::Contend), Some(target)) = (&fault, &target) {
                    self.cluster.touch(target);
                }
                let response = self.serve(verb, target, query, request).await;
                let response = response.unwrap_or_else(|refusal| reply::refuse(&refusal));
                match fault {
                    Some(Fault::ResetAfter) => return Err(Reset),
                    Some(Fault::BreakOff) => reply::halved(response),
                    Some(Fault::Cut { after }) => reply::cut_after(response, after),
                    _ => response,
                }
            }
        };
        self.log.answered(number, response.status().as_u16());
        Ok(response)
    }

    async fn serve(
        &self,
        verb: &'static str,
        target: Option<Target<'_>>,
        query: Result<Query, Refusal>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let Some(target) = target else {
            let path = request.uri().path().trim_end_matches('/');
            return match discovery::document(path) {
                Some(document) => Ok(reply::json(200, &document)),
                None if matches!(path, "/livez" | "/readyz" | "/healthz") => Ok(reply::text(200, "ok")),
                None => Err(Refusal::no_such_path()),
            };
        };
        self.access.check(verb, &target)?;
        let shape = Shape::from_accept(header(request.headers(), ACCEPT.as_str()));
        let view = View { shape, now: self.cluster.clock.now(), resource: target.resource };
        let media = header(request.headers(), CONTENT_TYPE.as_str()).to_owned();
        let protobuf = media.starts_with("application/vnd.kubernetes.protobuf");
        let body = match verb {
            "get" | "list" | "watch" => Value::Null,
            "delete" if protobuf => protobuf::delete_options(&bytes(request).await?)
                .ok_or_else(|| Refusal::bad_request("error decoding the body: no DeleteOptions"))?,
            _ if protobuf => return Err(Refusal::unsupported_media(&media)),
            _ => body(request).await?,
        };
        Call { cluster: &self.cluster, access: &self.access, verb, target, query: query?, view, media, body }
            .answer()
    }
}

/// The Kubernetes verb of a request.
fn verb(method: &Method, target: Option<&Target<'_>>, watches: bool) -> &'static str {
    let collection = target.is_some_and(|target| target.name.is_empty());
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

async fn bytes(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let read = axum::body::to_bytes(Body::new(request.into_body()), BODY_BYTES_MAX);
    tokio::time::timeout(BODY_WAIT, read)
        .await
        .map_err(|_| Refusal::bad_request("the body did not arrive in time"))?
        .map_err(|_| Refusal::too_large(BODY_BYTES_MAX))
}

/// The body of a request; `Null` for none.
async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let bytes = bytes(request).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad_request(format!("error decoding the body: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_those_of_kubernetes() {
        let of = |method, path, watches| verb(&method, Target::read(path).as_ref(), watches);
        assert_eq!(of(Method::GET, "/api/v1/nodes", true), "watch");
        assert_eq!(of(Method::GET, "/api/v1/nodes", false), "list");
        assert_eq!(of(Method::GET, "/api/v1/nodes/n", false), "get");
        assert_eq!(of(Method::PUT, "/api/v1/nodes/n", false), "update");
        assert_eq!(of(Method::POST, "/api/v1/namespaces/a/pods/p/eviction", false), "create");
        assert_eq!(of(Method::GET, "/version", false), "get");
    }
}
