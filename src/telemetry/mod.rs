//! Logs and metrics. Every metric is declared in [`metrics`], every field name of a span or a log line in
//! [`fields`]; [`ages`] are counted when they are asked for; [`subscriber`] says where log lines go, [`outage`] keeps them from saying the same for ever.

pub mod ages;
pub mod fields;
pub mod metrics;
pub mod outage;
pub mod subscriber;

pub use metrics::Metrics;
pub use outage::Outage;
