//! Every reaction, and what holds whatever the cluster answers.

use proptest::prelude::*;

use super::*;

fn pod(n: u32) -> PodFacts {
    PodFacts { namespace: "ns".into(), name: format!("pod-{n}"), uid: format!("u{n}"), ..PodFacts::default() }
}

fn critical(n: u32) -> PodFacts {
    PodFacts { critical: true, ..pod(n) }
}

fn terminating(n: u32) -> PodFacts {
    PodFacts { deleted_at: Some(Timestamp::UNIX_EPOCH), deletion_grace: Some(30), ..pod(n) }
}

fn machine(pods: Vec<PodFacts>) -> Machine {
    Machine::new(pods, None, AT_ONCE)
}

fn at(secs: u64) -> (Instant, Timestamp) {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    (*START + Duration::from_secs(secs), Timestamp::from_second(i64::try_from(secs).unwrap()).unwrap())
}

fn answer(machine: &mut Machine, index: usize, answer: Answer, secs: u64) {
    let (now, time) = at(secs);
    machine.answered(index, answer, now, time);
}

fn next(machine: &mut Machine, secs: u64) -> Vec<Act> {
    machine.next(at(secs).0)
}

fn budget(retry_after: Option<u64>) -> Answer {
    Answer::Budget {
        budget: "budget web".into(),
        why: "needs 2 and has 2".into(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

#[test]
fn a_granted_pod_is_waited_for_until_it_is_gone_by_its_uid() {
    let mut machine = machine(vec![pod(1), pod(2)]);
    assert_eq!(next(&mut machine, 0), [Act::Evict(0), Act::Evict(1)]);
    assert_eq!(next(&mut machine, 0), [], "each is given out once");
    answer(&mut machine, 0, Answer::Granted, 0);
    answer(&mut machine, 1, Answer::Gone, 0);
    assert!(!machine.is_over() && machine.has_acted());
    machine.gone("another");
    assert!(!machine.is_over(), "another pod is not this one");
    machine.gone("u1");
    assert!(machine.is_over());
    assert_eq!(machine.left(Timestamp::UNIX_EPOCH), None);
}

#[test]
fn a_list_says_who_is_gone_and_a_new_pod_of_the_same_name_is_not_the_old_one() {
    let mut machine = machine(vec![pod(1), pod(2)]);
    next(&mut machine, 0);
    (0..2).for_each(|index| answer(&mut machine, index, Answer::Granted, 0));
    machine.listed(&[pod(2), PodFacts { uid: "new".into(), ..pod(1) }]);
    assert_eq!(machine.step().pods.unwrap().gone, 1);
    machine.listed(&[]);
    assert!(machine.is_over());
}

#[test]
fn what_is_terminating_already_is_only_waited_for_unless_it_should_be_quicker() {
    let mut waits = machine(vec![terminating(1)]);
    assert_eq!((next(&mut waits, 0), waits.is_over()), (Vec::new(), false));
    waits.gone("u1");
    assert!(waits.is_over());
    let mut quicker = Machine::new(vec![terminating(1)], Some(5), AT_ONCE);
    assert_eq!(next(&mut quicker, 0), [Act::Evict(0)]);
    let mut slower = Machine::new(vec![terminating(1)], Some(60), AT_ONCE);
    assert_eq!(next(&mut slower, 0), []);
}

#[test]
fn a_pod_that_somebody_else_deletes_meanwhile_needs_no_eviction() {
    let mut machine = machine(vec![pod(1)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, budget(None), 0);
    machine.seen(&terminating(1));
    assert_eq!((machine.wake_at(), next(&mut machine, 100)), (None, Vec::new()));
    assert_eq!(machine.step().pods.unwrap().evicting, 1);
}

#[test]
fn a_budget_is_waited_for_longer_each_time_and_shown_since_when_it_holds() {
    let mut machine = machine(vec![pod(1), pod(2)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, budget(None), 10);
    answer(&mut machine, 1, Answer::Granted, 10);
    let mut waits = Vec::new();
    let mut now = at(10).0;
    for _ in 0..7 {
        let due = machine.wake_at().unwrap();
        waits.push((due - now).as_millis());
        now = due;
        assert_eq!(machine.next(now), [Act::Evict(0)]);
        machine.answered(0, budget(None), now, at(40).1);
    }
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    let step = machine.step();
    assert_eq!(step.sentence(at(52).1), "evicting 1, blocked by budget web since 42 s, gone 0 of 2");
    assert_eq!(step.obstacles[0].pod, "ns/pod-1");
    let left = machine.left(at(52).1).unwrap();
    let said = "2 of 2 pods left: ns/pod-1: kept by budget web for 42 s (needs 2 and has 2), ns/pod-2: is terminating";
    assert_eq!(left, said);
    let due = machine.wake_at().unwrap();
    machine.next(due);
    machine.answered(0, Answer::Granted, due, at(60).1);
    assert_eq!(machine.step().obstacles, []);
}

#[test]
fn the_wait_that_the_cluster_asks_for_is_honoured_within_a_bound() {
    for (asked, waited) in [(12, 12), (3_600, 60)] {
        let mut machine = machine(vec![pod(1)]);
        next(&mut machine, 0);
        answer(&mut machine, 0, budget(Some(asked)), 0);
        assert_eq!(machine.wake_at(), Some(at(waited).0));
        assert_eq!(next(&mut machine, waited - 1), []);
        assert_eq!(next(&mut machine, waited), [Act::Evict(0)]);
    }
}

#[test]
fn a_conflict_is_looked_at_before_anything_else_is_done() {
    let found = |found| {
        let mut machine = machine(vec![pod(1)]);
        next(&mut machine, 0);
        answer(&mut machine, 0, Answer::Conflict, 0);
        assert_eq!(next(&mut machine, 0), [Act::Look(0)]);
        machine.looked(0, found, at(0).0);
        machine
    };
    assert!(found(Found::Gone).is_over());
    let mut there = found(Found::There(Box::new(pod(1))));
    assert_eq!(next(&mut there, 20), [Act::Evict(0)]);
    let mut leaving = found(Found::There(Box::new(terminating(1))));
    assert_eq!((next(&mut leaving, 20), leaving.is_over()), (Vec::new(), false));
    let mut unknown = found(Found::Unknown);
    assert_eq!(next(&mut unknown, 20), [Act::Evict(0)]);
}

#[test]
fn a_refused_pod_fails_at_once_while_the_others_of_its_tier_go_on() {
    let mut machine = machine(vec![pod(1), pod(2), critical(3)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, Answer::Refused { why: "no".into() }, 0);
    assert!(!machine.is_over(), "the other one is still asked for");
    answer(&mut machine, 1, Answer::Granted, 0);
    machine.gone("u2");
    assert!(machine.is_over(), "the next tier is not begun");
    let left = machine.left(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(left, "2 of 3 pods left: ns/pod-1: no, ns/pod-3: was not evicted yet");
    assert_eq!(machine.step().pods.unwrap().failed, 1);
}

#[test]
fn errors_of_unknown_kind_are_tried_a_few_times_and_a_busy_cluster_for_as_long_as_it_takes() {
    let broken = || Answer::Broken { why: "boom".into() };
    let mut machine = machine(vec![pod(1)]);
    for round in 1..=BROKEN_MAX {
        assert_eq!(next(&mut machine, u64::from(round) * 100), [Act::Evict(0)], "{round}");
        answer(&mut machine, 0, broken(), u64::from(round) * 100);
    }
    assert!(machine.is_over() && machine.left(at(0).1).unwrap().ends_with("ns/pod-1: boom"));
    let mut machine = Machine::new(vec![pod(1)], None, AT_ONCE);
    for round in 1..=100 {
        assert_eq!(next(&mut machine, round * 100), [Act::Evict(0)]);
        answer(&mut machine, 0, Answer::Busy { why: "away".into(), retry_after: None }, round * 100);
    }
    assert!(machine.step().sentence(at(10_100).1).contains("blocked by the cluster since 10000 s"));
}

#[test]
fn the_namespace_that_goes_takes_its_pods_along() {
    let mut machine = machine(vec![pod(1)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, Answer::Closing { why: "it is terminating".into() }, 0);
    assert!(!machine.is_over());
    machine.gone("u1");
    assert!(machine.is_over());
}

#[test]
fn tiers_go_one_after_the_other() {
    let daemon = super::super::pod::Controller { kind: "DaemonSet".into(), name: "d".into() };
    let daemon = PodFacts { controller: Some(daemon), ..pod(2) };
    let mut machine = machine(vec![critical(1), daemon, pod(3)]);
    for (index, uid) in [(2, "u3"), (1, "u2"), (0, "u1")] {
        assert_eq!(next(&mut machine, 0), [Act::Evict(index)]);
        answer(&mut machine, index, Answer::Granted, 0);
        assert_eq!(next(&mut machine, 0), [], "granted is not gone");
        machine.gone(uid);
    }
    assert!(machine.is_over());
}

#[test]
fn what_was_not_sent_is_as_if_nobody_had_asked() {
    let mut machine = machine(vec![pod(1)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, Answer::NotSent, 0);
    assert!(!machine.has_acted());
    assert_eq!(next(&mut machine, 0), [Act::Evict(0)]);
}

#[test]
fn a_finalizer_that_holds_a_pod_is_named() {
    let mut machine = machine(vec![pod(1)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, Answer::Granted, 0);
    machine.seen(&PodFacts { finalizers: vec!["example.com/hold".into()], ..terminating(1) });
    let left = machine.left(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(
        left,
        "1 of 1 pods left: ns/pod-1: is terminating and held by its finalizers example.com/hold"
    );
}

#[test]
fn a_pod_that_should_have_ended_long_ago_is_not_waited_for_any_more() {
    let mut machine = machine(vec![pod(1)]);
    next(&mut machine, 0);
    answer(&mut machine, 0, Answer::Granted, 0);
    machine.leave_alone(Duration::from_secs(10), at(1_000).1);
    assert!(!machine.is_over(), "nobody has seen yet that it is terminating");
    machine.seen(&terminating(1));
    machine.leave_alone(Duration::from_secs(10), at(10).1);
    assert!(!machine.is_over(), "not longer than");
    machine.leave_alone(Duration::from_secs(10), at(11).1);
    assert!(machine.is_over());
    assert_eq!(machine.left(at(11).1), None);
    machine.gone("u1");
    assert_eq!(machine.step().pods.unwrap().gone, 1);
}

#[derive(Debug, Clone)]
enum Happening {
    Answer(usize, u8),
    Gone(usize),
    Terminates(usize),
    Passes(u64),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_usize..12, 0_u8..8).prop_map(|(at, kind)| Happening::Answer(at, kind)),
        1 => (0_usize..12).prop_map(Happening::Gone),
        1 => (0_usize..12).prop_map(Happening::Terminates),
        2 => (0_u64..30).prop_map(Happening::Passes),
    ]
}

fn any_answer(kind: u8) -> Answer {
    let why = || "why".to_owned();
    match kind {
        0 | 1 => Answer::Granted,
        2 => Answer::Gone,
        3 => budget(None),
        4 => Answer::Conflict,
        5 => Answer::Broken { why: why() },
        6 => Answer::Busy { why: why(), retry_after: None },
        _ => Answer::Refused { why: why() },
    }
}

proptest! {
    #[test]
    fn whatever_is_answered_evictions_are_bounded_tiered_and_never_of_what_is_on_its_way(
        tiers in prop::collection::vec(any::<bool>(), 1..12),
        happenings in prop::collection::vec(any_happening(), 0..200),
        at_once in 1_usize..5,
    ) {
        let pods: Vec<_> = (0..).zip(&tiers).map(|(n, late)| if *late { critical(n) } else { pod(n) }).collect();
        let mut machine = Machine::new(pods, None, at_once);
        let mut calls: Vec<Act> = Vec::new();
        let mut secs = 0;
        for happening in happenings {
            for act in next(&mut machine, secs) {
                if let Act::Evict(index) = act {
                    let early = tiers.iter().enumerate().filter(|(_, late)| !**late);
                    let before_me = early.filter(|_| tiers[index]).all(|(n, _)| machine.pods[n].state == State::Gone);
                    prop_assert!(before_me, "a critical pod went before another was gone");
                }
                calls.push(act);
            }
            prop_assert!(calls.len() <= at_once.max(1) + tiers.len());
            prop_assert!(machine.pods.iter().filter(|pod| pod.state == State::Calling).count() <= at_once);
            match happening {
                Happening::Answer(at, kind) if !calls.is_empty() => {
                    match calls.remove(at % calls.len()) {
                        Act::Evict(index) => answer(&mut machine, index, any_answer(kind), secs),
                        Act::Look(index) => {
                            let there = || Found::There(Box::new(pod(u32::try_from(index).unwrap())));
                            let found = if kind < 4 { there() } else { Found::Gone };
                            machine.looked(index, found, at_secs(secs));
                        }
                    }
                }
                Happening::Answer(..) => {}
                Happening::Gone(at) => machine.gone(&format!("u{at}")),
                Happening::Terminates(at) => machine.seen(&terminating(u32::try_from(at).unwrap())),
                Happening::Passes(more) => secs += more,
            }
            let counts = machine.step().pods.unwrap();
            let sum = counts.waiting + counts.evicting + counts.blocked + counts.failed + counts.gone;
            prop_assert_eq!(sum, counts.total);
            prop_assert_eq!(machine.left(at(0).1).is_none(), counts.gone == counts.total);
        }
    }
}

fn at_secs(secs: u64) -> Instant {
    at(secs).0
}
