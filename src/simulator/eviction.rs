//! Evictions, with every answer that a real API server gives.
//!
//! A pod that no longer serves, or never did, goes without asking anybody. For any other, its one budget decides; that
//! it is the controller who later confirms what a budget let go is why a budget has entries for pods to come.

use std::sync::Arc;

use serde_json::Value;

use super::budgets;
use super::cluster::Cluster;
use super::deletion::DeleteOptions;
use super::journal::PodChange;
use super::object::{Object, key};
use super::pod::{Phase, Pod};
use super::selector::Selector;
use super::status::Refusal;

/// How often a pod that changes while it is told to end is looked at again.
const TRIES: u32 = 20;

impl Cluster {
    /// Evicts a pod, by the body of the request and what its query says about a rehearsal.
    pub(super) fn evict(
        &self,
        namespace: &str,
        name: &str,
        body: &Value,
        dry_run: bool,
    ) -> Result<(), Refusal> {
        if body["kind"] != "Eviction" {
            return Err(Refusal::bad_request(format!("not an Eviction object: {}", body["kind"])));
        }
        if !body.name().is_empty() && body.name() != name {
            return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = DeleteOptions::read(&body["deleteOptions"], dry_run)?;
        self.may_create("pods", namespace, name)?;
        for _ in 0..TRIES {
            let pod = self.pods.get(&key(namespace, name))?;
            if !goes_unasked(&pod) {
                return self.evict_within_budget(&pod, &options);
            }
            let (exact, ours) = at_version(&options, &pod);
            let options = if may_wake(&pod) { &exact } else { &options };
            match self.end_pod(namespace, name, options, PodChange::Evicted) {
                Err(refusal) if ours && options.version.is_some() && refusal.code == 409 => {}
                answer => return answer.map(drop),
            }
        }
        Err(Refusal::conflict("pods", name))
    }

    fn evict_within_budget(&self, pod: &Arc<Pod>, options: &DeleteOptions) -> Result<(), Refusal> {
        let (namespace, name) = (pod.namespace(), pod.name());
        let covering: Vec<_> = self.budgets.all(&Selector::default().within(namespace));
        let covering: Vec<_> = covering.iter().filter(|budget| budgets::covers(budget, pod)).collect();
        let budget = match covering[..] {
            [] => return self.end_pod(namespace, name, options, PodChange::Evicted).map(drop),
            [budget] => budget,
            _ => return Err(Refusal::several_budgets()),
        };
        if !pod.ready && budgets::spares_unready(budget) {
            return self.evict_unready(pod, options, budget.name());
        }
        let now = self.clock.now();
        self.budgets.update(&budget.key(), options.dry_run, |budget| budgets::spend(budget, name, now))?;
        self.end_pod(namespace, name, options, PodChange::Evicted).map(drop)
    }

    /// Evicts a pod for the reason that it is not ready, unless it became ready meanwhile.
    fn evict_unready(&self, pod: &Arc<Pod>, options: &DeleteOptions, budget: &str) -> Result<(), Refusal> {
        let (options, ours) = at_version(options, pod);
        match self.end_pod(pod.namespace(), pod.name(), &options, PodChange::Evicted) {
            Err(refusal) if ours && refusal.code == 409 => Err(budgets::in_progress(budget)),
            answer => answer.map(drop),
        }
    }
}

/// Whether a pod may end without asking a budget.
fn goes_unasked(pod: &Pod) -> bool {
    pod.finished() || pod.phase == Phase::Pending || pod.deletion.is_some()
}

/// Whether a pod that need not be asked about may come to serve after all.
fn may_wake(pod: &Pod) -> bool {
    pod.phase == Phase::Pending && pod.deletion.is_none()
}

/// The options for a pod exactly as it was seen, and whether that was our wish rather than the client's.
fn at_version(options: &DeleteOptions, pod: &Pod) -> (DeleteOptions, bool) {
    let mut options = options.clone();
    let ours = options.version.is_none();
    options.version.get_or_insert_with(|| pod.version().to_string());
    (options, ours)
}
