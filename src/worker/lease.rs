//! Leases: how long this process may go on with each task it holds, and what users want of them meanwhile.
//!
//! All leases are renewed in one call. The store counts a lease from the moment it handled the call; we count it from
//! the moment the call was sent, and stop a fifth before the end, so that we always stop first. This holds by our own
//! monotonic clock alone: no clock is compared with another. Whoever writes asks [`Held::may_write`] first; the store
//! and the bus check the fence all the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::backoff::jittered;
use crate::store::{ClaimStore, Fence, Renewal, StoreError};
use crate::task::{ReplicaId, Status};
use crate::telemetry::metrics::Fenced;
use crate::telemetry::{Metrics, Outage};

/// Shortest pause between two renewals, however often users change their minds.
const CHANGE_PAUSE: Duration = Duration::from_millis(20);

/// What is to become of a task in hand. Only ever grows: a later order outranks the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Go on.
    Run,
    /// Its failure budget is used up: finish what is in flight. What is to become of it follows when the record knows.
    Halt,
    /// This process stops: finish what is in flight, report it, and give the task back.
    HandOver,
    /// A user paused it: finish what is in flight, report it, and let it rest.
    LetGo,
    /// A user cancelled it: finish what is in flight, and end the task.
    Cancel,
    /// It is not ours any more: write nothing, stop at once.
    Stop,
}

/// One task in hand: its fence, its orders, and the time until which we may write.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) fence: Fence,
    order: watch::Sender<Order>,
    concurrency: watch::Sender<Option<u16>>,
    /// Cancelled once items in flight are to stop where they can be left.
    stopping: CancellationToken,
    until: Mutex<Instant>,
    leaving: AtomicBool,
}

impl Held {
    fn new(fence: Fence, status: Status, until: Instant) -> Self {
        let (order, _) = watch::channel(Order::Run);
        let (concurrency, _) = watch::channel(None);
        let (until, leaving) = (Mutex::new(until), AtomicBool::new(false));
        let stopping = CancellationToken::new();
        let held = Self { fence, order, concurrency, stopping, until, leaving };
        held.obey(status);
        held
    }

    /// The order now.
    pub(super) fn order(&self) -> Order {
        *self.order.borrow()
    }

    /// The orders to come.
    pub(super) fn orders(&self) -> watch::Receiver<Order> {
        self.order.subscribe()
    }

    /// How many items at once a user wants, and changes of it to come.
    pub(super) fn concurrency(&self) -> watch::Receiver<Option<u16>> {
        self.concurrency.subscribe()
    }

    /// Notes how many items at once a user wants.
    pub(super) fn set_concurrency(&self, wanted: Option<u16>) {
        self.concurrency.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
    }

    /// Gives an order, unless one that outranks it was given.
    pub(super) fn give(&self, order: Order) {
        self.order.send_if_modified(|now| {
            let grows = order > *now;
            *now = order.max(*now);
            grows
        });
        // A task that is only halted finishes what is in flight while the record decides.
        if order > Order::Halt {
            self.stopping.cancel();
        }
    }

    /// What tells items in flight to stop where they can be left.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Waits until the task is not ours any more.
    pub(super) async fn stopped(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.orders().wait_for(|order| *order == Order::Stop).await;
    }

    /// Whether the lease certainly holds and nobody told us to stop.
    pub(super) fn may_write(&self) -> bool {
        self.order() != Order::Stop && Instant::now() < self.until()
    }

    /// From here on the store is being told that we end or give back the task, so a lost lease is no news: the store
    /// decides by the fence of that call.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Whether the task is being ended or given back, so that others may soon write instead of us.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    fn until(&self) -> Instant {
        *lock(&self.until)
    }

    /// Takes in what a renewal sent at `sent` said.
    fn renewed(&self, renewal: Renewal, until: Instant, metrics: &Metrics) {
        match renewal {
            Renewal::Held { status, concurrency } => {
                let mut now = lock(&self.until);
                *now = until.max(*now);
                drop(now);
                self.set_concurrency(concurrency);
                self.obey(status);
            }
            Renewal::Lost if self.is_leaving() => {}
            Renewal::Lost => {
                metrics.count_fenced(Fenced::Renewal);
                tracing::warn!(task.id = %self.fence.task, task.attempt = %self.fence.attempt, "lost the lease");
                self.give(Order::Stop);
            }
        }
    }

    fn obey(&self, status: Status) {
        match status {
            Status::Running => {}
            Status::Cancelling => self.give(Order::Cancel),
            // Queued is a pause and a resume between two renewals: another worker may claim it now.
            Status::Paused | Status::Queued => self.give(Order::LetGo),
            _ if self.is_leaving() => {}
            _ => self.give(Order::Stop),
        }
    }
}

/// All tasks in hand.
#[derive(Debug)]
pub(super) struct Leases {
    held: Mutex<HashMap<Fence, Arc<Held>>>,
    /// Rung when a task was taken in hand: its lease may be the first to end.
    taken: Notify,
    /// Rung when a user may have changed a task in hand.
    changed: Notify,
    lease: Duration,
    renew_interval: Duration,
    metrics: Metrics,
}

/// A task in hand; dropping it takes it from the list of those renewed.
#[derive(Debug)]
pub(super) struct Hold {
    held: Arc<Held>,
    leases: Arc<Leases>,
}

impl std::ops::Deref for Hold {
    type Target = Arc<Held>;

    fn deref(&self) -> &Arc<Held> {
        &self.held
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.leases.forget(self.held.fence);
    }
}

impl Leases {
    pub(super) fn new(lease: Duration, renew_interval: Duration, metrics: Metrics) -> Arc<Self> {
        let (taken, changed) = (Notify::new(), Notify::new());
        Arc::new(Self { held: Mutex::default(), taken, changed, lease, renew_interval, metrics })
    }

    /// Takes a task in hand that was claimed by a call sent at `sent`. One whose answer came too late to be believed is
    /// stopped before it begins.
    pub(super) fn hold(self: &Arc<Self>, fence: Fence, status: Status, sent: Instant) -> Hold {
        let held = Arc::new(Held::new(fence, status, self.end(sent)));
        if held.until() <= Instant::now() {
            held.give(Order::Stop);
        }
        lock(&self.held).insert(fence, Arc::clone(&held));
        self.metrics.tasks_held.inc();
        self.taken.notify_one();
        Hold { held, leases: Arc::clone(self) }
    }

    /// Gives an order for every task in hand.
    pub(super) fn give_all(&self, order: Order) {
        self.all().iter().for_each(|held| held.give(order));
    }

    /// Listens for changes by users until told to stop: each is a reason to renew at once.
    pub(super) async fn hear(&self, store: Arc<dyn ClaimStore>, worker: ReplicaId, stop: CancellationToken) {
        let ring = || self.changed.notify_one();
        tokio::select! {
            () = stop.cancelled() => {}
            () = store.hear(&worker, &ring) => tracing::info!("changes by users come with renewals only"),
        }
    }

    /// Renews until told to stop, which is after the last task was let go.
    pub(super) async fn run(&self, store: Arc<dyn ClaimStore>, stop: CancellationToken) {
        let outage = Outage::of("renewing leases");
        let mut next = Instant::now() + self.renew_interval;
        let mut quiet_until = Instant::now();
        loop {
            let wake = self.first_end().map_or(next, |end| end.min(next));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.taken.notified() => {}
                () = self.changed.notified() => next = next.min(quiet_until.max(Instant::now())),
                () = sleep_until(wake) => {}
            }
            self.expire();
            if Instant::now() >= next {
                next = Instant::now() + self.renew(store.as_ref(), &outage).await;
                quiet_until = Instant::now() + CHANGE_PAUSE;
                self.expire();
            }
        }
    }

    /// Renews in one call all leases that we still believe in: a task told to stop must lapse. Returns the pause before
    /// the next call, shorter after a failure.
    async fn renew(&self, store: &dyn ClaimStore, outage: &Outage) -> Duration {
        let mut all = self.all();
        all.retain(|held| held.order() != Order::Stop);
        if all.is_empty() {
            return self.renew_interval;
        }
        let fences: Vec<_> = all.iter().map(|held| held.fence).collect();
        let sent = Instant::now();
        let deadline = self.first_end().unwrap_or(sent).min(sent + self.lease / 3);
        let reply = timeout_at(deadline, store.renew(&fences, self.lease)).await;
        match reply
            .unwrap_or_else(|late| Err(StoreError::Unavailable { doing: "renewing", source: late.into() }))
        {
            Ok(renewals) => {
                outage.over();
                let until = self.end(sent);
                all.iter()
                    .zip(renewals)
                    .for_each(|(held, renewal)| held.renewed(renewal, until, &self.metrics));
                self.renew_interval
            }
            Err(error) => {
                outage.failed(&error);
                jittered(self.renew_interval / 4)
            }
        }
    }

    /// Stops every task whose lease may be over.
    fn expire(&self) {
        let now = Instant::now();
        for held in self.all().iter().filter(|held| held.until() <= now && held.order() != Order::Stop) {
            if !held.is_leaving() {
                let (task, attempt) = (held.fence.task, held.fence.attempt);
                tracing::warn!(task.id = %task, task.attempt = %attempt, "the lease could not be renewed in time");
            }
            held.give(Order::Stop);
        }
    }

    /// When the first lease ends of those not told to stop.
    fn first_end(&self) -> Option<Instant> {
        self.all().iter().filter(|held| held.order() != Order::Stop).map(|held| held.until()).min()
    }

    /// When we stop believing in a lease that was asked for at `sent`.
    fn end(&self, sent: Instant) -> Instant {
        sent + self.lease - self.lease / 5
    }

    fn all(&self) -> Vec<Arc<Held>> {
        lock(&self.held).values().cloned().collect()
    }

    fn forget(&self, fence: Fence) {
        if lock(&self.held).remove(&fence).is_some() {
            self.metrics.tasks_held.dec();
        }
    }
}

/// No code panics while it holds one of these locks, so a poisoned one is as good as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::store::{Claim, ClaimRules, HoldBack, NodeHeld, Outbox, OutboxId};
    use crate::task::{Attempt, Counts, Event, ItemName, ItemResult, ReplicaId, TaskId, TaskState, Then};

    /// A store that answers renewals as told; `None` is an outage.
    #[derive(Default)]
    struct Renewals {
        answer: Mutex<Option<Renewal>>,
        calls: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl Outbox for Renewals {
        async fn published(&self, _: &[OutboxId]) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[async_trait]
    impl ClaimStore for Renewals {
        async fn claim(&self, _: &ReplicaId, _: &ClaimRules) -> Result<Option<Claim>, StoreError> {
            Ok(None)
        }
        async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
            Ok(None)
        }
        async fn renew(&self, held: &[Fence], _: Duration) -> Result<Vec<Renewal>, StoreError> {
            lock(&self.calls).push(held.len());
            let answer = *lock(&self.answer);
            let unavailable = StoreError::Unavailable { doing: "renewing", source: "cut".into() };
            answer.map(|renewal| vec![renewal; held.len()]).ok_or(unavailable)
        }
        async fn hear(&self, _: &ReplicaId, ring: &(dyn Fn() + Send + Sync)) {
            ring();
            std::future::pending::<()>().await;
        }
        async fn record(&self, _: Fence, _: &[ItemResult]) -> Result<Counts, StoreError> {
            Ok(Counts::default())
        }
        async fn finish(&self, _: Fence, _: &Event) -> Result<OutboxId, StoreError> {
            Ok(OutboxId(1))
        }
        async fn halt(&self, _: Fence, _: Then, _: &str) -> Result<TaskState, StoreError> {
            Ok(TaskState { status: Status::Paused, ..TaskState::new() })
        }
        async fn keep_order(&self, _: Fence, order: &[u32]) -> Result<Vec<u32>, StoreError> {
            Ok(order.to_vec())
        }
        async fn hold_back(&self, _: Fence, _: &HoldBack) -> Result<TaskState, StoreError> {
            Ok(TaskState { status: Status::Paused, ..TaskState::new() })
        }
        async fn take_nodes(&self, _: Fence, _: &[(u32, ItemName)]) -> Result<Vec<NodeHeld>, StoreError> {
            Ok(Vec::new())
        }
        async fn hand_over(&self, _: Fence) -> Result<Status, StoreError> {
            Ok(Status::Queued)
        }
    }

    const LEASE: Duration = Duration::from_secs(5);

    fn fence(n: u128) -> Fence {
        Fence { task: TaskId::from_uuid(uuid::Uuid::from_u128(n)), attempt: Attempt(1) }
    }

    fn still(status: Status) -> Renewal {
        Renewal::Held { status, concurrency: None }
    }

    fn started(answer: Option<Renewal>) -> (Arc<Leases>, Arc<Renewals>, CancellationToken) {
        let leases = Leases::new(LEASE, Duration::from_secs(1), Metrics::new());
        let store = Arc::new(Renewals { answer: Mutex::new(answer), ..Renewals::default() });
        let stop = CancellationToken::new();
        let (running, on, until) = (Arc::clone(&leases), Arc::clone(&store), stop.clone());
        tokio::spawn(async move { running.run(on, until).await });
        (leases, store, stop)
    }

    #[tokio::test(start_paused = true)]
    async fn all_leases_are_renewed_in_one_call_and_hold_for_ever() {
        let (leases, store, _stop) = started(Some(still(Status::Running)));
        let (one, two) = (fence(1), fence(2));
        let one = leases.hold(one, Status::Running, Instant::now());
        let two = leases.hold(two, Status::Running, Instant::now());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(one.may_write() && two.may_write());
        assert!(lock(&store.calls).len() >= 50);
        assert!(lock(&store.calls).iter().all(|held| *held == 2));
        drop(two);
        assert_eq!(leases.metrics.tasks_held.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_stops_itself_before_a_lease_ends_that_it_cannot_renew() {
        let (leases, store, _stop) = started(None);
        let began = Instant::now();
        let held = leases.hold(fence(1), Status::Running, began);
        held.stopped().await;
        assert!(began.elapsed() < LEASE && began.elapsed() >= LEASE / 2, "{:?}", began.elapsed());
        assert!(!held.may_write());
        *lock(&store.answer) = Some(still(Status::Running));
        tokio::time::sleep(LEASE).await;
        assert!(!held.may_write(), "a lease that was given up does not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_was_answered_late_is_not_believed_longer_for_it() {
        let (leases, _store, _stop) = started(None);
        // Between two looks at the leases.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let late = leases.hold(fence(1), Status::Running, Instant::now() - LEASE * 4 / 5);
        assert_eq!(late.order(), Order::Stop);
        let sent = Instant::now() - LEASE * 3 / 4;
        let just = leases.hold(fence(2), Status::Running, sent);
        assert!(just.may_write());
        just.stopped().await;
        assert!(sent.elapsed() < LEASE * 17 / 20, "{:?}", sent.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_outage_costs_nothing() {
        let (leases, store, _stop) = started(None);
        let held = leases.hold(fence(1), Status::Running, Instant::now());
        tokio::time::sleep(Duration::from_secs(3)).await;
        *lock(&store.answer) = Some(still(Status::Running));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(held.may_write());
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_bring_the_wishes_of_users() {
        for (status, order) in [
            (Status::Running, Order::Run),
            (Status::Paused, Order::LetGo),
            (Status::Queued, Order::LetGo),
            (Status::Cancelling, Order::Cancel),
            (Status::Cancelled, Order::Stop),
        ] {
            let (leases, _store, _stop) = started(Some(still(status)));
            let held = leases.hold(fence(1), Status::Running, Instant::now());
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(held.order(), order, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_lease_stops_the_task_unless_it_is_being_ended() {
        let (leases, _store, _stop) = started(Some(Renewal::Lost));
        let lost = leases.hold(fence(1), Status::Running, Instant::now());
        let ended = leases.hold(fence(2), Status::Running, Instant::now());
        ended.leave();
        lost.stopped().await;
        assert_eq!(ended.order(), Order::Run);
        assert_eq!(leases.metrics.fenced(Fenced::Renewal), 1, "the end of a task is no refusal");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_told_to_stop_is_not_renewed_any_more() {
        let (leases, store, _stop) = started(Some(still(Status::Running)));
        let stopped = leases.hold(fence(1), Status::Running, Instant::now());
        let _kept = leases.hold(fence(2), Status::Running, Instant::now());
        stopped.give(Order::Stop);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!lock(&store.calls).is_empty());
        assert!(lock(&store.calls).iter().all(|held| *held == 1));
    }

    #[test]
    fn orders_only_grow() {
        let held = Held::new(fence(1), Status::Cancelling, Instant::now());
        held.give(Order::HandOver);
        assert_eq!(held.order(), Order::Cancel);
        held.give(Order::Stop);
        held.give(Order::Cancel);
        assert_eq!(held.order(), Order::Stop);
    }
}
