//! What a strategy looks like in the bodies of requests and answers. It is read and checked as the core's own
//! ([`crate::task::strategy`]).

use utoipa::ToSchema;

/// In which waves and order the items of a task start, when, and past what it waits. What is left out holds nothing back.
#[derive(Debug, ToSchema)]
#[schema(as = Strategy)]
#[expect(dead_code, reason = "describes a part of bodies, which is read as the core's own")]
pub struct StrategyBody {
    /// Items of the first wave.
    canary: Option<u32>,
    /// Items of each wave after that, as numbers or percentages of all items such as `"10%"`, rounded up. The last size
    /// holds for all further waves.
    waves: Option<Vec<AmountBody>>,
    /// Any of `zones` (round robin over zones), `control_plane_last` and `own_node_last`; as given when left out.
    order: Option<Vec<String>>,
    /// Pause between two waves, in milliseconds; at most 7 days.
    soak_ms: Option<u64>,
    /// `none` (the default), `first` or `each`: after which waves the task is paused until somebody resumes it.
    gate: Option<String>,
    /// Most nodes of the cluster, as a number or a percentage of all its nodes (rounded down, at least one), that may be
    /// cordoned, not ready or in work at once, whoever is the reason.
    max_unavailable: Option<AmountBody>,
    /// When items may start, such as `Mon-Fri 22:00-04:00 Europe/Berlin`; every day without days, UTC without a zone.
    windows: Option<Vec<String>>,
}

/// A number, or a percentage such as `"10%"`.
#[derive(Debug, serde::Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Amount)]
#[expect(dead_code, reason = "describes a part of bodies, which is read as the core's own")]
pub enum AmountBody {
    /// So many.
    Count(u32),
    /// So much of the whole.
    Percent(String),
}

/// Where a task stands that runs in waves.
#[derive(Debug, ToSchema)]
#[schema(as = Wave)]
#[expect(dead_code, reason = "describes a part of bodies, which is the core's own")]
pub struct WaveBody {
    /// The wave that is open, or opens next; from 1.
    number: u32,
    /// How many there are.
    of: u32,
}
