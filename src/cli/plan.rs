//! A plan for people: warnings first, then the nodes in a table that fits a narrow terminal, then how to run it. Pure but
//! for the printing.

use std::time::Duration;

use comfy_table::{Cell, Color};

use super::exit::Exit;
use super::output::{Output, Paint, say};
use super::table;
use crate::client::PlanChange;
use crate::task::Plan;
use crate::task::plan::{Fate, NodePlan, Outcome, Summary};

/// Nodes in the table; `--json` has all of them.
const ROWS_MAX: usize = 100;
/// Differences in the list.
const DIFFERENCES_MAX: usize = 20;
/// The widest a table gets where standard output is no terminal.
const WIDTH: u16 = 80;

/// Prints a plan, and the command that runs it.
pub(super) fn print(plan: &Plan, out: Output) -> Exit {
    if out.json {
        out.object(plan);
    } else {
        let paint = Paint::new();
        warnings(plan).for_each(|warning| out.line(paint.yellow(format_args!("! {}", clean(&warning)))));
        out.line(head(plan));
        out.line(format_args!("order: {}; about {}", order(plan), estimate(plan)));
        out.line("");
        out.line(nodes(plan));
        let more = plan.nodes.len().saturating_sub(ROWS_MAX);
        if more > 0 {
            out.line(format_args!("and {more} more; --json has all of them"));
        }
        out.line("");
        out.line(format_args!("plan {}", plan.hash));
        say(format_args!("run it with: {}", command(std::env::args(), plan)));
    }
    if plan.is_clean() { Exit::Succeeded } else { Exit::Failed }
}

/// Tells what a plan that was agreed to has different by now.
pub(super) fn print_change(change: &PlanChange, out: Output) {
    if out.json {
        return out.object(&serde_json::json!({ "type": "plan_changed", "plan": change }));
    }
    for line in differences(change) {
        out.line(clean(&line));
    }
    say("make the plan anew with --plan, look at it, and submit with its hash");
}

fn differences(change: &PlanChange) -> Vec<String> {
    let Some(differences) = &change.differences else { return Vec::new() };
    let mut lines = differences.task.clone();
    let nodes = differences.nodes.iter().take(DIFFERENCES_MAX);
    lines.extend(nodes.map(|node| format!("{}: {} -> {}", node.name, node.planned, node.now)));
    let more = differences.nodes.len().saturating_sub(DIFFERENCES_MAX) + differences.more as usize;
    if more > 0 {
        lines.push(format!("and {more} more nodes"));
    }
    lines
}

/// What is to be known before anything else.
fn warnings(plan: &Plan) -> impl Iterator<Item = String> {
    let refused = plan.refused.iter().map(|why| format!("nothing would be done: {why}"));
    // What refuses the task says which rights are missing in the whole cluster.
    let missing = plan.missing.iter().filter(|right| plan.refused.is_none() || right.namespace.is_some());
    let missing = missing.map(|right| format!("a right is missing: {right}"));
    let held = Some(plan.summary.held_by_budgets).filter(|count| *count > 0);
    let held = held.map(|count| format!("budgets let no pod go now on {}", counted(count, "node")));
    refused.chain(missing).chain(plan.warnings.iter().cloned()).chain(held).collect::<Vec<_>>().into_iter()
}

fn head(plan: &Plan) -> String {
    let Summary { nodes, change, already, skip, fail, missing, unknown, evictions, .. } = plan.summary;
    let counts = [
        (change, "to change"),
        (already, "already so"),
        (skip, "to skip"),
        (fail, "would fail"),
        (missing, "not there"),
        (unknown, "not looked at"),
    ];
    let counts =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}"));
    let counts: Vec<_> = counts.collect();
    let pods =
        if evictions > 0 { format!("; {} to evict", counted(evictions, "pod")) } else { String::new() };
    format!("{} on {}: {}: {}{pods}", plan.action, plan.cluster, counted(nodes, "node"), counts.join(", "))
}

fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn order(plan: &Plan) -> String {
    const SHOWN: usize = 5;
    if plan.waves.len() < 2 {
        return plan.order.clone();
    }
    let first = plan.waves.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let more = if plan.waves.len() > SHOWN { ", ..." } else { "" };
    format!("{}, in {} waves of {first}{more}", plan.order, plan.waves.len())
}

fn estimate(plan: &Plan) -> String {
    format!("{} ({})", table::time(Duration::from_secs(plan.estimate.seconds)), plan.estimate.says)
}

/// What goes wrong comes first, the rest in its order.
fn nodes(plan: &Plan) -> comfy_table::Table {
    let in_waves = plan.waves.len() > 1;
    let header = if in_waves { &["NODE", "WAVE", "NOW", "PLAN"][..] } else { &["NODE", "NOW", "PLAN"] };
    let mut table = table::plain(header);
    if !Paint::new().is_on() {
        table.set_width(WIDTH);
    }
    let mut nodes: Vec<&NodePlan> = plan.nodes.iter().collect();
    nodes.sort_by_key(|node| !is_trouble(node));
    for node in nodes.into_iter().take(ROWS_MAX) {
        let now = node.now.as_ref().map(ToString::to_string).unwrap_or_default();
        let wave = in_waves.then(|| Cell::new(node.wave));
        let name = [Cell::new(&node.name)];
        table.add_row(name.into_iter().chain(wave).chain([Cell::new(now), what(node)]));
    }
    table
}

fn is_trouble(node: &NodePlan) -> bool {
    let bad = matches!(node.outcome, Outcome::Fail | Outcome::Missing | Outcome::Unknown);
    bad || node.budgets.iter().any(|budget| budget.blocks)
}

fn what(node: &NodePlan) -> Cell {
    let left = node.pods(Fate::Leave);
    let left =
        (left > 0).then(|| format!("{} stay{}", counted(left, "pod"), if left == 1 { "s" } else { "" }));
    let budgets = node.budgets.iter().map(|budget| format!("budget {} {}", budget.budget, budget.why));
    let notes = left.into_iter().chain(budgets).chain(node.warnings.iter().cloned());
    let text = std::iter::once(node.says.clone()).chain(notes).collect::<Vec<_>>().join("; ");
    let cell = Cell::new(clean(&text));
    match node.outcome {
        Outcome::Fail | Outcome::Missing | Outcome::Unknown => cell.fg(Color::Red),
        Outcome::Skip => cell.fg(Color::Yellow),
        Outcome::Already => cell.add_attribute(comfy_table::Attribute::Dim),
        Outcome::Change => cell,
    }
}

/// The text without what a terminal would obey: parts of it were written by others into the cluster.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same command line, which runs the plan. Without the token, which is not to be shown.
fn command(words: impl Iterator<Item = String>, plan: &Plan) -> String {
    let mut line = vec!["milepost".to_owned()];
    let mut words = words.skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--plan" => {}
            "--token" => drop(words.next()),
            word if word.starts_with("--token=") => {}
            word => line.push(quoted(word)),
        }
    }
    line.push(format!("--plan-hash {}", plan.hash));
    line.join(" ")
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::task::TaskSpec;
    use crate::task::plan::{BudgetHold, NodeNow, PodClass, PodGroup, Right, Survey};

    fn plan(survey: Survey) -> Plan {
        let items: Vec<_> = survey.nodes.iter().map(|node| node.name.clone()).collect();
        let draft = json!({"action": "drain", "cluster": "prod", "items": items, "strategy": {"waves": [2]}});
        let spec = TaskSpec::new(serde_json::from_value(draft).unwrap()).unwrap();
        Plan::new(&spec, survey, 20, &[], Timestamp::UNIX_EPOCH)
    }

    fn some() -> Survey {
        let now = Some(NodeNow { ready: true, ..NodeNow::default() });
        let mut drained =
            NodePlan { now, ..NodePlan::new("node-001", Outcome::Change, "cordon, evict 9 pods") };
        let group = |fate, count| PodGroup { fate, class: PodClass::Ordinary, count, names: Vec::new() };
        drained.pods = vec![group(Fate::Evict, 9), group(Fate::Leave, 2)];
        let why = "lets no pod go now: it needs 6 healthy pods and has 6".to_owned();
        drained.budgets =
            vec![BudgetHold { budget: "shop/web".into(), pods: 2, allowed: 0, blocks: true, why }];
        let gone =
            NodePlan::new("node-404", Outcome::Missing, "node node-404 does not exist in cluster prod");
        let bad = NodePlan::new("node-002", Outcome::Skip, "cordoned by \u{1b}[31mada");
        Survey { nodes: vec![bad, drained, gone], ..Survey::default() }
    }

    #[test]
    fn a_table_fits_a_narrow_terminal_and_begins_with_trouble() {
        let text = nodes(&plan(some())).to_string();
        assert!(text.lines().all(|line| line.trim_end().chars().count() <= 80), "{text}");
        let first: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let place = |name: &str| first.iter().position(|word| *word == name).unwrap();
        assert!(place("node-001") < place("node-002") && place("node-404") < place("node-002"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn warnings_say_what_is_missing() {
        let survey = Survey {
            missing: vec![Right::new("create", "pods/eviction").within("shop")],
            warnings: vec!["w".into()],
            ..some()
        };
        let words: Vec<_> = warnings(&plan(survey)).collect();
        let expected = [
            "a right is missing: create on pods/eviction in namespace shop",
            "w",
            "budgets let no pod go now on 1 node",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn the_head_counts_what_there_is() {
        let plan = plan(some());
        assert_eq!(
            head(&plan),
            "drain on prod: 3 nodes: 1 to change, 1 to skip, 1 not there; 9 pods to evict"
        );
        assert_eq!(order(&plan), "as given, in 2 waves of 2, 1");
    }

    #[test]
    fn the_command_that_runs_it_is_the_one_that_planned_it() {
        let words = [
            "/bin/milepost",
            "submit",
            "drain",
            "n-[1-2]",
            "--plan",
            "--token",
            "t",
            "--token=t",
            "-r",
            "it's",
        ];
        let plan = plan(some());
        let line = command(words.iter().map(ToString::to_string), &plan);
        assert_eq!(line, format!(r"milepost submit drain 'n-[1-2]' -r 'it'\''s' --plan-hash {}", plan.hash));
    }
}
