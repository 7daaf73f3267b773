//! Nodes as lines of a terminal. A name is never cut, for people copy it; what does not fit beside it is left out column by
//! column, and whose cordon it is stands below the node. Pure.

use std::collections::BTreeMap;

use jiff::{SpanRound, Timestamp, Unit};

use crate::action::{Freshness, NodeView};
use crate::cli::output::Paint;
use crate::cli::table;
use crate::client::NodeNews;

const HEADER: [&str; 6] = ["NAME", "STATUS", "ROLES", "ZONE", "VERSION", "AGE"];
/// Columns in the order in which they are left out.
const LEFT_OUT: [usize; 4] = [4, 3, 2, 5];
const STATUS: usize = 1;
/// Between two columns.
const GAP: usize = 2;

/// Characters of a line; wide where nobody looks at a terminal.
pub(super) fn width() -> usize {
    table::plain(&[]).width().map_or(usize::from(table::WIDTH), usize::from)
}

/// The nodes as a table of at most `width` characters, if their names let it.
pub(super) fn table(nodes: &[NodeView], now: Timestamp, width: usize, paint: Paint) -> String {
    let rows: Vec<[String; 6]> = nodes.iter().map(|node| cells(node, now)).collect();
    let widths: Vec<usize> = (0..HEADER.len())
        .map(|column| {
            rows.iter().map(|row| len(&row[column])).chain([len(HEADER[column])]).max().unwrap_or(0)
        })
        .collect();
    let columns = columns(&widths, width);
    let line = |cells: &[&str], paint: &dyn Fn(usize, String) -> String| {
        let last = columns.len() - 1;
        let padded = columns.iter().enumerate().map(|(place, &column)| {
            let gap = if place == last { 0 } else { widths[column] + GAP - len(cells[column]) };
            paint(column, cells[column].to_owned()) + &" ".repeat(gap)
        });
        padded.collect::<String>().trim_end().to_owned()
    };
    let mut lines = vec![line(&HEADER, &|_, text| paint.dim(text))];
    for (node, row) in nodes.iter().zip(&rows) {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        lines.push(line(&cells, &|column, text| {
            if column == STATUS { colour(node, text, paint) } else { text }
        }));
        lines.extend(cordon(node).map(|words| paint.dim(cut(&format!("  {words}"), width))));
    }
    lines.join("\n")
}

/// The columns that fit, in their order.
fn columns(widths: &[usize], width: usize) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..widths.len()).collect();
    let takes = |columns: &[usize]| columns.iter().map(|&column| widths[column] + GAP).sum::<usize>() - GAP;
    for column in LEFT_OUT {
        if takes(&columns) <= width {
            break;
        }
        columns.retain(|&kept| kept != column);
    }
    columns
}

fn cells(node: &NodeView, now: Timestamp) -> [String; 6] {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [
        node.name.clone(),
        status(node),
        or_dash(node.roles.join(",")),
        or_dash(node.zone().unwrap_or_default().to_owned()),
        or_dash(node.version.clone()),
        node.created_at.as_deref().and_then(|at| age(at, now)).unwrap_or_else(|| "-".to_owned()),
    ]
}

/// As kubectl says it, and what else is wrong.
pub(super) fn status(node: &NodeView) -> String {
    let mut words = vec![if node.ready { "Ready" } else { "NotReady" }];
    words.extend(node.problems.iter().map(String::as_str));
    words.extend(node.unschedulable.then_some("cordoned"));
    words.join(",")
}

pub(super) fn colour(node: &NodeView, text: String, paint: Paint) -> String {
    match (node.ready && node.problems.is_empty(), node.unschedulable) {
        (false, _) => paint.red(text),
        (true, true) => paint.yellow(text),
        (true, false) => paint.green(text),
    }
}

/// Whose cordon a node has; `None` when it has none.
pub(super) fn cordon(node: &NodeView) -> Option<String> {
    if !node.unschedulable {
        return None;
    }
    let by = node.cordoned_by.as_deref().unwrap_or("somebody else");
    let since = node.cordoned_at.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
    let reason = node.cordon_reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(format!("cordoned by {by}{since}{reason}"))
}

/// How long ago, in the largest unit that fits: 12d, 5h, 3m, 10s.
pub(super) fn age(at: &str, now: Timestamp) -> Option<String> {
    let at: Timestamp = at.parse().ok()?;
    let round = SpanRound::new().largest(Unit::Second);
    let s = now.since(at).ok()?.round(round).ok()?.get_seconds().max(0);
    Some(match s {
        0..120 => format!("{s}s"),
        120..7_200 => format!("{}m", s / 60),
        7_200..172_800 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    })
}

/// That nodes may be old, since when and why.
pub(super) fn stale(freshness: &Freshness) -> String {
    let since = table::time(freshness.silent());
    let why = freshness.cause.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("the cluster was last heard of {since} ago, so this may be old{why}")
}

fn len(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, width: usize) -> String {
    if len(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// One change, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    node: String,
    words: String,
    bad: bool,
}

impl Change {
    pub(super) fn painted(&self, paint: Paint) -> String {
        let words = if self.bad { paint.red(&self.words) } else { self.words.clone() };
        format!("{}  {words}", self.node)
    }
}

/// The nodes as they were told last, so that a new start tells only what differs.
#[derive(Debug, Default)]
pub(super) struct Board(BTreeMap<String, NodeView>);

impl Board {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What news change, in words. The first nodes are no change.
    pub(super) fn take(&mut self, news: &NodeNews) -> Vec<Change> {
        match news {
            NodeNews::All(nodes) => self.replace(nodes),
            NodeNews::Added(node) | NodeNews::Updated { node, .. } => self.put(node).into_iter().collect(),
            NodeNews::Deleted { name, gone } => self.drop(name, *gone).into_iter().collect(),
            NodeNews::Freshness(_) | NodeNews::Away(_) => Vec::new(),
        }
    }

    fn replace(&mut self, nodes: &[NodeView]) -> Vec<Change> {
        if self.is_empty() {
            self.0 = nodes.iter().map(|node| (node.name.clone(), node.clone())).collect();
            return Vec::new();
        }
        let there: std::collections::BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let gone: Vec<String> =
            self.0.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        let gone: Vec<Change> = gone.iter().filter_map(|name| self.drop(name, true)).collect();
        gone.into_iter().chain(nodes.iter().filter_map(|node| self.put(node))).collect()
    }

    fn put(&mut self, node: &NodeView) -> Option<Change> {
        let before = self.0.insert(node.name.clone(), node.clone());
        let words = match &before {
            None => vec![format!("new, {}", status(node))],
            Some(before) if before.uid != node.uid => vec![format!("replaced, {}", status(node))],
            Some(before) => {
                node.changed_from(before).into_iter().filter_map(|field| word(node, field)).collect()
            }
        };
        let bad = !node.ready && before.is_none_or(|before| before.ready);
        (!words.is_empty()).then(|| Change { node: node.name.clone(), words: words.join(", "), bad })
    }

    fn drop(&mut self, name: &str, gone: bool) -> Option<Change> {
        self.0.remove(name)?;
        let words = if gone { "gone" } else { "not as asked any more" };
        Some(Change { node: name.to_owned(), words: words.to_owned(), bad: gone })
    }
}

/// What a field that changed is now. The holder of a cordon comes with the cordon.
fn word(node: &NodeView, field: &str) -> Option<String> {
    Some(match field {
        "ready" => (if node.ready { "ready" } else { "not ready" }).to_owned(),
        "unschedulable" => cordon(node).unwrap_or_else(|| "uncordoned".to_owned()),
        "problems" if node.problems.is_empty() => "no problems".to_owned(),
        "problems" => node.problems.join(" "),
        "taints" if node.taints.is_empty() => "no taints".to_owned(),
        "taints" => format!("taints {}", node.taints.join(" ")),
        "version" => node.version.clone(),
        "roles" | "labels" => format!("{field} changed"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeView {
        NodeView {
            name: name.into(),
            uid: format!("uid of {name}"),
            created_at: Some("2026-01-01T00:00:00Z".into()),
            ready: true,
            roles: vec!["worker".into()],
            labels: [("topology.kubernetes.io/zone".to_owned(), "zone-a".to_owned())].into(),
            version: "v1.33.4".into(),
            ..NodeView::default()
        }
    }

    fn cordoned(name: &str) -> NodeView {
        NodeView {
            unschedulable: true,
            cordoned_by: Some("ada".into()),
            cordoned_at: Some("2026-01-02T03:04:05Z".into()),
            cordon_reason: Some("bad disk".repeat(20)),
            ..node(name)
        }
    }

    fn plain(nodes: &[NodeView], width: usize) -> String {
        let now = "2026-01-13T00:00:00Z".parse().unwrap();
        table(nodes, now, width, Paint::off())
    }

    #[test]
    fn a_table_fits_and_never_cuts_a_name() {
        let nodes = [node("node-1"), cordoned("node-2")];
        let text = plain(&nodes, 80);
        assert_eq!(
            text.lines().take(3).collect::<Vec<_>>(),
            [
                "NAME    STATUS          ROLES   ZONE    VERSION  AGE",
                "node-1  Ready           worker  zone-a  v1.33.4  12d",
                "node-2  Ready,cordoned  worker  zone-a  v1.33.4  12d",
            ]
        );
        assert!(
            text.lines()
                .nth(3)
                .unwrap()
                .starts_with("  cordoned by ada since 2026-01-02T03:04:05Z: bad disk")
        );
        let long = "ip-10-0-123-123.eu-central-1.compute.internal.example";
        for width in [80, 70, 60, 20] {
            let text = plain(&[node(long), cordoned("n")], width);
            let most = text.lines().map(len).max().unwrap();
            assert!(
                most <= width.max(len(long) + GAP + "Ready,cordoned".len()),
                "{most} at {width}:\n{text}"
            );
            assert!(text.contains(long), "{text}");
        }
        assert!(plain(&[node(long)], 80).starts_with("NAME"));
    }

    #[test]
    fn ages_are_short() {
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        for (at, said) in [
            ("2026-01-02T23:59:00Z", "60s"),
            ("2026-01-02T23:50:00Z", "10m"),
            ("2026-01-02T12:00:00Z", "12h"),
            ("2025-12-03T00:00:00Z", "31d"),
            ("2027-01-01T00:00:00Z", "0s"),
        ] {
            assert_eq!(age(at, now).unwrap(), said);
        }
        assert_eq!(age("never", now), None);
    }

    #[test]
    fn only_what_differs_is_told_also_after_a_new_start() {
        let mut board = Board::default();
        let mut told = |news: NodeNews| -> Vec<String> {
            board.take(&news).into_iter().map(|change| format!("{} {}", change.node, change.words)).collect()
        };
        assert!(told(NodeNews::All(vec![node("a"), node("b")])).is_empty());
        let down = NodeView { ready: false, taints: vec!["x:NoExecute".into()], ..node("a") };
        assert_eq!(
            told(NodeNews::Updated { node: down.clone(), changed: vec![] }),
            ["a not ready, taints x:NoExecute"]
        );
        assert!(told(NodeNews::Updated { node: down.clone(), changed: vec![] }).is_empty());
        let other = NodeView { uid: "other".into(), ..node("b") };
        assert_eq!(
            told(NodeNews::All(vec![other.clone(), node("c")])),
            ["a gone", "b replaced, Ready", "c new, Ready"]
        );
        assert_eq!(told(NodeNews::Deleted { name: "c".into(), gone: false }), ["c not as asked any more"]);
        let cordon = NodeView { unschedulable: true, cordoned_by: Some("ada".into()), ..other };
        assert_eq!(told(NodeNews::Added(cordon)), ["b cordoned by ada"]);
    }
}
