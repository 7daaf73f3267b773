//! Who is calling: bearer tokens are verified here, and nowhere else.
//!
//! Reading order: [`verify`] (keys and rules) · [`caller`] (the extractor every route uses) · [`dev`] (a token for
//! trying Milepost on a laptop). Not here: what roles and capabilities are ([`crate::task::access`]), and what a caller may
//! do with which task (routes).

pub mod caller;
pub mod dev;
pub mod verify;

pub use caller::Caller;
pub use verify::{AuthError, Verifier};

pub use crate::task::Role;
