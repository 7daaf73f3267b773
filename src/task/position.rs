//! A place in a user's stream that survives the loss of the stream.
//!
//! An entry id alone is not enough: a stream that was wiped starts again, and an old id then points into nothing for
//! ever. So a position carries the epoch, a random text made with the stream; a position of another epoch is never
//! continued. To clients a position is opaque text. Not here: how a backend makes ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::IdError;

/// The identity of one life of a user's stream: 1..=32 ASCII letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(std::sync::Arc<str>);

impl Epoch {
    /// Takes the text a stream was made with.
    ///
    /// # Errors
    /// Refuses anything but 1..=32 ASCII letters and digits.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits { Ok(Self(text.into())) } else { Err(IdError::Malformed("epoch")) }
    }

    /// A new epoch, from 64 random bits.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()).into())
    }

    /// The epoch as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place inside one epoch. Ordered; ids of a stream only grow. `0-0` is before the first entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The major part: milliseconds in Redis, a counter elsewhere.
    pub major: u64,
    /// The minor part: distinguishes entries of the same major.
    pub minor: u64,
}

impl EntryId {
    /// Before the first entry.
    pub const START: Self = Self { major: 0, minor: 0 };

    /// An id of a backend that counts.
    #[must_use]
    pub fn counted(major: u64) -> Self {
        Self { major, minor: 0 }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.minor)
    }
}

impl FromStr for EntryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        text.split_once('-')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or(IdError::Malformed("entry id"))
    }
}

/// A place in a user's stream. The text form is `epoch.major-minor`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    /// Which life of the stream.
    pub epoch: Epoch,
    /// Which place in it.
    pub id: EntryId,
}

impl Position {
    /// The place after the entry `id` of the life `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch, id: EntryId) -> Self {
        Self { epoch, id }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.id)
    }
}

impl FromStr for Position {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (epoch, id) = text.split_once('.').ok_or(IdError::Malformed("position"))?;
        Ok(Self { epoch: Epoch::new(epoch)?, id: id.parse()? })
    }
}

impl TryFrom<String> for Position {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_back(major: u64, minor: u64) {
            let position = Position::new(Epoch::generate(), EntryId { major, minor });
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }

        #[test]
        fn any_text_is_refused_or_comes_back_the_same_place(text in "\\PC{0,40}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
            }
        }
    }

    #[test]
    fn malformed_positions_are_refused() {
        for text in ["", ".", "abc", "abc.", "abc.1", "abc.1-", ".1-1", "abc.+1-1", "a b.1-1", "abc.1-1-1"] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }
}
