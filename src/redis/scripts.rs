//! The function library, `redis/functions/milepost.lua`, and how its functions are called.
//!
//! `milepost migrate` installs it. A server that lost it, or never had it, is healed by whoever meets the missing
//! function: the library is loaded and the call made again, once. The heal never replaces a library that is there,
//! so a replica of an older release cannot undo a newer one.

use std::collections::HashMap;

use redis::{Cmd, Pipeline, Value, cmd};

use super::connection::{CallError, Redis, Reply};
use super::errors::{Reaction, reaction};
use super::node::Node;

/// Name of the library. Changed meaning takes a new number.
pub const LIBRARY: &str = "milepost_v2";

/// Source of the library.
const SOURCE: &str = include_str!("../../redis/functions/milepost.lua");

/// A function of the library. Its name in Redis carries the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Fence, append, snapshot, ring.
    Publish,
    /// Epoch and newest id of a stream, made if missing.
    Head,
    /// A group where the reader can go on.
    Follow,
    /// Entries after a position.
    Replay,
    /// The end of a group.
    Unfollow,
    /// A gateway is alive.
    Lease,
    /// Gateways whose lease is over.
    Lapsed,
    /// The end of a gateway's lease.
    Forget,
    /// The end of a token, by its owner.
    Ack,
    /// The end of a worker's consumer.
    Leave,
    /// The end of consumers that nobody uses.
    Reap,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "mp2_publish",
            Self::Head => "mp2_head",
            Self::Follow => "mp2_follow",
            Self::Replay => "mp2_replay",
            Self::Unfollow => "mp2_unfollow",
            Self::Lease => "mp2_lease",
            Self::Lapsed => "mp2_lapsed",
            Self::Forget => "mp2_forget",
            Self::Ack => "mp2_ack",
            Self::Leave => "mp2_leave",
            Self::Reap => "mp2_reap",
        }
    }

    /// The command that calls it on these keys; add the arguments to it.
    #[must_use]
    pub fn on(self, keys: &[&str]) -> Cmd {
        let mut call = cmd("FCALL");
        call.arg(self.name()).arg(keys.len()).arg(keys);
        call
    }
}

/// What a server has of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryState {
    /// The one of this release.
    Current,
    /// One of the same name with another source.
    Different,
    /// None.
    Missing,
}

impl Redis {
    /// Calls functions in one go; replies as of [`Redis::pipeline`]. Loads the library where a server lacks it.
    pub async fn call_all(&self, calls: &Pipeline) -> Vec<Reply> {
        let mut replies = self.pipeline(calls).await;
        if replies.iter().any(is_missing) {
            self.heal_library().await;
            self.repeat_missing(calls, &mut replies).await;
        }
        replies
    }

    /// Calls one function. Loads the library if its server lacks it.
    ///
    /// # Errors
    /// When Redis answers with an error, too late or not at all.
    pub async fn call(&self, call: Cmd) -> Reply {
        let mut calls = Pipeline::with_capacity(1);
        calls.add_command(call);
        self.call_all(&calls).await.pop().unwrap_or_else(|| Err(CallError::Reply("no reply".into())))
    }

    /// Puts the library of this release in place of whatever has its name, on every server that takes writes: a Cluster
    /// does not pass it on to others. For `milepost migrate`.
    ///
    /// # Errors
    /// When one of them answers with an error, too late or not at all.
    pub async fn install_library(&self) -> Result<(), CallError> {
        for node in self.layout().await?.nodes() {
            node.query(cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(SOURCE)).await?;
        }
        Ok(())
    }

    /// Compares the library of every server with the one of this release; the first that differs counts.
    ///
    /// # Errors
    /// When one of them answers with an error, too late or not at all.
    pub async fn library_state(&self) -> Result<LibraryState, CallError> {
        for node in self.layout().await?.nodes() {
            let state = node.library_state().await?;
            if state != LibraryState::Current {
                return Ok(state);
            }
        }
        Ok(LibraryState::Current)
    }

    /// Loads the library on every server that has none. Whether that worked is seen by the calls that follow: another
    /// replica may have been faster.
    async fn heal_library(&self) {
        let Ok(layout) = self.layout().await else { return };
        for node in layout.nodes() {
            match node.query(cmd("FUNCTION").arg("LOAD").arg(SOURCE)).await {
                Ok(_) => {
                    tracing::info!(library = LIBRARY, server = %node.address(), "loaded the function library");
                }
                Err(error) => tracing::debug!(%error, "the function library was not loaded"),
            }
        }
    }

    async fn repeat_missing(&self, calls: &Pipeline, replies: &mut [Reply]) {
        let mut again = Pipeline::new();
        let missing: Vec<usize> = (0..replies.len()).filter(|&index| is_missing(&replies[index])).collect();
        for (index, call) in calls.cmd_iter().enumerate() {
            if missing.contains(&index) {
                again.add_command(call.clone());
            }
        }
        for (index, reply) in missing.into_iter().zip(self.pipeline(&again).await) {
            replies[index] = reply;
        }
    }
}

impl Node {
    /// Compares the server's library with the one of this release.
    ///
    /// # Errors
    /// When it answers with an error, too late or not at all.
    pub async fn library_state(&self) -> Result<LibraryState, CallError> {
        let mut list = cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg(LIBRARY).arg("WITHCODE");
        let found: Vec<HashMap<String, Value>> = redis::from_redis_value(self.query(&list).await?)?;
        let Some(code) = found.first().and_then(|library| library.get("library_code")) else {
            return Ok(LibraryState::Missing);
        };
        let same = matches!(code, Value::BulkString(code) if code == SOURCE.as_bytes());
        Ok(if same { LibraryState::Current } else { LibraryState::Different })
    }
}

fn is_missing(reply: &Reply) -> bool {
    reply.as_ref().is_err_and(|error| reaction(error) == Reaction::LoadLibrary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_has_every_function_and_the_name() {
        assert!(SOURCE.starts_with(&format!("#!lua name={LIBRARY}\n")));
        for call in [
            Call::Publish,
            Call::Head,
            Call::Follow,
            Call::Replay,
            Call::Unfollow,
            Call::Lease,
            Call::Lapsed,
            Call::Forget,
            Call::Ack,
            Call::Leave,
            Call::Reap,
        ] {
            assert!(SOURCE.contains(&format!("function_name = '{}'", call.name())), "{call:?}");
        }
    }
}
