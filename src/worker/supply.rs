//! Which items of a task may start now: those whose node no other task acts on, while few enough nodes are out of service.
//!
//! Nodes are taken from the record many at once, before any lane needs them: as many as the lanes at first, then twice as
//! many each time they were used up within [`QUICK`], up to [`NODES_MAX`]; a task whose items take long takes no more than it
//! is about to start. They are free again with the results, in the same statement. So a task of quick items costs some
//! statements more in all, and none per item. One lane at a time sees to it, and the others wait for it. A task whose
//! items are no nodes skips all of it. Not here: waves and windows ([`super::runner`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Shared;
use super::guard::Guard;
use super::holding::Holding;
use super::lanes::Queue;
use super::lease::{Held, lock};
use super::recorder::{abandon, keep_trying};
use super::reporter::Reporter;
use crate::store::{HoldBack, NODES_MAX, NodeHeld, Task};
use crate::task::strategy::{Amount, NodeState, Room};
use crate::task::{ActionSpec, ClusterName, ItemName, UserId};
use crate::telemetry::metrics::Fenced;

/// Nodes that are used up within this time are followed by more at once.
const QUICK: Duration = Duration::from_millis(250);
/// Pause before a node that another task holds is asked for again.
const HELD_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two looks at the nodes of a cluster that has no room.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Longest look.
const LOOK_DEADLINE: Duration = Duration::from_secs(60);
/// Nodes that a sentence names.
const NAMED_MAX: usize = 3;

/// An item that a lane takes.
#[derive(Debug, Clone)]
pub(super) struct Next {
    pub(super) index: u32,
    pub(super) name: ItemName,
    /// Why it cannot be run: its failure.
    pub(super) refused: Option<String>,
}

/// The items of one wave.
pub(super) struct Supply {
    worker: Arc<Shared>,
    held: Arc<Held>,
    reporter: Arc<Reporter>,
    guard: Arc<Guard>,
    owner: UserId,
    cluster: ClusterName,
    queue: Queue,
    /// Whether items are nodes, which only one task may act on at a time.
    nodes: bool,
    most: Option<Amount>,
    state: Mutex<State>,
    /// Held by the lane that sees to it.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Next>,
    blocked: Vec<Blocked>,
    room: Room,
    /// Since when there is no room.
    full_since: Option<Instant>,
    /// Whether the watchers were told that it waits.
    waits: bool,
    /// How many nodes were taken last, and when.
    took: Option<(usize, Instant)>,
}

/// An item whose node another task holds.
struct Blocked {
    index: u32,
    name: ItemName,
    since: Instant,
    by: String,
}

impl Supply {
    pub(super) fn new(
        worker: &Arc<Shared>,
        held: &Arc<Held>,
        reporter: &Arc<Reporter>,
        guard: &Arc<Guard>,
        task: &Task,
        queue: &Queue,
    ) -> Self {
        let nodes = !matches!(task.action, ActionSpec::Wait(_));
        Self {
            worker: Arc::clone(worker),
            held: Arc::clone(held),
            reporter: Arc::clone(reporter),
            guard: Arc::clone(guard),
            owner: task.owner.clone(),
            cluster: task.cluster.clone(),
            queue: Arc::clone(queue),
            nodes,
            most: task.strategy.as_ref().and_then(|strategy| strategy.max_unavailable).filter(|_| nodes),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether every item was taken.
    pub(super) fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.ready.is_empty() && state.blocked.is_empty() && lock(&self.queue).is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        let state = lock(&self.state);
        state.ready.len() + state.blocked.len() + lock(&self.queue).len()
    }

    /// Waits until an item may start. `None` when none is left, or the task is not to go on. Cancel-safe.
    pub(super) async fn ready(&self, lanes: usize) -> Option<()> {
        loop {
            if self.is_empty() {
                return None;
            }
            if !self.nodes || self.has_ready() {
                return Some(());
            }
            let _turn = self.turn.lock().await;
            if !self.has_ready() && !self.is_empty() {
                self.see_to_it(lanes).await?;
            }
        }
    }

    /// Takes an item that may start, if there still is one.
    pub(super) fn take(&self) -> Option<Next> {
        if !self.nodes {
            let (index, name) = lock(&self.queue).pop_front()?;
            return Some(Next { index, name, refused: None });
        }
        let mut state = lock(&self.state);
        let place = state.ready.iter().position(|next| self.fits(next, &state.room))?;
        let next = state.ready.remove(place)?;
        if self.most.is_some() && next.refused.is_none() {
            state.room.start(next.name.as_str());
        }
        state.full_since = None;
        if std::mem::take(&mut state.waits) {
            self.reporter.say_waiting(None);
        }
        Some(next)
    }

    /// An item that was taken is not in work any more.
    pub(super) fn ended(&self, name: &ItemName) {
        if self.most.is_some() {
            lock(&self.state).room.end(name.as_str());
        }
    }

    /// Puts back what no lane took.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        let blocked = std::mem::take(&mut state.blocked).into_iter().map(|item| (item.index, item.name));
        let ready = std::mem::take(&mut state.ready).into_iter().map(|next| (next.index, next.name));
        let left: Vec<_> = ready.chain(blocked).collect();
        let mut queue = lock(&self.queue);
        left.into_iter().rev().for_each(|item| queue.push_front(item));
    }

    fn has_ready(&self) -> bool {
        let state = lock(&self.state);
        state.ready.iter().any(|next| self.fits(next, &state.room))
    }

    fn fits(&self, next: &Next, room: &Room) -> bool {
        self.most.is_none() || next.refused.is_some() || room.fits(next.name.as_str())
    }

    /// Does the next thing that may let an item start.
    async fn see_to_it(&self, lanes: usize) -> Option<()> {
        if !lock(&self.state).ready.is_empty() {
            return self.look_for_room().await;
        }
        let wanted = self.wanted(lanes);
        if !wanted.is_empty() {
            self.take_nodes(wanted).await?;
        }
        if lock(&self.state).ready.is_empty() && !self.is_empty() {
            self.wait_for_nodes().await?;
        }
        Some(())
    }

    /// The items whose nodes are asked for next: those that were held and are due, then as many more as are soon used up.
    fn wanted(&self, lanes: usize) -> Vec<(u32, ItemName)> {
        let state = lock(&self.state);
        let size = match state.took {
            None => lanes,
            Some((size, at)) if at.elapsed() <= QUICK => size * 2,
            Some((size, _)) => size / 4,
        };
        let blocked = state.blocked.iter().map(|item| (item.index, item.name.clone()));
        let queue = lock(&self.queue);
        blocked.chain(queue.iter().take(size.clamp(1, NODES_MAX)).cloned()).take(NODES_MAX).collect()
    }

    async fn take_nodes(&self, wanted: Vec<(u32, ItemName)>) -> Option<()> {
        let call = || self.worker.parts.store.take_nodes(self.held.fence, &wanted);
        match keep_trying(&self.worker, &self.held, "taking nodes", call).await {
            Ok(held) => self.took(wanted, held),
            Err(error) => {
                abandon(&self.worker, &self.held, &error, Fenced::Nodes);
                return None;
            }
        }
        Some(())
    }

    /// Sorts the items whose nodes were asked for. They are the blocked ones and the first of the queue, in that order.
    fn took(&self, wanted: Vec<(u32, ItemName)>, held: Vec<NodeHeld>) {
        let mut holders: HashMap<ItemName, String> =
            held.into_iter().map(|held| (held.name.clone(), self.holder(&held))).collect();
        let now = Instant::now();
        let mut state = lock(&self.state);
        let before = std::mem::take(&mut state.blocked).into_iter().map(|item| (item.index, item));
        let mut before: HashMap<u32, Blocked> = before.collect();
        let mut queue = lock(&self.queue);
        let mut fresh = 0;
        for (index, name) in wanted {
            let known = before.remove(&index);
            if known.is_none() {
                queue.pop_front();
                fresh += 1;
            }
            if known.is_none() && holders.contains_key(&name) {
                self.worker.parts.metrics.node_conflicts.inc();
            }
            let since = known.map_or(now, |item| item.since);
            match holders.remove(&name) {
                None => state.ready.push_back(Next { index, name, refused: None }),
                Some(by) if since.elapsed() >= self.worker.parts.config.node_wait => {
                    let refused =
                        Some(format!("{by}, for longer than {:?}", self.worker.parts.config.node_wait));
                    state.ready.push_back(Next { index, name, refused });
                }
                Some(by) => state.blocked.push(Blocked { index, name, since, by }),
            }
        }
        // More were held than fit into one call.
        state.blocked.extend(before.into_values());
        if fresh > 0 {
            state.took = Some((fresh, now));
        }
    }

    /// Who holds a node, as far as this user may know.
    fn holder(&self, held: &NodeHeld) -> String {
        match &held.by {
            Some(by) if by.owner == self.owner => {
                format!("{} is held by your task {} ({})", held.name, by.task, by.action)
            }
            _ => format!("{} is held by another user's task", held.name),
        }
    }

    /// Every node that is left is held by others.
    async fn wait_for_nodes(&self) -> Option<()> {
        let message = {
            let state = lock(&self.state);
            let named: Vec<&str> =
                state.blocked.iter().take(NAMED_MAX).map(|item| item.by.as_str()).collect();
            let more = state.blocked.len().saturating_sub(named.len());
            let more = if more > 0 { format!(", and {more} more are held") } else { String::new() };
            format!("{}{more}", named.join(", "))
        };
        self.wait(&message, HELD_PAUSE).await
    }

    /// Looks at the nodes of the cluster, and waits when there is no room.
    async fn look_for_room(&self) -> Option<()> {
        let Some(most) = self.most else { return Some(()) };
        lock(&self.state).room.look();
        let look = timeout(LOOK_DEADLINE, self.worker.parts.clusters.nodes_now(&self.cluster)).await;
        let mut seen = Err("the nodes of the cluster cannot be read".to_owned());
        if let Ok(Ok(nodes)) = look {
            let states = nodes.nodes.iter().map(|node| NodeState {
                name: node.name.clone(),
                unavailable: !node.ready || node.unschedulable,
            });
            let mut state = lock(&self.state);
            state.room.saw(most, &states.collect::<Vec<_>>());
            seen = Ok(state.room.sentence());
        }
        if seen.is_ok() && self.has_ready() {
            return Some(());
        }
        let message = seen.unwrap_or_else(|why| why);
        let since = *lock(&self.state).full_since.get_or_insert_with(Instant::now);
        let longest = self.worker.parts.config.room_wait;
        if since.elapsed() < longest {
            return self.wait(&message, LOOK_PAUSE).await;
        }
        let message = format!("{message}, for {longest:?} by now: resume to go on");
        self.holding().back(&HoldBack::until_resumed(message)).await;
        None
    }

    async fn wait(&self, message: &str, pause: Duration) -> Option<()> {
        lock(&self.state).waits = true;
        self.reporter.say_waiting(Some(message));
        self.holding().pause(pause).await.then_some(())
    }

    fn holding(&self) -> Holding<'_> {
        Holding { worker: &self.worker, held: &self.held, reporter: &self.reporter, guard: &self.guard }
    }
}
