//! The core: what a task is and how it changes. Pure; no async, no IO, and no clock (time comes in as a value).
//!
//! Reading order: [`ids`] · [`spec`] (what a user may ask for) · [`item`] · [`counts`] · [`budget`] (how many may fail) ·
//! [`template`] (what is asked for again and again) · [`strategy`] (in which waves, when) · [`plan`] (what it would do) ·
//! [`access`] (who may) · [`safety`] (what nobody may) · [`state`] (the one transition function) · [`step`] (what an item in
//! work is at) · [`event`] · [`snapshot`] (a fold of events) · [`position`] (a place in a stream) · [`origin`] (who asks, from
//! where).

pub mod access;
pub mod budget;
pub mod counts;
pub mod event;
pub mod ids;
pub mod item;
pub mod origin;
pub mod plan;
pub mod position;
pub mod safety;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod step;
pub mod strategy;
pub mod template;

pub use access::{Access, Capabilities, Capability, Missing, Role};
pub use budget::{FailureBudget, Passed, Tally, Then};
pub use counts::Counts;
pub use event::{Event, EventKind, ItemChange};
pub use ids::{Attempt, ClusterName, IdError, ItemName, ReplicaId, Seq, TaskId, UserId};
pub use item::{Effect, Item, ItemOutcome, ItemResult, ItemState};
pub use origin::{By, Origin};
pub use plan::{Plan, PlanHash};
pub use position::{EntryId, Epoch, Position};
pub use snapshot::{Folded, Snapshot, TaskView};
pub use spec::{
    ActionSpec, Draft, Fault, Priority, Retry, RetryDraft, Selector, SpecError, TaintEffect, TaskSpec,
};
pub use state::{Change, Status, TaskState, TransitionError};
pub use step::{Obstacle, PodCounts, Step};
pub use strategy::{Strategy, StrategyDraft, WaveMark};
