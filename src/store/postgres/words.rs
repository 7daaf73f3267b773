//! The word in `tasks.action`.
//!
//! A task with a strategy has one of its own, which no older release knows: such a release would run it all at once, so it
//! must not claim it.

use std::sync::LazyLock;

use crate::task::TaskSpec;
use crate::task::spec::ACTIONS;

/// What follows the action's name in the word of a task with a strategy.
const STRATEGY: &str = "/strategy";

/// Every word that this release knows.
pub(super) static KNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
    ACTIONS.iter().flat_map(|name| [(*name).to_owned(), format!("{name}{STRATEGY}")]).collect()
});

/// The word of a task.
pub(super) fn word(spec: &TaskSpec) -> String {
    let suffix = if spec.strategy.is_some() { STRATEGY } else { "" };
    format!("{}{suffix}", spec.action.name())
}

/// The action's name in a word.
pub(super) fn action(word: &str) -> &str {
    word.strip_suffix(STRATEGY).unwrap_or(word)
}
