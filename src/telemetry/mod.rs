//! Logs and metrics. Every metric is declared in [`metrics`], every field name of a span or a log line in
//! [`fields`]; [`subscriber`] says where log lines go.

pub mod fields;
pub mod metrics;
pub mod subscriber;

pub use metrics::Metrics;
