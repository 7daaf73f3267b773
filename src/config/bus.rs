//! Progress streams: how long they are kept and how gateways learn of news.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// How the Postgres bus learns of news.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notify {
    /// LISTEN/NOTIFY, with the poll as fallback.
    #[default]
    Listen,
    /// The poll alone, for poolers that do not pass notifications on.
    Poll,
}

/// Progress streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusConfig {
    /// How the Postgres bus, and Postgres dispatch, learn of news.
    pub notify: Notify,
    /// Pause between polls of the Postgres bus while notifications do not arrive.
    #[serde(with = "duration")]
    pub poll_interval: Duration,
    /// Entries kept per user, about.
    pub entries_max: usize,
    /// How long an entry is kept.
    #[serde(with = "duration")]
    pub retention: Duration,
    /// How long a stream is kept after its last entry.
    #[serde(with = "duration")]
    pub stream_ttl: Duration,
    /// Pause between sweeps for lost doorbells.
    #[serde(with = "duration")]
    pub sweep_interval: Duration,
    /// Whether gateways acknowledge what sockets have received.
    pub ack: Ack,
}

/// Whether gateways acknowledge what sockets have received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// Together with the next read.
    #[default]
    Batched,
    /// Never: the group reads with NOACK.
    None,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            notify: Notify::Listen,
            poll_interval: Duration::from_millis(500),
            entries_max: 10_000,
            retention: Duration::from_secs(3600),
            stream_ttl: Duration::from_secs(3600),
            sweep_interval: Duration::from_secs(5),
            ack: Ack::Batched,
        }
    }
}
