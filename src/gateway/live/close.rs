//! How a live connection ends: every close code, and what the client should do about it.
//!
//! 4000 to 4499: connect again and resume from the last position. 4500 to 4999: do not; something has to change
//! first. An SSE stream says the same in a last `close` event.

/// Why a live connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// 1012: this replica stops. Connect again, to another one, after the time in the reason.
    Shutdown {
        /// How long this client should wait, in milliseconds.
        retry_ms: u32,
    },
    /// 4005: the token ended. Connect again with a new one.
    Expired,
    /// 4008: the client read too slowly. Connect again and resume.
    Slow,
    /// 4009: the client was silent for too long. Connect again and resume.
    Idle,
    /// 4011: what the client needs could not be read. Connect again after a moment and resume.
    Unavailable,
    /// 4503: the client sent a message; only control frames are expected from it.
    Unexpected,
    /// 4504: the user has too many sockets here. Close one first.
    TooManySockets,
    /// 4505: the tasks of the user that was asked for are not the caller's to watch.
    NotYours,
    /// The connection is gone or is cut; there is nobody to tell.
    Gone,
}

impl Close {
    /// The close code; `None` when nobody is told.
    #[must_use]
    pub fn code(self) -> Option<u16> {
        match self {
            Self::Shutdown { .. } => Some(1012),
            Self::Expired => Some(4005),
            Self::Slow => Some(4008),
            Self::Idle => Some(4009),
            Self::Unavailable => Some(4011),
            Self::Unexpected => Some(4503),
            Self::TooManySockets => Some(4504),
            Self::NotYours => Some(4505),
            Self::Gone => None,
        }
    }

    /// The reason sent with the code; at most 123 bytes, as the protocol allows.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::Shutdown { retry_ms } => format!("restarting; retry_ms={retry_ms}"),
            Self::Expired => "the token has expired".to_owned(),
            Self::Slow => "read too slowly; resume from your last position".to_owned(),
            Self::Idle => "silent for too long".to_owned(),
            Self::Unavailable => "tasks cannot be read right now".to_owned(),
            Self::Unexpected => "messages are not expected from clients".to_owned(),
            Self::TooManySockets => "too many live connections of this user".to_owned(),
            Self::NotYours => "only who is admin on every cluster may watch the tasks of others".to_owned(),
            Self::Gone => String::new(),
        }
    }

    /// Whether a client should connect again by itself.
    #[must_use]
    pub fn reconnect(self) -> bool {
        self.code().is_some_and(|code| code < 4500)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reason that is told; the first is the one with the longest words.
    const TOLD: [Close; 8] = [
        Close::Shutdown { retry_ms: u32::MAX },
        Close::Expired,
        Close::Slow,
        Close::Idle,
        Close::Unavailable,
        Close::Unexpected,
        Close::TooManySockets,
        Close::NotYours,
    ];

    #[test]
    fn reasons_fit_into_a_close_frame() {
        for close in TOLD {
            assert!(close.reason().len() <= 123, "{close:?}");
        }
    }

    #[test]
    fn every_code_is_documented_with_what_to_do() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md"));
        for close in TOLD {
            let start = format!("| {} |", close.code().unwrap());
            let line = page.lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("{close:?} is not in docs/protocol.md"));
            assert_eq!(line.contains("| connect again"), close.reconnect(), "{line}");
        }
    }
}
