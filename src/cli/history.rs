//! Where commands note a run for `milepost verify`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::exit::UsageError;
use crate::client::ClientHistory;
use crate::clock::SystemClock;
use crate::verify::HistoryLog;

/// Opens a history to add to.
///
/// # Errors
/// When the file cannot be written.
pub fn open(file: &Path) -> Result<HistoryLog> {
    HistoryLog::append(file)
        .map_err(|error| UsageError(format!("--history {}: {error}", file.display())).into())
}

/// Notes as the user of a token.
///
/// # Errors
/// When the file cannot be written.
pub fn of_user(file: &Path, token: Option<&SecretString>) -> Result<ClientHistory> {
    let user = token.and_then(|token| subject(token.expose_secret()));
    Ok(ClientHistory::new(open(file)?, &user.unwrap_or_else(|| "unknown".into()), Arc::new(SystemClock)))
}

/// The user that a token names. It is not verified: the gateway does that.
fn subject(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        sub: String,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Claims>(&claims).ok().map(|claims| claims.sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_subject_of_the_token() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"ann","role":"viewer"}"#);
        assert_eq!(subject(&format!("head.{claims}.signature")), Some("ann".into()));
        assert_eq!(subject("opaque"), None);
        assert_eq!(subject("a.b.c"), None);
    }
}
