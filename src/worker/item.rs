//! One item, from the moment a lane takes it to its outcome.
//!
//! The time-out covers all runs of the item and the waits between them. A transient error is tried again after a
//! full-jitter wait; a panic of the action is that item's failure and nobody else's. While an item waits for its next
//! run its lane of the process is free for other tasks. Not here: which item, and what becomes of the outcome.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::backoff::full_jitter;
use super::lease::Order;
use crate::action::{Action, ActionError, Context, Done, Target};
use crate::config::WorkerConfig;
use crate::task::{ItemOutcome, Step};

/// How often and how long one item is tried.
#[derive(Debug, Clone)]
pub(super) struct Tries {
    /// For all runs together.
    pub(super) timeout: Duration,
    pub(super) max: u16,
    pub(super) retry_base: Duration,
    pub(super) retry_max: Duration,
}

impl Tries {
    pub(super) fn new(config: &WorkerConfig, timeout: Option<Duration>) -> Self {
        Self {
            timeout: timeout.unwrap_or(config.item_timeout),
            max: config.item_tries.max(1),
            retry_base: config.retry_base,
            retry_max: config.retry_max,
        }
    }

    fn wait(&self, failures: u16, retry_after: Option<Duration>) -> Duration {
        let jitter = full_jitter(self.retry_base, self.retry_max, failures.into(), rand::random());
        jitter.max(retry_after.unwrap_or_default())
    }
}

/// Runs items of one task.
pub(super) struct ItemRunner {
    pub(super) action: Arc<dyn Action>,
    pub(super) tries: Tries,
    pub(super) lanes: Arc<Semaphore>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) stopping: CancellationToken,
    /// Takes what the item of this index is at.
    pub(super) steps: Arc<dyn Fn(u32, Step) + Send + Sync>,
}

/// What one item came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ran {
    /// `None`: left between two runs because the task is let go; it stays pending.
    pub(super) outcome: Option<ItemOutcome>,
    pub(super) tries: u16,
}

impl ItemRunner {
    /// Runs one item to its end. `lane` is the right to run now.
    pub(super) async fn run(&mut self, target: Target<'_>, mut lane: OwnedSemaphorePermit) -> Ran {
        let deadline = Instant::now() + self.tries.timeout;
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.try_once(target, deadline).await {
                Err(Unended::Later(error)) => {
                    tries -= 1;
                    error
                }
                Ok(outcome) => return Ran { outcome: Some(outcome), tries },
                Err(Unended::Transient(error)) => error,
                Err(Unended::Stopped(message)) => return Ran { outcome: self.left(message), tries },
            };
            let wait = self.tries.wait(tries.max(1), error.retry_after);
            if tries == self.tries.max || Instant::now() + wait >= deadline {
                return Ran { outcome: Some(ItemOutcome::failed(error.message)), tries };
            }
            drop(lane);
            lane = match self.next_turn(wait, deadline).await {
                Turn::Lane(lane) => lane,
                Turn::TooLate => return Ran { outcome: Some(ItemOutcome::failed(error.message)), tries },
                Turn::Ordered => return Ran { outcome: self.left(error.message), tries },
            };
        }
    }

    /// One run of the action: an outcome, or an error that may mend.
    async fn try_once(&self, target: Target<'_>, deadline: Instant) -> Result<ItemOutcome, Unended> {
        let context = self.context(target.index, deadline);
        let run = AssertUnwindSafe(self.action.run(target, &context)).catch_unwind();
        match timeout_at(deadline, run).await {
            Ok(Ok(Ok(Done::Succeeded(effect)))) => Ok(ItemOutcome::Succeeded { effect }),
            Ok(Ok(Ok(Done::Skipped(reason)))) => Ok(ItemOutcome::skipped(reason)),
            Ok(Ok(Err(ActionError::Permanent { message }))) => Ok(ItemOutcome::failed(message)),
            Ok(Ok(Err(ActionError::Transient { message, retry_after }))) => {
                Err(Unended::Transient(Transient { message, retry_after }))
            }
            Ok(Ok(Err(ActionError::Later { message, retry_after }))) => {
                let retry_after = Some(spread(retry_after));
                Err(Unended::Later(Transient { message, retry_after }))
            }
            Ok(Ok(Err(ActionError::Stopped { message }))) => Err(Unended::Stopped(message)),
            Ok(Err(panic)) => Ok(ItemOutcome::failed(crash_message(panic.as_ref()))),
            Err(_) => Ok(ItemOutcome::failed(format!("took longer than {:?}", self.tries.timeout))),
        }
    }

    fn context(&self, index: u32, deadline: Instant) -> Context {
        let steps = Arc::clone(&self.steps);
        Context::new(self.stopping.clone(), Some(deadline), Arc::new(move |step| steps(index, step)))
    }

    /// Waits before the next run, and then for a lane of the process.
    async fn next_turn(&mut self, wait: Duration, deadline: Instant) -> Turn {
        let lanes = Arc::clone(&self.lanes);
        let turn = async {
            sleep(wait).await;
            lanes.acquire_owned().await
        };
        tokio::select! {
            biased;
            // A task that is only halted waits for what is to become of it.
            _ = self.orders.wait_for(|order| *order > Order::Halt) => Turn::Ordered,
            turn = timeout_at(deadline, turn) => match turn {
                Ok(Ok(lane)) => Turn::Lane(lane),
                _ => Turn::TooLate,
            },
        }
    }

    /// An item that was run and did not succeed has failed, unless its task goes on later or elsewhere.
    fn left(&self, message: String) -> Option<ItemOutcome> {
        let later = matches!(*self.orders.borrow(), Order::HandOver | Order::LetGo | Order::Stop);
        (!later).then(|| ItemOutcome::failed(message))
    }
}

/// What the wait for the next run came to.
enum Turn {
    /// The right to run now.
    Lane(OwnedSemaphorePermit),
    /// The time of the item is over.
    TooLate,
    /// The task was told not to go on.
    Ordered,
}

/// Why a run gave no outcome.
enum Unended {
    Transient(Transient),
    /// It was not tried.
    Later(Transient),
    /// It was told to stop.
    Stopped(String),
}

struct Transient {
    message: String,
    retry_after: Option<Duration>,
}

/// Up to half as long again, so that those who were told the same time do not come back at once.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

/// What an action said when it panicked.
pub(super) fn crash_message(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the action crashed: {}", said.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::task::{Effect, ItemName};

    /// Answers by the number of the run, from 1.
    struct Scripted<F>(AtomicU16, F);

    #[async_trait]
    impl<F> Action for Scripted<F>
    where
        F: Fn(u16) -> Result<Done, ActionError> + Send + Sync,
    {
        async fn run(&self, _: Target<'_>, _: &Context) -> Result<Done, ActionError> {
            (self.1)(self.0.fetch_add(1, Ordering::SeqCst) + 1)
        }
    }

    struct Hangs;

    #[async_trait]
    impl Action for Hangs {
        async fn run(&self, _: Target<'_>, _: &Context) -> Result<Done, ActionError> {
            std::future::pending().await
        }
    }

    fn scripted(f: impl Fn(u16) -> Result<Done, ActionError> + Send + Sync + 'static) -> Arc<dyn Action> {
        Arc::new(Scripted(AtomicU16::new(0), f))
    }

    fn runner(
        action: Arc<dyn Action>,
        tries: Tries,
        lanes: &Arc<Semaphore>,
        orders: watch::Receiver<Order>,
    ) -> ItemRunner {
        let (lanes, stopping) = (Arc::clone(lanes), CancellationToken::new());
        ItemRunner { action, tries, lanes, orders, stopping, steps: Arc::new(|_, _| {}) }
    }

    async fn run(action: Arc<dyn Action>, orders: watch::Receiver<Order>) -> Ran {
        let lanes = Arc::new(Semaphore::new(1));
        let tries = Tries::new(&WorkerConfig::default(), None);
        let lane = Arc::clone(&lanes).acquire_owned().await.unwrap();
        let name = ItemName::new("node-1").unwrap();
        let mut runner = runner(action, tries, &lanes, orders);
        let ran = runner.run(Target { index: 0, name: &name }, lane).await;
        assert_eq!(lanes.available_permits(), 1, "the lane is free again");
        ran
    }

    async fn run_alone(action: Arc<dyn Action>) -> Ran {
        let (_orders, seen) = watch::channel(Order::Run);
        run(action, seen).await
    }

    const CHANGED: Done = Done::Succeeded(Effect::Changed);

    #[tokio::test(start_paused = true)]
    async fn a_transient_error_is_tried_again_and_the_wait_asked_for_is_honoured() {
        let began = Instant::now();
        let retry_after = Some(Duration::from_secs(15));
        let ran = run_alone(scripted(move |n| match n {
            1 => Err(ActionError::Transient { message: "busy".into(), retry_after }),
            _ => Ok(CHANGED),
        }))
        .await;
        assert_eq!(ran, Ran { outcome: Some(ItemOutcome::Succeeded { effect: Effect::Changed }), tries: 2 });
        assert!(began.elapsed() >= Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn tries_are_bounded_and_the_last_error_is_the_failure() {
        let ran = run_alone(scripted(|n| Err(ActionError::transient(format!("no {n}"))))).await;
        assert_eq!(ran, Ran { outcome: Some(ItemOutcome::failed("no 4")), tries: 4 });
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_asked_is_no_try_and_is_bounded_by_the_time_of_the_item() {
        let later = || ActionError::Later { message: "away".into(), retry_after: Duration::from_secs(2) };
        let ran = run_alone(scripted(move |n| if n <= 10 { Err(later()) } else { Ok(CHANGED) })).await;
        assert_eq!(ran, Ran { outcome: Some(ItemOutcome::Succeeded { effect: Effect::Changed }), tries: 1 });
        let began = Instant::now();
        let ran = run_alone(scripted(move |_| Err(later()))).await;
        assert_eq!(ran, Ran { outcome: Some(ItemOutcome::failed("away")), tries: 0 });
        assert!((55..=60).contains(&began.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_error_is_not_tried_again() {
        let ran = run_alone(scripted(|_| Err(ActionError::permanent("no such node")))).await;
        assert_eq!(ran, Ran { outcome: Some(ItemOutcome::failed("no such node")), tries: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_the_failure_of_the_item() {
        let ran = run_alone(scripted(|n| panic!("on purpose in run {n}"))).await;
        let outcome = Some(ItemOutcome::failed("the action crashed: on purpose in run 1"));
        assert_eq!(ran, Ran { outcome, tries: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_that_hangs_fails_after_its_time() {
        let began = Instant::now();
        let ran = run_alone(Arc::new(Hangs)).await;
        assert_eq!(ran, Ran { outcome: Some(ItemOutcome::failed("took longer than 60s")), tries: 1 });
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_would_outlast_the_time_out_is_not_begun() {
        let began = Instant::now();
        let retry_after = Some(Duration::from_secs(3600));
        let ran = run_alone(scripted(move |_| {
            Err(ActionError::Transient { message: "come back later".into(), retry_after })
        }))
        .await;
        assert_eq!(ran.outcome, Some(ItemOutcome::failed("come back later")));
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_between_runs_have_full_jitter() {
        let base = WorkerConfig::default().retry_base;
        let mut quarters = [0; 4];
        for _ in 0..200 {
            let once = |n| if n == 1 { Err(ActionError::transient("busy")) } else { Ok(CHANGED) };
            let began = Instant::now();
            run_alone(scripted(once)).await;
            // Timers fire on whole milliseconds.
            let waited = began.elapsed().as_secs_f64() - 0.001;
            assert!(waited <= base.as_secs_f64(), "{waited}");
            quarters[(1..4).filter(|n| waited > base.as_secs_f64() / 4.0 * f64::from(*n)).count()] += 1;
        }
        assert!(quarters.iter().all(|n| *n > 10), "{quarters:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_lane_ends_with_the_time_of_the_item_or_with_an_order() {
        let (orders, seen) = watch::channel(Order::Run);
        for (order, outcome, secs) in
            [(Order::Run, Some(ItemOutcome::failed("busy")), 60), (Order::HandOver, None, 1)]
        {
            let lanes = Arc::new(Semaphore::new(1));
            let tries = Tries::new(&WorkerConfig::default(), None);
            let lane = Arc::clone(&lanes).acquire_owned().await.unwrap();
            let others = Arc::clone(&lanes);
            let others = tokio::spawn(async move { others.acquire_owned().await });
            let action = scripted(|_| Err(ActionError::transient("busy")));
            let mut runner = runner(action, tries, &lanes, seen.clone());
            let began = Instant::now();
            let running = tokio::spawn(async move {
                let name = ItemName::new("node-1").unwrap();
                runner.run(Target { index: 0, name: &name }, lane).await
            });
            let _taken = others.await.unwrap().unwrap();
            sleep(Duration::from_secs(1)).await;
            orders.send_replace(order);
            assert_eq!(running.await.unwrap(), Ran { outcome, tries: 1 });
            assert_eq!(began.elapsed().as_secs(), secs);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_between_two_runs_obeys_at_once() {
        let retry_after = Some(Duration::from_secs(30));
        let busy = || scripted(move |_| Err(ActionError::Transient { message: "busy".into(), retry_after }));
        for (order, outcome) in [(Order::HandOver, None), (Order::Cancel, Some(ItemOutcome::failed("busy")))]
        {
            let (orders, seen) = watch::channel(Order::Run);
            let running = tokio::spawn(run(busy(), seen));
            tokio::time::sleep(Duration::from_secs(1)).await;
            let began = Instant::now();
            orders.send_replace(order);
            assert_eq!(running.await.unwrap(), Ran { outcome, tries: 1 });
            assert!(began.elapsed() < Duration::from_secs(1));
        }
    }
}
