//! Runs that once failed, cut down to the steps that matter, each with the bug that it showed.

use milepost::store::Control;

use super::steps::{Fate, Step};

const FINE: Fate = Fate::Fine;

/// A submit of one item without a key.
fn submit(user: usize) -> Step {
    Step::Submit { user, items: 1, key: None, calls: 9, fate: FINE }
}

fn claim(worker: usize) -> Step {
    Step::Claim { worker, calls: 9, fate: FINE }
}

fn read(reader: usize, steps: u8) -> Step {
    Step::Read { reader, steps }
}

/// Every kept run.
pub fn runs() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("entries of a life before the snapshot were shown after it", old_entries_after_a_fresh_start()),
        ("a client took an event of an attempt that its snapshot knew to be over", an_attempt_that_is_over()),
        (
            "a resume was told under the number of the worker that still had the task",
            a_resume_of_a_held_task(),
        ),
    ]
}

fn old_entries_after_a_fresh_start() -> Vec<Step> {
    vec![
        submit(0),
        claim(1),
        Step::Connect { reader: 1, feed: 0 },
        submit(1),
        Step::Wipe { user: 1 },
        Step::Claim { worker: 0, calls: 1, fate: FINE },
        read(1, 2),
        Step::Wipe { user: 1 },
    ]
}

fn an_attempt_that_is_over() -> Vec<Step> {
    vec![
        Step::Connect { reader: 0, feed: 0 },
        submit(0),
        claim(0),
        Step::HandOver { worker: 0, fate: FINE },
        Step::Control { task: 0, control: Control::Cancel, calls: 9, fate: Fate::After },
        read(0, 3),
        read(0, 2),
    ]
}

fn a_resume_of_a_held_task() -> Vec<Step> {
    vec![
        Step::Connect { reader: 0, feed: 0 },
        submit(0),
        submit(0),
        claim(0),
        read(0, 1),
        claim(1),
        Step::Run { worker: 1, good: false },
        Step::Publish { worker: 1, fate: FINE },
        Step::Control { task: 1, control: Control::Pause, calls: 9, fate: Fate::After },
        read(0, 3),
    ]
}
