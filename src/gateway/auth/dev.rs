//! Development tokens: HS256 tokens that Milepost signs itself.
//!
//! Without configured keys a gateway makes a random secret at start, so that nothing needs to be set up on a laptop
//! and nothing is left open: the secret is gone with the process, and such a gateway serves loopback only. Not here:
//! who prints the token (cli).

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};

use super::verify::Claims;
use crate::config::AuthConfig;
use crate::task::access::{Claim, Grant};
use crate::task::{Capability, Role, UserId};

/// How long a development token is good for.
pub const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

/// The configuration of a gateway without keys, with a random secret. Its users are one person on one machine, so they hold
/// every capability unless the configuration says who holds what.
#[must_use]
pub fn random_keys(without: AuthConfig) -> AuthConfig {
    let secret: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let everything = || vec![Grant { may: Capability::ALL.to_vec(), ..Grant::default() }];
    let grants = if without.grants.is_empty() { everything() } else { without.grants };
    AuthConfig { hs256_secret: Some(SecretString::from(secret)), grants, ..without }
}

/// Signs a token for `user`, good until `expires`, that a gateway with the same configuration accepts. `None` when
/// no shared secret is configured: with public keys alone only their owner can sign.
#[must_use]
pub fn sign(config: &AuthConfig, user: &UserId, role: Role, expires: Timestamp) -> Option<String> {
    sign_for(config, user, role, Claim::new(), expires)
}

/// The same, with what the token says of single clusters.
#[must_use]
pub fn sign_for(
    config: &AuthConfig,
    user: &UserId,
    role: Role,
    clusters: Claim,
    expires: Timestamp,
) -> Option<String> {
    let secret = config.hs256_secret.as_ref()?;
    let claims = Claims {
        sub: user.to_string(),
        role,
        clusters,
        exp: u64::try_from(expires.as_second()).unwrap_or_default(),
        iss: config.issuer.clone(),
        aud: config.audience.clone().map(serde_json::Value::String),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).ok()
}
