//! What the account may do, asked of the cluster itself (`SelfSubjectAccessReview`) and remembered for a moment.
//!
//! Nothing is refused here because of it: a cluster that does not answer such a question gets the requests themselves,
//! and says no to them if it must.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use hyper::header::HeaderValue;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use kube::Resource;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::cluster::Cluster;
use super::errors::CallError;
use crate::action::ActionError;
use crate::task::ActionSpec;
use crate::task::plan::Right;

/// How long an answer holds: somebody may be granting a right just now.
const HOLDS_FOR: Duration = Duration::from_secs(10);
/// Answers that are remembered.
const KNOWN_MAX: usize = 1_000;
/// Questions on their way at once.
const AT_ONCE: usize = 8;
/// How long a task waits to learn whether it may do what it is about.
const PREFLIGHT_MAX: Duration = Duration::from_secs(5);

/// Where the account may evict pods, as far as the cluster told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evictions {
    /// In every namespace, or nobody knows better.
    Everywhere,
    /// Not in all of them.
    InSomeNamespaces,
}

/// Answers of a cluster.
#[derive(Debug, Default)]
pub(super) struct Rights(Mutex<HashMap<Right, (bool, Instant)>>);

impl Rights {
    fn known(&self, right: &Right) -> Option<bool> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(right).filter(|(_, at)| at.elapsed() < HOLDS_FOR).map(|(allowed, _)| *allowed)
    }

    fn learn(&self, right: &Right, allowed: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(right.clone(), (allowed, Instant::now()));
    }
}

impl Cluster {
    /// Whether the account has a right.
    pub(super) async fn may(&self, right: &Right, sender: &HeaderValue) -> Result<bool, CallError> {
        if let Some(known) = self.rights.known(right) {
            return Ok(known);
        }
        let path = SelfSubjectAccessReview::url_path(&(), None);
        let body = review(right).to_string().into_bytes();
        let request = Request::new(path).create(&PostParams::default(), body);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answer: SelfSubjectAccessReview = self.ask(request, sender).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        self.rights.learn(right, allowed);
        Ok(allowed)
    }

    /// Those of these rights that the account does not have, in their order.
    pub(super) async fn lacks(
        &self,
        rights: Vec<Right>,
        sender: &HeaderValue,
    ) -> Result<Vec<Right>, CallError> {
        let asked = rights.into_iter().map(|right| async {
            let may = self.may(&right, sender).await?;
            Ok::<_, CallError>((right, may))
        });
        let asked: Vec<_> = asked.collect();
        let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().filter_map(|(right, may)| (!may).then_some(right)).collect())
    }

    /// Refuses an action that no item could do for want of a right, so that this is said once and at once; returns what is
    /// known of the right to evict. A cluster that does not answer refuses nothing here, and is not asked further.
    ///
    /// # Errors
    /// Permanent, with the rights that are missing.
    pub(super) async fn preflight(
        &self,
        action: &ActionSpec,
        sender: &HeaderValue,
    ) -> Result<Evictions, ActionError> {
        let asked = async {
            let mut missing = Vec::new();
            for right in self.needed(action) {
                if !self.may(&right, sender).await? {
                    missing.push(right);
                }
            }
            let evicting = matches!(action, ActionSpec::Drain(asked) if !asked.bypass_pdb);
            let drains = evicting && missing.is_empty();
            let evicts = !drains || self.may(&to_evict(), sender).await?;
            Ok::<_, CallError>((missing, evicts))
        };
        match timeout(PREFLIGHT_MAX, asked).await {
            Ok(Ok((missing, _))) if !missing.is_empty() => Err(self.forbidden(&missing)),
            Ok(Ok((_, false))) => Ok(Evictions::InSomeNamespaces),
            _ => Ok(Evictions::Everywhere),
        }
    }

    /// The rights without which no item can be done, those to see the nodes included where a rule looks at them.
    pub(super) fn needed(&self, action: &ActionSpec) -> Vec<Right> {
        let mut rights = needed(action);
        if self.safety.rules.concern(action) {
            rights.extend([Right::new("list", "nodes"), Right::new("watch", "nodes")]);
        }
        rights
    }

    /// What becomes of an item for want of these rights.
    pub(super) fn forbidden(&self, missing: &[Right]) -> ActionError {
        let rights: Vec<_> = missing.iter().map(ToString::to_string).collect();
        ActionError::permanent(format!("forbidden: needs {} in cluster {}", rights.join(", "), self.name))
    }
}

/// The rights without which no item can be done: those in the whole cluster.
fn needed(action: &ActionSpec) -> Vec<Right> {
    let nodes = || vec![Right::new("get", "nodes"), Right::new("patch", "nodes")];
    match action {
        ActionSpec::Wait(_) => Vec::new(),
        ActionSpec::Drain(_) => {
            [nodes(), vec![Right::new("list", "pods"), Right::new("watch", "pods")]].concat()
        }
        _ => nodes(),
    }
}

/// The right to evict, which may be given in some namespaces only.
pub(super) fn to_evict() -> Right {
    Right::new("create", "pods/eviction")
}

fn review(right: &Right) -> serde_json::Value {
    let (resource, sub) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
    let group = match resource {
        "daemonsets" => "apps",
        "poddisruptionbudgets" => "policy",
        _ => "",
    };
    let mut asked = json!({"verb": right.verb, "group": group, "resource": resource});
    if !sub.is_empty() {
        asked["subresource"] = sub.into();
    }
    if let Some(namespace) = &right.namespace {
        asked["namespace"] = namespace.as_str().into();
    }
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_asked_for_as_kubernetes_knows_it() {
        let asked = |right: &Right| review(right)["spec"]["resourceAttributes"].clone();
        let expected = json!({"verb": "create", "group": "", "resource": "pods", "subresource": "eviction",
            "namespace": "shop"});
        assert_eq!(asked(&to_evict().within("shop")), expected);
        assert_eq!(asked(&Right::new("get", "daemonsets"))["group"], "apps");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_a_moment() {
        let (rights, right) = (Rights::default(), to_evict());
        assert_eq!(rights.known(&right), None);
        rights.learn(&right, false);
        assert_eq!(rights.known(&right), Some(false));
        assert_eq!(rights.known(&right.clone().within("shop")), None);
        tokio::time::advance(HOLDS_FOR).await;
        assert_eq!(rights.known(&right), None);
    }
}
