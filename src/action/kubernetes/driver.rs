//! Observe, decide, act: the one driver of all node actions.
//!
//! One read and at most one patch for a node that nobody else changes. When another writer was faster the whole begins
//! again from a fresh read, a few times. A cordon of many nodes goes by what the watch of the cluster shows: one patch, and
//! no read of a node that is as it was seen.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use hyper::header::HeaderValue;
use jiff::Timestamp;

use super::annotations::{Annotations, Note};
use super::cluster::Cluster;
use super::copy::Copy;
use super::errors::{Call, CallError};
use super::node::Observed;
use super::protected::Protected;
use super::reflector::Reflector;
use super::{Decision, annotate, cordon, label, taint};
use crate::action::{Action, ActionError, Context, Done, Target};
use crate::clock::Clock;
use crate::store::Task;
use crate::task::spec::{
    AnnotateParameters, LabelParameters, TaintParameters, UnannotateParameters, UncordonParameters,
    UnlabelParameters, UntaintParameters,
};
use crate::task::{ActionSpec, Effect};

/// Reads and patches of one node before a conflict is given up.
const TRIES: usize = 5;
/// Pause after the first conflict; it doubles, and a random part of the same size is added.
const PAUSE: Duration = Duration::from_millis(10);

/// The pauses between rounds that another writer made worthless.
pub(super) fn after_conflicts() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(PAUSE).with_max_times(TRIES - 1).with_jitter()
}

/// What to do to each node, checked.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Cordon(Annotations, Note),
    Uncordon(Annotations, UncordonParameters),
    Label(LabelParameters),
    Unlabel(UnlabelParameters),
    Taint(TaintParameters),
    Untaint(UntaintParameters),
    CopyTaints(Arc<Copy>),
    Annotate(AnnotateParameters),
    Unannotate(UnannotateParameters),
}

impl Change {
    /// The change a task asks for.
    ///
    /// # Errors
    /// Permanent when it would touch keys that belong to Kubernetes, or is not about nodes.
    pub(super) fn new(
        task: &Task,
        annotations: &Annotations,
        protected: &Protected,
    ) -> Result<Self, ActionError> {
        let change = match &task.action {
            ActionSpec::Cordon => Self::Cordon(annotations.clone(), Note::from(task)),
            ActionSpec::Uncordon(asked) => Self::Uncordon(annotations.clone(), asked.clone()),
            ActionSpec::Label(wanted) => Self::Label(wanted.clone()),
            ActionSpec::Unlabel(unwanted) => Self::Unlabel(unwanted.clone()),
            ActionSpec::Taint(wanted) => Self::Taint(wanted.clone()),
            ActionSpec::Untaint(unwanted) => Self::Untaint(unwanted.clone()),
            ActionSpec::CopyTaints(asked) => {
                check_name(asked.from.as_str())?;
                Self::CopyTaints(Arc::new(Copy::new(asked.clone(), protected.clone())))
            }
            ActionSpec::Annotate(wanted) => Self::Annotate(wanted.clone()),
            ActionSpec::Unannotate(unwanted) => Self::Unannotate(unwanted.clone()),
            other @ (ActionSpec::Drain(_) | ActionSpec::Wait(_)) => {
                return Err(ActionError::permanent(format!(
                    "{} is not done by a patch of nodes",
                    other.name()
                )));
            }
        };
        // Gateways refuse it too; a task may have been accepted under other settings.
        match protected.faults(&task.action).first() {
            Some(fault) => Err(ActionError::permanent(format!("{} {}", fault.field, fault.words()))),
            None => Ok(change),
        }
    }

    /// Reads what is to be copied, once.
    pub(super) async fn ready(&self, cluster: &Cluster, sender: &HeaderValue) -> Result<(), ActionError> {
        let Self::CopyTaints(copy) = self else { return Ok(()) };
        let from = copy.asked.from.as_str();
        let read = copy.found.get_or_try_init(|| async {
            let node = cluster.get(from, sender).await.map_err(|error| Stop::Called(error, "get"))?;
            copy.of(&Observed::from(node).taints).map_err(Stop::Decided)
        });
        read.await.map(drop).map_err(|stop| stop.into_action(cluster, from))
    }

    /// What it comes to for a node as it was read.
    pub(super) fn decide(&self, node: &Observed, now: Timestamp) -> Result<Decision, ActionError> {
        match self {
            Self::Cordon(annotations, note) => Ok(cordon::cordon(node, annotations, note, now)),
            Self::Uncordon(annotations, asked) => Ok(cordon::uncordon(node, annotations, asked)),
            Self::Label(wanted) => label::label(node, wanted),
            Self::Unlabel(unwanted) => Ok(label::unlabel(node, unwanted)),
            Self::Taint(wanted) => taint::taint(node, wanted, now),
            Self::Untaint(unwanted) => Ok(taint::untaint(node, unwanted)),
            Self::CopyTaints(copy) => {
                let wanted =
                    copy.found.get().ok_or_else(|| ActionError::transient("nothing was copied yet"))?;
                taint::taint(node, wanted, now)
            }
            Self::Annotate(wanted) => annotate::annotate(node, wanted),
            Self::Unannotate(unwanted) => Ok(annotate::unannotate(node, unwanted)),
        }
    }
}

/// A name goes into the path of requests, so one with a slash would be a request about something else.
pub(super) fn check_name(name: &str) -> Result<(), ActionError> {
    match Annotations::is_dns_name(name) {
        true => Ok(()),
        false => Err(ActionError::permanent(format!(
            "{name:?} is no name of a node: they are called like DNS names"
        ))),
    }
}

/// A change, ready to be made to the nodes of a cluster.
pub(super) struct NodeAction {
    pub(super) cluster: Arc<Cluster>,
    /// The nodes as they are known, where they are many enough to be worth a list.
    pub(super) nodes: Option<Arc<Reflector>>,
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
    /// Cordons a node by what is known of it. The patch names the version that was seen, so that it meets that node or none;
    /// `None` when the node must be read after all.
    async fn at_sight(&self, name: &str) -> Option<Result<Done, Stop>> {
        let Change::Cordon(annotations, note) = &self.change else { return None };
        let seen = self.nodes.as_ref()?.sight(name).await.filter(|seen| !seen.node.unschedulable)?;
        let node = Observed { version: seen.more.seen.clone(), ..Observed::default() };
        let Decision::Patch(mut patch) = cordon::cordon(&node, annotations, note, self.clock.now()) else {
            return None;
        };
        patch["metadata"]["resourceVersion"] = node.version.into();
        match self.cluster.patch(name, &patch, &self.sender).await {
            Ok(()) => Some(Ok(Done::Succeeded(Effect::Changed))),
            Err(error) if error.is_conflict() => None,
            Err(error) => Some(Err(Stop::Called(error, "patch"))),
        }
    }

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
        self.on(target.name.as_str()).await
    }
}

impl NodeAction {
    /// Makes the change to a node.
    pub(super) async fn on(&self, name: &str) -> Result<Done, ActionError> {
        check_name(name)?;
        self.change.ready(&self.cluster, &self.sender).await?;
        if let Some(done) = self.at_sight(name).await {
            return done.map_err(|stop| stop.into_action(&self.cluster, name));
        }
        let rounds = (|| self.round(name)).retry(after_conflicts()).when(Stop::is_conflict);
        rounds.await.map_err(|stop| stop.into_action(&self.cluster, name))
    }
}
