//! Drain: a node is cordoned and its pods are evicted, as `kubectl drain` does it and by its rules.
//!
//! Reading order: [`pod`] · [`classify`] (which pods go, or why the node is refused; pure) · [`machine`] (who is asked for
//! next, and what an [`answer`] means; pure) · [`calls`] · [`watch`] (one for all pods of a node) · this file, which lets
//! them talk · [`preview`] (what it would do, for plans).
//!
//! A drain may be run again at any time: it observes first, waits for what is terminating already, and names every pod by
//! its UID. It stops before its next eviction when its worker is told to. Pods are evicted, so that disruption budgets are
//! asked; they are deleted only for who holds `bypass-pdb` and asks for it by name. Not here: which nodes at which time (worker), and undoing a cordon after a failure.

mod answer;
mod budgets;
mod calls;
mod classify;
mod machine;
mod pod;
pub(super) mod preview;
mod watch;

#[cfg(test)]
mod wire_tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::Retryable;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::header::HeaderValue;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::answer::Answer;
use self::calls::{Calls, How};
use self::classify::{DaemonSets, Plan, daemon_sets_of, preflight};
use self::machine::{AT_ONCE, Act, Found, Machine};
use self::pod::PodFacts;
use self::watch::{Sight, sights};
use super::annotations::{Annotations, Note};
use super::cluster::Cluster;
use super::driver::after_conflicts;
use super::errors::{Call, CallError};
use super::guard::Guard;
use super::node::Observed;
use super::rights::Evictions;
use super::{Decision, cordon};
use crate::action::{Action, ActionError, Context, Done, Target};
use crate::clock::Clock;
use crate::store::Task;
use crate::task::spec::DrainParameters;
use crate::task::{Effect, Step};

/// Between looks at pods that may have been terminating for too long.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Kept free before the item is dropped, to say what is left.
const BEFORE_DROPPED: Duration = Duration::from_secs(25);

/// A drain, ready for the nodes of a cluster.
pub(super) struct Drain {
    cluster: Arc<Cluster>,
    annotations: Annotations,
    note: Note,
    asked: DrainParameters,
    evictions: Evictions,
    clock: Arc<dyn Clock>,
    sender: HeaderValue,
    /// Asked once more when a node is cordoned, before its pods go.
    guard: Option<Arc<Guard>>,
}

/// A node as it was found: a later one of the same name is another node.
struct Node<'a> {
    name: &'a str,
    uid: String,
    /// Whether it was us who cordoned it.
    cordoned: bool,
}

/// Why a drain ended before its pods were gone.
enum End {
    /// The node is gone, or another one has its name.
    Replaced,
    /// The worker wants it.
    Stopped,
    /// Its time is over.
    TimedOut,
    Failed(ActionError),
}

impl From<ActionError> for End {
    fn from(error: ActionError) -> Self {
        Self::Failed(error)
    }
}

impl Drain {
    pub(super) fn new(
        task: &Task,
        asked: &DrainParameters,
        annotations: &Annotations,
        cluster: &Arc<Cluster>,
        (clock, sender, evictions): (Arc<dyn Clock>, HeaderValue, Evictions),
    ) -> Self {
        let (cluster, note, asked) = (Arc::clone(cluster), Note::from(task), asked.clone());
        let annotations = annotations.clone();
        Self { cluster, annotations, note, asked, evictions, clock, sender, guard: None }
    }

    pub(super) fn guarded(self, guard: &Arc<Guard>) -> Self {
        Self { guard: Some(Arc::clone(guard)), ..self }
    }

    fn calls(&self) -> Calls<'_> {
        Calls { cluster: &self.cluster, sender: &self.sender }
    }

    fn failed(&self, error: CallError, node: &str, verb: &'static str) -> ActionError {
        error.into_action(Call { cluster: &self.cluster.name, node, verb })
    }

    /// Cordons the node, if nobody has.
    async fn cordon<'a>(&self, name: &'a str) -> Result<Node<'a>, ActionError> {
        let rounds =
            (|| self.cordon_once(name)).retry(after_conflicts()).when(|(error, _)| error.is_conflict());
        rounds.await.map_err(|(error, verb)| self.failed(error, name, verb))
    }

    /// The patch carries the version that was read: what is cordoned is the node whose pods will be evicted.
    async fn cordon_once<'a>(&self, name: &'a str) -> Result<Node<'a>, (CallError, &'static str)> {
        let object = self.cluster.get(name, &self.sender).await.map_err(|error| (error, "get"))?;
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let observed = Observed::from(object);
        let decision = cordon::cordon(&observed, &self.annotations, &self.note, self.clock.now());
        let Decision::Patch(mut patch) = decision else {
            return Ok(Node { name, uid, cordoned: false });
        };
        patch["metadata"]["resourceVersion"] = observed.version.into();
        self.cluster.patch(name, &patch, &self.sender).await.map_err(|error| (error, "patch"))?;
        Ok(Node { name, uid, cordoned: true })
    }

    /// Whether the node is the one that was found at first.
    async fn is_same(&self, node: &Node<'_>) -> Result<bool, ActionError> {
        match self.cluster.get(node.name, &self.sender).await {
            Ok(object) => Ok(object.metadata.uid.as_deref().unwrap_or_default() == node.uid),
            Err(error) if error.code() == Some(404) => Ok(false),
            Err(error) => Err(self.failed(error, node.name, "get")),
        }
    }

    /// Sorts the node's pods; all or nothing.
    async fn plan(&self, node: &Node<'_>) -> Result<(Plan, String), ActionError> {
        let (plan, version) = self.sorted(node.name).await?;
        Ok((plan.map_err(ActionError::permanent)?, version))
    }

    /// What a node's pods come to, or why it is refused; and the version from which a watch goes on.
    async fn sorted(&self, node: &str) -> Result<(Result<Plan, String>, String), ActionError> {
        let calls = self.calls();
        let listed = calls.pods(node, self.asked.pod_selector.as_deref()).await;
        let (pods, version) = listed.map_err(|error| calls.failed(error, node, "list", "pods"))?;
        let sets = self.daemon_sets(node, &pods).await?;
        Ok((preflight(pods, &sets, &self.asked, self.clock.now()), version))
    }

    /// Each `DaemonSet` that the pods name is looked up once.
    async fn daemon_sets(&self, node: &str, pods: &[PodFacts]) -> Result<DaemonSets, ActionError> {
        let calls = self.calls();
        let mut sets = DaemonSets::new();
        for (namespace, name) in daemon_sets_of(pods) {
            let set = calls.daemon_set(&namespace, &name).await;
            let set = set.map_err(|error| calls.failed(error, node, "get", "daemonsets"))?;
            sets.insert((namespace, name), set);
        }
        Ok(sets)
    }

    /// Where the account may not evict everywhere: whether it may where the pods of this node are. Asked before the node is
    /// cordoned, so that not every node of a task ends cordoned and with all its pods.
    async fn check_rights(&self, node: &str) -> Result<(), ActionError> {
        if self.evictions == Evictions::Everywhere {
            return Ok(());
        }
        let Ok(plan) = self.sorted(node).await?.0 else { return Ok(()) };
        let missing = preview::eviction_rights(self.calls(), &plan.evict).await;
        let missing = missing.map_err(|error| self.failed(error, node, "create"))?;
        if missing.is_empty() { Ok(()) } else { Err(self.cluster.forbidden(&missing)) }
    }

    /// When the evictions of a node must be through: its own time, and some less than the item has.
    fn deadline(&self, context: &Context) -> Instant {
        let now = Instant::now();
        let own = now + self.asked.timeout();
        let Some(dropped) = context.deadline() else { return own };
        let left = dropped.saturating_duration_since(now);
        own.min(now + left.saturating_sub(BEFORE_DROPPED).max(left / 2))
    }
}

/// The evictions of one node under way.
struct Evicting<'a> {
    drain: &'a Drain,
    node: &'a Node<'a>,
    context: &'a Context,
    machine: Machine,
    /// From here on nothing is sent any more; what was sent is waited for.
    halt: CancellationToken,
    end: Option<End>,
}

/// What came of an act.
enum Came {
    Answer(usize, Answer),
    Found(usize, Found),
}

impl Evicting<'_> {
    /// Lets the pods go, one tier after the other.
    async fn run(&mut self, version: String) {
        let deadline = self.drain.deadline(self.context);
        let (calls, halt) = (self.drain.calls(), self.halt.clone());
        let how = How { grace: self.drain.asked.grace_period(), bypass_pdb: self.drain.asked.bypass_pdb };
        let mut acts = FuturesUnordered::new();
        let mut sights = sights(calls, self.node.name, version);
        loop {
            self.leave_alone();
            if self.end.is_none() {
                for act in self.machine.next(Instant::now()) {
                    acts.push(act_on(calls, act, self.machine.pod(pod_of(act)).clone(), how, halt.clone()));
                }
            }
            self.context.report(self.machine.step());
            if acts.is_empty() && (self.end.is_some() || self.machine.is_over()) {
                return;
            }
            let wake = self.wake_at().unwrap_or(deadline);
            tokio::select! {
                biased;
                () = self.context.stopping(), if self.end.is_none() => self.end_with(End::Stopped),
                () = sleep_until(deadline), if self.end.is_none() => self.end_with(End::TimedOut),
                Some(came) = acts.next() => self.take(came),
                Some(sight) = sights.next(), if self.end.is_none() => self.see(sight).await,
                () = sleep_until(wake), if self.end.is_none() && wake < deadline => {}
            }
        }
    }

    /// Stops waiting for pods that should have ended long ago, if that was asked for.
    fn leave_alone(&mut self) {
        if let Some(limit) = self.drain.asked.skip_wait() {
            self.machine.leave_alone(limit, self.drain.clock.now());
        }
    }

    /// When there is something to do by itself. Pods that should have ended are looked at every second.
    fn wake_at(&self) -> Option<Instant> {
        let look = self.drain.asked.skip_wait().map(|_| Instant::now() + LOOK_INTERVAL);
        self.machine.wake_at().into_iter().chain(look).min()
    }

    fn end_with(&mut self, end: End) {
        self.halt.cancel();
        self.end.get_or_insert(end);
    }

    fn take(&mut self, came: Came) {
        match came {
            Came::Answer(index, answer) => {
                self.machine.answered(index, answer, Instant::now(), self.drain.clock.now());
            }
            Came::Found(index, found) => self.machine.looked(index, found, Instant::now()),
        }
    }

    async fn see(&mut self, sight: Sight) {
        match sight {
            Sight::Seen(pod) => self.machine.seen(&pod),
            Sight::Gone(uid) => self.machine.gone(&uid),
            Sight::Listed(pods) => {
                self.machine.listed(&pods);
                // A list is rare, and a node that went away took its pods along.
                if let Ok(false) = self.drain.is_same(self.node).await {
                    self.end_with(End::Replaced);
                }
            }
            Sight::Blind(error) => {
                let error = self.drain.calls().failed(error, self.node.name, "list", "pods");
                self.end_with(End::Failed(error));
            }
        }
    }
}

fn pod_of(act: Act) -> usize {
    match act {
        Act::Evict(index) | Act::Look(index) => index,
    }
}

async fn act_on(calls: Calls<'_>, act: Act, pod: PodFacts, how: How, halt: CancellationToken) -> Came {
    match act {
        Act::Evict(index) => Came::Answer(index, calls.let_go(&pod, how, &halt).await),
        Act::Look(index) => Came::Found(index, calls.look(&pod).await),
    }
}

impl Drain {
    async fn drain(&self, name: &str, context: &Context) -> Result<Done, ActionError> {
        self.check_rights(name).await?;
        context.report(Step::doing("cordoning"));
        let node = self.cordon(name).await?;
        if let Some(guard) = self.guard.as_ref().filter(|_| node.cordoned) {
            guard.confirm(name).await?;
        }
        stop_here(context, "the node is cordoned, and no pod was evicted")?;
        context.report(Step::doing("looking at its pods"));
        let (plan, version) = self.plan(&node).await?;
        stop_here(context, "the node is cordoned, and no pod was evicted")?;
        let machine = Machine::new(plan.evict, self.asked.grace_period(), AT_ONCE);
        let (halt, end) = (CancellationToken::new(), None);
        let mut evicting = Evicting { drain: self, node: &node, context, machine, halt, end };
        if !evicting.machine.is_over() {
            evicting.run(version).await;
        }
        let Evicting { machine, end, .. } = evicting;
        self.outcome(&node, &machine, end).await
    }

    /// What a drain comes to. That its pods are gone counts, also when the time was over or a stop came first.
    async fn outcome(
        &self,
        node: &Node<'_>,
        machine: &Machine,
        end: Option<End>,
    ) -> Result<Done, ActionError> {
        let left = machine.left(self.clock.now());
        match (left, end) {
            (_, Some(End::Replaced)) => Ok(replaced()),
            (None, _) if machine.has_acted() && !self.is_same(node).await? => Ok(replaced()),
            (None, _) if node.cordoned || machine.has_acted() => Ok(Done::Succeeded(Effect::Changed)),
            (None, _) => Ok(Done::Succeeded(Effect::Already)),
            (Some(left), Some(End::Stopped)) => {
                let message = format!("stopped with the node cordoned and {left}");
                Err(ActionError::Stopped { message })
            }
            (Some(left), Some(End::TimedOut)) => {
                let secs = self.asked.timeout().as_secs();
                Err(ActionError::permanent(format!("not drained within {secs} s: {left}")))
            }
            (Some(_), Some(End::Failed(error))) => Err(error),
            (Some(left), None) => Err(ActionError::permanent(format!("not drained: {left}"))),
        }
    }
}

fn replaced() -> Done {
    Done::Skipped("the node was replaced or removed while it was drained".to_owned())
}

fn stop_here(context: &Context, so_far: &str) -> Result<(), ActionError> {
    if context.is_stopping() {
        return Err(ActionError::Stopped { message: format!("stopped: {so_far}") });
    }
    Ok(())
}

#[async_trait]
impl Action for Drain {
    async fn run(&self, target: Target<'_>, context: &Context) -> Result<Done, ActionError> {
        self.drain(target.name.as_str(), context).await
    }
}
