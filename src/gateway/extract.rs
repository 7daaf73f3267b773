//! Reads bodies, queries and path parameters, and says which field is wrong when one cannot be read.

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::task::{Fault, TaskId};

/// A JSON body of shape `T`.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::MediaType);
        }
        let bytes = read(request, state).await?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body of shape `T`, or its default when the request has none.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let json = is_json(request.headers());
        let bytes = read(request, state).await?;
        match (bytes.is_empty(), json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => parse(&bytes).map(Self),
            (false, false) => Err(ApiError::MediaType),
        }
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::TooLarge
        }
        _ => ApiError::malformed("body", "could not be read to its end"),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let rejection = match Json::<T>::from_bytes(bytes) {
        Ok(Json(value)) => return Ok(value),
        Err(rejection) => rejection,
    };
    let cause = std::error::Error::source(&rejection).map(ToString::to_string).unwrap_or_default();
    let fault = fault(&cause);
    match rejection {
        JsonRejection::JsonDataError(_) => Err(ApiError::Invalid(vec![fault])),
        _ => Err(ApiError::Malformed(vec![Fault { field: "body".into(), ..fault }])),
    }
}

/// Takes the text of a parse error apart: `items[3]: invalid type: ...`. A missing or unknown field is named in the
/// message rather than in the path.
fn fault(text: &str) -> Fault {
    let (path, message) = match text.split_once(": ") {
        Some((path, message)) if !path.contains(' ') => (path.trim_start_matches('.'), message),
        _ => ("", text),
    };
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    let field = match (path, named) {
        ("", None) => "body".to_owned(),
        ("", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        (path, _) => path.to_owned(),
    };
    Fault::new(field, message)
}

/// A query string of shape `T`.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection| {
            let cause = std::error::Error::source(&rejection).map(ToString::to_string).unwrap_or_default();
            let fault = fault(&cause);
            let field = if fault.field == "body" { "query".to_owned() } else { fault.field };
            ApiError::malformed(field, fault.reason)
        })
    }
}

/// The task id of a path.
pub(crate) struct TaskPath(pub(crate) TaskId);

impl<S: Send + Sync> FromRequestParts<S> for TaskPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_text(parts, state, "id").await?;
        text.parse().map(Self).map_err(|error| ApiError::malformed("id", format!("{error}")))
    }
}

/// The one parameter of a path, decoded.
pub(crate) async fn path_text<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &'static str,
) -> Result<String, ApiError> {
    let path = Path::<String>::from_request_parts(parts, state).await;
    path.map(|Path(text)| text).map_err(|_| ApiError::malformed(name, "cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Draft;

    fn field_of(body: &str) -> String {
        match parse::<Draft>(body.as_bytes()) {
            Err(ApiError::Invalid(faults) | ApiError::Malformed(faults)) => faults[0].field.clone(),
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn the_field_that_cannot_be_read_is_named() {
        assert_eq!(field_of(r#"{"action":"cordon","cluster":"c","items":["a",3]}"#), "items[1]");
        assert_eq!(field_of(r#"{"action":1,"cluster":"c","items":[]}"#), "action");
        assert_eq!(field_of(r#"{"action":"cordon","cluster":"c"}"#), "items");
        assert_eq!(field_of(r#"{"action":"cordon","cluster":"c","items":[],"nodes":[]}"#), "nodes");
        assert_eq!(field_of(r#"{"action":"cordon","#), "body");
        assert_eq!(field_of("[]"), "body");
        assert_eq!(field_of(""), "body");
    }
}
