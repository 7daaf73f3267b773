//! A layer under the client that catches refusals no API code has looked at.
//!
//! Priority and fairness, proxies and load balancers refuse with plain text and `Retry-After`; the client above would
//! drop the header and call the body unreadable.

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Request, Response};
use kube::client::{Body, ClientBuilder};
use tower::Service;
use tower::util::MapResultLayer;

use crate::BoxError;

/// The longest wait that a server may ask for.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Refused before it was looked at: nothing was done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused with {code} before it was looked at")]
pub(super) struct Busy {
    pub(super) code: u16,
    pub(super) retry_after: Option<Duration>,
}

/// Builds a client whose refusals are told apart.
pub(super) fn client<S, B>(builder: ClientBuilder<S>) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    builder.with_layer(&MapResultLayer::new(refused)).build()
}

fn refused<B>(result: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
    let response = result?;
    match busy(response.status().as_u16(), response.headers()) {
        Some(busy) => Err(busy.into()),
        None => Ok(response),
    }
}

fn busy(code: u16, headers: &HeaderMap) -> Option<Busy> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let looked_at = content_type.starts_with("application/json");
    (matches!(code, 429 | 502 | 503 | 504) && !looked_at)
        .then(|| Busy { code, retry_after: retry_after(headers) })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let secs = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(secs).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: &str, retry_after: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        headers
    }

    #[test]
    fn only_plain_text_refusals_are_caught() {
        let secs = |n| Some(Duration::from_secs(n));
        assert_eq!(busy(429, &headers("text/plain", "3")), Some(Busy { code: 429, retry_after: secs(3) }));
        assert_eq!(busy(503, &headers("text/html", "soon")), Some(Busy { code: 503, retry_after: None }));
        assert_eq!(busy(429, &headers("text/plain", "86400")).unwrap().retry_after, secs(300));
        assert_eq!(busy(429, &headers("application/json", "3")), None);
        assert_eq!(busy(404, &headers("text/plain", "3")), None);
    }
}
