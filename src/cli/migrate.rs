//! `milepost migrate`: brings the schema of Postgres and the functions of Redis up to date.

use anyhow::Result;
use serde_json::json;

use super::exit::Exit;
use super::output::Output;
use super::settings::SettingsArgs;
use super::wiring;

/// Migrates. Safe to run again, and from several replicas at once.
///
/// # Errors
/// When a server cannot be reached, or a migration fails.
pub async fn run(settings: &SettingsArgs, out: Output) -> Result<Exit> {
    let config = settings.load(Vec::new())?.config;
    SettingsArgs::log_of_roles(&config.telemetry)?;
    for done in wiring::migrate(&config).await? {
        if out.json {
            out.object(&json!({ "type": "migrated", "text": done }));
        } else {
            out.line(done);
        }
    }
    Ok(Exit::Succeeded)
}
