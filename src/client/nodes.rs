//! The nodes of clusters: a list, one of them, and a stream that comes back by itself.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::http::{Api, ApiError, Call, PAGE, innermost};
use super::reconnect::{Ending, Reconnect};
use super::types::{NodeInfo, NodeListing, NodePage};
use crate::action::nodes::FilterDraft;
use crate::action::{Freshness, NodeView};
use crate::task::{ClusterName, ItemName};

/// Most nodes that are taken, whatever the server says.
const NODES_MAX: usize = 100_000;
/// A stream that says nothing for longer is given up; a comment comes every 25 seconds by default.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// A stream is begun anew after so long, if it has not ended before.
const LASTS: Duration = Duration::from_secs(24 * 3600);
/// The longest event that is read, in bytes.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

impl Api {
    /// The nodes of a cluster that are asked for, as many pages as there are.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn nodes(&self, cluster: &ClusterName, asked: &FilterDraft) -> Result<NodeListing, ApiError> {
        let mut listing = NodeListing::default();
        let mut after = None;
        loop {
            let mut query = query(asked);
            query.push(("limit", PAGE.to_string()));
            query.extend(after.map(|after| ("after", after)));
            let call = Call::get(format!("/clusters/{}/nodes", step(cluster.as_str()))).with_query(query);
            let page: NodePage = self.send_retrying(&call).await?;
            listing.nodes.extend(page.nodes);
            (listing.summary, listing.freshness) = (page.summary, page.freshness);
            after = page.next;
            if after.is_none() || listing.nodes.len() >= NODES_MAX {
                return Ok(listing);
            }
        }
    }

    /// One node with its particulars.
    ///
    /// # Errors
    /// See [`ApiError`]; status 404 when there is none of that name.
    pub async fn node(&self, cluster: &ClusterName, name: &ItemName) -> Result<NodeInfo, ApiError> {
        let path = format!("/clusters/{}/nodes/{}", step(cluster.as_str()), step(name.as_str()));
        self.send_retrying(&Call::get(path)).await
    }

    /// Follows the nodes of a cluster that are asked for.
    #[must_use]
    pub fn follow_nodes(&self, cluster: &ClusterName, asked: &FilterDraft) -> NodeFollower {
        let call = Call::get(format!("/live/nodes/{}", step(cluster.as_str()))).with_query(query(asked));
        NodeFollower {
            api: self.clone(),
            call,
            connection: None,
            parser: Parser::default(),
            parts: Vec::new(),
            reconnect: Reconnect::default(),
            away: false,
        }
    }
}

/// What is asked for, as the parameters of an address.
fn query(asked: &FilterDraft) -> Vec<(&'static str, String)> {
    let FilterDraft { status, role, selector, taint, reason, name } = asked.clone();
    let parts = [
        ("status", status),
        ("role", role),
        ("selector", selector),
        ("taint", taint),
        ("reason", reason),
        ("name", name),
    ];
    parts.into_iter().filter_map(|(part, text)| Some((part, text?))).collect()
}

/// A name as one step of a path.
fn step(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What a follower hears.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeNews {
    /// All nodes that are asked for, as they are: at first, and whenever changes may have been missed.
    All(Vec<NodeView>),
    /// A node that is new, or fits what is asked for by now.
    Added(NodeView),
    /// A node that is not as it was.
    Updated {
        /// How it is now.
        node: NodeView,
        /// The fields that differ.
        changed: Vec<String>,
    },
    /// A node that is gone, or does not fit any more.
    Deleted {
        /// Its name.
        name: String,
        /// Whether it is gone.
        gone: bool,
    },
    /// How current all of that is.
    Freshness(Freshness),
    /// The server is away; why. Told once, and followed by [`NodeNews::All`] when it is back.
    Away(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Snapshot {
        nodes: Vec<NodeView>,
        #[serde(default)]
        more: bool,
    },
    Added {
        node: NodeView,
    },
    Updated {
        node: NodeView,
        #[serde(default)]
        changed: Vec<String>,
    },
    Deleted {
        name: String,
        #[serde(default)]
        gone: bool,
    },
    Freshness(Freshness),
    Close {
        code: u16,
        reason: String,
    },
    /// A reset is followed by a snapshot, and what a newer gateway says beside these is left alone.
    #[serde(other)]
    Other,
}

/// The nodes of a cluster, followed.
pub struct NodeFollower {
    api: Api,
    call: Call,
    connection: Option<(Response, Instant)>,
    parser: Parser,
    /// Parts of a snapshot that is not whole yet.
    parts: Vec<NodeView>,
    reconnect: Reconnect,
    /// Whether that the server is away was told.
    away: bool,
}

impl NodeFollower {
    /// The next news. Comes back by itself when the connection ends, whatever ended it, unless the server refuses for good.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// What the server refused.
    pub async fn next(&mut self) -> Result<NodeNews, ApiError> {
        loop {
            while let Some(event) = self.parser.next() {
                match self.news(event) {
                    Ok(Some(news)) => return Ok(news),
                    Ok(None) => {}
                    Err(ending) => return self.ended(&ending).await,
                }
            }
            let ending = match &mut self.connection {
                None => match self.api.stream(&self.call, LASTS).await {
                    Ok(response) => {
                        (self.connection, self.parser) =
                            (Some((response, Instant::now())), Parser::default());
                        self.parts.clear();
                        continue;
                    }
                    Err(error) if error.is_transient() => Ending::Answered {
                        status: error.status().unwrap_or(503),
                        reason: error.to_string(),
                        retry_after: error.retry_after(),
                    },
                    Err(error) => return Err(error),
                },
                Some((response, _)) => match timeout(SILENCE_MAX, response.chunk()).await {
                    Ok(Ok(Some(chunk))) if self.parser.take(&chunk) => continue,
                    Ok(Ok(Some(_))) => Ending::Broken("an event is too long".to_owned()),
                    Ok(Ok(None)) => Ending::Broken("the connection ended".to_owned()),
                    Ok(Err(error)) => Ending::Broken(innermost(error).to_string()),
                    Err(_) => Ending::Broken("the server fell silent".to_owned()),
                },
            };
            if !self.away {
                return self.ended(&ending).await;
            }
            self.rest(&ending).await;
        }
    }

    /// Tells that the server is away, once the first pause is over.
    async fn ended(&mut self, ending: &Ending) -> Result<NodeNews, ApiError> {
        self.rest(ending).await;
        self.away = true;
        Ok(NodeNews::Away(ending.to_string()))
    }

    async fn rest(&mut self, ending: &Ending) {
        let held = self.connection.take().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        sleep(self.reconnect.wait(ending, held, rand::random())).await;
    }

    fn news(&mut self, event: Event) -> Result<Option<NodeNews>, Ending> {
        Ok(Some(match event {
            Event::Snapshot { nodes, more } => {
                self.parts.extend(nodes);
                if more {
                    return Ok(None);
                }
                self.away = false;
                NodeNews::All(std::mem::take(&mut self.parts))
            }
            Event::Added { node } => NodeNews::Added(node),
            Event::Updated { node, changed } => NodeNews::Updated { node, changed },
            Event::Deleted { name, gone } => NodeNews::Deleted { name, gone },
            Event::Freshness(freshness) => NodeNews::Freshness(freshness),
            Event::Close { code, reason } => return Err(Ending::Closed { code, reason }),
            Event::Other => return Ok(None),
        }))
    }
}

/// Reads server-sent events, of which only the data counts here.
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    events: VecDeque<Event>,
}

impl Parser {
    /// Takes a piece. `false` when an event is longer than any that is read.
    fn take(&mut self, chunk: &[u8]) -> bool {
        self.bytes.extend_from_slice(chunk);
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
            // What cannot be read is of a newer gateway.
            self.events.extend(data.filter_map(|data| serde_json::from_str(data.trim()).ok()));
        }
        self.bytes.len() <= EVENT_BYTES_MAX
    }

    fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "retry: 2000\n\n: still here\n\nevent: snapshot\ndata: {\"type\":\"snapshot\",\"nodes\":[],\"more\":true}\n\n\
        event: new\ndata: {\"type\":\"new\"}\n\nevent: deleted\ndata: {\"type\":\"deleted\",\"name\":\"a\",\"uid\":\"u\",\"gone\":true}\n\n\
        event: freshness\ndata: {\"type\":\"freshness\",\"stale\":true,\"silent_ms\":7,\"cause\":\"x\"}\n\n";

    #[test]
    fn events_are_read_however_they_are_cut() {
        for size in 1..TEXT.len() {
            let mut parser = Parser::default();
            assert!(TEXT.as_bytes().chunks(size).all(|chunk| parser.take(chunk)));
            let events: Vec<Event> = std::iter::from_fn(|| parser.next()).collect();
            assert!(matches!(&events[0], Event::Snapshot { nodes, more: true } if nodes.is_empty()));
            assert!(matches!(events[1], Event::Other));
            assert!(matches!(&events[2], Event::Deleted { name, gone: true } if name == "a"));
            assert!(
                matches!(&events[3], Event::Freshness(freshness) if freshness.stale && freshness.silent_ms == 7)
            );
            assert_eq!(events.len(), 4, "in pieces of {size}");
        }
        let mut parser = Parser::default();
        assert!(!parser.take(&vec![b'x'; EVENT_BYTES_MAX + 1]));
    }

    #[test]
    fn a_name_is_one_step_of_a_path() {
        assert_eq!(step("node-1.x_y"), "node-1.x_y");
        assert_eq!(step("a/../b?c#d"), "a%2F..%2Fb%3Fc%23d");
    }
}
