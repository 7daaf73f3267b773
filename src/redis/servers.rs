//! The servers in use: who they are now, and getting each command to the one that has its key.
//!
//! A task of its own keeps asking who they are: at once when a call met trouble, else every few seconds, so that a
//! primary that was cut off together with us is left, too. Calls never wait for it once it has found somebody. A
//! redirection of Cluster is followed by the call that met it. Not here: what to ask ([`super::discovery`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::backoff::Backoff;
use super::connection::{CallError, Reply};
use super::discovery::{Found, Sentinels, alone, look_at_cluster};
use super::errors::{Reaction, reaction};
use super::layout::Layout;
use super::node::Node;
use super::routing::{Redirect, key, redirect, slot};
use super::topology::{Address, Guide, SetupError, Topology};
use crate::config::RedisConfig;

/// Pause between looks at who the servers are, without any trouble.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Shortest pause between looks, whatever the trouble.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Pause before a command whose slot is moving is sent again.
const AGAIN_PAUSE: Duration = Duration::from_millis(25);

/// The servers in use.
#[derive(Debug)]
pub(super) struct Servers {
    layout: watch::Receiver<Arc<Layout>>,
    /// Held so that those who wait for changes wait on, also where there are none.
    _changes: Arc<watch::Sender<Arc<Layout>>>,
    nodes: Arc<Nodes>,
    doubts: Arc<Notify>,
    config: RedisConfig,
    look_out: Option<AbortOnDropHandle<()>>,
}

/// A command on its way.
struct Errand {
    /// Its place among the commands.
    index: usize,
    node: Arc<Node>,
    /// Whether its slot is still on its way to that server.
    asking: bool,
}

impl Servers {
    /// Begins to look who they are. Must be called inside the runtime.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, SetupError> {
        let topology = Topology::from_config(config)?;
        let guide = topology.guide.clone();
        let nodes = Arc::new(Nodes { topology, config: config.clone(), known: Mutex::default() });
        let doubts = Arc::new(Notify::new());
        let (changes, layout) = watch::channel(Arc::default());
        let changes = Arc::new(changes);
        let look_out =
            LookOut { nodes: Arc::clone(&nodes), changes: Arc::clone(&changes), doubts: Arc::clone(&doubts) };
        let task = match guide {
            Guide::Fixed(address) => {
                look_out.take(alone(address))?;
                None
            }
            Guide::Sentinels { sentinels, master } => {
                let sentinels = Sentinels::new(sentinels, master, config.connect_timeout);
                Some(tokio::spawn(look_out.run(Looking::Sentinels(sentinels))))
            }
            Guide::Cluster(seeds) => Some(tokio::spawn(look_out.run(Looking::Cluster(seeds)))),
        };
        let (config, task) = (config.clone(), task.map(AbortOnDropHandle::new));
        Ok(Self { layout, _changes: changes, nodes, doubts, config, look_out: task })
    }

    /// Whether another server may take the place of one.
    pub(super) fn fails_over(&self) -> bool {
        self.look_out.is_some()
    }

    /// Who they are from now on.
    pub(super) fn layouts(&self) -> watch::Receiver<Arc<Layout>> {
        self.layout.clone()
    }

    /// Has it looked at soon who they are.
    pub(super) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Who they are. At the start, waits until somebody is found.
    pub(super) async fn layout(&self) -> Result<Arc<Layout>, CallError> {
        let mut layouts = self.layouts();
        let found = layouts.wait_for(|layout| !layout.nodes().is_empty());
        match timeout(self.config.connect_timeout * 2, found).await {
            Ok(Ok(layout)) => Ok(Arc::clone(&layout)),
            _ => Err(CallError::NoConnection("it is not known yet which server is the primary".into())),
        }
    }

    /// Sends each command to the server that has its key, in one go for each server, and gives the replies in order.
    pub(super) async fn send(&self, pipeline: &Pipeline) -> Vec<Reply> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let layout = match self.layout().await {
            Ok(layout) => layout,
            Err(error) => return commands.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut replies: Vec<Option<Reply>> = commands.iter().map(|_| None).collect();
        let errand = |(index, cmd): (usize, &&Cmd)| {
            let node = home(&layout, cmd).ok()?;
            Some(Errand { index, node, asking: false })
        };
        let mut errands: Vec<Errand> = commands.iter().enumerate().filter_map(errand).collect();
        if errands.len() < commands.len() {
            self.doubt();
        }
        let end = Instant::now() + self.config.command_timeout;
        match one_for_all(&errands, commands.len()) {
            Some(node) => replies = answers(node.send_whole(pipeline).await, commands.len()),
            None => run(&commands, &errands, &mut replies).await,
        }
        loop {
            errands = self.redirected(errands, &replies).await;
            if errands.is_empty() || Instant::now() >= end {
                let nobody = || Err(CallError::NoConnection("no server is known to have the key".into()));
                return replies.into_iter().map(|reply| reply.unwrap_or_else(nobody)).collect();
            }
            run(&commands, &errands, &mut replies).await;
        }
    }

    /// Sends a command that blocks on the server for up to `block`. One whose key has moved is sent after it.
    pub(super) async fn blocking(&self, cmd: &Cmd, block: Duration) -> Reply {
        let node = home(&*self.layout().await?, cmd)?;
        let reply = node.blocking(cmd, block).await;
        self.judge(&reply);
        match redirection(&reply, node.address()) {
            Some(Redirect::Moved(address)) => self.nodes.get(&address)?.blocking(cmd, block).await,
            _ => reply,
        }
    }

    /// The commands to send once more, each to where its reply says.
    async fn redirected(&self, errands: Vec<Errand>, replies: &[Option<Reply>]) -> Vec<Errand> {
        let (mut again, mut pause) = (Vec::new(), false);
        for errand in errands {
            let Some(reply) = &replies[errand.index] else { continue };
            self.judge(reply);
            let (address, asking) = match redirection(reply, errand.node.address()) {
                None => continue,
                Some(Redirect::Moved(address)) => (address, false),
                Some(Redirect::Ask(address)) => (address, true),
                Some(Redirect::Again) => {
                    pause = true;
                    again.push(errand);
                    continue;
                }
            };
            if let Ok(node) = self.nodes.get(&address) {
                again.push(Errand { index: errand.index, node, asking });
            }
        }
        if pause {
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
        again
    }

    /// Has it looked at who the servers are when a reply says that they may be others.
    fn judge(&self, reply: &Reply) {
        let Err(error) = reply else { return };
        let moved = matches!(error, CallError::Redis(error) if error.code() == Some("MOVED"));
        if moved || matches!(reaction(error), Reaction::Unknown | Reaction::FindPrimary | Reaction::Wait) {
            self.doubt();
        }
    }
}

/// The server that has the key of a command; any for one without a key.
fn home(layout: &Layout, cmd: &Cmd) -> Result<Arc<Node>, CallError> {
    let node = key(cmd).map_or_else(|| layout.nodes().first(), |key| layout.node(slot(key)));
    node.cloned().ok_or_else(|| CallError::NoConnection("no server is known to have the key".into()))
}

fn redirection(reply: &Reply, asked: &Address) -> Option<Redirect> {
    match reply {
        Err(CallError::Redis(error)) => redirect(error, asked),
        _ => None,
    }
}

/// The server that all of so many commands go to, as they do unless there are several: they need not be taken apart then.
fn one_for_all(errands: &[Errand], commands: usize) -> Option<Arc<Node>> {
    let first = &errands.first()?.node;
    let all = errands.len() == commands && errands.iter().all(|errand| Arc::ptr_eq(&errand.node, first));
    all.then(|| Arc::clone(first))
}

/// What each of so many commands came to that went to one server.
fn answers(sent: Result<Vec<Reply>, CallError>, commands: usize) -> Vec<Option<Reply>> {
    match sent {
        Ok(replies) => {
            let mut replies = replies.into_iter();
            let few = || Err(CallError::Reply("fewer replies than commands".into()));
            (0..commands).map(|_| Some(replies.next().unwrap_or_else(few))).collect()
        }
        Err(error) => (0..commands).map(|_| Some(Err(error.clone()))).collect(),
    }
}

/// Runs errands, in one go for each server and on all of them at once.
async fn run(commands: &[&Cmd], errands: &[Errand], replies: &mut [Option<Reply>]) {
    let mut loads: Vec<(&Arc<Node>, Vec<&Errand>)> = Vec::new();
    for errand in errands {
        match loads.iter_mut().find(|(node, _)| Arc::ptr_eq(node, &errand.node)) {
            Some((_, load)) => load.push(errand),
            None => loads.push((&errand.node, vec![errand])),
        }
    }
    let sent = loads.iter().map(async |(node, load)| {
        let commands: Vec<_> = load.iter().map(|errand| (commands[errand.index], errand.asking)).collect();
        node.send(&commands).await
    });
    for ((_, load), sent) in loads.iter().zip(join_all(sent).await) {
        match sent {
            Ok(of_node) => {
                load.iter().zip(of_node).for_each(|(errand, reply)| replies[errand.index] = Some(reply));
            }
            Err(error) => load.iter().for_each(|errand| replies[errand.index] = Some(Err(error.clone()))),
        }
    }
}

/// Connections to every server met so far and still in use.
#[derive(Debug)]
struct Nodes {
    topology: Topology,
    config: RedisConfig,
    known: Mutex<HashMap<Address, Arc<Node>>>,
}

impl Nodes {
    fn get(&self, address: &Address) -> Result<Arc<Node>, CallError> {
        self.make(address).map_err(|error| CallError::NoConnection(error.to_string()))
    }

    fn make(&self, address: &Address) -> Result<Arc<Node>, SetupError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = known.get(address) {
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(Node::new(address.clone(), &self.topology, &self.config)?);
        known.insert(address.clone(), Arc::clone(&node));
        Ok(node)
    }

    /// Forgets the others. Calls that are under way to them end by themselves.
    fn retain(&self, addresses: &[&Address]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|address, _| addresses.contains(&address));
    }
}

/// Whom to ask.
enum Looking {
    Sentinels(Sentinels),
    /// The nodes of the configuration, asked beside those that are known.
    Cluster(Vec<Address>),
}

/// Keeps asking who the servers are.
struct LookOut {
    nodes: Arc<Nodes>,
    changes: Arc<watch::Sender<Arc<Layout>>>,
    doubts: Arc<Notify>,
}

impl LookOut {
    async fn run(self, mut looking: Looking) {
        let (mut backoff, mut last) = (Backoff::default(), Found::new());
        loop {
            let pause = match self.look(&mut looking).await {
                Ok(found) => {
                    backoff.succeeded();
                    if found != last {
                        tell(&found);
                        last.clone_from(&found);
                        if let Err(error) = self.take(found) {
                            tracing::error!(%error, "the servers of Redis cannot be used");
                        }
                    }
                    LOOK_EVERY
                }
                Err(error) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(%error, "nobody tells which servers of Redis there are");
                    }
                    backoff.failed()
                }
            };
            tokio::time::sleep(LOOK_PAUSE).await;
            let _ = timeout(pause, self.doubts.notified()).await;
        }
    }

    async fn look(&self, looking: &mut Looking) -> Result<Found, CallError> {
        match looking {
            Looking::Sentinels(sentinels) => sentinels.look().await,
            Looking::Cluster(seeds) => {
                let mut nodes = self.changes.borrow().nodes().to_vec();
                for seed in seeds.iter() {
                    let node = self.nodes.get(seed)?;
                    if !nodes.iter().any(|known| Arc::ptr_eq(known, &node)) {
                        nodes.push(node);
                    }
                }
                look_at_cluster(&nodes).await
            }
        }
    }

    fn take(&self, found: Found) -> Result<(), SetupError> {
        let addresses: Vec<Address> = found.iter().map(|(address, _)| address.clone()).collect();
        let servers: Result<Vec<_>, SetupError> =
            found.into_iter().map(|(address, slots)| Ok((self.nodes.make(&address)?, slots))).collect();
        self.changes.send_replace(Arc::new(Layout::new(servers?)));
        self.nodes.retain(&addresses.iter().collect::<Vec<_>>());
        Ok(())
    }
}

fn tell(found: &Found) {
    let servers: Vec<String> = found.iter().map(|(address, _)| address.to_string()).collect();
    tracing::info!(servers = servers.join(" "), "Redis takes writes there");
}
