//! Does duties on time, in the one replica that leads. Knows none of them.
//!
//! Before every round it takes or keeps the lead, and then begins what is due; there is a round every second even when
//! nothing is due, because a lead lapses that is not kept. Who takes the lead does every duty at once. Duties run side by
//! side, each with a deadline, and none waits for another; one that fails or is late is logged once per outage and due
//! again as usual. Not here: what a duty does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::BoxError;
use crate::store::Leadership;
use crate::telemetry::metrics::Kind;
use crate::telemetry::{Metrics, Outage};

/// Longest time one run of a duty may take.
const DUTY_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for an answer about the lead.
const LEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Longest pause between two questions about the lead: a small part of [`crate::store::LEAD_LAPSE`].
const LEAD_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest pause between rounds, whatever the duties ask for.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Something that must be done again and again, by one replica at a time.
#[async_trait]
pub trait Duty: Send + Sync + 'static {
    /// Its name in logs and metrics, `snake_case`.
    fn name(&self) -> &'static str;

    /// The pause between two runs.
    fn interval(&self) -> Duration;

    /// Does what is due now and returns how much that was. Idempotent, bounded, and safe to drop at any point.
    ///
    /// # Errors
    /// Whatever kept it from doing all of it; it is run again at its next time.
    async fn run(&self) -> Result<u64, BoxError>;

    /// This replica does not lead, or not any more.
    fn rest(&self) {}
}

/// Runs duties while this replica leads.
pub struct Driver {
    lead: Lead,
    duties: Vec<Arc<Slot>>,
    metrics: Metrics,
}

struct Lead {
    leadership: Arc<dyn Leadership>,
    outage: Outage,
    ours: bool,
    metrics: Metrics,
}

struct Slot {
    duty: Box<dyn Duty>,
    outage: Outage,
}

/// A duty that panicked or was late. Its own errors pass through as they are.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("took longer than {DUTY_DEADLINE:?}")]
    Late,
    #[error("panicked")]
    Panicked,
}

impl Driver {
    /// A driver that has not begun. Every duty is due at once.
    #[must_use]
    pub fn new(leadership: Arc<dyn Leadership>, duties: Vec<Box<dyn Duty>>, metrics: Metrics) -> Self {
        let slot = |duty: Box<dyn Duty>| {
            let _ = metrics.upkeep.get_or_create(&Kind { kind: duty.name() });
            Arc::new(Slot { outage: Outage::of(duty.name()), duty })
        };
        let duties = duties.into_iter().map(slot).collect();
        let lead =
            Lead { leadership, outage: Outage::of("taking the lead"), ours: false, metrics: metrics.clone() };
        Self { lead, duties, metrics }
    }

    /// Works until `stop`, then gives the lead back.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let _stopped = stop.run_until_cancelled(self.rounds(&mut running)).await;
        running.shutdown().await;
        self.lead.give_back().await;
    }

    /// Begins what is due, for ever. A duty is due again some time after it ended.
    async fn rounds(&mut self, running: &mut JoinSet<usize>) {
        let mut due = vec![Some(Instant::now()); self.duties.len()];
        loop {
            let next = sleep_until(self.next_round(&due));
            tokio::select! {
                Some(Ok(ended)) = running.join_next() => due[ended] = Some(self.after(ended)),
                () = next => self.round(&mut due, running).await,
            }
        }
    }

    /// When the first duty is due, and before the lead lapses. Who does not lead has nothing that is due.
    fn next_round(&self, due: &[Option<Instant>]) -> Instant {
        let now = Instant::now();
        let first = due.iter().flatten().min().filter(|_| self.lead.ours).copied();
        first.unwrap_or(now + LEAD_INTERVAL).clamp(now + ROUND_MIN, now + LEAD_INTERVAL)
    }

    /// Begins what is due if this replica leads. Who does not has every duty due at once when it takes the lead.
    async fn round(&mut self, due: &mut [Option<Instant>], running: &mut JoinSet<usize>) {
        let (now, leads) = (Instant::now(), self.lead.keep().await);
        for (i, slot) in self.duties.iter().enumerate() {
            if !leads {
                slot.duty.rest();
                due[i] = due[i].map(|_| now);
            } else if due[i].is_some_and(|due| due <= now) {
                due[i] = None;
                let (slot, metrics) = (Arc::clone(slot), self.metrics.clone());
                running.spawn(async move {
                    slot.run(&metrics).await;
                    i
                });
            }
        }
    }

    fn after(&self, i: usize) -> Instant {
        Instant::now() + self.duties[i].duty.interval()
    }
}

impl Lead {
    /// Takes or keeps the lead. An unknown lead is no lead.
    async fn keep(&mut self) -> bool {
        let led = self.ours;
        self.ours = match timeout(LEAD_DEADLINE, self.leadership.lead()).await {
            Ok(Ok(leads)) => {
                self.outage.over();
                leads
            }
            Ok(Err(error)) => {
                self.outage.failed(&error);
                false
            }
            Err(late) => {
                self.outage.failed(&late);
                false
            }
        };
        if led != self.ours {
            tracing::info!(leads = self.ours, "the lead of maintenance changed");
        }
        self.metrics.maintenance_leader.set(i64::from(self.ours));
        self.ours
    }

    async fn give_back(&self) {
        self.metrics.maintenance_leader.set(0);
        if self.ours {
            let _ = timeout(LEAD_DEADLINE, self.leadership.step_down()).await;
        }
    }
}

impl Slot {
    async fn run(&self, metrics: &Metrics) {
        let run = AssertUnwindSafe(self.duty.run()).catch_unwind();
        let done = match timeout(DUTY_DEADLINE, run).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Broken::Panicked.into()),
            Err(_) => Err(Broken::Late.into()),
        };
        match done {
            Ok(count) => {
                self.outage.over();
                metrics.upkeep.get_or_create(&Kind { kind: self.duty.name() }).inc_by(count);
            }
            Err(error) => self.outage.failed(error.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::store::StoreError;

    #[derive(Default)]
    struct Throne {
        free: AtomicBool,
        away: AtomicBool,
        asked: AtomicU32,
        given_back: AtomicU32,
    }

    #[async_trait]
    impl Leadership for Throne {
        async fn lead(&self) -> Result<bool, StoreError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let away = StoreError::Unavailable { doing: "leading", source: "cut".into() };
            if self.away.load(Ordering::SeqCst) { Err(away) } else { Ok(self.free.load(Ordering::SeqCst)) }
        }

        async fn step_down(&self) {
            self.given_back.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    struct Counter {
        runs: AtomicU32,
        rests: AtomicU32,
    }

    #[derive(Clone, Copy)]
    enum Way {
        Well,
        Fails,
        Panics,
        Hangs,
    }

    struct Chore(&'static str, u64, Way, Arc<Counter>);

    #[async_trait]
    impl Duty for Chore {
        fn name(&self) -> &'static str {
            self.0
        }
        fn interval(&self) -> Duration {
            Duration::from_secs(self.1)
        }
        async fn run(&self) -> Result<u64, BoxError> {
            self.3.runs.fetch_add(1, Ordering::SeqCst);
            match self.2 {
                Way::Well => Ok(2),
                Way::Fails => Err("on purpose".into()),
                Way::Panics => panic!("on purpose"),
                Way::Hangs => std::future::pending().await,
            }
        }
        fn rest(&self) {
            self.3.rests.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Setup {
        throne: Arc<Throne>,
        metrics: Metrics,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    fn start(free: bool, chores: Vec<Chore>) -> Setup {
        let throne = Arc::new(Throne { free: AtomicBool::new(free), ..Throne::default() });
        let (metrics, stop) = (Metrics::new(), CancellationToken::new());
        let duties = chores.into_iter().map(|chore| Box::new(chore) as Box<dyn Duty>).collect();
        let driver = Driver::new(Arc::clone(&throne) as Arc<dyn Leadership>, duties, metrics.clone());
        let task = tokio::spawn(driver.run(stop.clone()));
        Setup { throne, metrics, stop, task }
    }

    fn runs(counter: &Counter) -> u32 {
        counter.runs.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn duties_run_at_their_own_pace_and_are_counted() {
        let (quick, slow) = (Arc::<Counter>::default(), Arc::<Counter>::default());
        let chores = vec![
            Chore("quick", 1, Way::Well, Arc::clone(&quick)),
            Chore("slow", 60, Way::Well, Arc::clone(&slow)),
        ];
        let setup = start(true, chores);
        tokio::time::sleep(Duration::from_secs(119)).await;
        assert!((115..=120).contains(&runs(&quick)), "{}", runs(&quick));
        assert_eq!(runs(&slow), 2);
        assert_eq!(setup.metrics.upkeep.get_or_create(&Kind { kind: "slow" }).get(), 4);
        let asked = setup.throne.asked.load(Ordering::SeqCst);
        assert!((110..=125).contains(&asked), "asked {asked} times in 119 s");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_lead_does_every_duty_at_once_and_keeps_the_lead_between_them() {
        let counter = Arc::<Counter>::default();
        let setup = start(false, vec![Chore("rare", 3_600, Way::Well, Arc::clone(&counter))]);
        tokio::time::sleep(Duration::from_secs(1_800)).await;
        assert_eq!((runs(&counter), setup.metrics.maintenance_leader.get()), (0, 0));
        setup.throne.free.store(true, Ordering::SeqCst);
        tokio::time::sleep(LEAD_INTERVAL * 2).await;
        assert_eq!((runs(&counter), setup.metrics.maintenance_leader.get()), (1, 1));
        let before = setup.throne.asked.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1_800)).await;
        assert_eq!(runs(&counter), 1, "once an hour is once an hour");
        assert!(setup.throne.asked.load(Ordering::SeqCst) >= before + 1_700, "the lead would have lapsed");
        setup.throne.free.store(false, Ordering::SeqCst);
        tokio::time::sleep(LEAD_INTERVAL * 2).await;
        assert_eq!(setup.metrics.maintenance_leader.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_works_and_it_steps_down_at_the_stop() {
        let counter = Arc::<Counter>::default();
        let setup = start(false, vec![Chore("chore", 1, Way::Well, Arc::clone(&counter))]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(runs(&counter), 0);
        assert!(counter.rests.load(Ordering::SeqCst) > 5);
        setup.throne.free.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(runs(&counter) >= 4);
        setup.stop.cancel();
        setup.task.await.unwrap();
        assert_eq!(setup.throne.given_back.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_lead_is_no_lead() {
        let counter = Arc::<Counter>::default();
        let setup = start(true, vec![Chore("chore", 1, Way::Well, Arc::clone(&counter))]);
        setup.throne.away.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(runs(&counter), 0);
        setup.stop.cancel();
        setup.task.await.unwrap();
        assert_eq!(setup.throne.given_back.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_duty_that_fails_panics_or_hangs_is_tried_again_and_stops_no_other() {
        let counters: [Arc<Counter>; 4] = Default::default();
        let ways =
            [("fails", Way::Fails), ("panics", Way::Panics), ("hangs", Way::Hangs), ("well", Way::Well)];
        let chores = ways
            .iter()
            .zip(&counters)
            .map(|((name, way), counter)| Chore(name, 1, *way, Arc::clone(counter)));
        let setup = start(true, chores.collect());
        tokio::time::sleep(Duration::from_secs(100)).await;
        let runs = counters.each_ref().map(|counter| runs(counter));
        assert!(runs[2] >= 3 && [0, 1, 3].iter().all(|i| runs[*i] >= 95), "{runs:?}");
        setup.stop.cancel();
        setup.task.await.unwrap();
    }
}
