//! Which disruption budgets would hold the pods of a node back, by what their status says now. Pure.
//!
//! The answers are those of the eviction API: pods that do not serve go unasked, a pod under two budgets never goes, and a
//! budget whose status is behind its spec lets nobody go. For plans alone: a drain asks the cluster, which knows better.

use std::collections::BTreeMap;

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::core::{Selector, SelectorExt};

use super::preview::PodSeen;
use crate::task::plan::BudgetHold;

/// A budget, as far as it decides.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    namespace: String,
    name: String,
    /// `None` covers no pod.
    selector: Option<Selector>,
    always_unready: bool,
    generation: i64,
    status: PodDisruptionBudgetStatus,
}

impl From<PodDisruptionBudget> for Budget {
    fn from(budget: PodDisruptionBudget) -> Self {
        let (meta, spec) = (budget.metadata, budget.spec.unwrap_or_default());
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            selector: spec.selector.and_then(|selector| Selector::try_from(selector).ok()),
            always_unready: spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow"),
            generation: meta.generation.unwrap_or_default(),
            status: budget.status.unwrap_or_default(),
        }
    }
}

impl Budget {
    fn covers(&self, pod: &PodSeen) -> bool {
        self.namespace == pod.facts.namespace
            && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
    }

    /// Whether a pod that is not ready goes without being counted.
    fn spares_unready(&self) -> bool {
        let PodDisruptionBudgetStatus { current_healthy, desired_healthy, .. } = self.status;
        self.always_unready || (current_healthy >= desired_healthy && desired_healthy > 0)
    }

    fn is_behind(&self) -> bool {
        self.status.observed_generation.unwrap_or(0) < self.generation
    }

    /// How many it lets go now.
    fn allowed(&self) -> u32 {
        if self.is_behind() { 0 } else { u32::try_from(self.status.disruptions_allowed).unwrap_or(0) }
    }

    /// What it does about so many pods; `None` when it lets all of them go.
    fn hold(&self, pods: u32) -> Option<BudgetHold> {
        let allowed = self.allowed();
        let status = &self.status;
        let (needs, has, all) = (status.desired_healthy, status.current_healthy, status.expected_pods);
        let why = match allowed {
            allowed if allowed >= pods => return None,
            0 if self.is_behind() => "the cluster has not worked out yet what it allows".to_owned(),
            0 if needs >= all => format!("never lets a pod go: it needs {needs} healthy pods of {all}"),
            0 => format!("lets no pod go now: it needs {needs} healthy pods and has {has}"),
            allowed => format!("lets {allowed} of {pods} go now, the others when those are back elsewhere"),
        };
        let budget = format!("{}/{}", self.namespace, self.name);
        Some(BudgetHold { budget, pods, allowed, blocks: allowed == 0, why })
    }
}

/// Budgets by namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct Budgets(BTreeMap<String, Vec<Budget>>);

impl FromIterator<Budget> for Budgets {
    fn from_iter<T: IntoIterator<Item = Budget>>(budgets: T) -> Self {
        let mut map: BTreeMap<String, Vec<Budget>> = BTreeMap::new();
        for budget in budgets {
            map.entry(budget.namespace.clone()).or_default().push(budget);
        }
        Self(map)
    }
}

/// What budgets do to the pods of a node.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Each budget that holds some back.
    pub(super) holds: Vec<BudgetHold>,
    /// Pods that the cluster refuses to evict, because more than one budget covers them.
    pub(super) never: Vec<String>,
}

impl Budgets {
    /// What they do to these pods, which are to be evicted.
    pub(super) fn holds<'a>(&self, pods: impl IntoIterator<Item = &'a PodSeen>) -> Holds {
        let mut counts: BTreeMap<(&str, &str), (&Budget, u32)> = BTreeMap::new();
        let mut several: BTreeMap<String, u32> = BTreeMap::new();
        let mut never = Vec::new();
        for pod in pods.into_iter().filter(|pod| !pod.goes_unasked()) {
            let of_namespace = self.0.get(&pod.facts.namespace).map_or(&[][..], Vec::as_slice);
            let covering: Vec<_> = of_namespace.iter().filter(|budget| budget.covers(pod)).collect();
            match covering[..] {
                [] => {}
                [budget] if !pod.ready && budget.spares_unready() => {}
                [budget] => counts.entry((&budget.namespace, &budget.name)).or_insert((budget, 0)).1 += 1,
                _ => {
                    let names: Vec<_> = covering.iter().map(|budget| budget.name.as_str()).collect();
                    *several.entry(format!("{}/{}", pod.facts.namespace, names.join(","))).or_default() += 1;
                    never.push(pod.facts.to_string());
                }
            }
        }
        let single = counts.into_values().filter_map(|(budget, pods)| budget.hold(pods));
        let several = several.into_iter().map(|(budget, pods)| BudgetHold {
            budget,
            pods,
            allowed: 0,
            blocks: true,
            why: "the cluster evicts no pod that more than one budget covers".to_owned(),
        });
        never.sort();
        Holds { holds: single.chain(several).collect(), never }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn budget(name: &str, app: Option<&str>, status: &Value) -> Budget {
        let selector = app.map(|app| json!({"matchLabels": {"app": app}}));
        let budget = json!({"metadata": {"name": name, "namespace": "shop", "generation": 2},
            "spec": {"selector": selector}, "status": status});
        serde_json::from_value::<PodDisruptionBudget>(budget).unwrap().into()
    }

    fn status(allowed: i32, healthy: i32, desired: i32, expected: i32) -> Value {
        json!({"observedGeneration": 2, "disruptionsAllowed": allowed, "currentHealthy": healthy,
            "desiredHealthy": desired, "expectedPods": expected})
    }

    fn pod(name: &str, app: &str, phase: &str, ready: bool) -> PodSeen {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value::<Pod>(pod).unwrap().into()
    }

    fn running(count: usize) -> Vec<PodSeen> {
        (0..count).map(|i| pod(&format!("web-{i}"), "web", "Running", true)).collect()
    }

    fn holds(budgets: Vec<Budget>, pods: &[PodSeen]) -> Vec<(String, u32, u32, bool, String)> {
        let budgets: Budgets = budgets.into_iter().collect();
        let holds = budgets.holds(pods).holds.into_iter();
        holds.map(|hold| (hold.budget, hold.pods, hold.allowed, hold.blocks, hold.why)).collect()
    }

    #[test]
    fn a_budget_with_room_is_not_named_and_one_without_says_why() {
        let web = |status| vec![budget("web", Some("web"), &status)];
        assert!(holds(web(status(2, 8, 6, 8)), &running(2)).is_empty());
        let slow = holds(web(status(1, 8, 7, 8)), &running(3)).remove(0);
        assert_eq!((slow.0.as_str(), slow.1, slow.2, slow.3), ("shop/web", 3, 1, false));
        assert_eq!(slow.4, "lets 1 of 3 go now, the others when those are back elsewhere");
        let used_up = holds(web(status(0, 6, 6, 8)), &running(1)).remove(0);
        assert_eq!(
            (used_up.3, used_up.4.as_str()),
            (true, "lets no pod go now: it needs 6 healthy pods and has 6")
        );
        let never = holds(web(status(0, 8, 8, 8)), &running(1)).remove(0);
        assert_eq!(never.4, "never lets a pod go: it needs 8 healthy pods of 8");
        let mut behind = status(3, 8, 5, 8);
        behind["observedGeneration"] = 1.into();
        assert!(holds(web(behind), &running(1))[0].3);
        assert!(holds(web(status(-1, 5, 6, 8)), &running(1))[0].3);
    }

    #[test]
    fn pods_that_do_not_serve_are_not_asked_about() {
        let none = || vec![budget("web", Some("web"), &status(0, 6, 6, 8))];
        for phase in ["Pending", "Succeeded", "Failed"] {
            assert!(holds(none(), &[pod("a", "web", phase, false)]).is_empty(), "{phase}");
        }
        assert!(holds(none(), &[pod("a", "web", "Running", false)]).is_empty(), "healthy without it");
        let short = vec![budget("web", Some("web"), &status(0, 5, 6, 8))];
        assert_eq!(holds(short, &[pod("a", "web", "Running", false)]).len(), 1);
        let always = Budget { always_unready: true, ..budget("web", Some("web"), &status(0, 5, 6, 8)) };
        assert!(holds(vec![always], &[pod("a", "web", "Running", false)]).is_empty());
        assert!(holds(none(), &[pod("a", "other", "Running", true)]).is_empty(), "not covered");
        assert!(holds(vec![budget("all", None, &status(0, 6, 6, 8))], &running(1)).is_empty());
    }

    #[test]
    fn a_pod_under_two_budgets_never_goes() {
        let two = ["a", "b"].map(|name| budget(name, Some("web"), &status(5, 8, 3, 8)));
        let budgets: Budgets = two.into_iter().collect();
        let holds = budgets.holds(&running(2));
        assert_eq!(holds.never, ["shop/web-0", "shop/web-1"]);
        assert_eq!((holds.holds[0].budget.as_str(), holds.holds[0].pods), ("shop/a,b", 2));
        assert!(holds.holds[0].blocks);
    }
}
