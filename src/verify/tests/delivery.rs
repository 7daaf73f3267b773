//! Promises about what a socket was told: ends that arrive, order, gaps, bodies, repeats, whose tasks they are.

use super::story::{Story, calm, id};
use super::*;

#[test]
fn i2_an_end_that_does_not_arrive_or_too_late() {
    let lost = |lines: &mut Vec<Record>| drop(lines.remove(event_at(lines, TAB, 5)));
    let report = caught(lost, &["I2"]);
    assert!(report.violations().next().unwrap().what.contains("never learnt"));
    let unheard = |lines: &mut Vec<Record>| {
        lines.retain(|line| !matches!(line, Record::Event(event) if event.socket == RAW));
    };
    assert!(caught(unheard, &["I2"]).violations().next().unwrap().what.contains("never heard"));
    let late = |lines: &mut Vec<Record>| {
        let at = event_at(lines, TAB, 5);
        if let Record::Event(event) = &mut lines[at] {
            event.at_us += 600_000_000;
        }
    };
    assert!(caught(late, &["I2"]).violations().next().unwrap().what.contains("too late"));
}

#[test]
fn i2_an_open_task_that_a_snapshot_leaves_out() {
    let left_out = |lines: &mut Vec<Record>| {
        let at = event_at(lines, TAB, 2);
        let Record::Event(event) = lines[at].clone() else { unreachable!() };
        let tasks = Vec::new();
        let snapshot =
            SnapshotSeen { at_us: event.at_us, socket: TAB.into(), position: String::new(), tasks };
        dump(lines).finished_us = Some(event.at_us + 5_000_000);
        lines.insert(at + 1, Record::Snapshot(snapshot));
    };
    // What follows the snapshot then begins in the middle of an unknown task.
    caught(left_out, &["I2", "I3b"]);
}

#[test]
fn i2_who_left_is_owed_nothing() {
    let mut lines = Story::tell(&[calm()]);
    let at = event_at(&lines, TAB, 2);
    lines.retain(|line| !matches!(line, Record::Event(event) if event.socket == TAB && event.seq.0 > 2));
    let left = SocketStep {
        at_us: 0,
        socket: TAB.into(),
        user: "user-1".into(),
        link: Link::Left,
        server: None,
        position: None,
        recovered: false,
        raw: false,
        reason: None,
    };
    lines.insert(at + 1, Record::Socket(left));
    assert_eq!(judge(lines).verdict, Verdict::Passed);
}

#[test]
fn i3_events_out_of_order_and_counts_that_fall() {
    let swapped = |lines: &mut Vec<Record>| {
        let (a, b) = (event_at(lines, RAW, 2), event_at(lines, RAW, 3));
        lines.swap(a, b);
    };
    let report = caught(swapped, &["I3", "I3b"]);
    assert!(report.finding("I3").unwrap().first[0].what.contains("came after"));
    let fallen = |lines: &mut Vec<Record>| {
        for event in events(lines).filter(|event| event.task == id(1) && event.seq == Seq(4)) {
            event.counts.failed = 0;
            event.counts.succeeded = 0;
        }
    };
    let report = caught(fallen, &["I3"]);
    assert_eq!(report.finding("I3").unwrap().violations, 2, "at both sockets");
}

#[test]
fn i3b_a_gap_without_a_resync() {
    let gap = |lines: &mut Vec<Record>| drop(lines.remove(event_at(lines, TAB, 3)));
    let report = caught(gap, &["I3b"]);
    assert!(report.violations().next().unwrap().what.starts_with("1 events before (1, 4)"));
    let unmerged = |lines: &mut Vec<Record>| {
        lines.remove(event_at(lines, TAB, 3));
        let at = event_at(lines, TAB, 3);
        if let Record::Event(event) = &mut lines[at] {
            event.merged = 2;
        }
    };
    let mut lines = Story::tell(&[calm()]);
    unmerged(&mut lines);
    assert_eq!(judge(lines).verdict, Verdict::Passed, "an event that stands for two hides none");
}

#[test]
fn i3b_what_a_lost_stream_takes_is_not_a_gap() {
    let mut lines = Story::tell(&[calm()]);
    let at = event_at(&lines, TAB, 3);
    let Record::Event(lost) = lines.remove(at) else { unreachable!() };
    let step = |phase| {
        Record::Fault(FaultStep {
            at_us: lost.at_us,
            id: 1,
            fault: "flush-redis".into(),
            target: None,
            phase,
            evidence: None,
            loses: true,
        })
    };
    lines.insert(at, step(Phase::Bit));
    lines.insert(at, step(Phase::Injected));
    assert_eq!(judge(lines).verdict, Verdict::Passed);
}

#[test]
fn i3b_what_nobody_saw_is_excused_by_any_fault_and_what_others_saw_is_not() {
    let fault = |at_us, phase| {
        Record::Fault(FaultStep {
            at_us,
            id: 1,
            fault: "stop-redis".into(),
            target: None,
            phase,
            evidence: None,
            loses: false,
        })
    };
    let without = |sockets: &[&str]| {
        let mut lines = Story::tell(&[calm()]);
        let mut at_us = 0;
        for socket in sockets {
            let Record::Event(event) = lines.remove(event_at(&lines, socket, 3)) else { unreachable!() };
            at_us = event.at_us;
        }
        lines.extend([fault(at_us, Phase::Injected), fault(at_us, Phase::Bit)]);
        broken(&judge(lines))
    };
    assert_eq!(without(&[TAB, RAW]), Vec::<&str>::new());
    assert_eq!(without(&[TAB]), ["I3b"]);
}

#[test]
fn i3_what_a_snapshot_held_may_come_again_raw_and_is_dropped_by_clients() {
    for (socket, repeat, expected) in
        [(RAW, false, vec![]), (TAB, true, vec![]), (TAB, false, vec!["I3", "I8"])]
    {
        let mut lines = Story::tell(&[calm()]);
        let first = event_at(&lines, socket, 3);
        let newest = event_at(&lines, socket, 4);
        for at in [first, newest] {
            let Record::Event(event) = &mut lines[at] else { unreachable!() };
            event.repeat = repeat;
        }
        let Record::Event(event) = &lines[newest] else { unreachable!() };
        let EventSeen { task, attempt, seq, status, counts, at_us, .. } = *event;
        let tasks = vec![crate::verify::record::TaskSeen { task, attempt, seq, status, counts }];
        let snapshot = SnapshotSeen { at_us, socket: socket.into(), position: String::new(), tasks };
        lines.insert(first, Record::Snapshot(snapshot));
        assert_eq!(broken(&judge(lines)), expected, "{socket} {repeat}");
    }
}

#[test]
fn i4_an_event_that_differs_or_was_never_made() {
    let differs = |lines: &mut Vec<Record>| events(lines).nth(3).unwrap().body = Some("abc".into());
    caught(differs, &["I4"]);
    let unknown = |lines: &mut Vec<Record>| events(lines).nth(3).unwrap().task = id(99);
    let report = caught(unknown, &["I3b", "I4"]);
    assert!(report.finding("I4").unwrap().first[0].what.contains("not in the record"));
    let early = |lines: &mut Vec<Record>| dump(lines).attempt = Attempt(0);
    caught(early, &["I4"]);
}

#[test]
fn i8_an_event_that_is_handed_out_twice() {
    let twice = |lines: &mut Vec<Record>| {
        let at = event_at(lines, TAB, 2);
        lines.insert(at + 1, lines[at].clone());
    };
    caught(twice, &["I8"]);
    let mut lines = Story::tell(&[calm()]);
    let at = event_at(&lines, RAW, 2);
    lines.insert(at + 1, lines[at].clone());
    let report = judge(lines);
    assert_eq!((report.verdict, report.totals.repeats), (Verdict::Passed, 1), "raw repeats are counted only");
}

#[test]
fn i12_a_task_that_is_shown_to_another_user() {
    let foreign = |lines: &mut Vec<Record>| {
        let end = lines[event_at(lines, TAB, 5)].clone();
        let Record::Event(mut event) = end else { unreachable!() };
        event.socket = "user-2-tab".into();
        event.merged = 5;
        lines.push(Record::Event(event));
    };
    caught(foreign, &["I12"]);
}
