//! Identifiers of the core, as types that cannot be mixed up.
//!
//! Every name that comes from outside is checked once, here, and is valid ever after. Not here: where an id is
//! stored or how it is put into a key or a column.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a name or an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than the type allows.
    #[error("must have at most {max} characters, has {len}")]
    TooLong {
        /// The longest text allowed, in characters.
        max: usize,
        /// The length of what was given, in characters.
        len: usize,
    },
    /// The text holds a character that is not allowed.
    #[error("must not contain {0:?}")]
    BadCharacter(char),
    /// The text is not an id of this kind.
    #[error("is not a {0}")]
    Malformed(&'static str),
}

/// One batch accepted from a user. A UUID of version 7, so ids sort by the time of submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Uuid);

impl TaskId {
    /// A new id for a task accepted now.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id that a stored UUID stands for.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID behind the id, for storage.
    #[must_use]
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TaskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| IdError::Malformed("task id"))
    }
}

/// One claim of a task by a worker: the fencing token. It only grows, and 0 is the time before the first claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// Before any worker held the task.
    pub const NONE: Self = Self(0);

    /// The attempt of the next claim.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of an event inside its attempt. Dense: starts at 1 and leaves no gap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The number of the first event of an attempt.
    pub const FIRST: Self = Self(1);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Checks a text against the rules that all names share: 1..=`max` characters, none of them refused by `bad`.
fn checked(text: &str, max: usize, bad: impl Fn(char) -> bool) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    let len = text.chars().count();
    if len > max {
        return Err(IdError::TooLong { max, len });
    }
    text.chars().find(|&c| bad(c)).map_or(Ok(()), |c| Err(IdError::BadCharacter(c)))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:literal, $bad:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The longest name allowed, in characters.
            pub const LEN_MAX: usize = $max;

            /// Takes a text that follows the rules of this name.
            ///
            /// # Errors
            /// Says which rule the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                checked(text, $max, $bad)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type! {
    /// Who submitted a task and owns its events: the `sub` of the token.
    UserId, 128, |c| c.is_control() || c.is_whitespace() || c == '{' || c == '}'
}

name_type! {
    /// A named target of a task, such as a node. At most 253 characters, as for a Kubernetes object name.
    ItemName, 253, |c| c.is_control() || c.is_whitespace()
}

name_type! {
    /// A cluster, as the configuration names it.
    ClusterName, 63, |c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

name_type! {
    /// One running process of Milepost. Unique among replicas and restarts.
    ReplicaId, 100, |c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

impl ReplicaId {
    /// A new id that starts with `host` (cut and cleaned as needed) and ends in random characters.
    #[must_use]
    pub fn generate(host: &str) -> Self {
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(60).collect();
        let random = Uuid::new_v4().simple().to_string();
        let host = if host.is_empty() { "replica".to_owned() } else { host };
        Self(format!("{host}-{}", &random[..8]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_once_at_the_border() {
        assert_eq!(ItemName::new(""), Err(IdError::Empty));
        assert_eq!(ItemName::new("a b"), Err(IdError::BadCharacter(' ')));
        assert_eq!(ItemName::new("x".repeat(254)), Err(IdError::TooLong { max: 253, len: 254 }));
        assert!(ItemName::new("x".repeat(253)).is_ok());
        assert_eq!(UserId::new("a{b"), Err(IdError::BadCharacter('{')));
        assert!(serde_json::from_str::<ClusterName>("\"a/b\"").is_err());
    }

    #[test]
    fn replica_ids_differ_and_survive_odd_host_names() {
        let (one, two) = (ReplicaId::generate("höst.local"), ReplicaId::generate(""));
        assert_ne!(one, ReplicaId::generate("höst.local"));
        assert!(one.as_str().starts_with("hstlocal-"), "{one}");
        assert!(two.as_str().starts_with("replica-"), "{two}");
    }
}
