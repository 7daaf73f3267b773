//! From what a cluster says to a plan: order, waves, counts, estimate, hash.

use jiff::Timestamp;

use super::estimate::{Past, estimate};
use super::{Fate, NodePlan, Outcome, Plan, PlanHash, Summary, Survey, seal};
use crate::task::TaskSpec;
use crate::task::strategy::{Facts, Opening, OrderRule, Strategy, in_order, opening};

impl Plan {
    /// A plan of what a survey found at `now`. `lanes` are as many items as are worked on at once, `past` are tasks to learn
    /// from.
    #[must_use]
    pub fn new(spec: &TaskSpec, survey: Survey, lanes: u32, past: &[Past], now: Timestamp) -> Self {
        let order = survey.order(spec.strategy.as_ref());
        let Survey { nodes, missing, refused, mut warnings } = survey;
        warnings.extend(closed(spec, now));
        let mut places: Vec<Option<NodePlan>> = nodes.into_iter().map(Some).collect();
        let nodes = order.iter().filter_map(|place| places[*place as usize].take()).collect();
        let (mut nodes, waves) = in_waves(spec, nodes);
        for node in &mut nodes {
            node.digest = seal::digest(node);
        }
        let mut work = vec![0_u32; waves.len()];
        for node in nodes.iter().filter(|node| node.outcome == Outcome::Change) {
            work[node.wave as usize - 1] += 1;
        }
        let lanes = spec.concurrency.map_or(lanes, |wanted| lanes.min(wanted.into()));
        let mut plan = Self {
            hash: PlanHash::NONE,
            action: spec.action.name().to_owned(),
            cluster: spec.cluster.to_string(),
            summary: summary(&nodes),
            missing,
            refused,
            warnings,
            waves,
            order: rules(spec),
            estimate: estimate(&spec.action, spec.strategy.as_ref(), &work, lanes, past),
            nodes,
            request: spec.fingerprint(),
        };
        plan.hash = seal::seal(&plan);
        plan
    }
}

/// That its windows are closed, if they are.
fn closed(spec: &TaskSpec, now: Timestamp) -> Option<String> {
    let windows = spec.strategy.as_ref().map(|strategy| &strategy.windows)?;
    let window = windows.first()?;
    match opening(windows, now) {
        Opening::Open(_) => None,
        Opening::Closed(opens) => {
            Some(format!("its maintenance window is closed and opens {}", window.say(opens)))
        }
        Opening::Never => Some("its maintenance window never opens again".to_owned()),
    }
}

impl Survey {
    /// Places of its nodes in the order in which they would be started.
    #[must_use]
    pub fn order(&self, strategy: Option<&Strategy>) -> Vec<u32> {
        let facts: Vec<Facts> = self.nodes.iter().map(facts).collect();
        in_order(strategy.map_or(&[][..], |strategy| &strategy.order), &facts)
    }
}

/// What decides the order.
fn rules(spec: &TaskSpec) -> String {
    let rules = spec.strategy.as_ref().map_or(&[][..], |strategy| &strategy.order);
    if rules.is_empty() { "as given".to_owned() } else { words(rules) }
}

/// What decides the place of a node. Which node a worker runs on is not known before one takes the task.
fn facts(node: &NodePlan) -> Facts {
    let now = node.now.as_ref();
    Facts {
        zone: now.and_then(|now| now.zone.clone()),
        control_plane: now.is_some_and(super::NodeNow::is_control_plane),
        own: false,
    }
}

fn words(rules: &[OrderRule]) -> String {
    let word = |rule: &OrderRule| match rule {
        OrderRule::Zones => "one of each zone in turn",
        OrderRule::ControlPlaneLast => "the control plane last",
        OrderRule::OwnNodeLast => "the worker's own node after all others, which is not known yet",
    };
    rules.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Writes the number of its wave into each node. Returns the sizes of the waves too.
fn in_waves(spec: &TaskSpec, mut nodes: Vec<NodePlan>) -> (Vec<NodePlan>, Vec<u32>) {
    let total = u32::try_from(nodes.len()).expect("a checked spec has at most 100,000 items");
    let strategy = spec.strategy.clone().unwrap_or_default();
    let cut = strategy.cut(total);
    for (place, node) in (0..).zip(&mut nodes) {
        node.wave = cut.of(place);
    }
    let size = |wave| u32::try_from(cut.range(wave).len()).unwrap_or(u32::MAX);
    (nodes, (1..=cut.count()).map(size).collect())
}

fn summary(nodes: &[NodePlan]) -> Summary {
    let mut summary = Summary::default();
    for node in nodes {
        summary.nodes += 1;
        let of_kind = match node.outcome {
            Outcome::Change => &mut summary.change,
            Outcome::Already => &mut summary.already,
            Outcome::Skip => &mut summary.skip,
            Outcome::Fail => &mut summary.fail,
            Outcome::Missing => &mut summary.missing,
            Outcome::Unknown => &mut summary.unknown,
        };
        *of_kind += 1;
        if node.outcome == Outcome::Change {
            summary.evictions += node.pods(Fate::Evict);
        }
        summary.held_by_budgets += u32::from(node.budgets.iter().any(|budget| budget.blocks));
    }
    summary
}
