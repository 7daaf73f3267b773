//! On whose behalf something is asked for, and from where: what the audit tells beside what was done.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::UserId;

/// Longest text of a client that is kept, in characters.
const TEXT_LEN_MAX: usize = 200;

/// Where a request came from, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The role that the caller had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Id of the request, as in the logs and in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl Origin {
    /// The same, with texts of a bounded length.
    #[must_use]
    pub fn bounded(self) -> Self {
        let cut = |text: String| text.chars().take(TEXT_LEN_MAX).collect();
        Self { agent: self.agent.map(cut), request: self.request.map(cut), ..self }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The user.
    pub user: UserId,
    /// From where.
    pub origin: Origin,
}

impl By {
    /// A user of whom nothing else is known.
    #[must_use]
    pub fn of(user: UserId) -> Self {
        Self { user, origin: Origin::default() }
    }
}
