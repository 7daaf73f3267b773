//! Every key and channel in Redis, and the shards that users belong to.
//!
//! What each key holds, how long it lives and who owns it is in `redis/KEYS.md`. Nothing else makes a key.

use std::sync::Arc;

use crate::task::{ReplicaId, TaskId, UserId};
use crate::tickets::TicketHash;

use super::SetupError;

/// Virtual shards that users are spread over. Part of every key, so it never changes.
pub const SHARDS: u16 = 256;

/// The consumer group of all workers on the dispatch stream.
pub const WORKERS: &str = "workers";

/// One of [`SHARDS`]: users of a shard share a hash slot, and can be read in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// The shard of a user. The same in every process and every release.
    #[must_use]
    pub fn of(user: &UserId) -> Self {
        let hash = fnv1a(user.as_str().as_bytes());
        // The last byte alone would hang on the last characters too much.
        let folded = hash.to_le_bytes().into_iter().fold(0, |acc, byte| acc ^ byte);
        Self(folded)
    }

    /// Every shard.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// The number of the shard.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{s{:03}}}", self.0)
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes keys with the prefix of this installation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    /// Keys that begin with `prefix`.
    ///
    /// # Errors
    /// For a prefix that is empty or would break the hash tags.
    pub fn new(prefix: &str) -> Result<Self, SetupError> {
        let bad = |c: char| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control();
        if prefix.is_empty() || prefix.contains(bad) {
            let problem = "must be a text without braces and blanks";
            return Err(SetupError::Setting { key: "redis.key_prefix", problem });
        }
        Ok(Self { prefix: prefix.into() })
    }

    /// The stream of a user's events.
    #[must_use]
    pub fn events(&self, user: &UserId) -> String {
        format!("{}:{}:u:{user}:events", self.prefix, Shard::of(user))
    }

    /// The epoch of a user's stream.
    #[must_use]
    pub fn epoch(&self, user: &UserId) -> String {
        format!("{}:{}:u:{user}:epoch", self.prefix, Shard::of(user))
    }

    /// The live snapshot and fence of a task of `user`.
    #[must_use]
    pub fn task(&self, user: &UserId, task: TaskId) -> String {
        format!("{}:{}:u:{user}:task:{task}", self.prefix, Shard::of(user))
    }

    /// The results of a task of `user` that may not be recorded.
    #[must_use]
    pub fn results(&self, user: &UserId, task: TaskId) -> String {
        format!("{}:results", self.task(user, task))
    }

    /// The doorbell channel of a user.
    #[must_use]
    pub fn doorbell(&self, user: &UserId) -> String {
        format!("{}:{}:c:{user}", self.prefix, Shard::of(user))
    }

    /// The channel by which a replica checks its own subscription to the server of a shard.
    #[must_use]
    pub fn probe(&self, shard: Shard, replica: &ReplicaId) -> String {
        format!("{}:{shard}:probe:{replica}", self.prefix)
    }

    /// The users of a shard whose stream has a group of `replica`.
    #[must_use]
    pub fn groups(&self, shard: Shard, replica: &str) -> String {
        format!("{}:{shard}:g:{replica}", self.prefix)
    }

    /// The leases of gateways.
    #[must_use]
    pub fn gateways(&self) -> String {
        format!("{}:gateways", self.prefix)
    }

    /// The stream of dispatch tokens.
    #[must_use]
    pub fn dispatch(&self) -> String {
        format!("{}:dispatch", self.prefix)
    }

    /// The grant of a ticket.
    #[must_use]
    pub fn ticket(&self, ticket: &TicketHash) -> String {
        use std::fmt::Write as _;
        let mut key = format!("{}:ticket:", self.prefix);
        for byte in ticket {
            write!(key, "{byte:02x}").expect("writing to a string does not fail");
        }
        key
    }
}

/// The consumer group of a gateway replica on its users' streams.
#[must_use]
pub fn group(replica: &str) -> String {
    format!("gw:{replica}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn shards_are_the_same_for_ever() {
        // Another number would move every user away from its stream.
        assert_eq!(Shard::of(&user("alice")).to_string(), "{s177}");
        assert_eq!(Shard::of(&user("zoë@example.com")).to_string(), "{s116}");
    }

    #[test]
    fn users_spread_over_all_shards() {
        let mut sizes = HashMap::<Shard, usize>::new();
        for n in 0..10_000 {
            *sizes.entry(Shard::of(&user(&format!("user-{n}")))).or_default() += 1;
        }
        assert_eq!(sizes.len(), usize::from(SHARDS));
        assert!(sizes.values().all(|&size| size < 100), "{sizes:?}");
    }

    #[test]
    fn everything_of_one_publish_shares_a_hash_tag() {
        let (keys, alice) = (Keys::new("mp").unwrap(), user("alice"));
        let tag = Shard::of(&alice).to_string();
        let task = TaskId::generate();
        let (events, epoch, doorbell) = (keys.events(&alice), keys.epoch(&alice), keys.doorbell(&alice));
        for key in [events, epoch, keys.task(&alice, task), keys.results(&alice, task), doorbell] {
            assert!(key.starts_with(&format!("mp:{tag}:")), "{key}");
        }
        assert!(keys.groups(Shard::of(&alice), "gw-1").contains(&tag));
    }

    #[test]
    fn a_prefix_that_breaks_hash_tags_is_refused() {
        for prefix in ["", "a{b", "a}b", "a b", "a\n"] {
            assert!(Keys::new(prefix).is_err(), "{prefix:?}");
        }
    }
}
