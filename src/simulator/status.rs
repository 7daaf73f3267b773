//! `Status` objects: how a Kubernetes API says no. Texts and reasons are those of the real one, because clients read
//! both. Not here: the plain-text refusal of priority and fairness ([`super::rules`]).

use serde_json::{Value, json};

/// A refusal with the HTTP code it is sent under.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: json!({}) }
    }

    fn about(mut self, kind: &str, name: &str) -> Self {
        self.details = json!({"name": name, "kind": kind});
        self
    }

    pub(super) fn not_found(kind: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{kind} \"{name}\" not found")).about(kind, name)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn conflict(kind: &str, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {kind} \"{name}\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        Self::new(409, "Conflict", message).about(kind, name)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn invalid(kind: &str, name: &str, what: impl std::fmt::Display) -> Self {
        Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {what}")).about(kind, name)
    }

    /// What a JSON patch gets when one of its operations cannot be done, `test` included.
    pub(super) fn unprocessable() -> Self {
        Self::new(422, "Invalid", "the server rejected our request due to an error in our request")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn unsupported_media(given: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json; \
             got {given:?}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(super) fn too_large(bytes_max: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {bytes_max}"))
    }

    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub(super) fn version_ahead(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message);
        refusal.details = json!({"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
        refusal
    }

    /// A refusal made by a rule.
    pub(super) fn injected(code: u16) -> Self {
        let (reason, message) = match code {
            400 => ("BadRequest", "the request is bad, by rule"),
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "User \"simulated\" cannot do this at the cluster scope"),
            404 => ("NotFound", "the server could not find the requested resource"),
            409 => ("Conflict", "Operation cannot be fulfilled: the object has been modified, by rule"),
            422 => ("Invalid", "the object is invalid, by rule"),
            429 => ("TooManyRequests", "Too many requests, please try again later, by rule"),
            500 => ("InternalError", "Internal error occurred, by rule"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request, by rule"),
            504 => ("Timeout", "Timeout: request did not complete within the allotted timeout, by rule"),
            _ => ("", "refused, by rule"),
        };
        Self::new(code, reason, message)
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}
