//! What the simulated account may not do, and how it asks about that. Everything is allowed that is not denied.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::resources::Target;
use super::status::Refusal;

/// A right that the account lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// Kubernetes verb, or `*`.
    pub verb: String,
    /// Plural name of the resource, with its subresource if it is about one (`pods/eviction`), or `*`.
    pub resource: String,
    /// In this namespace only; in all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Denied {
    /// Denies a verb on a resource everywhere.
    #[must_use]
    pub fn new(verb: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { verb: verb.into(), resource: resource.into(), namespace: None }
    }

    /// The same, in one namespace.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..self }
    }

    fn covers(&self, verb: &str, resource: &str, namespace: &str) -> bool {
        (self.verb == "*" || self.verb == verb)
            && (self.resource == "*" || self.resource == resource)
            && self.namespace.as_deref().is_none_or(|only| only == namespace)
    }
}

/// The rights of the account.
#[derive(Debug, Default)]
pub(super) struct Access(Mutex<Vec<Denied>>);

impl Access {
    pub(super) fn new(denied: Vec<Denied>) -> Self {
        Self(Mutex::new(denied))
    }

    pub(super) fn replace(&self, denied: Vec<Denied>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = denied;
    }

    fn allows(&self, verb: &str, resource: &str, namespace: &str) -> bool {
        let denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !denied.iter().any(|denied| denied.covers(verb, resource, namespace))
    }

    /// Refuses a request that the account has no right to. Asking about one's rights is always allowed.
    pub(super) fn check(&self, verb: &str, target: &Target<'_>) -> Result<(), Refusal> {
        let resource = with_sub(target.resource.plural, target.sub);
        if target.resource.group == "authorization.k8s.io" || self.allows(verb, &resource, target.namespace) {
            return Ok(());
        }
        let place = match target.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let group = target.resource.group;
        let what = format!(
            "User \"simulated\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}"
        );
        Err(Refusal::forbidden(&target.resource.qualified(), target.name, what))
    }

    /// Answers a SelfSubjectAccessReview.
    pub(super) fn review(&self, review: &Value) -> Result<Value, Refusal> {
        let asked = &review["spec"]["resourceAttributes"];
        let text = |field: &str| asked[field].as_str().unwrap_or_default();
        if asked.is_null() && review["spec"]["nonResourceAttributes"].is_null() {
            let what = "spec.resourceAttributes: exactly one of nonResourceAttributes or resourceAttributes must be set";
            return Err(Refusal::invalid("SelfSubjectAccessReview", "", what));
        }
        let resource = with_sub(text("resource"), text("subresource"));
        let allowed = asked.is_null() || self.allows(text("verb"), &resource, text("namespace"));
        let reason = if allowed { "allowed by the simulator" } else { "denied by rule" };
        let mut answer = review.clone();
        answer["kind"] = "SelfSubjectAccessReview".into();
        answer["apiVersion"] = "authorization.k8s.io/v1".into();
        answer["status"] = json!({"allowed": allowed, "reason": reason});
        Ok(answer)
    }
}

fn with_sub(resource: &str, sub: &str) -> String {
    if sub.is_empty() { resource.to_owned() } else { format!("{resource}/{sub}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(access: &Access, verb: &str, resource: &str, sub: &str, namespace: &str) -> bool {
        let review = json!({"spec": {"resourceAttributes": {
            "verb": verb, "resource": resource, "subresource": sub, "namespace": namespace}}});
        access.review(&review).unwrap()["status"]["allowed"] == true
    }

    #[test]
    fn what_is_denied_is_refused_and_told_when_asked() {
        let access = Access::new(vec![
            Denied::new("create", "pods/eviction").namespace("a"),
            Denied::new("*", "nodes"),
        ]);
        assert!(!asked(&access, "create", "pods", "eviction", "a"));
        assert!(asked(&access, "create", "pods", "eviction", "b"));
        assert!(asked(&access, "create", "pods", "", "a"), "a subresource is a right of its own");
        assert!(!asked(&access, "patch", "nodes", "", ""));
        let refused = |path: &str, verb| access.check(verb, &Target::read(path).unwrap()).is_err();
        assert!(refused("/api/v1/namespaces/a/pods/p/eviction", "create"));
        assert!(!refused("/api/v1/namespaces/b/pods/p/eviction", "create"));
        assert!(refused("/api/v1/nodes", "list"));
        assert_eq!(access.review(&json!({"spec": {}})).unwrap_err().code, 422);
    }
}
