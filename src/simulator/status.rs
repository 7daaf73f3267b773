//! `Status` objects: how a Kubernetes API says no. Texts and reasons are those of the real one, because clients read
//! both. Not here: the plain-text refusal of priority and fairness ([`super::rules`]).

use serde_json::{Value, json};

/// A refusal with the HTTP code it is sent under.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    reason: &'static str,
    pub(super) message: String,
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

    pub(super) fn already_exists(kind: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{kind} \"{name}\" already exists")).about(kind, name)
    }

    /// A request that was meant for another object of the same name, or an older state of it.
    pub(super) fn precondition(kind: &str, name: &str, field: &str, asked: &str, found: &str) -> Self {
        let happened = if field == "UID" { "deleted and then recreated" } else { "modified" };
        let message = format!(
            "Operation cannot be fulfilled on {kind} \"{name}\": the {field} in the precondition ({asked}) does not \
             match the {field} in record ({found}). The object might have been {happened}"
        );
        Self::new(409, "Conflict", message).about(kind, name)
    }

    pub(super) fn forbidden(kind: &str, name: &str, what: impl std::fmt::Display) -> Self {
        let name_part = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{kind}{name_part} is forbidden: {what}")).about(kind, name)
    }

    /// Nothing may be made in a namespace that is on its way out, not even an eviction.
    pub(super) fn namespace_terminating(kind: &str, name: &str, namespace: &str) -> Self {
        let what =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut refusal = Self::forbidden(kind, name, what);
        refusal.details["causes"] = json!([{
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated"),
        }]);
        refusal
    }

    /// What an eviction gets that a budget does not allow now. `cause` is the sentence that says why.
    pub(super) fn budget(cause: impl Into<String>, retry_after_secs: Option<u32>) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut refusal = Self::new(429, "TooManyRequests", message);
        refusal.details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause.into()}]});
        if let Some(secs) = retry_after_secs {
            refusal.details["retryAfterSeconds"] = secs.into();
        }
        refusal
    }

    /// What an eviction gets that several budgets are about: the real one says it under 500 and without a reason.
    pub(super) fn several_budgets() -> Self {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        Self::new(500, "", message)
    }

    /// Seconds for the header `Retry-After`, if the refusal names any.
    pub(super) fn retry_after_secs(&self) -> Option<u64> {
        self.details["retryAfterSeconds"].as_u64()
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
            410 => ("Expired", "too old resource version, by rule"),
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
