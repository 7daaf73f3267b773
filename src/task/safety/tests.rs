//! Each rule by examples, and what they promise together by properties.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn action(name: &str, parameters: &serde_json::Value) -> ActionSpec {
    ActionSpec::parse(name, parameters).unwrap()
}

fn cordon() -> ActionSpec {
    ActionSpec::Cordon
}

fn drain() -> ActionSpec {
    action("drain", &json!({}))
}

fn taint(effect: &str) -> ActionSpec {
    action("taint", &json!({"taints": [{"key": "a", "effect": effect}]}))
}

fn worker(name: &str) -> Node {
    Node { name: name.into(), ready: true, ..Node::default() }
}

fn control_plane_node(name: &str) -> Node {
    Node { control_plane: true, tainted: true, ..worker(name) }
}

fn labelled(node: Node, label: &str, value: &str) -> Node {
    Node { labels: [(label.to_owned(), value.to_owned())].into(), ..node }
}

fn cordoned(node: Node) -> Node {
    Node { cordoned: true, ..node }
}

const NONE: fn(&str) -> bool = |_| false;

fn ask(
    rules: &Rules,
    nodes: &[Node],
    action: &ActionSpec,
    may: Capabilities,
    name: &str,
) -> Result<(), Refusal> {
    Judge { rules, nodes: &by_name(nodes), begun: &NONE }.ask(action, may, name)
}

fn by_name(nodes: &[Node]) -> Nodes {
    nodes.iter().map(|node| (node.name.clone(), node.clone())).collect()
}

fn refused(nodes: &[Node], action: &ActionSpec, name: &str) -> Option<Rule> {
    ask(&Rules::default(), nodes, action, Capabilities::default(), name).err().map(|refusal| refusal.rule)
}

fn holder() -> Capabilities {
    Capabilities::from_iter([Capability::ControlPlane])
}

#[test]
fn what_takes_a_node_away_and_what_does_not() {
    for (action, expected) in [
        (cordon(), Toll::Placing),
        (drain(), Toll::Pods),
        (taint("NoSchedule"), Toll::Placing),
        (taint("NoExecute"), Toll::Pods),
        (taint("PreferNoSchedule"), Toll::Nothing),
        (action("copy_taints", &json!({"from": "n"})), Toll::Pods),
        (action("uncordon", &json!({})), Toll::Nothing),
        (action("untaint", &json!({"taints": [{"key": "a"}]})), Toll::Nothing),
        (action("label", &json!({"labels": {"a": "b"}})), Toll::Nothing),
        (action("annotate", &json!({"annotations": {"a": "b"}})), Toll::Nothing),
        (action("wait", &json!({})), Toll::Nothing),
    ] {
        assert_eq!(toll(&action), expected, "{action:?}");
        let with_labels = matches!(action, ActionSpec::Label(_));
        assert_eq!(is_guarded(&action), expected > Toll::Nothing || with_labels, "{action:?}");
    }
}

#[test]
fn a_protected_node_stays_and_so_does_its_label() {
    let nodes = [labelled(worker("n1"), "milepost.dev/protected", ""), worker("n2")];
    for action in [
        cordon(),
        drain(),
        taint("NoSchedule"),
        action("unlabel", &json!({"keys": ["milepost.dev/protected"]})),
    ] {
        assert_eq!(refused(&nodes, &action, "n1"), Some(Rule::Protected), "{action:?}");
        assert_eq!(refused(&nodes, &action, "n2"), None, "{action:?}");
        assert_eq!(ask(&Rules::default(), &nodes, &action, holder(), "n1"), Ok(()), "{action:?}");
    }
    for action in [action("uncordon", &json!({})), action("label", &json!({"labels": {"a": "b"}}))] {
        assert_eq!(refused(&nodes, &action, "n1"), None, "{action:?}");
    }
    let why = ask(&Rules::default(), &nodes, &drain(), Capabilities::default(), "n1").unwrap_err();
    let expected = "refused: protected: n1 is protected by its label milepost.dev/protected: drain takes the capability control-plane on \
                    this cluster";
    assert_eq!(why.to_string(), expected);
    let rules = Rules { protected: vec!["tier=gold".into()], ..Rules::default() };
    let nodes = [labelled(worker("n1"), "tier", "gold"), labelled(worker("n2"), "tier", "tin")];
    assert!(ask(&rules, &nodes, &cordon(), Capabilities::default(), "n1").is_err());
    assert!(ask(&rules, &nodes, &cordon(), Capabilities::default(), "n2").is_ok());
    let relabel = action("label", &json!({"labels": {"tier": "tin"}, "overwrite": true}));
    assert!(ask(&rules, &nodes, &relabel, Capabilities::default(), "n1").is_err());
}

#[test]
fn a_control_plane_is_drained_by_holders_and_keeps_its_quorum() {
    let three = [control_plane_node("c1"), control_plane_node("c2"), control_plane_node("c3"), worker("n1")];
    assert_eq!(refused(&three, &drain(), "c1"), Some(Rule::ControlPlane));
    assert_eq!(refused(&three, &taint("NoExecute"), "c1"), Some(Rule::ControlPlane));
    assert_eq!(refused(&three, &cordon(), "c1"), None);
    let as_holder = |nodes: &[Node], action: &ActionSpec, name: &str| {
        ask(&Rules::default(), nodes, action, holder(), name).err()
    };
    assert_eq!(as_holder(&three, &drain(), "c1"), None);
    let [c1, c2, c3, n1] = three;
    let one_out = [c1.clone(), cordoned(c2.clone()), c3.clone(), n1.clone()];
    let why = as_holder(&one_out, &drain(), "c1").unwrap();
    let expected = "refused: quorum: c1 is of a control plane of 3, of which 1 are out of service or in work and at most 1 may be: wait \
                    for the others, or set safety.control_plane_quorum to false for this cluster";
    assert_eq!((why.rule, why.to_string().as_str()), (Rule::Quorum, expected));
    assert_eq!(as_holder(&one_out, &drain(), "c2"), None, "it is the one that is out");
    assert_eq!(as_holder(&one_out, &cordon(), "c3").unwrap().rule, Rule::Quorum);
    let down = [c1.clone(), cordoned(c2), Node { ready: false, ..c3 }, n1.clone()];
    assert_eq!(as_holder(&down, &drain(), "c3"), None, "it is down as it is");
    assert_eq!(
        as_holder(&down, &drain(), "c2").unwrap().rule,
        Rule::Quorum,
        "it is cordoned and serves still"
    );
    let alone = [c1, n1];
    assert_eq!(as_holder(&alone, &cordon(), "c1").unwrap().rule, Rule::Quorum);
    let without = Rules { control_plane_quorum: false, ..Rules::default() };
    assert_eq!(ask(&without, &alone, &drain(), holder(), "c1"), Ok(()));
}

#[test]
fn the_last_node_in_service_stays() {
    let nodes = [
        control_plane_node("c1"),
        worker("n1"),
        cordoned(worker("n2")),
        Node { ready: false, ..worker("n3") },
    ];
    for action in [cordon(), drain(), taint("NoSchedule")] {
        assert_eq!(refused(&nodes, &action, "n1"), Some(Rule::LastNode), "{action:?}");
    }
    assert_eq!(refused(&nodes, &cordon(), "n2"), None, "it is cordoned as it is");
    assert_eq!(refused(&nodes, &drain(), "n2"), None, "n1 takes its pods");
    assert_eq!(refused(&nodes, &drain(), "n3"), None);
    let all_cordoned = [cordoned(worker("n1")), cordoned(worker("n2"))];
    assert_eq!(refused(&all_cordoned, &drain(), "n1"), Some(Rule::LastNode), "nobody takes its pods");
    let why = ask(&Rules::default(), &nodes, &cordon(), Capabilities::default(), "n1").unwrap_err();
    let expected = "refused: last_node: n1 is the last of its workers in service, all others are cordoned, not ready, tainted or in work: \
                    bring one back first, or set safety.last_node to false for this cluster";
    assert_eq!(why.to_string(), expected);
    let without = Rules { last_node: false, ..Rules::default() };
    assert_eq!(ask(&without, &nodes, &cordon(), Capabilities::default(), "n1"), Ok(()));
}

#[test]
fn a_tainted_node_does_not_stand_in_for_one_that_takes_every_pod() {
    let tainted = Node { tainted: true, ..worker("gpu") };
    let nodes = [worker("n1"), tainted.clone()];
    assert_eq!(refused(&nodes, &cordon(), "n1"), Some(Rule::LastNode));
    assert_eq!(refused(&nodes, &cordon(), "gpu"), None);
    assert!(keeps_pods_off("a", "NoSchedule") && keeps_pods_off("a", "NoExecute"));
    assert!(!keeps_pods_off("a", "PreferNoSchedule") && !keeps_pods_off(UNSCHEDULABLE, "NoSchedule"));
}

#[test]
fn a_pool_keeps_its_last_node_where_a_label_names_pools() {
    let rules = Rules { pool_label: Some("pool".into()), ..Rules::default() };
    let nodes = [labelled(worker("a1"), "pool", "a"), labelled(worker("b1"), "pool", "b"), worker("n1")];
    let why = ask(&rules, &nodes, &drain(), Capabilities::default(), "a1").unwrap_err();
    assert!(
        why.to_string().starts_with("refused: last_node: a1 is the last of its pool pool=a in service"),
        "{why}"
    );
    assert_eq!(ask(&rules, &nodes, &drain(), Capabilities::default(), "n1"), Ok(()));
    assert_eq!(ask(&Rules::default(), &nodes, &drain(), Capabilities::default(), "a1"), Ok(()));
}

#[test]
fn a_node_that_is_not_there_and_what_was_begun() {
    let (rules, nodes) = (Rules::default(), [worker("n1"), worker("n2")]);
    let known = by_name(&nodes);
    assert_eq!(refused(&nodes, &drain(), "n9"), None);
    let begun = |name: &str| name == "n2";
    let judge = Judge { rules: &rules, nodes: &known, begun: &begun };
    let refusal = judge.ask(&cordon(), Capabilities::default(), "n1").unwrap_err();
    assert_eq!(refusal.rule, Rule::LastNode);
    assert_eq!(
        judge.ask(&cordon(), Capabilities::default(), "n2"),
        Ok(()),
        "it was begun, and not on others"
    );
    assert!(judge.is_close("n9", 1) && judge.is_close("n1", 1));
}

/// Five nodes of the control plane and four workers; those in `out` are cordoned.
fn cluster(out: &HashSet<usize>) -> Vec<Node> {
    let node = |n: usize| {
        let node = if n < 5 { control_plane_node(&format!("n{n}")) } else { worker(&format!("n{n}")) };
        Node { cordoned: out.contains(&n), ..node }
    };
    (0..9).map(node).collect()
}

proptest! {
    /// More capabilities never forbid, and a node more in service never does either.
    #[test]
    fn more_rights_and_more_nodes_forbid_nothing(
        out in prop::collection::hash_set(0_usize..9, 0..9), target in 0_usize..9, back in 0_usize..9, drains: bool,
    ) {
        let (rules, name) = (Rules::default(), format!("n{target}"));
        let action = if drains { drain() } else { cordon() };
        let allowed = |nodes: &[Node], may| ask(&rules, nodes, &action, may, &name).is_ok();
        let nodes = cluster(&out);
        if allowed(&nodes, Capabilities::default()) {
            prop_assert!(allowed(&nodes, holder()));
        }
        if back != target && allowed(&nodes, holder()) {
            let more: HashSet<usize> = out.into_iter().filter(|n| *n != back).collect();
            prop_assert!(allowed(&cluster(&more), holder()));
        }
    }
}
