//! What a drain would do to the pods of nodes, by the same sorting as the drain itself. Reads only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::StreamExt;
use futures_util::stream;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::ListParams;
use kube::core::Request;

use super::super::cluster::Cluster;
use super::super::errors::CallError;
use super::super::rights;
use super::budgets::{Budget, Budgets, Holds};
use super::calls::Calls;
use super::classify::{
    DaemonSets, NAMED_MAX, Refusal, Refused, Skip, Verdict, classify, daemon_sets_of, named,
};
use super::pod::PodFacts;
use crate::task::plan::{BudgetHold, Fate, PodClass, PodGroup, Right};
use crate::task::spec::DrainParameters;

/// Calls on their way at once.
const AT_ONCE: usize = 16;
/// Most pages of the pods of a cluster: 200,000 pods, more than Kubernetes supports.
const PAGES_MAX: usize = 400;
/// Most pages of disruption budgets.
const BUDGET_PAGES_MAX: usize = 100;
const BUDGETS_PAGE: u32 = 500;
/// Where fewer than one in so many nodes of a cluster are drained, their pods are listed node by node.
const WHOLE_FROM: usize = 4;
/// Fewer nodes than this are listed one by one in a cluster of any size.
const SINGLE_MAX: usize = 20;
/// Names of pods in a whole plan, and the fewest and the most of each group.
const NAMES_MAX: usize = 20_000;
const NAMES_OF_GROUP: (usize, usize) = (5, 100);

/// A pod, as far as a plan looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodSeen {
    pub(super) facts: PodFacts,
    node: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ready: bool,
    pending: bool,
}

impl From<Pod> for PodSeen {
    fn from(mut pod: Pod) -> Self {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
        let pending = status.is_some_and(|status| status.phase.as_deref() == Some("Pending"));
        let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take()).unwrap_or_default();
        let labels = pod.metadata.labels.take().unwrap_or_default();
        Self { facts: PodFacts::from(pod), node, labels, ready, pending }
    }
}

impl PodSeen {
    /// Whether it may be evicted whatever budgets say.
    pub(super) fn goes_unasked(&self) -> bool {
        self.pending || self.facts.finished || self.facts.deleted_at.is_some()
    }

    /// What it is, of a pod that goes.
    fn class(&self) -> PodClass {
        match &self.facts {
            pod if pod.deleted_at.is_some() => PodClass::Terminating,
            pod if pod.finished => PodClass::Finished,
            pod if pod.empty_dir => PodClass::EmptyDir,
            pod if pod.controller.is_none() => PodClass::Unmanaged,
            pod if pod.daemon_set().is_some() => PodClass::Orphan,
            _ => PodClass::Ordinary,
        }
    }

    /// Who loses a pod: what makes it anew, or the pod itself.
    fn workload(&self) -> String {
        let pod = &self.facts;
        match &pod.controller {
            Some(owner) => format!("{}/{}/{}", pod.namespace, owner.kind, owner.name),
            None => format!("{pod}@{}", pod.uid),
        }
    }
}

/// What becomes of the pods of one node.
#[derive(Debug, Default)]
pub(in super::super) struct Pods {
    pub(in super::super) groups: Vec<PodGroup>,
    /// Whose pods go; one entry each.
    pub(in super::super) evicts: Vec<String>,
    /// Why the node is refused, in the words of the drain.
    pub(in super::super) refused: Option<String>,
    pub(in super::super) holds: Vec<BudgetHold>,
    /// Why some pods can never go.
    pub(in super::super) stuck: Option<String>,
    /// Namespaces of the pods that go.
    pub(in super::super) namespaces: BTreeSet<String>,
}

/// What was found out about all nodes of a drain.
#[derive(Debug)]
pub(in super::super) struct Preview {
    by_node: HashMap<String, Pods>,
    /// Why budgets are not in it, if that is so.
    pub(in super::super) blind: Option<String>,
}

impl Preview {
    /// The pods of a node, once.
    pub(in super::super) fn take(&mut self, node: &str) -> Pods {
        self.by_node.remove(node).unwrap_or_default()
    }
}

/// Looks at the pods of these nodes of a cluster that has `known` nodes, as far as that was counted.
pub(in super::super) async fn preview(
    cluster: &Cluster,
    sender: &HeaderValue,
    asked: &DrainParameters,
    (nodes, known): (&BTreeSet<&str>, Option<usize>),
    now: Timestamp,
) -> Result<Preview, CallError> {
    let calls = Calls { cluster, sender };
    let selector = asked.pod_selector.as_deref();
    let pods: Vec<PodSeen> =
        if nodes.len() > SINGLE_MAX && known.is_none_or(|known| nodes.len() * WHOLE_FROM >= known) {
            let (mut pods, _) = calls.all_pods::<PodSeen>(None, selector, PAGES_MAX).await?;
            pods.retain(|pod| nodes.contains(pod.node.as_str()));
            pods
        } else {
            let lists = nodes.iter().map(|node| calls.all_pods(Some(node), selector, PAGES_MAX));
            let lists: Vec<_> = lists.collect();
            let lists: Vec<_> = stream::iter(lists).buffer_unordered(AT_ONCE).collect().await;
            let lists = lists.into_iter().collect::<Result<Vec<_>, _>>()?;
            lists.into_iter().flat_map(|(pods, _)| pods).collect()
        };
    let sets = daemon_sets(calls, &pods).await?;
    let (budgets, blind) = budgets(calls, cluster).await?;
    let mut by_node: HashMap<String, Vec<PodSeen>> = HashMap::new();
    for pod in pods {
        by_node.entry(pod.node.clone()).or_default().push(pod);
    }
    let (least, most) = NAMES_OF_GROUP;
    let names_max = (NAMES_MAX / nodes.len().max(1)).clamp(least, most);
    let view = |(node, pods): (String, Vec<PodSeen>)| {
        (node, sorted(&pods, &Rules { sets: &sets, asked, now, budgets: &budgets, names_max }))
    };
    Ok(Preview { by_node: by_node.into_iter().map(view).collect(), blind })
}

/// Every `DaemonSet` that is named, looked up once for all nodes.
async fn daemon_sets(calls: Calls<'_>, pods: &[PodSeen]) -> Result<DaemonSets, CallError> {
    let named = daemon_sets_of(pods.iter().map(|pod| &pod.facts));
    let looks = named.into_iter().map(|(namespace, name)| async move {
        let set = calls.daemon_set(&namespace, &name).await?;
        Ok::<_, CallError>(((namespace, name), set))
    });
    let looks: Vec<_> = looks.collect();
    let looks: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    looks.into_iter().collect()
}

/// Every budget of the cluster; none, and why, where they may not be read. Draining does not need that right.
async fn budgets(calls: Calls<'_>, cluster: &Cluster) -> Result<(Budgets, Option<String>), CallError> {
    let path = Request::new(PodDisruptionBudget::url_path(&(), None));
    let page = ListParams::default().limit(BUDGETS_PAGE);
    match calls.list(&path, page, BUDGET_PAGES_MAX, |budget: PodDisruptionBudget| Budget::from(budget)).await
    {
        Ok((budgets, _)) => Ok((budgets.into_iter().collect(), None)),
        Err(error) if matches!(error.code(), Some(403 | 404)) => {
            let why = format!(
                "disruption budgets were not looked at: that needs list on poddisruptionbudgets in cluster {}",
                cluster.name
            );
            Ok((Budgets::default(), Some(why)))
        }
        Err(error) => Err(error),
    }
}

struct Rules<'a> {
    sets: &'a DaemonSets,
    asked: &'a DrainParameters,
    now: Timestamp,
    budgets: &'a Budgets,
    names_max: usize,
}

/// Sorts the pods of one node as the drain does.
fn sorted(pods: &[PodSeen], rules: &Rules<'_>) -> Pods {
    let mut groups: BTreeMap<(Fate, PodClass), Vec<String>> = BTreeMap::new();
    let (mut refused, mut evict) = (Refused::default(), Vec::new());
    for pod in pods {
        let (fate, class) = match classify(&pod.facts, rules.sets, rules.asked, rules.now) {
            Verdict::Evict => {
                evict.push(pod);
                (Fate::Evict, pod.class())
            }
            Verdict::Skip(why) => (Fate::Leave, class_of_skip(why)),
            Verdict::Refuse(why) => {
                let class = class_of_refusal(&why);
                refused.add(why, &pod.facts);
                (Fate::Refuse, class)
            }
        };
        groups.entry((fate, class)).or_default().push(pod.facts.to_string());
    }
    let groups = groups.into_iter().map(|((fate, class), names)| group(fate, class, names, rules.names_max));
    let groups = groups.collect();
    let refused = refused.sentence();
    if refused.is_some() {
        return Pods { groups, refused, ..Pods::default() };
    }
    let Holds { holds, never } = rules.budgets.holds(evict.iter().copied());
    Pods {
        groups,
        evicts: evict.iter().map(|pod| pod.workload()).collect(),
        refused: None,
        holds,
        stuck: (!never.is_empty()).then(|| stuck(&never)),
        namespaces: evict.iter().map(|pod| pod.facts.namespace.clone()).collect(),
    }
}

fn stuck(never: &[String]) -> String {
    format!("more than one budget covers {}, so the cluster does not evict them", named(never))
}

fn class_of_skip(why: Skip) -> PodClass {
    match why {
        Skip::LongTerminating => PodClass::Terminating,
        Skip::DaemonSet => PodClass::DaemonSet,
        Skip::Mirror => PodClass::Mirror,
    }
}

fn class_of_refusal(why: &Refusal) -> PodClass {
    match why {
        Refusal::DaemonSet => PodClass::DaemonSet,
        Refusal::OrphanOfDaemonSet => PodClass::Orphan,
        Refusal::UnknownDaemonSet(_) => PodClass::Unclear,
        Refusal::EmptyDir => PodClass::EmptyDir,
        Refusal::Unmanaged => PodClass::Unmanaged,
    }
}

fn group(fate: Fate, class: PodClass, mut names: Vec<String>, names_max: usize) -> PodGroup {
    names.sort();
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    names.truncate(names_max.max(NAMED_MAX));
    PodGroup { fate, class, count, names }
}

/// The rights that are missing to evict these pods, where evicting is not allowed everywhere.
pub(super) async fn eviction_rights(calls: Calls<'_>, pods: &[PodFacts]) -> Result<Vec<Right>, CallError> {
    let namespaces = pods.iter().map(|pod| pod.namespace.clone()).collect();
    missing_in(calls.cluster, calls.sender, &namespaces).await
}

/// Namespaces among these in which evicting is not allowed, as rights that are missing.
pub(in super::super) async fn missing_in(
    cluster: &Cluster,
    sender: &HeaderValue,
    namespaces: &BTreeSet<String>,
) -> Result<Vec<Right>, CallError> {
    let rights: Vec<_> = namespaces.iter().map(|namespace| rights::to_evict().within(namespace)).collect();
    cluster.lacks(rights, sender).await
}
