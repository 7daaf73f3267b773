//! Taints, decided. Pure. A taint is known by its key and effect.
//!
//! The API knows taints only as one list, so a patch carries the whole list and the version it was computed from:
//! a taint that somebody adds meanwhile makes the patch fail instead of getting lost. Taints that are not named stay as
//! they were read, down to fields this program does not know.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Decision;
use super::node::Observed;
use crate::action::ActionError;
use crate::task::spec::{Taint, TaintEffect, TaintParameters, UntaintParameters};

/// Without `overwrite` a taint of the same key and effect with another value is an error. What is added with `NoExecute`
/// gets the time, as the API says of that effect alone.
pub(super) fn taint(
    node: &Observed,
    wanted: &TaintParameters,
    now: Timestamp,
) -> Result<Decision, ActionError> {
    let mut taints = node.taints.clone();
    for want in &wanted.taints {
        match taints.iter_mut().find(|have| is(have, &want.key, Some(want.effect))) {
            None => taints.push(object(want, now)),
            Some(have) if value_of(have) == want.value => {}
            Some(have) if wanted.overwrite => *have = object(want, now),
            Some(have) => return Err(taken(want, value_of(have))),
        }
    }
    Ok(patch(node, &taints))
}

/// Removes the taints that are there; one without an effect means all of its key.
pub(super) fn untaint(node: &Observed, unwanted: &UntaintParameters) -> Decision {
    let named = |have: &Value| unwanted.taints.iter().any(|taint| is(have, &taint.key, taint.effect));
    let taints: Vec<_> = node.taints.iter().filter(|have| !named(have)).cloned().collect();
    patch(node, &taints)
}

fn is(have: &Value, key: &str, effect: Option<TaintEffect>) -> bool {
    have["key"] == key && effect.is_none_or(|effect| have["effect"] == effect.as_str())
}

fn value_of(taint: &Value) -> &str {
    taint["value"].as_str().unwrap_or_default()
}

fn object(taint: &Taint, now: Timestamp) -> Value {
    let mut object = json!({"key": taint.key, "effect": taint.effect.as_str()});
    if !taint.value.is_empty() {
        object["value"] = taint.value.as_str().into();
    }
    if taint.effect == TaintEffect::NoExecute {
        object["timeAdded"] = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    }
    object
}

fn taken(want: &Taint, have: &str) -> ActionError {
    let (key, effect, value) = (&want.key, want.effect.as_str(), &want.value);
    ActionError::permanent(format!(
        "taint {key}:{effect} is {have:?} and would become {value:?}; set overwrite to change it"
    ))
}

fn patch(node: &Observed, taints: &[Value]) -> Decision {
    if taints == node.taints {
        return Decision::Already;
    }
    Decision::Patch(json!({"metadata": {"resourceVersion": node.version}, "spec": {"taints": taints}}))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::spec::TaintRef;

    fn taint(node: &Observed, wanted: &TaintParameters) -> Result<Decision, ActionError> {
        super::taint(node, wanted, Timestamp::UNIX_EPOCH)
    }

    fn node(taints: &Value) -> Observed {
        Observed { version: "7".into(), taints: taints.as_array().unwrap().clone(), ..Observed::default() }
    }

    fn set(taints: &[(&str, &str, TaintEffect)], overwrite: bool) -> TaintParameters {
        let taint = |(key, value, effect): &(&str, &str, TaintEffect)| Taint {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            effect: *effect,
        };
        TaintParameters { taints: taints.iter().map(taint).collect(), overwrite }
    }

    fn unset(key: &str, effect: Option<TaintEffect>) -> UntaintParameters {
        UntaintParameters { taints: vec![TaintRef { key: key.to_owned(), effect }] }
    }

    fn after(node: &Observed, decision: &Decision) -> Observed {
        match decision {
            Decision::Already | Decision::Skip(_) => node.clone(),
            Decision::Patch(patch) => {
                Observed { taints: patch["spec"]["taints"].as_array().unwrap().clone(), ..node.clone() }
            }
        }
    }

    #[test]
    fn others_stay_as_they_were_and_the_patch_is_guarded() {
        let theirs =
            json!({"key": "x", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z", "later": true});
        let decision =
            taint(&node(&json!([theirs])), &set(&[("a", "1", TaintEffect::NoSchedule)], false)).unwrap();
        let expected = json!({
            "metadata": {"resourceVersion": "7"},
            "spec": {"taints": [theirs, {"key": "a", "value": "1", "effect": "NoSchedule"}]},
        });
        assert_eq!(decision, Decision::Patch(expected));
    }

    #[test]
    fn a_second_effect_of_a_key_is_another_taint() {
        let have = node(&json!([{"key": "a", "value": "1", "effect": "NoSchedule"}]));
        let both = after(&have, &taint(&have, &set(&[("a", "2", TaintEffect::NoExecute)], false)).unwrap());
        assert_eq!(both.taints.len(), 2);
        let one = after(&both, &untaint(&both, &unset("a", Some(TaintEffect::NoExecute))));
        assert_eq!(one, have);
        assert!(after(&both, &untaint(&both, &unset("a", None))).taints.is_empty());
    }

    #[test]
    fn another_value_needs_overwrite() {
        let have = node(&json!([{"key": "a", "value": "1", "effect": "NoSchedule"}]));
        let refused = taint(&have, &set(&[("a", "2", TaintEffect::NoSchedule)], false)).unwrap_err();
        let sentence = "taint a:NoSchedule is \"1\" and would become \"2\"; set overwrite to change it";
        assert_eq!(refused, ActionError::permanent(sentence));
        let changed =
            after(&have, &taint(&have, &set(&[("a", "2", TaintEffect::NoSchedule)], true)).unwrap());
        assert_eq!(changed.taints, [json!({"key": "a", "value": "2", "effect": "NoSchedule"})]);
    }

    #[test]
    fn removing_what_is_not_there_is_done_already() {
        assert_eq!(untaint(&node(&json!([])), &unset("a", None)), Decision::Already);
    }

    #[test]
    fn the_time_is_written_for_no_execute_alone_and_stays_with_the_taint() {
        let added = |effect| {
            after(&node(&json!([])), &taint(&node(&json!([])), &set(&[("a", "1", effect)], false)).unwrap())
        };
        assert_eq!(
            added(TaintEffect::NoSchedule).taints,
            [json!({"key": "a", "value": "1", "effect": "NoSchedule"})]
        );
        let timed =
            json!({"key": "a", "value": "1", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"});
        assert_eq!(added(TaintEffect::NoExecute).taints, [timed]);
        let theirs =
            json!([{"key": "a", "value": "1", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
        assert_eq!(
            taint(&node(&theirs), &set(&[("a", "1", TaintEffect::NoExecute)], true)),
            Ok(Decision::Already)
        );
    }

    fn effect() -> impl Strategy<Value = TaintEffect> {
        prop_oneof![
            Just(TaintEffect::NoSchedule),
            Just(TaintEffect::PreferNoSchedule),
            Just(TaintEffect::NoExecute)
        ]
    }

    fn parameters() -> impl Strategy<Value = TaintParameters> {
        prop::collection::btree_map(("[a-c]", effect().prop_map(TaintEffect::as_str)), "[x-z]?", 1..5)
            .prop_map(|map| {
                let taints = map.into_iter().map(|((key, effect), value)| {
                    let effect = serde_json::from_value(effect.into()).unwrap();
                    Taint { key, value, effect }
                });
                TaintParameters { taints: taints.collect(), overwrite: true }
            })
    }

    fn sorted(node: &Observed) -> Vec<String> {
        let mut taints: Vec<_> = node.taints.iter().map(ToString::to_string).collect();
        taints.sort();
        taints
    }

    proptest! {
        #[test]
        fn doing_it_again_finds_it_done(have in parameters(), want in parameters(), key in "[a-c]", which in prop::option::of(effect())) {
            let have = after(&node(&json!([])), &taint(&node(&json!([])), &have).unwrap());
            let once = after(&have, &taint(&have, &want).unwrap());
            prop_assert_eq!(taint(&once, &want).unwrap(), Decision::Already);
            let without = after(&once, &untaint(&once, &unset(&key, which)));
            prop_assert_eq!(untaint(&without, &unset(&key, which)), Decision::Already);
        }

        #[test]
        fn no_identity_is_ever_doubled_and_none_unnamed_is_lost(have in parameters(), want in parameters()) {
            let have = after(&node(&json!([])), &taint(&node(&json!([])), &have).unwrap());
            let then = after(&have, &taint(&have, &want).unwrap());
            let identity = |t: &Value| format!("{}:{}", t["key"], t["effect"]);
            let mut identities: Vec<_> = then.taints.iter().map(identity).collect();
            identities.sort();
            let len = identities.len();
            identities.dedup();
            prop_assert_eq!(identities.len(), len);
            for taint in &have.taints {
                prop_assert!(identities.contains(&identity(taint)));
            }
        }

        #[test]
        fn writers_of_different_taints_commute(have in parameters(), a in "[x-z]?", b in "[x-z]?") {
            let have = after(&node(&json!([])), &taint(&node(&json!([])), &have).unwrap());
            let (a, b) = (set(&[("a", &a, TaintEffect::NoSchedule)], true), set(&[("b", &b, TaintEffect::NoSchedule)], true));
            let both = |first, second| {
                let mid = after(&have, &taint(&have, first).unwrap());
                sorted(&after(&mid, &taint(&mid, second).unwrap()))
            };
            prop_assert_eq!(both(&a, &b), both(&b, &a));
        }
    }
}
