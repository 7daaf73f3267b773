//! Arithmetic of PodDisruptionBudgets: what a status says, and whether it lets a pod go. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::object::{Object, time};
use super::pod::Pod;
use super::selector::LabelSelector;
use super::status::Refusal;

/// On a budget: its status is set by hand, and the controller leaves it alone.
pub(super) const HELD: &str = "simulator.milepost.dev/held";
/// Most evictions of a budget that the controller has not seen yet.
const UNSEEN_MAX: usize = 2_000;
/// How long an eviction is expected to become a deletion.
const UNSEEN_FOR: SignedDuration = SignedDuration::from_mins(2);
const RETRY_AFTER_SECS: u32 = 10;

/// Whether the controller leaves the status of a budget alone.
pub(super) fn held(budget: &Value) -> bool {
    budget["metadata"]["annotations"].get(HELD).is_some()
}

/// Which pods a budget is about.
pub(super) struct Cover<'a> {
    namespace: &'a str,
    selector: LabelSelector,
}

impl<'a> Cover<'a> {
    /// A budget without a selector is about no pod, one with an empty selector about all of its namespace.
    pub(super) fn of(budget: &'a Value) -> Option<Self> {
        let selector = Some(&budget["spec"]["selector"]).filter(|selector| !selector.is_null())?;
        Some(Self { namespace: budget.namespace(), selector: LabelSelector::read(selector)? })
    }

    pub(super) fn has(&self, pod: &Pod) -> bool {
        self.namespace == pod.namespace() && self.selector.matches(&pod.template.labels)
    }
}

/// Whether a budget is about a pod.
pub(super) fn covers(budget: &Value, pod: &Pod) -> bool {
    Cover::of(budget).is_some_and(|cover| cover.has(pod))
}

/// Whether a pod that is not ready may go without using up any of the budget.
pub(super) fn spares_unready(budget: &Value) -> bool {
    let (current, desired) = (count(budget, "currentHealthy"), count(budget, "desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (current >= desired && desired > 0)
}

/// The budget after it let a pod go, or why it does not.
pub(super) fn spend(budget: &Value, pod: &str, now: Timestamp) -> Result<Value, Refusal> {
    let (name, status) = (budget.name(), &budget["status"]);
    if status["observedGeneration"].as_i64().unwrap_or(0)
        < budget["metadata"]["generation"].as_i64().unwrap_or(0)
    {
        return Err(in_progress(name));
    }
    let allowed = count(budget, "disruptionsAllowed");
    let forbidden = |why| Err(Refusal::forbidden("poddisruptionbudget.policy", name, why));
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().map_or(0, Map::len) > UNSEEN_MAX {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(Refusal::budget(used_up(budget), None));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = time(now).into();
    if allowed == 1 {
        new["status"]["conditions"] = conditions(false, "InsufficientPods", "", budget, now);
    }
    Ok(new)
}

/// What an eviction gets while the controller has not caught up with a budget.
pub(super) fn in_progress(name: &str) -> Refusal {
    let cause = format!("The disruption budget {name} is still being processed by the server.");
    Refusal::budget(cause, Some(RETRY_AFTER_SECS))
}

/// The sentence that says why nothing is left.
fn used_up(budget: &Value) -> String {
    let name = budget.name();
    let conditions = budget["status"]["conditions"].as_array().into_iter().flatten();
    let failed = conditions.into_iter().find(|condition| condition["reason"] == "SyncFailed");
    if let Some(failed) = failed {
        let why = failed["message"].as_str().unwrap_or_default();
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
        );
    }
    let (desired, current) = (count(budget, "desiredHealthy"), count(budget, "currentHealthy"));
    format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
}

/// The status that the controller would write, from the pods that the budget covers. `scale` tells how many pods a
/// pod's controller wants, as (its UID, how many), or why that cannot be known; pods of their own have none.
pub(super) fn status(
    budget: &Value,
    pods: &[Arc<Pod>],
    scale: impl Fn(&Pod) -> Result<Option<(String, i64)>, String>,
    now: Timestamp,
) -> Value {
    let disrupted = still_unseen(budget, pods, now);
    let healthy = pods.iter().filter(|pod| pod.active() && pod.ready && !disrupted.contains_key(&*pod.name));
    let healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    let (expected, desired) = match wanted(budget, pods, scale) {
        Ok(wanted) => wanted,
        Err(why) => {
            let mut status = budget["status"].clone();
            status["disruptionsAllowed"] = 0.into();
            status["observedGeneration"] = generation.into();
            status["conditions"] = conditions(false, "SyncFailed", &why, budget, now);
            return status;
        }
    };
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    let mut status = json!({
        "observedGeneration": generation, "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": desired, "expectedPods": expected,
        "conditions": conditions(allowed > 0, reason, "", budget, now),
    });
    if !disrupted.is_empty() {
        status["disruptedPods"] = disrupted.into();
    }
    status
}

/// How many pods are expected, and how many of them must stay healthy.
fn wanted(
    budget: &Value,
    pods: &[Arc<Pod>],
    scale: impl Fn(&Pod) -> Result<Option<(String, i64)>, String>,
) -> Result<(i64, i64), String> {
    let (min, max) = (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]);
    if let Some(min) = min.as_i64() {
        return Ok((i64::try_from(pods.len()).unwrap_or(i64::MAX), min));
    }
    let mut scales = std::collections::BTreeMap::new();
    for pod in pods {
        scales.extend(scale(pod)?);
    }
    let expected = scales.values().sum();
    if max.is_null() {
        return Ok((expected, share(min, expected)?));
    }
    Ok((expected, (expected - share(max, expected)?).max(0)))
}

/// A number, or a percentage of `whole`, rounded up.
fn share(value: &Value, whole: i64) -> Result<i64, String> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let percent =
        value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    percent.map(|percent| (whole * percent + 99) / 100).ok_or_else(|| format!("invalid value {value}"))
}

/// Evictions that the budget let pass and that did not yet become deletions.
fn still_unseen(budget: &Value, pods: &[Arc<Pod>], now: Timestamp) -> Map<String, Value> {
    let entries = budget["status"]["disruptedPods"].as_object().cloned().unwrap_or_default();
    let waiting = |name: &str| pods.iter().any(|pod| *pod.name == *name && pod.deletion.is_none());
    let recent = |at: &Value| {
        let at = at.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        at.is_some_and(|at| now.duration_since(at) < UNSEEN_FOR)
    };
    entries.into_iter().filter(|(name, at)| waiting(name) && recent(at)).collect()
}

fn conditions(holds: bool, reason: &str, message: &str, budget: &Value, now: Timestamp) -> Value {
    let status = if holds { "True" } else { "False" };
    let before = &budget["status"]["conditions"][0];
    let same = before["status"] == status;
    let since = if same { before["lastTransitionTime"].clone() } else { time(now).into() };
    json!([{
        "type": "DisruptionAllowed", "status": status, "reason": reason, "message": message,
        "observedGeneration": budget["metadata"]["generation"], "lastTransitionTime": since,
    }])
}

fn count(budget: &Value, field: &str) -> i64 {
    budget["status"][field].as_i64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        let pod = |i: usize| {
            let value = json!({"metadata": {"name": format!("p{i}"), "namespace": "d", "labels": {"app": "web"}},
                "spec": {"nodeName": "n"}});
            Arc::new(Pod::read(&value, i.to_string().into(), NOW).unwrap())
        };
        (0..count).map(pod).collect()
    }

    fn budget(spec: &Value) -> Value {
        let mut budget = json!({"metadata": {"name": "b", "namespace": "d", "generation": 3}, "spec": spec});
        budget["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
        budget
    }

    fn synced(mut budget: Value, pods: &[Arc<Pod>]) -> Value {
        budget["status"] = status(&budget, pods, |_| Ok(Some(("web".to_owned(), 8))), NOW);
        budget
    }

    fn allowed(budget: &Value) -> i64 {
        count(budget, "disruptionsAllowed")
    }

    #[test]
    fn numbers_and_shares_are_those_of_the_controller() {
        for (spec, ready, expected) in [
            (json!({"minAvailable": 5}), 8, 3),
            (json!({"minAvailable": "75%"}), 8, 2),
            (json!({"minAvailable": "70%"}), 8, 2), // 5.6 are rounded up to 6.
            (json!({"maxUnavailable": 1}), 8, 1),
            (json!({"maxUnavailable": 1}), 7, 0),
            (json!({"maxUnavailable": "30%"}), 8, 3),
            (json!({"maxUnavailable": 0}), 8, 0),
        ] {
            assert_eq!(allowed(&synced(budget(&spec), &pods(ready))), expected, "{spec}");
        }
        assert_eq!(allowed(&synced(budget(&json!({"minAvailable": 0})), &[])), 0, "no pods, no disruptions");
    }

    #[test]
    fn what_was_let_go_does_not_count_until_it_is_seen_or_forgotten() {
        let pods = pods(8);
        let spent = spend(&synced(budget(&json!({"minAvailable": 6})), &pods), "p0", NOW).unwrap();
        assert_eq!(allowed(&spent), 1);
        assert_eq!(allowed(&synced(spent.clone(), &pods)), 1, "the pod is about to go");
        assert_eq!(allowed(&synced(spent.clone(), &pods[1..])), 1, "it is gone");
        let mut late = spent;
        late["status"] = status(&late, &pods, |_| Ok(None), NOW + UNSEEN_FOR);
        assert_eq!(allowed(&late), 2, "it never went");
    }

    #[test]
    fn refusals_say_why_and_for_how_long() {
        let used_up = spend(&synced(budget(&json!({"maxUnavailable": 0})), &pods(8)), "p0", NOW).unwrap_err();
        let cause = used_up.object()["details"]["causes"][0].clone();
        assert_eq!((used_up.code, used_up.retry_after_secs()), (429, None));
        assert_eq!(
            cause,
            json!({"reason": "DisruptionBudget",
            "message": "The disruption budget b needs 8 healthy pods and has 8 currently"})
        );
        let mut ahead = synced(budget(&json!({"maxUnavailable": 1})), &pods(8));
        ahead["metadata"]["generation"] = 4.into();
        assert_eq!(spend(&ahead, "p0", NOW).unwrap_err().retry_after_secs(), Some(10));
        let mut negative = synced(budget(&json!({"maxUnavailable": 1})), &pods(8));
        negative["status"]["disruptionsAllowed"] = (-1).into();
        assert_eq!(spend(&negative, "p0", NOW).unwrap_err().code, 403);
        let unseen: Map<_, _> = (0..=UNSEEN_MAX).map(|i| (format!("x{i}"), time(NOW).into())).collect();
        let mut full = synced(budget(&json!({"maxUnavailable": 1})), &pods(8));
        full["status"]["disruptedPods"] = unseen.into();
        assert_eq!(spend(&full, "p0", NOW).unwrap_err().code, 403);
    }

    #[test]
    fn pods_that_cannot_be_scaled_make_the_budget_fail() {
        let mut budget = budget(&json!({"maxUnavailable": 1}));
        budget["status"] = status(&budget, &pods(2), |_| Err("no scale".to_owned()), NOW);
        let refused = spend(&budget, "p0", NOW).unwrap_err().object().to_string();
        assert!(refused.contains("because it failed sync: no scale"), "{refused}");
    }

    #[test]
    fn selectors_decide_whom_a_budget_is_about() {
        let pod = &pods(1)[0];
        let about = |selector: &Value, namespace: &str| {
            covers(&json!({"metadata": {"namespace": namespace}, "spec": {"selector": selector}}), pod)
        };
        assert!(about(&json!({}), "d") && about(&json!({"matchLabels": {"app": "web"}}), "d"));
        assert!(!about(&Value::Null, "d") && !about(&json!({"matchLabels": {"app": "db"}}), "d"));
        assert!(!about(&json!({}), "elsewhere"));
    }
}
