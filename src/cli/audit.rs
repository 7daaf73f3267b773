//! `milepost audit`: who did what to which task and node, why, from where, and what came of it.

use anyhow::{Context, Result};
use comfy_table::{Cell, Color};
use jiff::Timestamp;
use serde_json::json;

use super::connection::{ServerArgs, resolve, short};
use super::exit::Exit;
use super::output::{Output, say};
use super::table;
use crate::client::audit::{AuditFilter, AuditInfo, AuditNode};
use crate::clock::{Clock, SystemClock};
use crate::config::duration;
use crate::task::{Effect, ItemState};

/// Flags of `milepost audit`.
#[derive(Debug, Clone, clap::Args)]
pub struct AuditArgs {
    /// Only tasks on this node, with what came of them there.
    #[arg(long, short, value_name = "NODE")]
    node: Option<String>,

    /// Only what this user did.
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,

    /// Only on this cluster.
    #[arg(long, short, value_name = "NAME")]
    cluster: Option<String>,

    /// Only of this task (its id, or the end of it), with each of its nodes.
    #[arg(long, short, value_name = "TASK")]
    task: Option<String>,

    /// Only of this action, such as drain.
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,

    /// Only from then on: a time such as 2026-01-02T03:04:05Z, or how long ago, such as 24h or 7d.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,

    /// Only before then: a time, or how long ago.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,

    /// At most so many rows, newest first.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,

    #[command(flatten)]
    server: ServerArgs,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = duration::parse(text).map_err(|_| {
        "must be a time such as 2026-01-02T03:04:05Z, or how long ago, such as 24h".to_owned()
    })?;
    SystemClock.now().checked_sub(ago).map_err(|_| "is too long ago".to_owned())
}

/// Shows the audit.
///
/// # Errors
/// When a flag is wrong, there is no such task, or no server can be reached.
pub async fn run(args: &AuditArgs, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let task = match &args.task {
        Some(text) => Some(resolve(&api, text).await?),
        None => None,
    };
    let filter = AuditFilter {
        user: args.user.clone(),
        cluster: args.cluster.clone(),
        node: args.node.clone(),
        task,
        action: args.action.clone(),
        since: args.since,
        until: args.until,
        limit: args.limit.max(1),
    };
    let (rows, more) = api.audit(&filter).await.context("read the audit")?;
    show(&rows, out);
    if let Some(task) = task.filter(|_| args.node.is_none() && !rows.is_empty()) {
        let nodes = api.audit_nodes(task).await.with_context(|| format!("nodes of {task}"))?;
        show_nodes(&nodes, out);
    }
    if more {
        say(format_args!("{} rows shown; --limit shows more", rows.len()));
    }
    Ok(Exit::Succeeded)
}

fn show(rows: &[AuditInfo], out: Output) {
    if out.json {
        rows.iter().for_each(|row| out.object(&json!({ "type": "audit", "audit": row })));
    } else if rows.is_empty() {
        say("the audit tells nothing of this");
    } else {
        out.line(rows_table(rows));
    }
}

fn show_nodes(nodes: &[AuditNode], out: Output) {
    if out.json {
        nodes.iter().for_each(|node| out.object(&json!({ "type": "node", "node": node })));
    } else if !nodes.is_empty() {
        out.line("");
        out.line(nodes_table(nodes));
    }
}

fn rows_table(rows: &[AuditInfo]) -> String {
    let mut table = table::plain(&["TIME (UTC)", "WHO", "DID", "CLUSTER", "OUTCOME", "WHY", "FROM"]);
    for row in rows {
        let who = row.user.as_ref().or(row.worker.as_ref()).map_or("", String::as_str);
        let from: Vec<&str> = [&row.address, &row.agent].into_iter().flatten().map(String::as_str).collect();
        table.add_row([
            Cell::new(row.at.strftime("%F %T")),
            Cell::new(who),
            Cell::new(deed(row)),
            Cell::new(row.cluster.as_deref().unwrap_or_default()),
            outcome(row),
            Cell::new(row.reason.as_deref().unwrap_or_default()),
            Cell::new(from.join(" ")),
        ]);
    }
    table.to_string()
}

/// What was done, to what: `drain 12 nodes …a1b2c3`, `cancel …a1b2c3`, `template tiers`.
fn deed(row: &AuditInfo) -> String {
    let action = row.action.as_deref().unwrap_or_default();
    let nodes = match row.items {
        Some(1) => " 1 node".to_owned(),
        Some(n) => format!(" {n} nodes"),
        None => String::new(),
    };
    let task = row.task_id.map(|id| format!(" {}", short(id))).unwrap_or_default();
    let told = |name: &str| row.detail[name].as_str().unwrap_or_default().to_owned();
    match row.kind.as_str() {
        "submit" => format!("{action}{nodes}{task}"),
        "retry" => format!("retry {action}{nodes}{task}"),
        "refused" => format!("{} {action}{nodes}{task}", told("asked")),
        "template" => format!("template {} version {}", told("template"), row.detail["version"]),
        "template_removed" => format!("remove template {}", told("template")),
        "claim" => format!("claim{task} attempt {}", row.attempt.unwrap_or_default()),
        "concurrency" => format!("concurrency {}{task}", row.detail["concurrency"]),
        other => format!("{other}{task}"),
    }
}

fn outcome(row: &AuditInfo) -> Cell {
    if let Some(node) = &row.node {
        return node_cell(node);
    }
    if let Some(task) = &row.task {
        let words = table::counts(task.counts, None, super::output::Paint::off());
        let words = format!("{}: {words}", table::words(task.status));
        return table::status_text_cell(task.status, words);
    }
    match &row.message {
        Some(message) => Cell::new(format!("{}: {message}", row.outcome)).fg(Color::Red),
        None => Cell::new(row.outcome.replace('_', " ")),
    }
}

fn nodes_table(nodes: &[AuditNode]) -> String {
    let mut table = table::plain(&["NODE", "OUTCOME", "TRIES", "WORKER", "TIME (UTC)"]);
    for node in nodes {
        let time = node.item.finished_at.map(|at| at.strftime("%F %T").to_string());
        table.add_row([
            Cell::new(&node.item.name),
            node_cell(node),
            Cell::new(node.item.tries.map(|n| n.to_string()).unwrap_or_default()),
            Cell::new(node.worker.as_deref().unwrap_or_default()),
            Cell::new(time.unwrap_or_default()),
        ]);
    }
    table.to_string()
}

/// What came of a node: `succeeded (changed)`, `failed: no such node`.
fn node_cell(node: &AuditNode) -> Cell {
    let state = node.item.state;
    let words = match (state, node.item.effect, &node.item.error) {
        (ItemState::Succeeded, Some(Effect::Changed), _) => "succeeded (changed)".to_owned(),
        (ItemState::Succeeded, Some(Effect::Already), _) => "succeeded (already)".to_owned(),
        (state, _, Some(error)) => format!("{}: {error}", state.as_str()),
        (state, _, None) => state.as_str().to_owned(),
    };
    match state {
        ItemState::Failed => Cell::new(words).fg(Color::Red),
        ItemState::Succeeded => Cell::new(words).fg(Color::Green),
        ItemState::Skipped | ItemState::Cancelled => Cell::new(words).fg(Color::Yellow),
        ItemState::Pending | ItemState::Running => Cell::new(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(told: &serde_json::Value) -> AuditInfo {
        let mut row = json!({"at": "2026-01-02T03:04:05Z", "kind": "submit", "outcome": "accepted", "owner": "ann",
            "user": "ann", "cluster": "prod", "address": "192.0.2.7", "detail": {}});
        row.as_object_mut().unwrap().extend(told.as_object().unwrap().clone());
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn rows_are_told_in_words() {
        let task = "01890a5d-ac96-774b-bcce-b302099a8057";
        let drained = row(&json!({"action": "drain", "items": 3, "task_id": task, "reason": "new kernel",
            "task": {"status": "completed_with_errors", "total": 3, "succeeded": 2, "failed": 1, "skipped": 0,
                "cancelled": 0}}));
        let on_node = row(&json!({"action": "drain", "items": 1, "task_id": task,
            "node": {"index": 0, "name": "n-1", "state": "failed", "error": "no room", "worker": "w-1"}}));
        let refused =
            row(&json!({"kind": "refused", "outcome": "refused", "message": "only read", "items": 2,
            "action": "taint", "detail": {"asked": "submit"}}));
        let template = row(&json!({"kind": "template", "outcome": "kept", "cluster": null,
            "detail": {"template": "tiers", "version": 4}}));
        let claim =
            row(&json!({"kind": "claim", "outcome": "claimed", "user": null, "worker": "w-1", "attempt": 2,
            "task_id": task, "address": null}));
        let text = rows_table(&[drained, on_node, refused, template, claim]);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for wanted in [
            "drain 3 nodes …9a8057",
            "completed with errors: 2 succeeded, 1 failed",
            "new kernel 192.0.2.7",
            "drain 1 node …9a8057",
            "failed: no room",
            "submit taint 2 nodes",
            "refused: only read",
            "template tiers version 4",
            "w-1 claim …9a8057 attempt 2",
        ] {
            // Long cells are wrapped, so words are looked for one by one, in some line.
            let found = wanted.split(' ').all(|word| lines.iter().any(|line| line.contains(word)));
            assert!(found, "{wanted}: {text}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(moment("2026-01-02T03:04:05Z").unwrap().to_string(), "2026-01-02T03:04:05Z");
        let ago = moment("24h").unwrap();
        let hours = SystemClock.now().duration_since(ago).as_hours();
        assert_eq!(hours, 24);
        assert!(moment("yesterday").unwrap_err().contains("24h"));
    }
}
