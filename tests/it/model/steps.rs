//! What may happen next, in any order. Numbers out of range wrap around, so every step fits every state: what is cut
//! out of a failed run by shrinking leaves a run.

use milepost::store::Control;
use proptest::prelude::*;

use super::world::USERS;

/// What becomes of the first call of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Fine,
    /// It never arrives.
    Before,
    /// It is done, and the reply is lost.
    After,
}

/// The writes that a fence guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Renew,
    Record,
    Publish,
    Finish,
    HandOver,
}

/// Something that happens. `calls` is after how many calls a gateway or maintenance dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Submit {
        user: usize,
        items: u32,
        key: Option<(u8, u8)>,
        calls: u8,
        fate: Fate,
    },
    Control {
        task: usize,
        control: Control,
        calls: u8,
        fate: Fate,
    },
    /// A worker takes a token, claims, and acks.
    Claim {
        worker: usize,
        calls: u8,
        fate: Fate,
    },
    Run {
        worker: usize,
        good: bool,
    },
    Publish {
        worker: usize,
        fate: Fate,
    },
    Record {
        worker: usize,
        results: usize,
        fate: Fate,
    },
    Renew {
        worker: usize,
        fate: Fate,
    },
    /// A worker makes the next call of ending its task, if there is no more to run.
    End {
        worker: usize,
        fate: Fate,
    },
    /// A worker is told to stop, and makes the first call of it.
    HandOver {
        worker: usize,
        fate: Fate,
    },
    Crash {
        worker: usize,
    },
    /// A worker's process stands still; a new one takes its place.
    Freeze {
        worker: usize,
    },
    /// A process that stood still goes on where it was.
    Late {
        ghost: usize,
        write: Write,
    },
    Relay {
        calls: u8,
        fate: Fate,
    },
    Rescue {
        fate: Fate,
    },
    Reconcile {
        fate: Fate,
    },
    DoubleToken {
        task: usize,
    },
    LoseToken,
    Pass {
        ms: u64,
    },
    Trim {
        user: usize,
        keep: usize,
    },
    Wipe {
        user: usize,
    },
    Connect {
        reader: usize,
        feed: usize,
    },
    Read {
        reader: usize,
        steps: u8,
    },
    Cut {
        reader: usize,
    },
}

/// Five numbers from which a step is made. A step is drawn once per number and not from a tree of strategies, which
/// would cost more than all the rest of a run; each number shrinks towards 0, the simplest.
type Dice = (u8, u8, u8, u8, u8);

/// Any step.
pub fn any_step() -> BoxedStrategy<Step> {
    let kind = proptest::sample::select(
        KINDS.iter().flat_map(|(weight, make)| vec![*make; *weight]).collect::<Vec<_>>(),
    );
    (kind.no_shrink(), any::<Dice>()).prop_map(|(make, dice)| make(dice)).boxed()
}

/// Makes a step of one kind.
type Make = fn(Dice) -> Step;

/// The kinds of steps, each with how often it comes.
const KINDS: [(usize, Make); 23] = [
    (8, |(a, b, c, d, e)| {
        let key = (c % 2 == 1).then_some((c / 2 % 2, c / 4 % 2));
        Step::Submit { user: user(a), items: u32::from(b % 3) + 1, key, calls: calls(d), fate: fate(e) }
    }),
    (4, |(a, b, _, d, e)| {
        let control = [Control::Resume, Control::Cancel, Control::Pause, Control::Resume][usize::from(b % 4)];
        Step::Control { task: usize::from(a % 6), control, calls: calls(d), fate: fate(e) }
    }),
    (12, |(a, _, _, d, e)| Step::Claim { worker: worker(a), calls: calls(d), fate: fate(e) }),
    (13, |(a, b, ..)| Step::Run { worker: worker(a), good: b % 2 == 0 }),
    (9, |(a, _, _, _, e)| Step::Publish { worker: worker(a), fate: fate(e) }),
    (6, |(a, b, _, _, e)| Step::Record { worker: worker(a), results: usize::from(b % 3) + 1, fate: fate(e) }),
    (4, |(a, _, _, _, e)| Step::Renew { worker: worker(a), fate: fate(e) }),
    (20, |(a, _, _, _, e)| Step::End { worker: worker(a), fate: fate(e) }),
    (2, |(a, _, _, _, e)| Step::HandOver { worker: worker(a), fate: fate(e) }),
    (2, |(a, ..)| Step::Crash { worker: worker(a) }),
    (4, |(a, ..)| Step::Freeze { worker: worker(a) }),
    (9, |(a, b, ..)| Step::Late { ghost: usize::from(a % 4), write: WRITES[usize::from(b % 5)] }),
    (6, |(_, _, _, d, e)| Step::Relay { calls: calls(d), fate: fate(e) }),
    (3, |(_, _, _, _, e)| Step::Rescue { fate: fate(e) }),
    (3, |(_, _, _, _, e)| Step::Reconcile { fate: fate(e) }),
    (1, |(a, ..)| Step::DoubleToken { task: usize::from(a % 6) }),
    (1, |_| Step::LoseToken),
    (5, |(a, ..)| Step::Pass { ms: [100, 2_000, 5_000][usize::from(a % 3)] }),
    (2, |(a, b, ..)| Step::Trim { user: user(a), keep: usize::from(b % 4) }),
    (2, |(a, ..)| Step::Wipe { user: user(a) }),
    (8, |(a, b, ..)| Step::Connect { reader: reader(a), feed: usize::from(b % 2) }),
    (16, |(a, b, ..)| Step::Read { reader: reader(a), steps: b % 4 + 1 }),
    (3, |(a, ..)| Step::Cut { reader: reader(a) }),
];

const WRITES: [Write; 5] = [Write::Renew, Write::Record, Write::Publish, Write::Finish, Write::HandOver];

fn user(n: u8) -> usize {
    usize::from(n) % USERS
}

fn worker(n: u8) -> usize {
    usize::from(n) % super::actors::WORKERS
}

fn reader(n: u8) -> usize {
    usize::from(n) % super::reader::READERS
}

/// Mostly enough for all that follows.
fn calls(n: u8) -> u8 {
    [9, 9, 9, 9, 9, 9, 1, 2, 3][usize::from(n % 9)]
}

fn fate(n: u8) -> Fate {
    match n % 10 {
        8 => Fate::Before,
        9 => Fate::After,
        _ => Fate::Fine,
    }
}
