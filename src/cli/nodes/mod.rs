//! `milepost nodes` and `milepost node`: the nodes of a cluster, all or one, and how they change.
//!
//! How they look on a terminal is in [`lines`] and [`detail`], both pure.

mod detail;
mod lines;

use anyhow::{Context, Result};
use serde_json::json;

use super::connection::ServerArgs;
use super::exit::{Exit, UsageError};
use super::output::{Output, Paint, say};
use crate::action::Freshness;
use crate::action::nodes::{FilterDraft, Summary};
use crate::client::{Api, NodeNews};
use crate::clock::{Clock, SystemClock};
use crate::task::{ClusterName, ItemName};

/// The cluster that has no nodes.
const LOCAL: &str = crate::action::registry::LOCAL;

/// Flags of `milepost nodes`.
#[derive(Debug, Clone, clap::Args)]
pub struct NodesArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// Only nodes that are ready, not-ready, cordoned or schedulable; several with commas, all must hold.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,

    /// Only nodes with one of these roles; none for nodes without one.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,

    /// Only nodes with these labels, as kubectl takes them: zone=a,tier!=gold.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,

    /// Only nodes with this taint: key, key=value, key:effect or key=value:effect.
    #[arg(long, value_name = "TAINT")]
    taint: Option<String>,

    /// Only nodes whose cordon has this in its reason.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Only nodes with this in their name.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// Go on with a line for each change, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `milepost node`.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// Name of the node.
    #[arg(value_name = "NODE")]
    name: ItemName,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, clap::Args)]
struct ClusterArgs {
    /// The cluster; may be left out where there is only one.
    #[arg(long, short, value_name = "NAME")]
    cluster: Option<ClusterName>,
}

impl ClusterArgs {
    async fn resolve(&self, api: &Api) -> Result<ClusterName> {
        if let Some(cluster) = &self.cluster {
            return Ok(cluster.clone());
        }
        let clusters = api.clusters().await.context("list clusters")?;
        let with_nodes: Vec<&String> = clusters.iter().filter(|name| *name != LOCAL).collect();
        match with_nodes.as_slice() {
            [only] => Ok(only.parse().context("the name of the cluster")?),
            [] => Err(UsageError("no cluster is configured".into()).into()),
            _ => Err(UsageError(format!("--cluster is needed: one of {}", clusters.join(", "))).into()),
        }
    }
}

/// Lists nodes, and follows them if asked to.
///
/// # Errors
/// When a flag is wrong, there is no such cluster, or no server can be reached.
pub async fn list(args: &NodesArgs, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let cluster = args.cluster.resolve(&api).await?;
    let asked = FilterDraft {
        status: args.status.clone(),
        role: args.role.clone(),
        selector: args.selector.clone(),
        taint: args.taint.clone(),
        reason: args.reason.clone(),
        name: args.name.clone(),
    };
    if args.watch {
        return follow(&api, &cluster, &asked, out).await;
    }
    let listing = api.nodes(&cluster, &asked).await.with_context(|| format!("nodes of {cluster}"))?;
    if out.json {
        listing.nodes.iter().for_each(|node| out.object(&json!({ "type": "node", "node": node })));
        out.object(&json!({ "type": "summary", "summary": listing.summary, "freshness": listing.freshness }));
        return Ok(Exit::Succeeded);
    }
    if listing.nodes.is_empty() {
        say(if listing.summary.total == 0 { "the cluster has no nodes" } else { "no node is as asked" });
    } else {
        out.line(lines::table(&listing.nodes, SystemClock.now(), lines::width(), Paint::new()));
    }
    say(summary(&listing.summary, listing.nodes.len()));
    say_stale(&listing.freshness);
    Ok(Exit::Succeeded)
}

/// How many there are, in a line.
fn summary(all: &Summary, shown: usize) -> String {
    let of = if shown < all.total as usize { format!("{shown} of ") } else { String::new() };
    let mut words = vec![format!("{of}{} nodes: {} ready", all.total, all.ready)];
    for (n, word) in [(all.not_ready, "not ready"), (all.cordoned, "cordoned")] {
        if n > 0 {
            words.push(format!("{n} {word}"));
        }
    }
    let kinds = all.roles.iter().map(|(role, n)| format!("{role} {n}"));
    let kinds: Vec<String> = kinds.chain(all.zones.iter().map(|(zone, n)| format!("{zone} {n}"))).collect();
    match kinds.len() {
        0 | 13.. => words.join(", "),
        _ => format!("{}; {}", words.join(", "), kinds.join(", ")),
    }
}

fn say_stale(freshness: &Freshness) {
    if freshness.stale {
        say(Paint::new().yellow(lines::stale(freshness)));
    }
}

async fn follow(api: &Api, cluster: &ClusterName, asked: &FilterDraft, out: Output) -> Result<Exit> {
    let mut follower = api.follow_nodes(cluster, asked);
    let mut board = lines::Board::default();
    let paint = Paint::new();
    loop {
        let news = tokio::select! {
            news = follower.next() => news.with_context(|| format!("nodes of {cluster}"))?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Detached),
        };
        if out.json {
            out.object(&of_news(&news));
            continue;
        }
        let now = SystemClock.now();
        match &news {
            NodeNews::All(nodes) if board.is_empty() && !nodes.is_empty() => {
                out.line(lines::table(nodes, now, lines::width(), paint));
            }
            NodeNews::Freshness(freshness) => say_stale(freshness),
            NodeNews::Away(why) => say(paint.yellow(format_args!("the server is away: {why}"))),
            _ => {}
        }
        for change in board.take(&news) {
            let time = now.strftime("%H:%M:%S");
            out.line(format_args!("{}  {}", paint.dim(time), change.painted(paint)));
        }
    }
}

fn of_news(news: &NodeNews) -> serde_json::Value {
    match news {
        NodeNews::All(nodes) => json!({ "type": "all", "nodes": nodes }),
        NodeNews::Added(node) => json!({ "type": "added", "node": node }),
        NodeNews::Updated { node, changed } => json!({ "type": "updated", "node": node, "changed": changed }),
        NodeNews::Deleted { name, gone } => json!({ "type": "deleted", "name": name, "gone": gone }),
        NodeNews::Freshness(freshness) => json!({ "type": "freshness", "freshness": freshness }),
        NodeNews::Away(why) => json!({ "type": "away", "why": why }),
    }
}

/// Shows one node.
///
/// # Errors
/// When there is no such node or cluster, or no server can be reached.
pub async fn show(args: &NodeArgs, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let cluster = args.cluster.resolve(&api).await?;
    let info = api.node(&cluster, &args.name).await;
    let info = info.with_context(|| format!("node {} of {cluster}", args.name))?;
    if out.json {
        out.object(&json!({ "type": "node", "node": info }));
    } else {
        out.line(detail::text(&info, SystemClock.now(), Paint::new()));
        say_stale(&info.freshness);
    }
    Ok(Exit::Succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line_of_what_there_is() {
        let all = Summary {
            total: 100,
            ready: 98,
            not_ready: 2,
            cordoned: 3,
            schedulable: 97,
            roles: [("worker".to_owned(), 97)].into(),
            zones: [("zone-a".to_owned(), 100)].into(),
        };
        let text = "100 nodes: 98 ready, 2 not ready, 3 cordoned; worker 97, zone-a 100";
        assert_eq!(summary(&all, 100), text);
        assert_eq!(
            summary(&Summary { total: 5, ready: 5, ..Summary::default() }, 2),
            "2 of 5 nodes: 5 ready"
        );
    }
}
