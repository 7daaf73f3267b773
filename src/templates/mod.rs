//! Templates are kept under their names, for everybody who may use this Milepost.
//!
//! Every change makes another version, and who changes a template may say which version it was that they saw: so nobody's
//! change is lost to somebody who looked before it. The audit tells every change. Backends: [`memory`], [`postgres`]; each runs the whole of [`contract`].
//! Not here: what a template says and what becomes of it ([`crate::task::template`]).

pub mod contract;
pub mod memory;
pub mod postgres;

use async_trait::async_trait;
use jiff::Timestamp;

pub use memory::MemoryTemplates;
pub use postgres::PostgresTemplates;

use crate::BoxError;
use crate::task::template::{TemplateName, TemplateSpec};
use crate::task::{By, UserId};

/// Most templates that are kept.
pub const TEMPLATES_MAX: usize = 500;

/// A template that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: TemplateName,
    /// What it says.
    pub spec: TemplateSpec,
    /// Grows with every change; 1 at first.
    pub version: i64,
    /// Who changed it last.
    pub updated_by: UserId,
    /// When that was.
    pub updated_at: Timestamp,
}

/// Which version a change is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever there is, or nothing.
    Any,
    /// There is none of that name.
    Missing,
    /// This one.
    Version(i64),
}

/// Why a call failed. A variant exists only where a caller acts differently.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is another version than the one that was expected, or none, or one where none was expected.
    #[error("the template is not what it was when it was looked at")]
    Conflict,
    /// As many are kept as may be.
    #[error("{TEMPLATES_MAX} templates are kept, and no more can be")]
    Full,
    /// The backend does not answer.
    #[error("templates are unavailable while {doing}")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// The backend's own error.
        #[source]
        source: BoxError,
    },
}

/// Keeps templates.
#[async_trait]
pub trait Templates: Send + Sync + 'static {
    /// All of them, by name. Cancel-safe.
    async fn list(&self) -> Result<Vec<Template>, TemplateError>;

    /// One of them. Cancel-safe.
    async fn get(&self, name: &TemplateName) -> Result<Option<Template>, TemplateError>;

    /// Keeps what a template says, under the name, if there is what is expected, and gives it back as it is kept. A dropped
    /// call has kept it or has not.
    async fn put(
        &self,
        name: &TemplateName,
        spec: &TemplateSpec,
        by: &By,
        expected: Expected,
    ) -> Result<Template, TemplateError>;

    /// Removes one. Returns whether it was there. A dropped call has removed it or has not.
    async fn delete(&self, name: &TemplateName, by: &By) -> Result<bool, TemplateError>;
}
