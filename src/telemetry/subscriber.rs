//! Where log lines go: standard error, as text or JSON, filtered as the configuration says.
//!
//! Standard output belongs to the results of commands. Not here: what is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::TelemetryConfig;
use crate::config::telemetry::LogFormat;

/// Why no log can be written.
#[derive(Debug, thiserror::Error)]
pub enum SubscriberError {
    /// The filter cannot be read.
    #[error("telemetry.log cannot be read")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a subscriber already.
    #[error("a subscriber is already there")]
    Installed(#[from] TryInitError),
}

/// Sends this process's log lines to standard error. Call it once, before anything logs.
///
/// # Errors
/// When the filter cannot be read, or when it was called before.
pub fn install(config: &TelemetryConfig) -> Result<(), SubscriberError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
