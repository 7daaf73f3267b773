//! Verifies bearer tokens (JWT) against the configured keys.
//!
//! The algorithm is fixed by each key: a token says which of the configured algorithms it uses and is checked with
//! that algorithm's key alone, so an RSA key is never taken for an HMAC secret and `none` has no key. Keys named by
//! the token itself (`jku`, `jwk`, `x5u`) are ignored. `exp` and `sub` are required, and `iss` and `aud` when they
//! are configured: without that a token that lacks them would pass.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::config::AuthConfig;
use crate::task::access::Claim;
use crate::task::{Role, UserId};

/// Clock skew that is forgiven, in seconds.
const LEEWAY_S: u64 = 30;
/// The shortest shared secret, in bytes: the size of the hash.
const SECRET_BYTES_MIN: usize = 32;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A shared secret that can be guessed.
    #[error("auth.hs256_secret must have at least {SECRET_BYTES_MIN} bytes, has {0}")]
    ShortSecret(usize),
    /// A key file that cannot be read.
    #[error("the key file {path} cannot be read")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key file with something else in it.
    #[error("the key file {path} does not hold a public key for {algorithm}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What for.
        algorithm: &'static str,
        /// Why.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
}

/// The claims Milepost reads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    pub(super) role: Role,
    pub(super) exp: u64,
    #[serde(default, skip_serializing_if = "Claim::is_empty")]
    pub(super) clusters: Claim,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) aud: Option<serde_json::Value>,
}

/// Who a token speaks for, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// What the token says of single clusters.
    pub clusters: Claim,
    /// When the token ends, in seconds since the Unix epoch.
    pub expires_s: i64,
}

/// One key and the rules that go with it.
struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
    rules: Validation,
}

/// Verifies tokens.
pub struct Verifier {
    keys: Vec<Key>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.algorithm)).finish()
    }
}

impl Verifier {
    /// Reads the configured keys. Without any, nothing verifies: see [`Verifier::is_empty`].
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn load(config: &AuthConfig) -> Result<Self, AuthError> {
        let mut keys = Vec::new();
        if let Some(secret) = &config.hs256_secret {
            keys.push(shared_secret(secret, config)?);
        }
        if let Some(path) = &config.rs256_public_key {
            keys.push(public_key(path, Algorithm::RS256, config)?);
        }
        if let Some(path) = &config.es256_public_key {
            keys.push(public_key(path, Algorithm::ES256, config)?);
        }
        Ok(Self { keys })
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who a token speaks for, or a sentence why it is refused.
    ///
    /// # Errors
    /// The sentence for the caller; it says no more than the caller could find out alone.
    pub fn verify(&self, token: &str) -> Result<Identity, &'static str> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| "the token cannot be read")?;
        let key = self.keys.iter().find(|key| key.algorithm == header.alg);
        let key = key.ok_or("the token uses an algorithm that is not accepted here")?;
        let claims =
            jsonwebtoken::decode::<Claims>(token, &key.key, &key.rules).map_err(|error| why(&error))?.claims;
        if claims.role == Role::None {
            return Err("the token's role is none: it lets nobody do anything");
        }
        Ok(Identity {
            user: UserId::new(&claims.sub).map_err(|_| "the token's sub is not a user name")?,
            role: claims.role,
            clusters: claims.clusters,
            expires_s: i64::try_from(claims.exp).unwrap_or(i64::MAX),
        })
    }
}

fn shared_secret(secret: &SecretString, config: &AuthConfig) -> Result<Key, AuthError> {
    let bytes = secret.expose_secret().as_bytes();
    if bytes.len() < SECRET_BYTES_MIN {
        return Err(AuthError::ShortSecret(bytes.len()));
    }
    Ok(Key {
        algorithm: Algorithm::HS256,
        key: DecodingKey::from_secret(bytes),
        rules: rules(Algorithm::HS256, config),
    })
}

fn public_key(path: &Path, algorithm: Algorithm, config: &AuthConfig) -> Result<Key, AuthError> {
    let pem = std::fs::read(path).map_err(|source| AuthError::File { path: path.to_owned(), source })?;
    let (read, name) = match algorithm {
        Algorithm::RS256 => (DecodingKey::from_rsa_pem(&pem), "RS256"),
        _ => (DecodingKey::from_ec_pem(&pem), "ES256"),
    };
    let key = read.map_err(|source| AuthError::Key { path: path.to_owned(), algorithm: name, source })?;
    Ok(Key { algorithm, key, rules: rules(algorithm, config) })
}

fn rules(algorithm: Algorithm, config: &AuthConfig) -> Validation {
    let mut rules = Validation::new(algorithm);
    let mut required = HashSet::from(["exp".to_owned(), "sub".to_owned()]);
    rules.leeway = LEEWAY_S;
    rules.validate_nbf = true;
    if let Some(issuer) = &config.issuer {
        rules.set_issuer(&[issuer]);
        required.insert("iss".to_owned());
    }
    match &config.audience {
        Some(audience) => {
            rules.set_audience(&[audience]);
            required.insert("aud".to_owned());
        }
        None => rules.validate_aud = false,
    }
    rules.required_spec_claims = required;
    rules
}

fn why(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidSignature => "the token's signature does not verify",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks a required claim",
        ErrorKind::Json(_) => {
            "the token's claims cannot be read: sub, exp and role (viewer, operator, admin) are needed, and clusters is a \
             map of patterns to role and may"
        }
        _ => "the token is not valid",
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::{Clock, SystemClock};

    const SECRET: &str = "a secret for tests of at least thirty-two bytes";
    const RS_PRIVATE: &[u8] = include_bytes!("test_keys/rs256.private.pem");
    const RS_PUBLIC: &[u8] = include_bytes!("test_keys/rs256.public.pem");
    const ES_PRIVATE: &[u8] = include_bytes!("test_keys/es256.private.pem");

    fn key_file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/auth/test_keys").join(name)
    }

    fn all_keys() -> AuthConfig {
        AuthConfig {
            hs256_secret: Some(SECRET.to_owned().into()),
            rs256_public_key: Some(key_file("rs256.public.pem")),
            es256_public_key: Some(key_file("es256.public.pem")),
            ..AuthConfig::default()
        }
    }

    fn claims() -> Value {
        json!({"sub": "ada", "role": "admin", "exp": SystemClock.now().as_second() + 60})
    }

    fn token(algorithm: Algorithm, key: &EncodingKey) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), &claims(), key).unwrap()
    }

    #[test]
    fn each_configured_algorithm_is_checked_with_its_own_key() {
        let verifier = Verifier::load(&all_keys()).unwrap();
        let rsa = EncodingKey::from_rsa_pem(RS_PRIVATE).unwrap();
        let ec = EncodingKey::from_ec_pem(ES_PRIVATE).unwrap();
        let secret = EncodingKey::from_secret(SECRET.as_bytes());
        for (algorithm, key) in [(Algorithm::HS256, secret), (Algorithm::RS256, rsa), (Algorithm::ES256, ec)]
        {
            let identity = verifier.verify(&token(algorithm, &key)).unwrap();
            assert_eq!((identity.user.as_str(), identity.role), ("ada", Role::Admin), "{algorithm:?}");
        }
    }

    /// The classic: a public key is no secret, so nobody may sign with it.
    #[test]
    fn a_public_key_is_never_taken_for_a_shared_secret() {
        let forged = token(Algorithm::HS256, &EncodingKey::from_secret(RS_PUBLIC));
        assert!(Verifier::load(&all_keys()).unwrap().verify(&forged).is_err());
        let public_only = AuthConfig { hs256_secret: None, ..all_keys() };
        let why = Verifier::load(&public_only).unwrap().verify(&forged).unwrap_err();
        assert!(why.contains("algorithm"), "{why}");
    }

    #[test]
    fn a_token_that_has_just_ended_passes_within_the_leeway_and_not_after() {
        let verifier = Verifier::load(&all_keys()).unwrap();
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let ended = |seconds: i64| {
            let mut claims = claims();
            claims["exp"] = json!(SystemClock.now().as_second() - seconds);
            verifier.verify(&jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap())
        };
        assert!(ended(1).is_ok());
        assert_eq!(ended(40), Err("the token has expired"));
    }

    #[test]
    fn keys_that_cannot_be_used_are_named() {
        let short = AuthConfig { hs256_secret: Some("short".to_owned().into()), ..AuthConfig::default() };
        assert!(matches!(Verifier::load(&short), Err(AuthError::ShortSecret(5))));
        let missing = AuthConfig { rs256_public_key: Some("/nowhere.pem".into()), ..AuthConfig::default() };
        assert!(matches!(Verifier::load(&missing), Err(AuthError::File { .. })));
        let wrong =
            AuthConfig { es256_public_key: Some(key_file("rs256.public.pem")), ..AuthConfig::default() };
        assert!(matches!(Verifier::load(&wrong), Err(AuthError::Key { algorithm: "ES256", .. })));
    }
}
