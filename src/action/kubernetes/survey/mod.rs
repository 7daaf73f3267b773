//! What a task would do to the nodes of a cluster: read, decided as the action decides, and not done.
//!
//! Every decision is the action's own ([`Change::decide`], the sorting of a drain), so that what a plan says and what a run
//! does cannot drift apart; the values are read off the patch that would be sent ([`fields`]). Nodes are read one by one
//! when they are few, and in one list otherwise; the rules of safety ([`judged`]) go by what is known of all nodes. Not here: order, waves, hash and estimate (`task::plan`).

mod fields;
mod judged;

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt;
use futures_util::stream;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use kube::api::DynamicObject;
use tokio::time::timeout;

use super::annotations::{Annotations, Note};
use super::cluster::Cluster;
use super::clusters::{Entry, KubeClusters};
use super::drain::preview::{Pods, Preview, missing_in, preview};
use super::driver::{Change, check_name};
use super::errors::CallError;
use super::holder::Holder;
use super::node::{Observed, facts, view};
use super::protected::Protected;
use super::reflector::Reflector;
use super::{Decision, agent, cordon, rights};
use crate::BoxError;
use crate::action::{ActionError, ClusterError};
use crate::store::Task;
use crate::task::plan::{Field, FieldChange, NodeNow, NodePlan, Outcome, Right, Survey};
use crate::task::spec::DrainParameters;
use crate::task::strategy::{NodeState, Room};
use crate::task::{ActionSpec, Fault, ItemName, TaskId, TaskSpec, UserId};

/// Up to so many nodes are read one by one.
const SINGLE_MAX: usize = 20;
/// Reads of single nodes on their way at once.
const AT_ONCE: usize = 16;
/// Changes that a sentence names.
const NAMED_MAX: usize = 3;

/// What is asked, and by whose rules.
struct Question<'a> {
    cluster: &'a Cluster,
    /// The nodes as they are known, for the rules.
    nodes: &'a Reflector,
    annotations: &'a Annotations,
    protected: &'a Protected,
    spec: &'a TaskSpec,
    /// A task as it would be, if it were submitted now.
    task: &'a Task,
    now: Timestamp,
}

/// How the nodes of the task are changed.
enum How {
    Patch(Change),
    Drain(Note, DrainParameters),
}

/// The nodes that were read.
#[derive(Default)]
struct Nodes {
    by_name: HashMap<String, DynamicObject>,
    /// Every node of the cluster, when all were read.
    pool: Option<Vec<NodeState>>,
}

impl KubeClusters {
    /// What is wrong with an action here, whatever a cluster says: keys that belong to somebody else.
    #[must_use]
    pub fn faults(&self, action: &ActionSpec) -> Vec<Fault> {
        self.rules().1.faults(action)
    }

    /// What a task of this user would do if it were submitted now. Reads only. Bounded in time; cancel-safe.
    ///
    /// # Errors
    /// When there is no such cluster, or it does not answer in time.
    pub async fn survey(
        &self,
        spec: &TaskSpec,
        owner: &UserId,
        now: Timestamp,
    ) -> Result<Survey, ClusterError> {
        let name = &spec.cluster;
        let Entry { cluster, nodes, .. } = self.entry(name)?;
        let unavailable = |source: BoxError| ClusterError::Unavailable { cluster: name.clone(), source };
        cluster.connect().await.map_err(unavailable)?;
        let task = Task::accepted(TaskId::generate(), owner.clone(), spec, now);
        let (annotations, protected) = self.rules();
        let question =
            Question { cluster: &cluster, nodes: &nodes, annotations, protected, spec, task: &task, now };
        let survey = timeout(self.list_timeout(), survey(&question)).await;
        survey.map_err(|late| unavailable(late.into()))?.map_err(|error| unavailable(error.into()))
    }
}

/// Looks at everything. Bounded by the caller's deadline.
async fn survey(question: &Question<'_>) -> Result<Survey, CallError> {
    let (spec, sender) = (question.spec, agent::of_nobody());
    let how = match question.how() {
        Ok(how) => how,
        Err(error) => return Ok(refused(spec, &error)),
    };
    let missing = question.cluster.lacks(question.cluster.needed(&spec.action), &sender).await?;
    let Some(nodes) = question.read(&missing, &sender).await? else {
        let why = question.cluster.forbidden(&missing);
        return Ok(Survey { missing, ..refused(spec, &why) });
    };
    let mut survey = match &how {
        How::Patch(change) => question.patched(change, &nodes, &sender).await,
        How::Drain(note, asked) => question.drained((note, asked), &nodes, &missing, &sender).await?,
    };
    if missing.is_empty() {
        question.judge(&mut survey, &nodes).await?;
    } else {
        survey.refused = Some(question.cluster.forbidden(&missing).to_string());
    }
    survey.missing.splice(..0, missing);
    survey.warnings.extend(question.room(&nodes, &survey));
    Ok(survey)
}

/// Nothing can be said about single nodes.
fn refused(spec: &TaskSpec, why: &ActionError) -> Survey {
    let why = why.to_string();
    Survey { refused: Some(why), ..Survey::alike(&spec.items, Outcome::Unknown, "it was not looked at") }
}

impl Question<'_> {
    fn how(&self) -> Result<How, ActionError> {
        if let ActionSpec::Drain(asked) = &self.spec.action {
            return Ok(How::Drain(Note::from(self.task), asked.clone()));
        }
        Change::new(self.task, self.annotations, self.protected).map(How::Patch)
    }

    /// Reads the nodes of the task; `None` when that is not allowed.
    async fn read(&self, missing: &[Right], sender: &HeaderValue) -> Result<Option<Nodes>, CallError> {
        let many = self.spec.items.len() > SINGLE_MAX
            || self.spec.strategy.as_ref().is_some_and(|strategy| strategy.max_unavailable.is_some());
        if many && self.cluster.may(&Right::new("list", "nodes"), sender).await? {
            return self.list().await.map(Some);
        }
        if missing.contains(&Right::new("get", "nodes")) {
            return Ok(None);
        }
        let names = self.spec.items.iter().map(ItemName::as_str);
        let names = names.filter(|name| check_name(name).is_ok());
        let reads = names.map(|name| async move {
            match self.cluster.get(name, sender).await {
                Ok(node) => Ok(Some((name.to_owned(), node))),
                Err(error) if error.code() == Some(404) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let reads: Vec<_> = reads.collect();
        let reads: Vec<_> = stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
        let reads = reads.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Nodes { by_name: reads.into_iter().flatten().collect(), pool: None }))
    }

    /// Reads all nodes, and keeps those of the task whole.
    async fn list(&self) -> Result<Nodes, CallError> {
        let asked: BTreeSet<&str> = self.spec.items.iter().map(ItemName::as_str).collect();
        let (mut nodes, mut pool) = (Nodes::default(), Vec::new());
        let each = |node: DynamicObject| {
            let name = node.metadata.name.clone().unwrap_or_default();
            let seen = view(node.clone(), self.annotations);
            pool.push(NodeState { name: name.clone(), unavailable: seen.unschedulable || !seen.ready });
            if asked.contains(name.as_str()) {
                nodes.by_name.insert(name, node);
            }
        };
        self.cluster.list(each).await?;
        nodes.pool = Some(pool);
        Ok(nodes)
    }

    /// What a plan says of every node that there is, before anything is decided; `None` for one that there is not.
    fn found(&self, name: &str, nodes: &Nodes) -> Result<(NodePlan, Observed), Box<NodePlan>> {
        if let Err(error) = check_name(name) {
            return Err(NodePlan::new(name, Outcome::Fail, error.to_string()).into());
        }
        let Some(node) = nodes.by_name.get(name) else {
            let says = format!("node {name} does not exist in cluster {}", self.cluster.name);
            return Err(NodePlan::new(name, Outcome::Missing, says).into());
        };
        let seen = view(node.clone(), self.annotations);
        let observed = Observed::from(node.clone());
        let cordoned = Holder::of(&observed, self.annotations).map(|holder| holder.to_string());
        let now = NodeNow {
            ready: seen.ready,
            unschedulable: seen.unschedulable,
            cordoned,
            zone: seen.zone().map(str::to_owned),
            roles: seen.roles,
        };
        let plan = NodePlan {
            uid: node.metadata.uid.clone(),
            now: Some(now),
            ..NodePlan::new(name, Outcome::Already, "")
        };
        Ok((plan, observed))
    }

    async fn patched(&self, change: &Change, nodes: &Nodes, sender: &HeaderValue) -> Survey {
        let ready = change.ready(self.cluster, sender).await;
        let plan = |name: &ItemName| {
            let (mut plan, node) = match self.found(name.as_str(), nodes) {
                Ok(found) => found,
                // The run reads what is to be copied first.
                Err(plan) if plan.outcome == Outcome::Missing && ready.is_err() => {
                    (*plan, Observed::default())
                }
                Err(plan) => return *plan,
            };
            let decision = ready.clone().and_then(|()| change.decide(&node, self.now));
            match decision {
                Err(error) => (plan.outcome, plan.says) = (Outcome::Fail, error.to_string()),
                Ok(Decision::Already) => "it is as asked for already".clone_into(&mut plan.says),
                Ok(Decision::Skip(why)) => (plan.outcome, plan.says) = (Outcome::Skip, why),
                Ok(Decision::Patch(patch)) => {
                    plan.changes = fields::changes(&node, &patch, self.annotations);
                    (plan.outcome, plan.says) = (Outcome::Change, words(&plan.changes));
                }
            }
            plan
        };
        Survey { nodes: self.spec.items.iter().map(plan).collect(), ..Survey::default() }
    }

    async fn drained(
        &self,
        (note, asked): (&Note, &DrainParameters),
        nodes: &Nodes,
        missing: &[Right],
        sender: &HeaderValue,
    ) -> Result<Survey, CallError> {
        if missing.contains(&Right::new("list", "pods")) {
            return Ok(Survey::alike(&self.spec.items, Outcome::Unknown, "its pods cannot be read"));
        }
        let names: BTreeSet<&str> = nodes.by_name.keys().map(String::as_str).collect();
        let known = nodes.pool.as_ref().map(Vec::len);
        let mut preview = preview(self.cluster, sender, asked, (&names, known), self.now).await?;
        let mut survey = Survey::default();
        survey.warnings.extend(preview.blind.take());
        let everywhere = self.cluster.may(&rights::to_evict(), sender).await?;
        let mut lacking = BTreeSet::new();
        for name in &self.spec.items {
            let mut plan = self.drain_of(name.as_str(), note, nodes, &mut preview);
            if let (Ok((_, pods)), false) = (&plan, everywhere)
                && pods.refused.is_none()
            {
                let denied = missing_in(self.cluster, sender, &pods.namespaces).await?;
                plan = plan.map(|found| without_rights(found, &denied, self.cluster));
                lacking.extend(denied);
            }
            survey.nodes.push(plan.map_or_else(|plan| *plan, |(plan, _)| plan));
        }
        survey.missing.extend(lacking);
        Ok(survey)
    }

    /// What a drain would do to one node.
    fn drain_of(
        &self,
        name: &str,
        note: &Note,
        nodes: &Nodes,
        preview: &mut Preview,
    ) -> Result<(NodePlan, Pods), Box<NodePlan>> {
        let (mut plan, node) = self.found(name, nodes)?;
        if let Decision::Patch(patch) = cordon::cordon(&node, self.annotations, note, self.now) {
            plan.changes = fields::changes(&node, &patch, self.annotations);
        }
        let mut pods = preview.take(name);
        plan.pods = std::mem::take(&mut pods.groups);
        plan.evicts = std::mem::take(&mut pods.evicts);
        plan.budgets = std::mem::take(&mut pods.holds);
        if plan.now.as_ref().is_some_and(|now| !now.ready) && !plan.evicts.is_empty() {
            plan.warnings.push("it is not ready: pods on it may never end".to_owned());
        }
        (plan.outcome, plan.says) = match (&pods.refused, &pods.stuck) {
            (Some(why), _) | (None, Some(why)) => (Outcome::Fail, why.clone()),
            (None, None) if plan.changes.is_empty() && plan.evicts.is_empty() => {
                (Outcome::Already, "it is cordoned, and no pod is to go".to_owned())
            }
            (None, None) => (Outcome::Change, drain_words(&plan)),
        };
        Ok((plan, pods))
    }

    /// Asks the rules, which go by the nodes that were read where they were, and by what is known of all others.
    async fn judge(&self, survey: &mut Survey, read: &Nodes) -> Result<(), CallError> {
        let rules = &self.cluster.safety.rules;
        if !rules.concern(&self.spec.action) {
            return Ok(());
        }
        self.nodes.current().await.map_err(kube::Error::Service)?;
        let mut nodes = self.cluster.safety.nodes();
        for node in read.by_name.values() {
            let seen = facts(&view(node.clone(), self.annotations), rules);
            nodes.insert(seen.name.clone(), seen);
        }
        judged::judge(survey, self.spec, rules, nodes);
        Ok(())
    }

    /// Why nothing would be started for want of room in the cluster, if that is so.
    fn room(&self, nodes: &Nodes, survey: &Survey) -> Option<String> {
        let limit = self.spec.strategy.as_ref()?.max_unavailable?;
        let mut room = Room::default();
        room.saw(limit, nodes.pool.as_ref()?);
        let mut wanting = survey.nodes.iter().filter(|node| node.outcome == Outcome::Change).peekable();
        wanting.peek()?;
        (!wanting.any(|node| room.fits(&node.name)))
            .then(|| format!("nothing would be started now: {}", room.sentence()))
    }
}

/// A node on which not all pods may be evicted is not touched.
fn without_rights(
    (mut plan, pods): (NodePlan, Pods),
    denied: &[Right],
    cluster: &Cluster,
) -> (NodePlan, Pods) {
    if !denied.is_empty() {
        (plan.changes, plan.evicts) = (Vec::new(), Vec::new());
        (plan.outcome, plan.says) = (Outcome::Fail, cluster.forbidden(denied).to_string());
    }
    (plan, pods)
}

/// The changes in a sentence. Annotations count where there is nothing else: those of a cordon go with it.
fn words(changes: &[FieldChange]) -> String {
    let is_note = |change: &&FieldChange| change.field == Field::Annotation;
    let other = changes.iter().filter(|change| !is_note(change)).count();
    let named = changes.iter().filter(|change| other == 0 || !is_note(change));
    let words: Vec<_> = named.take(NAMED_MAX).map(ToString::to_string).collect();
    let count = if other == 0 { changes.len() } else { other };
    let more = count.saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", words.join("; "))
}

fn drain_words(plan: &NodePlan) -> String {
    let pods = |count: usize| if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") };
    let evict = (!plan.evicts.is_empty()).then(|| format!("evict {}", pods(plan.evicts.len())));
    let cordon = (!plan.changes.is_empty()).then(|| "cordon".to_owned());
    cordon.into_iter().chain(evict).collect::<Vec<_>>().join(", ")
}
