//! Asks the rules of safety about a node right before it is acted on, and once more when it is cordoned.
//!
//! All tasks of this process share what is known of a cluster ([`known`]): its nodes as the one watch shows them, and what
//! was begun since. A node is judged and counted as begun in one step, so lanes and tasks of one process cannot together take
//! what each alone may. It costs the cluster no request.
//!
//! Processes do not know of each other, and a watch is a moment late. So a node that was cordoned is asked about again once
//! the watch has shown that very cordon: whatever was cordoned before it is known by then, because a watch keeps the order of
//! changes. Of two that went at the same time the later one sees the other, takes its cordon back, and evicts nothing. For a
//! drain that is always done, for a cordon where few nodes are left. Taints are not taken back. Not here: the rules
//! ([`crate::task::safety`]).

mod known;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::driver::{NodeAction, check_name};
use super::errors::AGAIN;
use super::node::facts;
use super::reflector::Reflector;
use crate::action::nodes::Followed;
use crate::action::{Action, ActionError, Context, Done, NodeView, Target};
use crate::task::safety::{Nodes, Refusal, Rules};
use crate::task::{ActionSpec, Capabilities, Effect, TaskId};

use known::{End, Known};

/// Fewer nodes that could stand in for one than this are few: a cordon is asked about again.
const FEW: usize = 16;
/// Before a node is refused because of others: what brings one of them back may be on its way.
const LAG: Duration = Duration::from_millis(250);

/// What this process knows of the nodes of a cluster, and the rules that hold there.
#[derive(Default)]
pub(super) struct Safety {
    pub(super) rules: Rules,
    known: Mutex<Known>,
}

impl Safety {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All nodes, by a list that was begun at this time.
    pub(super) fn replace<'a>(&self, nodes: impl Iterator<Item = &'a NodeView>, began: Instant) {
        let nodes = nodes.map(|node| (facts(node, &self.rules), node.cordon_task.clone()));
        self.known().replace(nodes, began);
    }

    /// A node as it is now.
    pub(super) fn apply(&self, node: &NodeView) {
        self.known().apply(facts(node, &self.rules), node.cordon_task.clone());
    }

    /// A node is gone.
    pub(super) fn delete(&self, name: &str) {
        self.known().delete(name);
    }

    /// The nodes as they were seen.
    pub(super) fn nodes(&self) -> Nodes {
        self.known().nodes().clone()
    }

    /// Judges a node, and counts it as begun if it may be.
    fn decide(&self, name: &str, of: &Asker) -> Result<Begins<'_>, Refusal> {
        let (mut known, now) = (self.known(), Instant::now());
        known.judge(&self.rules, now, |judge| judge.ask(&of.action, of.may, name))?;
        known.start(name, now);
        Ok(Begins { safety: self, name: name.to_owned(), end: End::Unclear })
    }
}

/// What is asked for, by whom, and for which task.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) action: ActionSpec,
    pub(super) may: Capabilities,
    pub(super) task: TaskId,
}

/// The rules, asked on behalf of one task.
pub(super) struct Guard {
    pub(super) cluster: Arc<Cluster>,
    /// Keeps the nodes of the cluster known.
    pub(super) nodes: Arc<Reflector>,
    pub(super) asker: Asker,
    /// Takes the cordons of the task back.
    pub(super) undo: NodeAction,
}

/// A node counts as begun for as long as this lives, and then as its end says.
struct Begins<'a> {
    safety: &'a Safety,
    name: String,
    end: End,
}

impl Drop for Begins<'_> {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, End::Unclear);
        self.safety.known().end(&self.name, end, Instant::now());
    }
}

impl Guard {
    fn safety(&self) -> &Safety {
        &self.cluster.safety
    }

    /// Whether the node may be acted on now.
    async fn begin(&self, name: &str) -> Result<Begins<'_>, ActionError> {
        self.nodes.current().await.map_err(|why| self.later(&format!("its nodes are not known: {why}")))?;
        let decided = match self.safety().decide(name, &self.asker) {
            Err(refusal) if refusal.rule.counts_nodes() => {
                sleep(LAG).await;
                self.safety().decide(name, &self.asker)
            }
            decided => decided,
        };
        decided.map_err(|refusal| self.refused(&refusal, ""))
    }

    /// Asks again about a node that the task has just cordoned, and takes the cordon back when it may not stay.
    pub(super) async fn confirm(&self, name: &str) -> Result<(), ActionError> {
        let safety = self.safety();
        if !safety.rules.count_nodes() {
            return Ok(());
        }
        if timeout(self.cluster.call_timeout(), self.seen(name)).await.is_err() {
            self.take_back(name).await;
            return Err(self.later("its watch does not show what was done"));
        }
        let again = safety.known().judge(&safety.rules, Instant::now(), |judge| judge.ask_again(name));
        let Err(refusal) = again else { return Ok(()) };
        let taken_back = self.take_back(name).await;
        let so = if taken_back { "; it was cordoned for a moment" } else { "; it is still cordoned" };
        Err(self.refused(&refusal, so))
    }

    /// Waits until the watch has shown the cordon of this task, and with it everything that was done before. Cancel-safe.
    async fn seen(&self, name: &str) {
        let task = self.asker.task.to_string();
        let mut changes = self.nodes.changes();
        while !self.safety().known().is_held(name, &task) {
            if matches!(changes.next().await, Followed::Over) {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn take_back(&self, name: &str) -> bool {
        let undone = self.undo.on(name).await;
        if let Err(error) = &undone {
            tracing::warn!(cluster = %self.cluster.name, node = name, %error, "a cordon could not be taken back");
        }
        undone.is_ok()
    }

    fn is_close(&self, name: &str) -> bool {
        let safety = self.safety();
        safety.known().judge(&safety.rules, Instant::now(), |judge| judge.is_close(name, FEW))
    }

    fn refused(&self, refusal: &Refusal, so: &str) -> ActionError {
        self.cluster.count_refusal(refusal.rule);
        ActionError::permanent(format!("{refusal}{so}"))
    }

    fn later(&self, why: &str) -> ActionError {
        ActionError::Later { message: format!("cluster {}: {why}", self.cluster.name), retry_after: AGAIN }
    }

    /// What is known of a node after what was done to it.
    fn end(&self, done: &Result<Done, ActionError>) -> End {
        let action = &self.asker.action;
        let drains = matches!(action, ActionSpec::Drain(_));
        match done {
            Ok(Done::Succeeded(Effect::Already) | Done::Skipped(_)) => End::AsBefore,
            Ok(Done::Succeeded(Effect::Changed)) => match action {
                ActionSpec::Cordon => End::Cordoned(self.asker.task.to_string()),
                ActionSpec::Taint(_) | ActionSpec::CopyTaints(_) => End::Tainted,
                _ => End::Unclear,
            },
            // A patch that was refused has changed nothing; a drain may have failed at its pods.
            Err(ActionError::Permanent { .. }) if !drains => End::AsBefore,
            Err(_) => End::Unclear,
        }
    }
}

/// An action that asks first.
pub(super) struct Guarded<A> {
    pub(super) inner: A,
    pub(super) guard: Arc<Guard>,
}

#[async_trait]
impl<A: Action> Action for Guarded<A> {
    async fn run(&self, target: Target<'_>, context: &Context) -> Result<Done, ActionError> {
        let (name, guard) = (target.name.as_str(), &self.guard);
        check_name(name)?;
        let mut begun = guard.begin(name).await?;
        let done = self.inner.run(target, context).await;
        begun.end = guard.end(&done);
        if matches!(begun.end, End::Cordoned(_)) && guard.is_close(name) {
            guard.confirm(name).await.inspect_err(|_| begun.end = End::Unclear)?;
        }
        done
    }
}
