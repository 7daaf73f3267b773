//! Where the configuration comes from, for the commands that need it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::exit::UsageError;
use crate::config::{Loaded, Sources, TelemetryConfig, load};
use crate::telemetry::subscriber;

/// Flags that every command takes and that settings may come from.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsArgs {
    /// Configuration file; ./milepost.yaml is read if it exists.
    #[arg(long, global = true, env = "MILEPOST_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,

    /// One setting, such as worker.lease=10s; wins over file and environment. Repeat for several.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", help_heading = "Configuration")]
    set: Vec<String>,

    /// What to log, such as info or milepost=debug,info.
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Configuration")]
    log: Option<String>,
}

impl SettingsArgs {
    /// The checked configuration; `more` are settings from a command's own flags.
    ///
    /// # Errors
    /// All faults of the configuration at once.
    pub fn load(&self, more: Vec<(String, String)>) -> Result<Loaded> {
        let mut flags = Vec::new();
        for text in &self.set {
            let (key, value) =
                text.split_once('=').ok_or_else(|| UsageError(format!("--set {text:?} is not key=value")))?;
            flags.push((key.trim().to_owned(), value.to_owned()));
        }
        flags.extend(self.log.iter().map(|log| ("telemetry.log".to_owned(), log.clone())));
        flags.extend(more);
        Ok(load(&Sources::of_process(self.config.clone(), flags))?)
    }

    /// Log lines as the configuration says, for commands that serve.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn log_of_roles(telemetry: &TelemetryConfig) -> Result<()> {
        subscriber::install(telemetry).context("set up logs")
    }

    /// Log lines only when asked for by `--log`, for commands whose output is their result.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn log_of_clients(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        subscriber::install(&TelemetryConfig { log: log.clone(), ..TelemetryConfig::default() })
            .map_err(|error| UsageError(format!("--log {log:?}: {error}")).into())
    }
}
