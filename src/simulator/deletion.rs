//! How a pod is told to end: options of a delete, preconditions, grace. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::collection::Outcome;
use super::object::Object;
use super::pod::{Deletion, Pod};
use super::query;
use super::status::Refusal;

/// The longest grace that is counted with; more is as good as for ever.
const GRACE_MAX_SECS: i64 = 366 * 86_400;

/// `DeleteOptions`, as a delete has them for its body and an eviction inside its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DeleteOptions {
    grace_secs: Option<i64>,
    uid: Option<String>,
    pub(super) version: Option<String>,
    pub(super) dry_run: bool,
}

impl DeleteOptions {
    /// Reads options; `dry_run` is what the query of the request says.
    pub(super) fn read(options: &Value, dry_run: bool) -> Result<Self, Refusal> {
        let mut rehearsal = dry_run;
        for value in options["dryRun"].as_array().into_iter().flatten() {
            rehearsal |= query::dry_run(value.as_str().unwrap_or("?"))?;
        }
        let precondition = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
        Ok(Self {
            grace_secs: options["gracePeriodSeconds"].as_i64(),
            uid: precondition("uid"),
            version: precondition("resourceVersion"),
            dry_run: rehearsal,
        })
    }

    /// Refuses when the request was meant for something else than what is there.
    pub(super) fn check(&self, kind: &str, object: &impl Object, uid: &str) -> Result<(), Refusal> {
        if let Some(asked) = self.uid.as_deref().filter(|asked| *asked != uid) {
            return Err(Refusal::precondition(kind, object.name(), "UID", asked, uid));
        }
        let found = object.version().to_string();
        match self.version.as_deref().filter(|asked| *asked != found) {
            Some(asked) => Err(Refusal::precondition(kind, object.name(), "ResourceVersion", asked, &found)),
            None => Ok(()),
        }
    }

    /// What becomes of a pod that is told to end now. A pod that ends already can only be hurried.
    pub(super) fn end(&self, pod: &Pod, now: Timestamp) -> Result<Outcome<Pod>, Refusal> {
        self.check("Pod", pod, &pod.uid)?;
        let grace_secs = self.grace_for(pod);
        if pod.deletion.is_some_and(|deletion| deletion.grace_secs <= grace_secs) {
            return Ok(Outcome::Keep(pod.clone()));
        }
        let at = now.checked_add(SignedDuration::from_secs(grace_secs)).unwrap_or(Timestamp::MAX);
        let ending = Pod { deletion: Some(Deletion { at, grace_secs }), ..pod.clone() };
        Ok(if ending.over() { Outcome::Remove(ending) } else { Outcome::Keep(ending) })
    }

    fn grace_for(&self, pod: &Pod) -> i64 {
        // Nothing runs that would need time.
        if pod.node.is_none() || pod.finished() {
            return 0;
        }
        match self.grace_secs.unwrap_or_else(|| pod.template.grace_secs()) {
            secs @ 0.. => secs.min(GRACE_MAX_SECS),
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(finalizers: &Value) -> Pod {
        let value = json!({
            "metadata": {"name": "p", "namespace": "d", "finalizers": finalizers}, "spec": {"nodeName": "n"},
        });
        let mut pod = Pod::read(&value, "u".into(), Timestamp::UNIX_EPOCH).unwrap();
        pod.stamp(7);
        pod
    }

    fn end(pod: &Pod, options: &Value) -> Result<Outcome<Pod>, Refusal> {
        DeleteOptions::read(options, false)?.end(pod, Timestamp::UNIX_EPOCH)
    }

    fn kept(outcome: Result<Outcome<Pod>, Refusal>) -> Pod {
        match outcome.unwrap() {
            Outcome::Keep(pod) => pod,
            Outcome::Remove(_) => panic!("it is gone"),
        }
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_can_be_hurried() {
        let ending = kept(end(&pod(&Value::Null), &Value::Null));
        assert_eq!(ending.deletion.unwrap().grace_secs, 30);
        let slower = kept(end(&ending, &json!({"gracePeriodSeconds": 60})));
        assert_eq!(slower, ending, "it cannot be slowed down");
        let hurried = kept(end(&ending, &json!({"gracePeriodSeconds": 5})));
        assert_eq!(hurried.deletion.unwrap().at, Timestamp::from_second(5).unwrap());
        assert!(matches!(end(&hurried, &json!({"gracePeriodSeconds": 0})), Ok(Outcome::Remove(_))));
    }

    #[test]
    fn what_does_not_run_goes_at_once_unless_a_finalizer_holds_it() {
        let finished = Pod { phase: super::super::pod::Phase::Succeeded, ..pod(&Value::Null) };
        assert!(matches!(end(&finished, &Value::Null), Ok(Outcome::Remove(_))));
        let held = kept(end(&pod(&json!(["f"])), &json!({"gracePeriodSeconds": 0})));
        assert_eq!(held.deletion.unwrap().grace_secs, 0);
    }

    #[test]
    fn preconditions_protect_another_pod_of_the_same_name() {
        let refused = |options: Value| end(&pod(&Value::Null), &options).unwrap_err().code;
        assert_eq!(refused(json!({"preconditions": {"uid": "other"}})), 409);
        assert_eq!(refused(json!({"preconditions": {"resourceVersion": "6"}})), 409);
        kept(end(&pod(&Value::Null), &json!({"preconditions": {"uid": "u", "resourceVersion": "7"}})));
    }
}
