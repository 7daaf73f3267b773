//! Runs that keep every promise pass; each broken promise is caught, by its number and in its line.

mod delivery;
mod story;

use proptest::prelude::*;

use super::record::{
    Call, EventSeen, Execution, FaultStep, GaugeKind, Link, Phase, Record, SnapshotSeen, SocketStep, TaskDump,
};
use super::{History, Report, Verdict, check, read};
use crate::task::{Attempt, ItemState, Seq, Status};
use story::{Story, any_plan, calm, id, rough};

fn judge(lines: Vec<Record>) -> Report {
    check(&History::of(lines))
}

/// Numbers of the violated invariants.
fn broken(report: &Report) -> Vec<&'static str> {
    report.findings.iter().filter(|finding| finding.violations > 0).map(|finding| finding.invariant).collect()
}

/// Changes the lines of a calm run, and expects that exactly these invariants are found broken, the first in `line`.
#[track_caller]
fn caught(change: impl FnOnce(&mut Vec<Record>), invariants: &[&str]) -> Report {
    let mut lines = Story::tell(&[calm(), rough()]);
    change(&mut lines);
    let report = judge(lines);
    assert_eq!(broken(&report), invariants, "{:#?}", report.violations().collect::<Vec<_>>());
    assert_eq!(report.verdict, Verdict::Failed);
    report
}

fn events(lines: &mut [Record]) -> impl Iterator<Item = &mut EventSeen> {
    lines.iter_mut().filter_map(|line| if let Record::Event(event) = line { Some(event) } else { None })
}

fn dump(lines: &mut [Record]) -> &mut TaskDump {
    lines.iter_mut().find_map(|line| if let Record::Task(dump) = line { Some(dump) } else { None }).unwrap()
}

fn submit(lines: &mut [Record]) -> &mut Call {
    lines.iter_mut().find_map(|line| if let Record::Call(call) = line { Some(call) } else { None }).unwrap()
}

/// Where the nth event of a socket of the first task is.
fn event_at(lines: &[Record], socket: &str, nth: usize) -> usize {
    let of = |line: &Record| matches!(line, Record::Event(event) if event.socket == socket);
    lines.iter().enumerate().filter(|(_, line)| of(line)).nth(nth).unwrap().0
}

const TAB: &str = "user-1-tab";
const RAW: &str = "user-1-raw";

#[test]
fn good_runs_pass() {
    for plans in [vec![calm()], vec![rough()], vec![calm(), rough(), rough()]] {
        let report = judge(Story::tell(&plans));
        assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
        let unjudged: Vec<_> = report.findings.iter().filter(|finding| finding.checked == 0).collect();
        assert!(unjudged.iter().all(|finding| finding.invariant == "I15"), "{unjudged:?}");
    }
}

#[test]
fn totals_and_faults_are_counted() {
    let report = judge(Story::tell(&[calm(), rough()]));
    let totals = report.totals;
    assert_eq!((totals.accepted, totals.sockets, totals.reconnects, totals.resyncs), (2, 4, 2, 0));
    assert_eq!((totals.repeats, totals.executed, totals.executed_again), (2, 6, 1));
    let fault = &report.faults[0];
    assert_eq!(
        (fault.fault.as_str(), fault.injected, fault.bit, fault.worst_recovery_ms),
        ("kill-worker", 1, 1, Some(1))
    );
}

#[test]
fn i1_a_task_that_does_not_end_or_ends_twice() {
    caught(
        |lines| {
            let dump = dump(lines);
            dump.status = Status::Queued;
            dump.finished_us = None;
        },
        &["I1"],
    );
    let two_ends = |lines: &mut Vec<Record>| {
        let mut end = lines[event_at(lines, TAB, 5)].clone();
        if let Record::Event(event) = &mut end {
            event.seq = Seq(event.seq.0 + 1);
            event.status = Status::Cancelled;
        }
        let at = event_at(lines, TAB, 5) + 1;
        lines.insert(at, end);
    };
    let report = caught(two_ends, &["I1"]);
    let violation = report.violations().next().unwrap();
    assert_eq!((violation.task, violation.socket.as_deref()), (Some(id(1)), Some(TAB)));
}

#[test]
fn i1_an_end_that_is_taken_back() {
    let again = |lines: &mut Vec<Record>| {
        let Record::Event(end) = lines[event_at(lines, TAB, 5)].clone() else { unreachable!() };
        let running = EventSeen { seq: Seq(9), status: Status::Running, body: None, merged: 5, ..end };
        lines.insert(event_at(lines, TAB, 5) + 1, Record::Event(running));
    };
    caught(again, &["I1"]);
}

#[test]
fn i5_two_results_none_or_another_than_was_told() {
    let rows = |lines: &mut Vec<Record>, change: fn(&mut Vec<super::record::ItemRow>)| {
        for line in lines.iter_mut().take(40) {
            if let Record::Items(dump) = line {
                change(&mut dump.items);
            }
        }
    };
    caught(|lines| rows(lines, |items| items.push(items[0].clone())), &["I5", "I7"]);
    caught(|lines| rows(lines, |items| items[0].state = ItemState::Pending), &["I5", "I7"]);
    let swapped = |lines: &mut Vec<Record>| {
        rows(lines, |items| {
            items[0].state = ItemState::Failed;
            items[1].state = ItemState::Succeeded;
        });
    };
    let report = caught(swapped, &["I5"]);
    let violation = report.violations().next().unwrap();
    assert!(violation.what.contains("was told"), "{violation:?}");
    assert!(violation.item.is_some());
    let overwritten = |lines: &mut Vec<Record>| {
        let at = event_at(lines, RAW, 2);
        if let Record::Event(event) = &mut lines[at] {
            event.ended[0].1 = ItemState::Skipped;
        }
    };
    caught(overwritten, &["I5"]);
}

#[test]
fn i6_an_item_that_runs_again_without_a_fault() {
    let again = |lines: &mut Vec<Record>| {
        let run = lines.iter().find(|line| matches!(line, Record::Execution(_))).unwrap().clone();
        let Record::Execution(run) = run else { unreachable!() };
        lines.push(Record::Execution(Execution { attempt: Some(Attempt(2)), ..run }));
    };
    let report = caught(again, &["I6"]);
    let violation = report.violations().next().unwrap();
    assert_eq!((violation.task, violation.item.as_deref()), (Some(id(1)), Some("node-0")));
    let never = |lines: &mut Vec<Record>| {
        lines.retain(
            |line| !matches!(line, Record::Execution(run) if run.task == id(1) && run.item == "node-2"),
        );
    };
    assert!(caught(never, &["I6"]).violations().next().unwrap().what.contains("never acted on"));
}

#[test]
fn i6_more_runs_than_attempts_even_with_faults() {
    let too_often = |lines: &mut Vec<Record>| {
        let crashed = |line: &&Record| matches!(line, Record::Execution(run) if run.task == id(2) && run.item == "node-2");
        let Record::Execution(run) = lines.iter().find(crashed).unwrap().clone() else { unreachable!() };
        for n in 3_u32..=6 {
            lines.push(Record::Execution(Execution { attempt: Some(Attempt(n)), ..run.clone() }));
            for phase in [Phase::Injected, Phase::Bit] {
                lines.push(Record::Fault(FaultStep {
                    at_us: run.at_us,
                    id: 100 + u64::from(n),
                    fault: "kill-worker".into(),
                    target: None,
                    phase,
                    evidence: None,
                    loses: false,
                }));
            }
        }
    };
    assert!(caught(too_often, &["I6"]).violations().next().unwrap().what.contains("5 attempts are the most"));
}

#[test]
fn i7_counts_that_do_not_add_up() {
    let more = |lines: &mut Vec<Record>| events(lines).nth(6).unwrap().counts.skipped = 7;
    caught(more, &["I3", "I7"]);
    let record = |lines: &mut Vec<Record>| {
        let counts = &mut dump(lines).counts;
        (counts.succeeded, counts.skipped) = (1, 1);
    };
    let report = caught(record, &["I7"]);
    assert_eq!(
        report.finding("I7").unwrap().violations,
        3,
        "the record against its rows, and two terminal events"
    );
}

#[test]
fn i9_a_key_that_makes_two_tasks() {
    let again = |change: fn(&mut Call)| {
        move |lines: &mut Vec<Record>| {
            let mut call = submit(lines).clone();
            change(&mut call);
            lines.push(Record::Call(call));
        }
    };
    caught(again(|call| call.task = Some(id(2))), &["I9"]);
    caught(again(|call| call.body = Some("other".into())), &["I9"]);
    let mut lines = Story::tell(&[calm()]);
    again(|_| {})(&mut lines);
    again(|call| (call.status, call.task) = (Some(409), None))(&mut lines);
    assert_eq!(judge(lines).verdict, Verdict::Passed, "a replay and a refusal are as promised");
}

#[test]
fn i10_i11_i14_numbers_past_their_bounds() {
    for (kind, invariant) in [(GaugeKind::Backlog, "I10"), (GaugeKind::Size, "I11"), (GaugeKind::Leak, "I14")]
    {
        for value in [3.0, f64::NAN] {
            let past = |lines: &mut Vec<Record>| {
                let mut gauges = lines.iter_mut().filter_map(|line| match line {
                    Record::Gauge(gauge) if gauge.kind == kind => Some(gauge),
                    _ => None,
                });
                gauges.next().unwrap().value = value;
            };
            caught(past, &[invariant]);
        }
    }
}

#[test]
fn i13_an_answer_without_a_record() {
    let missing = |lines: &mut Vec<Record>| {
        lines.push(Record::Call(Call {
            call: "submit".into(),
            user: "user-9".into(),
            status: Some(202),
            task: Some(id(50)),
            ..Call::default()
        }));
    };
    let report = caught(missing, &["I13"]);
    assert_eq!(report.violations().next().unwrap().task, Some(id(50)));
    let no_id = |lines: &mut Vec<Record>| {
        lines.push(Record::Call(Call { call: "submit".into(), status: Some(201), ..Call::default() }));
    };
    caught(no_id, &["I13"]);
    let cancelled = |lines: &mut Vec<Record>| {
        lines.push(Record::Call(Call {
            call: "cancel".into(),
            status: Some(202),
            task: Some(id(1)),
            ..Call::default()
        }));
        dump(lines).status = Status::Paused;
        events(lines).filter(|event| event.task == id(1)).for_each(|event| event.status = Status::Paused);
    };
    caught(cancelled, &["I13"]);
}

#[test]
fn i15_a_poison_task_that_is_not_given_up() {
    let mut lines = Story::tell(&[calm()]);
    submit(&mut lines).poison = true;
    assert_eq!(judge(lines).verdict, Verdict::Passed);
    let well = |lines: &mut Vec<Record>| {
        submit(lines).poison = true;
        for line in lines.iter_mut() {
            match line {
                Record::Event(event) if event.task == id(1) => event.counts = well_counts(event.counts),
                Record::Task(dump) if dump.task == id(1) => dump.counts = well_counts(dump.counts),
                Record::Items(dump) if dump.task == id(1) => dump.items[1].state = ItemState::Succeeded,
                _ => {}
            }
        }
        events(lines).filter(|event| event.task == id(1)).for_each(|event| event.ended.clear());
    };
    caught(well, &["I15"]);
}

fn well_counts(mut counts: crate::task::Counts) -> crate::task::Counts {
    counts.succeeded += std::mem::take(&mut counts.failed);
    counts
}

#[test]
fn a_run_that_proves_nothing_is_void() {
    let void = |change: fn(&mut Vec<Record>)| {
        let mut lines = Story::tell(&[rough()]);
        change(&mut lines);
        let report = judge(lines);
        assert_eq!(report.verdict, Verdict::Void, "{:?}", broken(&report));
        report.void.join("; ")
    };
    let no_dump = void(|lines| lines.retain(|line| !matches!(line, Record::Task(_) | Record::Items(_))));
    assert!(no_dump.contains("milepost dump"), "{no_dump}");
    let toothless = void(|lines| {
        lines.retain(|line| !matches!(line, Record::Fault(step) if step.phase == Phase::Bit));
    });
    assert_eq!(toothless, "kill-worker was made 1 times and hit nothing");
    assert_eq!(judge(Vec::new()).void.len(), 3);
}

proptest! {
    #[test]
    fn any_run_that_keeps_the_promises_passes(plans in prop::collection::vec(any_plan(), 1..5)) {
        let report = judge(Story::tell(&plans));
        prop_assert_eq!(report.verdict, Verdict::Passed, "{:#?}", report);
    }

    #[test]
    fn lines_are_read_as_they_were_written(plans in prop::collection::vec(any_plan(), 1..3)) {
        for record in Story::tell(&plans) {
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(read::line(&text), Ok(Some(record)), "{}", text);
        }
    }

    #[test]
    fn any_bent_line_is_noticed(
        plans in prop::collection::vec(any_plan(), 1..4),
        which in any::<prop::sample::Index>(),
        how in 0_usize..7,
    ) {
        let mut lines = Story::tell(&plans);
        let events: Vec<usize> =
            lines.iter().enumerate().filter(|(_, line)| matches!(line, Record::Event(e) if !e.repeat)).map(|(at, _)| at).collect();
        let at = events[which.index(events.len())];
        let Record::Event(event) = &mut lines[at] else { unreachable!() };
        match how {
            0 => event.body = Some("feed".into()),
            1 => event.counts.succeeded += 1_000,
            2 => event.counts.total += 1,
            3 => event.attempt = Attempt(event.attempt.0 + 100),
            4 => event.task = id(12_345),
            5 => event.socket = "user-0-tab".into(),
            _ => {
                dump(&mut lines).status = Status::Running;
            }
        }
        if how == 5 {
            let foreign = Record::Socket(SocketStep {
                at_us: 0,
                socket: "user-0-tab".into(),
                user: "user-0".into(),
                link: Link::Connected,
                server: None,
                position: None,
                recovered: false,
                raw: false,
                reason: None,
            });
            lines.insert(0, foreign);
        }
        prop_assert_eq!(judge(lines).verdict, Verdict::Failed);
    }
}
