//! The word in `tasks.action`.
//!
//! A task with a strategy has one of its own, which no older release knows: such a release would run it all at once, so it
//! must not claim it. One that may take a node out of service has one too, because an older release would not ask whether it
//! may.

use std::sync::LazyLock;

use crate::task::spec::ACTIONS;
use crate::task::{TaskSpec, safety};

/// What follows the action's name in the word of a task with a strategy.
const STRATEGY: &str = "/strategy";

/// What follows in the word of a task for which the rules of safety are asked.
const GUARDED: &str = "/guarded";

/// Every word that this release knows.
pub(super) static KNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
    let ends =
        ["", STRATEGY].into_iter().flat_map(|strategy| ["", GUARDED].map(|guarded| (strategy, guarded)));
    let ends: Vec<_> = ends.collect();
    let words = |name: &&str| ends.iter().map(|(s, g)| format!("{name}{s}{g}")).collect::<Vec<_>>();
    ACTIONS.iter().flat_map(words).collect()
});

/// The word of a task.
pub(super) fn word(spec: &TaskSpec) -> String {
    let strategy = if spec.strategy.is_some() { STRATEGY } else { "" };
    let guarded = if safety::is_guarded(&spec.action) { GUARDED } else { "" };
    format!("{}{strategy}{guarded}", spec.action.name())
}

/// The action's name in a word.
pub(super) fn action(word: &str) -> &str {
    let word = word.strip_suffix(GUARDED).unwrap_or(word);
    word.strip_suffix(STRATEGY).unwrap_or(word)
}
