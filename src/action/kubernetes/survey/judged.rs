//! Asks the rules of safety about every node of a plan, in the order in which a run would come to it: what an earlier node of
//! the plan takes away is gone for a later one. Pure.

use crate::task::plan::{Field, FieldChange, NodePlan, Outcome, Survey};
use crate::task::safety::{Judge, Node, Nodes, Refusal, Rules, keeps_pods_off};
use crate::task::{TaskSpec, safety};

/// Puts down what would be refused, by the nodes of the cluster as they are.
pub(super) fn judge(survey: &mut Survey, spec: &TaskSpec, rules: &Rules, mut nodes: Nodes) {
    for place in survey.order(spec.strategy.as_ref()) {
        let plan = &mut survey.nodes[place as usize];
        let judge = Judge { rules, nodes: &nodes, begun: &|_| false };
        match judge.ask(&spec.action, spec.may, &plan.name) {
            Err(refusal) => refuse(plan, &refusal),
            Ok(()) => take(nodes.get_mut(&plan.name), plan, spec),
        }
    }
}

fn refuse(plan: &mut NodePlan, refusal: &Refusal) {
    (plan.changes, plan.evicts, plan.pods) = Default::default();
    (plan.budgets, plan.warnings) = Default::default();
    (plan.outcome, plan.says) = (Outcome::Fail, refusal.to_string());
}

/// What is left of a node in service, once that was done to it.
fn take(node: Option<&mut Node>, plan: &NodePlan, spec: &TaskSpec) {
    let Some(node) = node.filter(|_| safety::toll(&spec.action) > safety::Toll::Nothing) else { return };
    for change in &plan.changes {
        match change.field {
            Field::Unschedulable => node.cordoned = change.after.is_some(),
            Field::Taint => node.tainted |= keeps_off(change),
            Field::Label | Field::Annotation => {}
        }
    }
}

fn keeps_off(change: &FieldChange) -> bool {
    let (key, effect) = change.key.rsplit_once(':').unwrap_or((&change.key, ""));
    change.after.is_some() && keeps_pods_off(key, effect)
}
