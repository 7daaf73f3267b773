//! The client: the HTTP API as functions, and the live connection as a stream of updates.
//!
//! Used by the commands, by tests and by the load test. [`http`] submits and asks; [`live`] follows a user's tasks
//! over any of several gateways and survives their restarts. What can be decided without a network is apart from it:
//! [`frame`] reads what a gateway sends, [`session`] knows what was seen, [`reconnect`] decides when to come back.
//! [`nodes`] asks for the nodes of clusters and follows them, [`audit`] who did what. [`history`] notes all of it for the checker, when asked to.
//! Not here: how anything is shown ([`crate::cli`]).

pub mod audit;
pub mod frame;
pub mod history;
pub mod http;
pub mod live;
pub mod nodes;
pub mod reconnect;
pub mod session;
pub mod templates;
pub mod types;

pub use history::{ClientHistory, SocketHistory};
pub use http::{Api, ApiError};
pub use live::{Live, LiveError, LiveSettings, Update};
pub use nodes::{NodeFollower, NodeNews};
pub use session::{Received, Session, Stats};
pub use types::{ItemInfo, PlanChange, Problem, TaskInfo};
