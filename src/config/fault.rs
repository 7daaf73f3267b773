//! What is wrong with a configuration: every fault at once, each with its key, where it was set, and how to mend it.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The key, such as `worker.lease`.
    pub key: String,
    /// Where it was set: a file, a variable, a flag, or the defaults.
    pub source: String,
    /// What is wrong. Never holds the value of a secret.
    pub problem: String,
    /// What would be right.
    pub fix: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}) {}; {}", self.key, self.source, self.problem, self.fix)
    }
}

/// Everything that is wrong; at least one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The faults: unreadable sources first, then keys, values and rules.
    pub faults: Vec<ConfigFault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => write!(f, "the configuration has 1 fault:")?,
            n => write!(f, "the configuration has {n} faults:")?,
        }
        for fault in &self.faults {
            write!(f, "\n  - {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
