//! Live connections: what is said ([`protocol`]), to whom and in which order ([`session`]), what waits for a slow
//! reader ([`outbox`]), over what ([`websocket`], [`sse`]), and how it ends ([`close`]). [`pulse`] is the one timer.
//! [`nodes`] streams the nodes of a cluster, apart from all that.
//!
//! A session knows no transport and a transport knows no protocol; they meet in [`wire::Wire`].

pub mod close;
pub(crate) mod nodes;
pub mod outbox;
pub mod protocol;
pub(crate) mod pulse;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod sse;
pub(crate) mod websocket;
pub(crate) mod wire;
