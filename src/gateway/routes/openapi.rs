//! `GET openapi.json`: the description of the API. Public: it says nothing about this installation.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// The OpenAPI document.
pub(crate) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], crate::gateway::openapi::document()).into_response()
}
