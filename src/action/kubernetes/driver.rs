//! Observe, decide, act: the one driver of all node actions.
//!
//! One read and at most one patch for a node that nobody else changes. When another writer was faster the whole begins
//! again from a fresh read, a few times.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use hyper::header::HeaderValue;
use jiff::Timestamp;

use super::annotations::{Annotations, Note};
use super::cluster::Cluster;
use super::errors::{Call, CallError};
use super::node::Observed;
use super::{Decision, cordon, label, taint};
use crate::action::{Action, ActionError, Context, Done, Target};
use crate::clock::Clock;
use crate::store::Task;
use crate::task::spec::{
    LabelParameters, TaintParameters, UncordonParameters, UnlabelParameters, UntaintParameters,
};
use crate::task::{ActionSpec, Effect};

/// Reads and patches of one node before a conflict is given up.
const TRIES: usize = 5;
/// Pause after the first conflict; it doubles, and a random part of the same size is added.
const PAUSE: Duration = Duration::from_millis(10);

/// What to do to each node, checked.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Cordon(Annotations, Note),
    Uncordon(Annotations, UncordonParameters),
    Label(LabelParameters),
    Unlabel(UnlabelParameters),
    Taint(TaintParameters),
    Untaint(UntaintParameters),
}

impl Change {
    /// The change a task asks for.
    ///
    /// # Errors
    /// Permanent when it would touch keys that belong to Kubernetes, or is not about nodes.
    pub(super) fn new(task: &Task, annotations: &Annotations) -> Result<Self, ActionError> {
        let change = match &task.action {
            ActionSpec::Cordon => Self::Cordon(annotations.clone(), Note::from(task)),
            ActionSpec::Uncordon(asked) => Self::Uncordon(annotations.clone(), asked.clone()),
            ActionSpec::Label(wanted) => Self::Label(wanted.clone()),
            ActionSpec::Unlabel(unwanted) => Self::Unlabel(unwanted.clone()),
            ActionSpec::Taint(wanted) => Self::Taint(wanted.clone()),
            ActionSpec::Untaint(unwanted) => Self::Untaint(unwanted.clone()),
            other @ (ActionSpec::Drain(_) | ActionSpec::Wait(_)) => {
                return Err(ActionError::permanent(format!(
                    "{} is not done by a patch of nodes",
                    other.name()
                )));
            }
        };
        change.check_keys()?;
        Ok(change)
    }

    fn check_keys(&self) -> Result<(), ActionError> {
        match self {
            Self::Cordon(..) | Self::Uncordon(..) => Ok(()),
            Self::Label(wanted) => label::check_keys(wanted.labels.keys()),
            Self::Unlabel(unwanted) => label::check_keys(&unwanted.keys),
            Self::Taint(wanted) => taint::check_keys(wanted.taints.iter().map(|taint| &taint.key)),
            Self::Untaint(unwanted) => taint::check_keys(unwanted.taints.iter().map(|taint| &taint.key)),
        }
    }

    fn decide(&self, node: &Observed, now: Timestamp) -> Result<Decision, ActionError> {
        match self {
            Self::Cordon(annotations, note) => Ok(cordon::cordon(node, annotations, note, now)),
            Self::Uncordon(annotations, asked) => Ok(cordon::uncordon(node, annotations, asked)),
            Self::Label(wanted) => label::label(node, wanted),
            Self::Unlabel(unwanted) => Ok(label::unlabel(node, unwanted)),
            Self::Taint(wanted) => taint::taint(node, wanted),
            Self::Untaint(unwanted) => Ok(taint::untaint(node, unwanted)),
        }
    }
}

/// A change, ready to be made to the nodes of a cluster.
pub(super) struct NodeAction {
    pub(super) cluster: Arc<Cluster>,
    pub(super) change: Change,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sender: HeaderValue,
}

/// Why one round of observe, decide, act came to nothing.
enum Stop {
    Decided(ActionError),
    Called(CallError, &'static str),
}

impl Stop {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Called(error, _) if error.is_conflict())
    }

    fn into_action(self, cluster: &Cluster, node: &str) -> ActionError {
        match self {
            Self::Decided(error) => error,
            Self::Called(error, verb) => error.into_action(Call { cluster: &cluster.name, node, verb }),
        }
    }
}

impl NodeAction {
    async fn round(&self, name: &str) -> Result<Done, Stop> {
        let node = self.cluster.get(name, &self.sender).await.map_err(|error| Stop::Called(error, "get"))?;
        let decision = self.change.decide(&node.into(), self.clock.now()).map_err(Stop::Decided)?;
        let patch = match decision {
            Decision::Already => return Ok(Done::Succeeded(Effect::Already)),
            Decision::Skip(why) => return Ok(Done::Skipped(why)),
            Decision::Patch(patch) => patch,
        };
        self.cluster.patch(name, &patch, &self.sender).await.map_err(|error| Stop::Called(error, "patch"))?;
        Ok(Done::Succeeded(Effect::Changed))
    }
}

#[async_trait]
impl Action for NodeAction {
    async fn run(&self, target: Target<'_>, _: &Context) -> Result<Done, ActionError> {
        let name = target.name.as_str();
        let pauses = ExponentialBuilder::new().with_min_delay(PAUSE).with_max_times(TRIES - 1).with_jitter();
        let rounds = (|| self.round(name)).retry(pauses).when(Stop::is_conflict);
        rounds.await.map_err(|stop| stop.into_action(&self.cluster, name))
    }
}
