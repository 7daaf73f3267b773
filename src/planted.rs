//! Bugs that are planted on purpose, to see that the tests notice them. A suite that stays green with one of these is
//! broken.
//!
//! Each stands as a small branch at the place where it would be made, behind the feature `planted-bugs`; without the
//! feature [`is`] is a constant `false` and nothing of it is in the binary. One build carries all of them, and
//! `PLANTED_BUG` says which one is live: a name that is no setting, so that a process under test starts with it. `make
//! planted` runs each against the tests that must catch it.

/// A bug on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A worker acks its tokens before the claim that they led to was answered.
    AckBeforeClaim,
    /// Results are recorded without a look at the attempt.
    UpdateWithoutAttempt,
    /// A client tells repeats by their place in the stream, which a repeat does not share.
    DedupeByPosition,
    /// A position is continued in whatever life of the stream there is now.
    CursorWithoutEpoch,
    /// The stream of wake-ups is cut by length, read or not.
    TrimmedDispatch,
    /// Counts are raised by what a worker says, not by what was added.
    CountedBlindly,
    /// A snapshot is read first, and the place to go on from is taken after it.
    SnapshotFirst,
}

#[cfg(not(feature = "planted-bugs"))]
mod live {
    use super::Bug;

    /// Whether a bug is planted: never.
    #[inline]
    pub(crate) const fn is(_: Bug) -> bool {
        false
    }

    /// A statement as it is.
    #[inline]
    pub(crate) const fn record_sql(statement: &'static str) -> &'static str {
        statement
    }

    /// Says at start that a bug is planted: there is none.
    #[inline]
    pub(crate) const fn warn() {}
}

#[cfg(feature = "planted-bugs")]
mod live {
    use std::sync::OnceLock;

    use super::Bug;

    #[cfg(not(debug_assertions))]
    compile_error!("the feature `planted-bugs` is for tests, and in no release");

    impl Bug {
        const ALL: [(&str, Self); 7] = [
            ("ack-before-claim", Self::AckBeforeClaim),
            ("update-without-attempt", Self::UpdateWithoutAttempt),
            ("dedupe-by-position", Self::DedupeByPosition),
            ("cursor-without-epoch", Self::CursorWithoutEpoch),
            ("trimmed-dispatch", Self::TrimmedDispatch),
            ("counted-blindly", Self::CountedBlindly),
            ("snapshot-first", Self::SnapshotFirst),
        ];

        fn named(name: &str) -> Self {
            let found = Self::ALL.iter().find(|(known, _)| *known == name);
            found.unwrap_or_else(|| panic!("PLANTED_BUG: there is no bug called {name}")).1
        }
    }

    fn planted() -> Option<Bug> {
        static PLANTED: OnceLock<Option<Bug>> = OnceLock::new();
        *PLANTED.get_or_init(|| std::env::var("PLANTED_BUG").ok().map(|name| Bug::named(&name)))
    }

    /// Whether this bug is planted.
    pub(crate) fn is(bug: Bug) -> bool {
        planted() == Some(bug)
    }

    /// The statement that records results, with the bug that is planted in it.
    pub(crate) fn record_sql(statement: &'static str) -> &'static str {
        static SPOILT: OnceLock<String> = OnceLock::new();
        let (from, to) = match planted() {
            Some(Bug::UpdateWithoutAttempt) => ("attempt = $2", "$2::bigint IS NOT NULL"),
            Some(Bug::CountedBlindly) => ("FROM added", "FROM unnest($4::text[]) AS added (state)"),
            _ => return statement,
        };
        SPOILT.get_or_init(|| {
            assert!(statement.contains(from), "the statement has changed; plant the bug anew");
            statement.replace(from, to)
        })
    }

    /// Says at start that a bug is planted.
    pub(crate) fn warn() {
        tracing::error!(bug = ?planted(), "THIS BINARY CARRIES PLANTED BUGS; it is for tests alone");
    }
}

pub(crate) use live::{is, record_sql, warn};
