use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::task::TaskSpec;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn spec(nodes: usize, strategy: &serde_json::Value) -> TaskSpec {
    let items: Vec<String> = (0..nodes).map(|i| format!("n{i}")).collect();
    let draft = json!({"action": "cordon", "cluster": "prod", "items": items, "strategy": strategy});
    TaskSpec::new(serde_json::from_value(draft).unwrap()).unwrap()
}

fn node(i: usize, outcome: Outcome) -> NodePlan {
    let change = FieldChange::new(Field::Unschedulable, "", None, Some("true"));
    let now = NodeNow { ready: true, zone: Some(format!("z{}", i % 2)), ..NodeNow::default() };
    NodePlan {
        uid: Some(format!("u{i}")),
        now: Some(now),
        changes: change.into_iter().filter(|_| outcome == Outcome::Change).collect(),
        ..NodePlan::new(&format!("n{i}"), outcome, outcome.as_str())
    }
}

fn survey(outcomes: &[Outcome]) -> Survey {
    let nodes = outcomes.iter().enumerate().map(|(i, outcome)| node(i, *outcome)).collect();
    Survey { nodes, ..Survey::default() }
}

fn plan(survey: Survey) -> Plan {
    Plan::new(&spec(survey.nodes.len(), &json!({})), survey, 10, &[], NOW)
}

fn four() -> Survey {
    survey(&[Outcome::Change, Outcome::Already, Outcome::Skip, Outcome::Change])
}

#[test]
fn nodes_are_in_the_order_and_the_waves_of_the_strategy() {
    let strategy = json!({"canary": 1, "waves": [2], "order": ["zones"]});
    let plan = Plan::new(&spec(4, &strategy), survey(&[Outcome::Change; 4]), 10, &[], NOW);
    let order: Vec<_> = plan.nodes.iter().map(|node| (node.name.as_str(), node.wave)).collect();
    assert_eq!(order, [("n0", 1), ("n1", 2), ("n2", 2), ("n3", 3)]);
    assert_eq!((plan.waves, plan.order.as_str()), (vec![1, 2, 1], "one of each zone in turn"));
}

#[test]
fn a_summary_counts_what_nodes_come_to() {
    let all =
        [Outcome::Change, Outcome::Already, Outcome::Skip, Outcome::Fail, Outcome::Missing, Outcome::Unknown];
    let mut survey = survey(&all);
    let group = |fate, count| PodGroup { fate, class: PodClass::Ordinary, count, names: Vec::new() };
    survey.nodes[0].pods = vec![group(Fate::Evict, 3), group(Fate::Leave, 2)];
    survey.nodes[3].pods = vec![group(Fate::Evict, 9), group(Fate::Refuse, 1)];
    let why = String::new();
    survey.nodes[0].budgets =
        vec![BudgetHold { budget: "a/b".into(), pods: 1, allowed: 0, blocks: true, why }];
    let plan = plan(survey);
    let expected = Summary {
        nodes: 6,
        change: 1,
        already: 1,
        skip: 1,
        fail: 1,
        missing: 1,
        unknown: 1,
        evictions: 3,
        held_by_budgets: 1,
    };
    assert_eq!(plan.summary, expected);
    assert!(!plan.is_clean());
}

#[test]
fn the_fixed_form_is_the_same_in_every_release() {
    // Another hash here means that plans which people have agreed to are refused: then the version has to grow.
    let hash = plan(four()).hash.to_string();
    assert_eq!(hash, "2c937fc46796abd0ff511b7426d8a4cb45435c7ff7204f49b817b8708a6e667c");
}

#[test]
fn a_plan_survives_the_wire() {
    let mut survey = four();
    survey.missing = vec![Right::new("create", "pods/eviction").within("shop")];
    let plan = plan(survey);
    let read: Plan = serde_json::from_value(serde_json::to_value(&plan).unwrap()).unwrap();
    assert_eq!(read.hash, plan.hash);
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&plan).unwrap());
}

/// A change of one fact of a survey, and whether it counts.
type Fact = (&'static str, bool, fn(&mut Survey));

fn facts() -> Vec<Fact> {
    vec![
        ("another node of the name", true, |s| s.nodes[0].uid = Some("other".into())),
        ("a node that is gone", true, |s| s.nodes[0] = NodePlan::new("n0", Outcome::Missing, "gone")),
        ("another outcome", true, |s| s.nodes[1].outcome = Outcome::Skip),
        ("another value after", true, |s| s.nodes[0].changes[0].after = Some("x".into())),
        ("another value before", true, |s| s.nodes[0].changes[0].before = Some("x".into())),
        ("one value more", true, |s| {
            s.nodes[0].changes.extend(FieldChange::new(Field::Label, "a", None, Some("b")));
        }),
        ("one pod more", true, |s| s.nodes[0].evicts.push("shop/ReplicaSet/web".into())),
        ("a right that is missing", true, |s| s.missing.push(Right::new("patch", "nodes"))),
        ("that nothing is begun", true, |s| s.refused = Some("why".into())),
        ("words", false, |s| s.nodes[0].says = "other words".into()),
        ("readiness", false, |s| s.nodes[0].now.as_mut().unwrap().ready = false),
        ("who cordoned it", false, |s| s.nodes[1].now.as_mut().unwrap().cordoned = Some("ada".into())),
        ("warnings", false, |s| {
            s.warnings.push("w".into());
            s.nodes[0].warnings.push("w".into());
        }),
        ("a budget without room", false, |s| {
            let (budget, why) = ("a/b".to_owned(), String::new());
            s.nodes[0].budgets.push(BudgetHold { budget, pods: 1, allowed: 0, blocks: true, why });
        }),
        ("names of pods", false, |s| {
            let names = vec!["shop/web-1".to_owned()];
            s.nodes[0].pods.push(PodGroup { fate: Fate::Evict, class: PodClass::Ordinary, count: 1, names });
        }),
    ]
}

#[test]
fn what_would_be_done_counts_and_nothing_else() {
    let before = plan(four());
    for (what, counts, change) in facts() {
        let mut survey = four();
        change(&mut survey);
        let after = plan(survey);
        assert_eq!(after.hash != before.hash, counts, "{what}");
        let differences = Known::from(&before).differences(&after);
        let said = !differences.nodes.is_empty() || !differences.task.is_empty();
        assert_eq!(said, counts, "{what}: {differences:?}");
    }
}

#[test]
fn another_request_is_another_plan() {
    let one = plan(four());
    let other =
        Plan::new(&TaskSpec { reason: Some("why".into()), ..spec(4, &json!({})) }, four(), 10, &[], NOW);
    assert_ne!(one.hash, other.hash);
    let differences = Known::from(&one).differences(&other);
    assert_eq!(differences.task, ["this is another request than the one that was planned"]);
    let slower = Plan::new(&spec(4, &json!({})), four(), 1, &[], NOW);
    assert_eq!(one.hash, slower.hash, "an estimate is no doing");
}

#[test]
fn differences_are_told_node_by_node_and_bounded() {
    let outcomes = [Outcome::Change; 150];
    let before = plan(survey(&outcomes));
    let mut later = survey(&outcomes);
    later.nodes[7].uid = Some("new".into());
    let one = Known::from(&before).differences(&plan(later));
    let (name, now) = ("n7".to_owned(), "another node of this name: change".to_owned());
    assert_eq!(one.nodes, [Difference { name, planned: "change".into(), now }]);
    let all = Known::from(&before).differences(&plan(survey(&[Outcome::Already; 150])));
    assert_eq!((all.nodes.len(), all.more), (100, 50));
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Change),
        Just(Outcome::Already),
        Just(Outcome::Skip),
        Just(Outcome::Fail),
        Just(Outcome::Missing),
    ]
}

fn changes() -> impl Strategy<Value = Vec<FieldChange>> {
    let field = prop_oneof![Just(Field::Label), Just(Field::Taint), Just(Field::Annotation)];
    let value = || prop::option::of("[ab]?");
    let change = (field, "[a-c]", value(), value());
    let change = change.prop_filter_map("a change changes", |(field, key, before, after)| {
        FieldChange::new(field, &key, before.as_deref(), after.as_deref())
    });
    prop::collection::vec(change, 0..4)
}

/// What a survey found, and the same things found in another order.
fn nodes() -> impl Strategy<Value = (Vec<NodePlan>, Vec<NodePlan>)> {
    let node = (outcome(), prop::option::of("[ab]"), changes(), prop::collection::vec("[ab]/[cd]", 0..4));
    prop::collection::vec(node, 1..8).prop_map(|nodes| {
        let make = |reversed: bool| {
            let one =
                |(i, (outcome, uid, changes, evicts)): (usize, &(_, _, Vec<FieldChange>, Vec<String>))| {
                    let (mut changes, mut evicts) = (changes.clone(), evicts.clone());
                    if reversed {
                        changes.reverse();
                        evicts.reverse();
                    }
                    NodePlan {
                        uid: Option::clone(uid),
                        changes,
                        evicts,
                        ..NodePlan::new(&format!("n{i}"), *outcome, "x")
                    }
                };
            nodes.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        (make(false), make(true))
    })
}

/// Everything that is done, in words, to be compared without any hash.
fn doing(nodes: &[NodePlan]) -> Vec<String> {
    let one = |node: &NodePlan| {
        let (mut changes, mut evicts) = (node.changes.clone(), node.evicts.clone());
        changes.sort();
        evicts.sort();
        format!("{:?} {:?} {:?} {changes:?} {evicts:?}", node.name, node.uid, node.outcome)
    };
    nodes.iter().map(one).collect()
}

proptest! {
    #[test]
    fn the_order_in_which_things_are_found_makes_no_difference((one, other) in nodes()) {
        let with = |nodes| plan(Survey { nodes, ..Survey::default() });
        prop_assert_eq!(with(one).hash, with(other).hash);
    }

    #[test]
    fn the_same_hash_means_the_same_doing((one, _) in nodes(), (other, _) in nodes()) {
        let with = |nodes: &Vec<NodePlan>| plan(Survey { nodes: nodes.clone(), ..Survey::default() });
        prop_assert_eq!(with(&one).hash == with(&other).hash, doing(&one) == doing(&other));
    }

    #[test]
    fn one_node_more_or_less_is_told((one, _) in nodes(), other in outcome()) {
        let mut later = one.clone();
        let changed = later[0].outcome != other;
        later[0].outcome = other;
        let with = |nodes| plan(Survey { nodes, ..Survey::default() });
        let differences = Known::from(&with(one)).differences(&with(later));
        prop_assert_eq!(differences.nodes.len(), usize::from(changed));
    }
}
