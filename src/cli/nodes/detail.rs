//! One node on a terminal: what it is, how it is, and the pods on it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{Cell, Color};
use jiff::Timestamp;

use super::lines;
use crate::action::NodePods;
use crate::action::nodes::NodeMore;
use crate::cli::output::Paint;
use crate::cli::table;
use crate::client::types::NodeInfo;

/// Pods that are listed one by one.
const PODS_SHOWN: usize = 100;

/// All there is to say.
pub(super) fn text(info: &NodeInfo, now: Timestamp, paint: Paint) -> String {
    let mut text = String::new();
    for (name, value) in facts(info, now, paint) {
        let _ = writeln!(text, "{name:<10} {value}");
    }
    if !info.more.conditions.is_empty() {
        let _ = write!(text, "\n{}\n", conditions(&info.more, now));
    }
    match &info.pods {
        None => text.push_str("\nits pods could not be read right now"),
        Some(pods) => {
            let _ = write!(text, "\n{}", summary(pods));
            if !pods.pods.is_empty() {
                let _ = write!(text, "\n{}", pod_table(pods));
            }
        }
    }
    text
}

fn facts(info: &NodeInfo, now: Timestamp, paint: Paint) -> Vec<(&'static str, String)> {
    let (node, more) = (&info.node, &info.more);
    let system = |name: &str| more.system.get(name).cloned().unwrap_or_default();
    let created = node.created_at.as_ref().map(|at| match lines::age(at, now) {
        Some(age) => format!("{at} ({age})"),
        None => at.clone(),
    });
    let addresses = more.addresses.iter().map(|address| format!("{} {}", address.kind, address.address));
    let system = [
        node.version.clone(),
        system("osImage"),
        system("kernelVersion"),
        system("architecture"),
        system("containerRuntimeVersion"),
    ];
    let task = node.cordon_task.as_ref().map(|task| format!(" (task {task})")).unwrap_or_default();
    let mut facts = vec![
        ("node", node.name.clone()),
        ("status", lines::colour(node, lines::status(node), paint)),
        ("cordon", lines::cordon(node).map(|words| words + &task).unwrap_or_default()),
        ("roles", node.roles.join(", ")),
        ("zone", node.zone().unwrap_or_default().to_owned()),
        ("created", created.unwrap_or_default()),
        ("system", joined(system)),
        ("addresses", joined(addresses)),
        ("resources", resources(more)),
    ];
    facts.extend(many("taints", node.taints.iter().cloned()));
    facts.extend(many("labels", pairs(&node.labels)));
    facts.extend(many("notes", pairs(&more.annotations)));
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

fn joined(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    map.iter().map(|(key, value)| format!("{key}={value}"))
}

/// A line each, the first of which has the name.
fn many(
    name: &'static str,
    values: impl Iterator<Item = String>,
) -> impl Iterator<Item = (&'static str, String)> {
    values.enumerate().map(move |(place, value)| (if place == 0 { name } else { "" }, value))
}

/// What pods may use, of what there is.
fn resources(more: &NodeMore) -> String {
    let shown = ["cpu", "memory", "pods", "ephemeral-storage"];
    let resource = |name: &&str| {
        let all = more.capacity.get(*name)?;
        Some(match more.allocatable.get(*name) {
            Some(usable) if usable != all => format!("{name} {usable} of {all}"),
            _ => format!("{name} {all}"),
        })
    };
    joined(shown.iter().filter_map(resource))
}

fn conditions(more: &NodeMore, now: Timestamp) -> String {
    let mut table = table::plain(&["CONDITION", "STATUS", "FOR", "WHY"]);
    for condition in &more.conditions {
        let good = if condition.name == "Ready" { "True" } else { "False" };
        let status = Cell::new(&condition.status);
        let age = condition.since.as_ref().and_then(|at| lines::age(at, now)).unwrap_or_default();
        let why = if condition.message.is_empty() { &condition.reason } else { &condition.message };
        table.add_row([
            Cell::new(&condition.name),
            if condition.status == good { status } else { status.fg(Color::Red) },
            Cell::new(age),
            Cell::new(why),
        ]);
    }
    trimmed(&table.to_string())
}

/// How many pods there are, by phase.
fn summary(pods: &NodePods) -> String {
    let mut phases: BTreeMap<&str, u32> = BTreeMap::new();
    pods.pods.iter().for_each(|pod| *phases.entry(pod.phase.as_str()).or_default() += 1);
    let phases = phases.iter().map(|(phase, n)| format!("{n} {phase}"));
    let more = if pods.more { "more than " } else { "" };
    match pods.count {
        0 => "no pods".to_owned(),
        1 => format!("1 pod: {}", joined(phases)),
        n => format!("{more}{n} pods: {}", joined(phases)),
    }
}

fn pod_table(pods: &NodePods) -> String {
    let mut table = table::plain(&["NAMESPACE", "POD", "PHASE", "OWNER"]);
    for pod in pods.pods.iter().take(PODS_SHOWN) {
        table.add_row([&pod.namespace, &pod.name, &pod.phase, pod.owner.as_ref().unwrap_or(&"-".to_owned())]);
    }
    let mut text = trimmed(&table.to_string());
    if pods.pods.len() > PODS_SHOWN {
        let _ = write!(text, "\nand {} more; --json has them", pods.pods.len() - PODS_SHOWN);
    }
    text
}

fn trimmed(table: &str) -> String {
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_with_all_that_is_known_and_nothing_that_is_not() {
        let info = serde_json::json!({
            "name": "node-1", "uid": "u", "ready": true, "unschedulable": true, "roles": ["worker"],
            "cordoned_by": "ada", "cordon_task": "t-1", "cordon_reason": "disk",
            "labels": {"a": "b", "c": "d"}, "taints": [], "version": "v1.33.4",
            "conditions": [{"name": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is",
                "since": "2026-01-01T00:00:00Z"}],
            "addresses": [{"kind": "InternalIP", "address": "10.0.0.1"}],
            "capacity": {"cpu": "8", "memory": "32Gi"}, "allocatable": {"cpu": "7500m", "memory": "32Gi"},
            "annotations": {}, "system": {"osImage": "Debian 13"}, "freshness": {"stale": false, "silent_ms": 0},
            "pods": {"count": 2, "more": false, "pods": [
                {"namespace": "web", "name": "web-1", "phase": "Running", "owner": "ReplicaSet web"},
                {"namespace": "web", "name": "job-1", "phase": "Pending"}]},
        });
        let info: NodeInfo = serde_json::from_value(info).unwrap();
        let text = text(&info, "2026-01-13T00:00:00Z".parse().unwrap(), Paint::off());
        for line in [
            "node       node-1",
            "status     Ready,cordoned",
            "cordon     cordoned by ada: disk (task t-1)",
            "system     v1.33.4, Debian 13",
            "resources  cpu 7500m of 8, memory 32Gi",
            "labels     a=b",
            "           c=d",
            "2 pods: 1 Pending, 1 Running",
        ] {
            assert!(text.lines().any(|told| told == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("taints") && !text.contains("zone"), "{text}");
        let ready = text.lines().find(|line| line.starts_with("Ready ")).unwrap();
        assert_eq!(ready.split_whitespace().collect::<Vec<_>>(), ["Ready", "True", "12d", "it", "is"]);
    }
}
