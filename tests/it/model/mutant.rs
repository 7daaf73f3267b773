//! Systems that err, each in one way: the model itself under test. What it does not notice here it does not watch.

use std::cell::Cell;

/// One way to err.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Results are recorded whatever the attempt.
    UpdatesWithoutTheAttempt,
    /// Counts go up by what a worker says, not by what was added.
    CountsBlindly,
    /// A position is continued in whatever life of the stream there is.
    ForgetsTheEpoch,
    /// The place to go on from is taken after the snapshot was read.
    ReadsTheSnapshotFirst,
    /// A client tells repeats by their place in the stream.
    TellsRepeatsByPlace,
    /// What an event of an older attempt says is taken in.
    PublishesWithoutTheAttempt,
}

pub const MUTANTS: [Mutant; 6] = [
    Mutant::UpdatesWithoutTheAttempt,
    Mutant::CountsBlindly,
    Mutant::ForgetsTheEpoch,
    Mutant::ReadsTheSnapshotFirst,
    Mutant::TellsRepeatsByPlace,
    Mutant::PublishesWithoutTheAttempt,
];

thread_local! {
    static LIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Whether the system errs in this way.
pub fn is(mutant: Mutant) -> bool {
    LIVE.get() == Some(mutant)
}

/// Does something while the system errs.
pub fn with<T>(mutant: Mutant, act: impl FnOnce() -> T) -> T {
    LIVE.set(Some(mutant));
    let done = act();
    LIVE.set(None);
    done
}
