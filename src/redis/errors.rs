//! What to make of Redis's errors, in one place.
//!
//! Decided by the error code. The one exception is a missing function, which Redis reports under the common code `ERR`.

use redis::{RedisError, ServerError, Value};

use super::CallError;

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// `Function not found`: load the library and call again, once. Self-healing after a new primary or an empty server.
    LoadLibrary,
    /// `NOGROUP`, or `UNBLOCKED` from a blocked read: the stream or the group is gone. Make it again and go on.
    RecreateGroup,
    /// `BUSYGROUP`: the group is there, which is what was asked for.
    AlreadyThere,
    /// `WRONGTYPE`: somebody else keeps something of another type under this key. It is this key alone: go on with the
    /// others, and say so.
    ForeignKey,
    /// `READONLY`, `MASTERDOWN`: this is not the primary any more. Drop the connections, so that new ones find it.
    FindPrimary,
    /// `LOADING`, `BUSY`, `CLUSTERDOWN`, and `MOVED`, `ASK`, `TRYAGAIN` that following them did not end: it will pass.
    /// Wait and try again.
    Wait,
    /// `OOM`, `MISCONF`, `NOREPLICAS`: the server refuses writes. Wait; reads and acknowledgements may still work.
    WritesRefused,
    /// The network or a deadline: the outcome is unknown. Try again what may be repeated.
    Unknown,
    /// Anything else will not pass by itself: rights, types, faults of ours.
    Fail,
}

impl Reaction {
    fn to_code(code: &str, detail: Option<&str>) -> Self {
        match code {
            "NOGROUP" | "UNBLOCKED" => Self::RecreateGroup,
            "BUSYGROUP" => Self::AlreadyThere,
            "WRONGTYPE" => Self::ForeignKey,
            "READONLY" | "MASTERDOWN" => Self::FindPrimary,
            "LOADING" | "BUSY" | "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => Self::Wait,
            "OOM" | "MISCONF" | "NOREPLICAS" => Self::WritesRefused,
            "ERR" if detail.is_some_and(|detail| detail.starts_with("Function not found")) => {
                Self::LoadLibrary
            }
            _ => Self::Fail,
        }
    }

    /// The reaction to a reply that is an error. `None` for one that is not.
    #[must_use]
    pub fn to_reply(reply: &Value) -> Option<Self> {
        match reply {
            Value::ServerError(error) => Some(Self::to_server_error(error)),
            _ => None,
        }
    }

    /// The reaction to an error that the server sent in place of one reply.
    #[must_use]
    pub fn to_server_error(error: &ServerError) -> Self {
        Self::to_code(error.code(), error.details())
    }
}

/// The reaction to a failed call.
#[must_use]
pub fn reaction(error: &CallError) -> Reaction {
    match error {
        CallError::Redis(error) => to_redis_error(error),
        CallError::NoConnection(_) | CallError::Late => Reaction::Unknown,
        CallError::Reply(_) => Reaction::Fail,
    }
}

fn to_redis_error(error: &RedisError) -> Reaction {
    match error.code() {
        Some(code) => Reaction::to_code(code, error.detail()),
        None => Reaction::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_reaction() {
        for (code, detail, expected) in [
            ("NOGROUP", "No such key 'a' or consumer group 'b'", Reaction::RecreateGroup),
            ("UNBLOCKED", "the stream key no longer exists", Reaction::RecreateGroup),
            ("BUSYGROUP", "Consumer Group name already exists", Reaction::AlreadyThere),
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value", Reaction::ForeignKey),
            ("READONLY", "You can't write against a read only replica.", Reaction::FindPrimary),
            ("LOADING", "Redis is loading the dataset in memory", Reaction::Wait),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", Reaction::WritesRefused),
            ("MISCONF", "Redis is configured to save RDB snapshots", Reaction::WritesRefused),
            ("NOREPLICAS", "Not enough good replicas to write.", Reaction::WritesRefused),
            ("ERR", "Function not found", Reaction::LoadLibrary),
            ("ERR", "Function not found, when calling it", Reaction::LoadLibrary),
            ("ERR", "syntax error", Reaction::Fail),
            ("NOPERM", "this user has no permissions", Reaction::Fail),
        ] {
            assert_eq!(Reaction::to_code(code, Some(detail)), expected, "{code} {detail}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        let error = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(reaction(&CallError::Redis(error)), Reaction::Unknown);
        assert_eq!(reaction(&CallError::Late), Reaction::Unknown);
    }
}
