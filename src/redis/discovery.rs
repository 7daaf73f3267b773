//! Asks Sentinels or Cluster nodes which servers there are.
//!
//! Everybody known is asked at once, and every question has a deadline, so that the ones that are down cost nothing.
//! Of Sentinels the answer with the newest configuration counts: the one that led a failover knows before the others.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, Pipeline, Value, cmd};
use tokio::time::{Instant, timeout_at};

use super::connection::CallError;
use super::node::Node;
use super::routing::SLOTS;
use super::topology::Address;

/// How long the last Sentinels are waited for when most have answered.
const LAST_ONES: Duration = Duration::from_millis(200);

/// The servers that take writes, each with its slots.
pub(super) type Found = Vec<(Address, Vec<RangeInclusive<u16>>)>;

/// A server that has every slot.
pub(super) fn alone(address: Address) -> Found {
    vec![(address, vec![0..=SLOTS - 1])]
}

/// The Sentinels of an installation, with a connection to each that answered last time.
#[derive(Debug)]
pub(super) struct Sentinels {
    sentinels: Vec<Sentinel>,
    master: String,
    timeout: Duration,
}

#[derive(Debug)]
struct Sentinel {
    info: ConnectionInfo,
    connection: Option<MultiplexedConnection>,
}

/// What a Sentinel says: the primary, and how new that is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    epoch: u64,
    primary: Option<Address>,
}

impl Sentinels {
    pub(super) fn new(sentinels: Vec<ConnectionInfo>, master: String, timeout: Duration) -> Self {
        let sentinels = sentinels.into_iter().map(|info| Sentinel { info, connection: None }).collect();
        Self { sentinels, master, timeout }
    }

    /// The primary.
    pub(super) async fn look(&mut self) -> Result<Found, CallError> {
        let answers = self.answers().await;
        if answers.is_empty() {
            return Err(CallError::NoConnection("no Sentinel answers".into()));
        }
        let known = answers.into_iter().filter(|answer| answer.primary.is_some());
        let newest = known.max_by_key(|answer| answer.epoch).and_then(|answer| answer.primary);
        newest.map(alone).ok_or_else(|| {
            CallError::NoConnection(format!("the Sentinels know no master called {}", self.master))
        })
    }

    async fn answers(&mut self) -> Vec<Answer> {
        let most = self.sentinels.len() / 2 + 1;
        let (master, limit) = (self.master.as_str(), self.timeout);
        let asked = self.sentinels.iter_mut().map(|sentinel| sentinel.ask(master, limit));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut answers, mut end) = (Vec::new(), Instant::now() + limit * 2);
        while let Ok(Some(answer)) = timeout_at(end, asked.next()).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => tracing::debug!(%error, "a Sentinel does not answer"),
            }
            if answers.len() == most {
                end = end.min(Instant::now() + LAST_ONES);
            }
        }
        answers
    }
}

impl Sentinel {
    async fn ask(&mut self, master: &str, limit: Duration) -> Result<Answer, CallError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(limit).await?,
        };
        let mut both = Pipeline::with_capacity(2);
        both.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        both.cmd("SENTINEL").arg("MASTERS");
        let (address, masters): (Option<(String, u16)>, Vec<Value>) =
            both.query_async(&mut connection).await?;
        self.connection = Some(connection);
        let primary = address.map(|(host, port)| Address { host, port });
        Ok(Answer { epoch: epoch(master, masters), primary })
    }

    async fn connect(&self, limit: Duration) -> Result<MultiplexedConnection, CallError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        let client = Client::open(self.info.clone())?;
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

/// The configuration epoch of a master, in the reply to `SENTINEL MASTERS`: names and values in turn for each.
fn epoch(master: &str, masters: Vec<Value>) -> u64 {
    let fields = |value| redis::from_redis_value::<std::collections::HashMap<String, String>>(value).ok();
    let named = |fields: &std::collections::HashMap<String, String>| {
        fields.get("name").is_some_and(|name| name == master)
    };
    let found = masters.into_iter().filter_map(fields).find(named);
    found.and_then(|fields| fields.get("config-epoch")?.parse().ok()).unwrap_or(0)
}

/// The layout of a Cluster as the first of these nodes has it that answers.
pub(super) async fn look_at_cluster(nodes: &[Arc<Node>]) -> Result<Found, CallError> {
    let mut question = cmd("CLUSTER");
    question.arg("SLOTS");
    let question = &question;
    let asked = nodes.iter().map(|node| async move {
        let slots = read_slots(node.query(question).await?, node.address());
        if slots.is_empty() { Err(CallError::Reply("no slot is served".into())) } else { Ok(slots) }
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut last = CallError::NoConnection("no node of the Cluster answers".into());
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads the reply to `CLUSTER SLOTS`: from, to, the primary, its replicas.
fn read_slots(reply: Value, asked: &Address) -> Found {
    let mut found: std::collections::BTreeMap<Address, Vec<RangeInclusive<u16>>> = Default::default();
    for range in array(reply) {
        let mut words = array(range).into_iter();
        let (Some(Value::Int(first)), Some(Value::Int(last)), Some(primary)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else { continue };
        if let Some(address) = read_node(primary, asked) {
            found.entry(address).or_default().push(first..=last);
        }
    }
    found.into_iter().collect()
}

/// A node that does not know its own name leaves it out: then it is the one that was asked.
fn read_node(node: Value, asked: &Address) -> Option<Address> {
    let mut words = array(node).into_iter();
    let host = match words.next()? {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8(host).ok()?,
        Value::Nil | Value::BulkString(_) => asked.host.clone(),
        _ => return None,
    };
    match words.next()? {
        Value::Int(port) if host != "?" => Some(Address { host, port: u16::try_from(port).ok()? }),
        _ => None,
    }
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_slots_of_a_cluster_are_read() {
        let reply = "*3\r\n\
            *4\r\n:0\r\n:99\r\n*3\r\n$8\r\n10.0.0.1\r\n:7000\r\n$2\r\nid\r\n*3\r\n$8\r\n10.0.0.9\r\n:7009\r\n$2\r\nid\r\n\
            *3\r\n:100\r\n:16383\r\n*3\r\n$0\r\n\r\n:7001\r\n$2\r\nid\r\n\
            *3\r\n:200\r\n:200\r\n*3\r\n$1\r\n?\r\n:7002\r\n$2\r\nid\r\n";
        let asked = Address { host: "seed".into(), port: 1 };
        let at = |host: &str, port| Address { host: host.into(), port };
        let expected = vec![(at("10.0.0.1", 7000), vec![0..=99]), (at("seed", 7001), vec![100..=16_383])];
        assert_eq!(read_slots(value(reply), &asked), expected);
        assert_eq!(read_slots(Value::Nil, &asked), vec![]);
    }

    #[test]
    fn the_epoch_of_the_right_master_is_read() {
        let master = |name: &str, epoch: &str| {
            let text = format!(
                "*4\r\n$4\r\nname\r\n${}\r\n{name}\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n",
                name.len(),
                epoch.len()
            );
            value(&text)
        };
        assert_eq!(epoch("b", vec![master("a", "7"), master("b", "12")]), 12);
        assert_eq!(epoch("c", vec![master("a", "7"), Value::Nil]), 0);
    }
}
