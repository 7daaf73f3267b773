//! A task that runs by a strategy: one wave after the other, with what is between them, inside its windows.
//!
//! Which wave is open follows from the results: it is the first that has items without one. What has none is a gate that was
//! passed and a pause that was kept, so those are in the record before anything else is done about them. So another worker
//! can go on from any point. Not here: what holds single items back ([`super::super::supply`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Runner, keep_trying, lock};
use crate::action::{Action, NodeView};
use crate::store::HoldBack;
use crate::task::strategy::{Facts, Opening, Waves, in_order, opening};
use crate::task::{EventKind, ItemName, Status, Strategy};
use crate::telemetry::metrics::Fenced;
use crate::worker::lease::Order;
use crate::worker::recorder::abandon;

/// Longest wait for the list of nodes.
const NODES_DEADLINE: Duration = Duration::from_secs(60);
/// The wall clock may be set, so it is looked at this often.
const CLOCK_LOOK: Duration = Duration::from_secs(30);

/// The items of a task that have no result, by wave.
struct Course {
    waves: Waves,
    left: BTreeMap<u32, VecDeque<(u32, ItemName)>>,
}

impl Course {
    /// `order` has the indexes of the items in the order in which they start; the given order when there is none.
    fn new(
        strategy: &Strategy,
        total: u32,
        order: Option<&[u32]>,
        pending: VecDeque<(u32, ItemName)>,
    ) -> Self {
        let mut places: Vec<u32> = (0..total).collect();
        for (place, index) in (0..).zip(order.unwrap_or_default()) {
            if let Some(known) = places.get_mut(*index as usize) {
                *known = place;
            }
        }
        let place = |index: u32| places.get(index as usize).copied().unwrap_or(index);
        let mut pending = Vec::from(pending);
        pending.sort_unstable_by_key(|(index, _)| place(*index));
        let waves = strategy.cut(total);
        let mut left: BTreeMap<u32, VecDeque<_>> = BTreeMap::new();
        for item in pending {
            left.entry(waves.of(place(item.0))).or_default().push_back(item);
        }
        Self { waves, left }
    }

    /// The wave that is open, or opens next, and whether any of it was done.
    fn first(&self) -> Option<(u32, bool)> {
        let (wave, left) = self.left.first_key_value()?;
        Some((*wave, left.len() < self.waves.range(*wave).len()))
    }
}

impl Runner {
    /// Runs one wave after the other, as far as the strategy lets it here. What is left is in the queue.
    pub(super) async fn run_waves(&self, action: &Arc<dyn Action>) {
        let Some(strategy) = &self.task.strategy else { return self.run_lanes(action, false).await };
        let Some(mut course) = self.course(strategy).await else { return };
        let mut opened = self.task.opened;
        let mut rests = self.task.rests_until;
        while let Some((wave, begun)) = course.first() {
            if !self.may_run(strategy, &course.waves, (wave, begun), &mut opened, &mut rests).await {
                break;
            }
            let items = course.left.remove(&wave).unwrap_or_default();
            self.announce(&course.waves, wave, items.len());
            lock(&self.queue).extend(items);
            self.run_in_window(strategy, action, !course.left.is_empty()).await;
            let through = lock(&self.queue).is_empty() && lock(&self.left).is_empty();
            if self.held.order() != Order::Run || !through {
                break;
            }
        }
        lock(&self.queue).extend(course.left.into_values().flatten());
    }

    /// Takes all items out of the queue and into waves. `None` when the task is not to be run here.
    async fn course(&self, strategy: &Strategy) -> Option<Course> {
        let order = if strategy.order.is_empty() { None } else { Some(self.order(strategy).await?) };
        let pending = std::mem::take(&mut *lock(&self.queue));
        Some(Course::new(strategy, self.task.counts.total, order.as_deref(), pending))
    }

    /// The order that was kept, or one made of what is known of the nodes now, which is kept from here on.
    async fn order(&self, strategy: &Strategy) -> Option<Vec<u32>> {
        if let Some(order) = &self.order {
            return Some(order.clone());
        }
        let clusters = &self.worker.parts.clusters;
        let mut orders = self.held.orders();
        let nodes = tokio::select! {
            biased;
            _ = orders.wait_for(|order| *order != Order::Run) => return None,
            nodes = timeout(NODES_DEADLINE, clusters.nodes_now(&self.task.cluster)) => nodes,
        };
        let Ok(Ok(nodes)) = nodes else {
            let cluster = &self.task.cluster;
            let message =
                format!("the nodes of {cluster} cannot be read, so there is no order: resume to try again");
            self.holding().back(&HoldBack::until_resumed(message)).await;
            return None;
        };
        let order = in_order(&strategy.order, &self.facts(&nodes.nodes));
        let (worker, held) = (&*self.worker, &*self.held);
        let keep = || worker.parts.store.keep_order(held.fence, &order);
        match keep_trying(worker, held, "keeping the order of a task", keep).await {
            Ok(kept) => Some(kept),
            Err(error) => {
                abandon(worker, held, &error, Fenced::Halt);
                None
            }
        }
    }

    /// What decides the order of the items. No item has a result while no order is kept, so the queue has them all.
    fn facts(&self, nodes: &[Arc<NodeView>]) -> Vec<Facts> {
        let nodes: BTreeMap<&str, &NodeView> =
            nodes.iter().map(|node| (node.name.as_str(), node.as_ref())).collect();
        let own = self.worker.parts.config.node.as_deref();
        let mut facts = vec![Facts::default(); self.task.counts.total as usize];
        for (index, name) in lock(&self.queue).iter() {
            let node = nodes.get(name.as_str());
            if let Some(place) = facts.get_mut(*index as usize) {
                place.zone = node.and_then(|node| node.zone()).map(str::to_owned);
                place.control_plane = node.is_some_and(|node| node.is_control_plane());
                place.own = own == Some(name.as_str());
            }
        }
        facts
    }

    /// Passes what is before a wave: a gate or a pause after the one before, what is left of a pause, and the window.
    async fn may_run(
        &self,
        strategy: &Strategy,
        waves: &Waves,
        (wave, begun): (u32, bool),
        opened: &mut u32,
        rests: &mut Option<Timestamp>,
    ) -> bool {
        let pause = strategy.gates(wave - 1);
        if wave > 1 && !begun && wave > *opened && (pause || !strategy.soak.is_zero()) {
            let message = between(wave - 1, waves.count(), strategy.soak, pause);
            let hold = HoldBack { opens: Some(wave), rest: strategy.soak, pause, message };
            if !self.holding().back_and_rest(&hold).await {
                return false;
            }
            (*opened, *rests) = (wave, None);
        }
        if let Some(left) = rests.take().and_then(|until| self.until(until))
            && !self
                .holding()
                .rest(left, &format!("wave {wave} of {} begins after a pause", waves.count()))
                .await
        {
            return false;
        }
        self.is_in_window(strategy).await
    }

    fn announce(&self, waves: &Waves, wave: u32, items: usize) {
        let of = waves.count();
        if of > 1 {
            let message =
                format!("wave {wave} of {of} begins: {items} {}", if items == 1 { "item" } else { "items" });
            self.reporter.say(EventKind::Wave, Status::Running, Some(message));
        }
    }

    fn until(&self, at: Timestamp) -> Option<Duration> {
        Duration::try_from(at.duration_since(self.worker.parts.clock.now()))
            .ok()
            .filter(|left| !left.is_zero())
    }

    fn opening(&self, strategy: &Strategy) -> Opening {
        if strategy.windows.is_empty() {
            return Opening::Open(Timestamp::MAX);
        }
        opening(&strategy.windows, self.worker.parts.clock.now())
    }

    /// Whether items may start now. Outside of its windows the task rests until the next one.
    async fn is_in_window(&self, strategy: &Strategy) -> bool {
        loop {
            let Some(hold) = self.outside(strategy) else { return true };
            if !self.holding().back_and_rest(&hold).await {
                return false;
            }
        }
    }

    /// How a task is held back that is outside of its windows.
    fn outside(&self, strategy: &Strategy) -> Option<HoldBack> {
        let (opens, rest) = match self.opening(strategy) {
            Opening::Open(_) => return None,
            Opening::Closed(opens) => (Some(opens), self.until(opens).unwrap_or_default()),
            Opening::Never => (None, Duration::ZERO),
        };
        let at = opens.zip(strategy.windows.first()).map(|(opens, window)| window.say(opens));
        let message = match &at {
            Some(at) => format!("its maintenance window is closed and opens {at}"),
            None => "its maintenance window never opens again".to_owned(),
        };
        Some(HoldBack { opens: None, rest, pause: at.is_none(), message })
    }

    /// Runs the lanes of a wave, and stops them when the window closes.
    async fn run_in_window(&self, strategy: &Strategy, action: &Arc<dyn Action>, more: bool) {
        let through = CancellationToken::new();
        let run = async {
            self.run_lanes(action, more).await;
            through.cancel();
        };
        tokio::join!(run, self.stop_with_window(strategy, &through));
    }

    async fn stop_with_window(&self, strategy: &Strategy, through: &CancellationToken) {
        while let Opening::Open(until) = self.opening(strategy) {
            let pause = self.until(until).unwrap_or_default().min(CLOCK_LOOK);
            tokio::select! {
                () = through.cancelled() => return,
                // A moment more, so that it is closed by then.
                () = tokio::time::sleep(pause + Duration::from_millis(1)) => {}
            }
        }
        // The lanes obey at once; what becomes of the task is what the record says.
        self.held.give(Order::Halt);
        let Some(hold) = self.outside(strategy) else {
            return self.holding().give_back("its window was closed");
        };
        if self.holding().back(&hold).await {
            self.holding().give_back(&hold.message);
        }
    }
}

/// What is between two waves, in a sentence.
fn between(done: u32, of: u32, soak: Duration, gate: bool) -> String {
    match (gate, soak.is_zero()) {
        (true, true) => format!("wave {done} of {of} is done: resume to go on"),
        (true, false) => {
            format!("wave {done} of {of} is done: resume to go on, {soak:?} after its end at the soonest")
        }
        (false, _) => format!("wave {done} of {of} is done: the next one begins after a pause of {soak:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::task::strategy::{Amount, Strategy};

    fn items(indexes: impl IntoIterator<Item = u32>) -> VecDeque<(u32, ItemName)> {
        indexes.into_iter().map(|index| (index, ItemName::new(format!("n{index}")).unwrap())).collect()
    }

    fn strategy(canary: u32, size: u32) -> Strategy {
        Strategy { canary: Some(canary), waves: vec![Amount::Count(size)], ..Strategy::default() }
    }

    #[test]
    fn waves_follow_the_order_and_not_the_indexes() {
        let course = Course::new(&strategy(1, 2), 4, Some(&[2, 0, 3, 1]), items(0..4));
        let waves: Vec<Vec<u32>> =
            course.left.values().map(|wave| wave.iter().map(|(index, _)| *index).collect()).collect();
        assert_eq!(waves, [vec![2], vec![0, 3], vec![1]]);
        assert_eq!(course.first(), Some((1, false)));
    }

    #[test]
    fn what_is_between_two_waves_is_a_sentence() {
        let second = Duration::from_secs(30);
        assert_eq!(between(1, 10, Duration::ZERO, true), "wave 1 of 10 is done: resume to go on");
        assert!(between(1, 10, second, false).ends_with("after a pause of 30s"));
    }

    proptest! {
        #[test]
        fn whatever_is_done_the_rest_keeps_its_wave(
            canary in 1_u32..5, size in 1_u32..7, total in 1_u32..60, seed in any::<u64>(),
            done in prop::collection::hash_set(0_u32..60, 0..60),
        ) {
            let mut order: Vec<u32> = (0..total).collect();
            order.sort_by_key(|index| (u64::from(*index) + 1).wrapping_mul(seed | 1));
            let strategy = strategy(canary, size);
            let all = Course::new(&strategy, total, Some(&order), items(0..total));
            let rest = Course::new(&strategy, total, Some(&order), items((0..total).filter(|i| !done.contains(i))));
            let wave_of = |course: &Course| -> BTreeMap<u32, u32> {
                let waves = course.left.iter();
                waves.flat_map(|(wave, items)| items.iter().map(move |(index, _)| (*index, *wave))).collect()
            };
            let (before, after) = (wave_of(&all), wave_of(&rest));
            prop_assert_eq!(before.len(), total as usize, "every item is in exactly one wave");
            for (index, wave) in &after {
                prop_assert_eq!(before[index], *wave);
            }
            if let Some((first, _)) = rest.first() {
                let open: HashSet<u32> = before.iter().filter(|(_, w)| **w < first).map(|(i, _)| *i).collect();
                prop_assert!(open.iter().all(|index| done.contains(index)), "a wave opens when all before it ended");
            }
        }
    }
}
