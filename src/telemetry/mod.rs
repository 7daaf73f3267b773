//! Logs and metrics. Every metric is declared in [`metrics`], every field name of a span or a log line in [`fields`].

pub mod fields;
pub mod metrics;

pub use metrics::Metrics;
