//! Who may call. Without any key the gateway serves loopback only, with a development token.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::task::access::Grant;

/// Keys that verify bearer tokens, and what this installation gives their users. Claims: `sub` is the user, `role` is `viewer`,
/// `operator` or `admin`, and `clusters` may hold another role and capabilities for clusters by patterns of their names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Shared secret for HS256, at least 32 bytes.
    #[serde(serialize_with = "super::storage::hidden")]
    pub hs256_secret: Option<SecretString>,
    /// PEM file with an RSA public key for RS256.
    pub rs256_public_key: Option<PathBuf>,
    /// PEM file with a P-256 public key for ES256.
    pub es256_public_key: Option<PathBuf>,
    /// The `iss` a token must have.
    pub issuer: Option<String>,
    /// The `aud` a token must have.
    pub audience: Option<String>,
    /// Capabilities and lower roles by user, role and cluster, whatever tokens say.
    pub grants: Vec<Grant>,
}

impl AuthConfig {
    /// Whether any key is set. Without one the gateway is in development: loopback only.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.hs256_secret.is_some() || self.rs256_public_key.is_some() || self.es256_public_key.is_some()
    }
}
