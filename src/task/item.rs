//! One named target of a task and how it ended.
//!
//! Membership is frozen at submit: an item is known by its index, and its name never changes. A result is given
//! once. Not here: what is done to an item ([`crate::action`]).

use serde::{Deserialize, Serialize};

use super::ItemName;

/// The longest error or reason kept of an item, in characters; the rest is cut.
pub const ITEM_MESSAGE_LEN_MAX: usize = 1_000;

/// Where an item is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// No lane has taken it. Left by the worker.
    Pending,
    /// A lane works on it. Left by the worker, or back to pending when its worker dies.
    Running,
    /// Terminal: what was asked for holds.
    Succeeded,
    /// Terminal: see its error.
    Failed,
    /// Terminal: left alone on purpose, see its reason.
    Skipped,
    /// Terminal: the task was cancelled first.
    Cancelled,
}

impl ItemState {
    /// The word used on the wire and in storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Every state, in the order of an item's life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Skipped, Self::Cancelled];
}

impl std::str::FromStr for ItemState {
    type Err = super::IdError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or(super::IdError::Malformed("item state"))
    }
}

/// Whether an item that succeeded was touched at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The target was different and is now as asked.
    Changed,
    /// The target was already as asked; nothing was sent.
    Already,
}

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ItemOutcome {
    /// What was asked for holds.
    Succeeded {
        /// Whether we had to change anything.
        effect: Effect,
    },
    /// It could not be done.
    Failed {
        /// A sentence for the user.
        error: String,
    },
    /// It was left alone on purpose.
    Skipped {
        /// A sentence for the user.
        reason: String,
    },
    /// The task was cancelled before the item was started.
    Cancelled,
}

impl ItemOutcome {
    /// A failure with its message cut to [`ITEM_MESSAGE_LEN_MAX`].
    #[must_use]
    pub fn failed(error: impl Into<String>) -> Self {
        Self::Failed { error: cut(error.into()) }
    }

    /// A skip with its reason cut to [`ITEM_MESSAGE_LEN_MAX`].
    #[must_use]
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped { reason: cut(reason.into()) }
    }

    /// The terminal state of the item.
    #[must_use]
    pub fn state(&self) -> ItemState {
        match self {
            Self::Succeeded { .. } => ItemState::Succeeded,
            Self::Failed { .. } => ItemState::Failed,
            Self::Skipped { .. } => ItemState::Skipped,
            Self::Cancelled => ItemState::Cancelled,
        }
    }

    /// Whether the target was touched, for an item that succeeded.
    #[must_use]
    pub fn effect(&self) -> Option<Effect> {
        match self {
            Self::Succeeded { effect } => Some(*effect),
            _ => None,
        }
    }

    /// The error of a failure or the reason of a skip.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Failed { error: message } | Self::Skipped { reason: message } => Some(message),
            Self::Succeeded { .. } | Self::Cancelled => None,
        }
    }
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(ITEM_MESSAGE_LEN_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// The one result of an item, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResult {
    /// Place of the item in the task, from 0.
    pub index: u32,
    /// Name of the item, as submitted.
    pub name: ItemName,
    /// How it ended.
    pub outcome: ItemOutcome,
    /// Times the action was run for this item in this attempt, retries included; 0 when it was not run.
    pub tries: u16,
    /// When it ended, by the worker's clock.
    pub finished_at: jiff::Timestamp,
}

/// An item as the record shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Place of the item in the task, from 0.
    pub index: u32,
    /// Name of the item, as submitted.
    pub name: ItemName,
    /// Its result, or `None` while it is pending.
    pub result: Option<ItemResult>,
}

impl Item {
    /// The recorded state: pending or terminal. That an item is running is only ever seen live.
    #[must_use]
    pub fn state(&self) -> ItemState {
        self.result.as_ref().map_or(ItemState::Pending, |result| result.outcome.state())
    }
}
