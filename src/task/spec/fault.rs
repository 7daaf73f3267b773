//! What is wrong with a draft: every fault at once, each with its field, and no more of them than a person reads.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Faults reported of one draft; further ones are left out.
pub(super) const FAULTS_MAX: usize = 20;

/// One thing that is wrong with a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The field, such as `items[3]` or `parameters.labels`.
    pub field: String,
    /// What is wrong with it and what would be right; with [`Fault::other`], the words before that.
    pub reason: String,
    /// Another field that it does not fit, which ends the sentence: `items[3]` `repeats "node-1" of` `items[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
}

impl Fault {
    /// A fault of one field.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), other: None }
    }

    /// What is wrong, as a whole sentence without the field's own name.
    #[must_use]
    pub fn words(&self) -> Cow<'_, str> {
        match &self.other {
            Some(other) => format!("{} {other}", self.reason).into(),
            None => self.reason.as_str().into(),
        }
    }

    /// The same fault where fields have other names.
    #[must_use]
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Self {
        Self { field: name(&self.field), other: self.other.as_deref().map(&name), ..self }
    }
}

/// Everything that is wrong with a draft (at least one fault; at most 20 are listed).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The faults found, in the order of the fields.
    pub faults: Vec<Fault>,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            let comma = if i == 0 { "" } else { "; " };
            write!(f, "{comma}{} {}", fault.field, fault.words())?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// Faults as they are found. Bounded, so that 100,000 bad names do not make a large answer.
#[derive(Default)]
pub(super) struct Faults {
    listed: Vec<Fault>,
}

impl Faults {
    pub(super) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.push(Fault::new(field, reason));
    }

    /// A field that does not fit another one; the reason ends right before the other's name.
    pub(super) fn add_about(&mut self, field: impl Into<String>, reason: impl Into<String>, other: String) {
        self.push(Fault { other: Some(other), ..Fault::new(field, reason) });
    }

    fn push(&mut self, fault: Fault) {
        if self.listed.len() < FAULTS_MAX {
            self.listed.push(fault);
        }
    }

    pub(super) fn field<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error.to_string())).ok()
    }

    pub(super) fn take<T>(&mut self, result: Result<T, SpecError>) -> Option<T> {
        result.map_err(|error| error.faults.into_iter().for_each(|fault| self.push(fault))).ok()
    }

    pub(super) fn or<T>(self, value: Option<T>) -> Result<T, SpecError> {
        match value {
            Some(value) if self.listed.is_empty() => Ok(value),
            _ => Err(SpecError { faults: self.listed }),
        }
    }
}
