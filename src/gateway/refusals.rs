//! Tells the audit that somebody was refused what they asked for.
//!
//! What is done is told by the record itself, in the transaction that does it; a refusal has none. It is told before the
//! answer, and the answer stays the same when that fails. Of one user no more than [`super::limits::Limits`] allows are told:
//! nobody fills the record with what they may not do.

use super::Shared;
use super::auth::Caller;
use super::error::{ApiError, chain};
use crate::store::audit::Asked;

/// How long an answer waits for the audit.
const NOTE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Passes an outcome on, after the audit was told if it is a refusal.
pub(crate) async fn told<T>(
    shared: &Shared,
    caller: &Caller,
    asked: impl FnOnce() -> Asked,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    if let Err(error) = &outcome
        && error.is_refusal()
    {
        tell(shared, caller, &asked(), &error.problem().detail).await;
    }
    outcome
}

async fn tell(shared: &Shared, caller: &Caller, asked: &Asked, why: &str) {
    if !shared.limits.refusal(&caller.user) {
        return;
    }
    let by = caller.by();
    let note = shared.parts.store.note_refusal(asked, why, &by);
    let failed = match tokio::time::timeout(NOTE_TIMEOUT, note).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error.into()),
        Err(_) => "no answer in time".to_owned(),
    };
    let what = &asked.what;
    tracing::warn!(user.id = %caller.user, what, why, error = failed, "a refusal is not in the audit");
}
