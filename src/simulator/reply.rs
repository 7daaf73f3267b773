//! Answers as HTTP, whole or broken off on purpose.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::Value;

use super::status::Refusal;

const JSON: &str = "application/json";

pub(super) fn json(code: u16, value: &Value) -> Response<Body> {
    reply(code, JSON, Body::from(value.to_string()))
}

pub(super) fn text(code: u16, text: &'static str) -> Response<Body> {
    reply(code, "text/plain; charset=utf-8", Body::from(text))
}

/// A JSON document, or lines of JSON, in pieces.
pub(super) fn pieces(
    pieces: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response<Body> {
    reply(200, JSON, Body::from_stream(pieces))
}

pub(super) fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = json(refusal.code, &refusal.object());
    if let Some(secs) = refusal.retry_after_secs() {
        response.headers_mut().insert(RETRY_AFTER, secs.into());
    }
    response
}

/// What priority and fairness answers: no `Status`, only text.
pub(super) fn throttle(retry_after_secs: u32) -> Response<Body> {
    let mut response = text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(RETRY_AFTER, retry_after_secs.into());
    response
}

fn reply(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code.try_into().unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body that ends where it should not.
#[derive(Debug, thiserror::Error)]
#[error("a rule breaks this answer off")]
struct BrokenOff;

/// The first half of the first piece of an answer, then the end of the connection.
pub(super) fn halved(response: Response<Body>) -> Response<Body> {
    response.map(|body| {
        let first = body.into_data_stream().take(1).map(|piece| {
            let piece = piece.unwrap_or_default();
            Ok(piece.slice(..piece.len() / 2))
        });
        Body::from_stream(first.chain(stream::once(async { Err::<Bytes, _>(BrokenOff) })))
    })
}

/// An answer whose connection ends after a time, unless it is complete before.
pub(super) fn cut_after(response: Response<Body>, after: Duration) -> Response<Body> {
    let cut = Box::pin(tokio::time::sleep(after));
    response.map(|body| {
        let pieces = stream::unfold(Some((body.into_data_stream(), cut)), |state| async {
            let (mut body, mut cut) = state?;
            tokio::select! {
                biased;
                () = &mut cut => Some((Err(BrokenOff), None)),
                piece = body.next() => piece.map(|piece| (piece.map_err(|_| BrokenOff), Some((body, cut)))),
            }
        });
        Body::from_stream(pieces)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives of an answer, and whether it arrives whole.
    async fn arrives(response: Response<Body>) -> (Vec<u8>, bool) {
        let pieces: Vec<_> = response.into_body().into_data_stream().collect().await;
        let whole = pieces.iter().all(Result::is_ok);
        (pieces.into_iter().filter_map(Result::ok).flatten().collect(), whole)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_broken_off_where_it_should_be() {
        assert_eq!(arrives(halved(text(200, "abcdef"))).await, (b"abc".to_vec(), false));
        let second = Duration::from_secs(1);
        assert_eq!(arrives(cut_after(text(200, "abc"), second)).await, (b"abc".to_vec(), true));
        let endless = stream::once(async { Ok(Bytes::from_static(b"a")) }).chain(stream::pending());
        assert_eq!(arrives(cut_after(pieces(endless), second)).await, (b"a".to_vec(), false));
    }
}
