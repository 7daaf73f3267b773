//! The suite itself under test: a bus with one fault, for each fault that matters, must not pass.
//!
//! Time is paused, so waiting in vain takes no time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;

use super::{Fixture, holds};
use crate::bus::{
    BusError, Entry, Feed, Following, Health, Inbox, Loss, MemoryBus, Published, Publisher, Replay,
};
use crate::config::BusConfig;
use crate::task::{Attempt, Event, ItemResult, Position, Seq, TaskId, UserId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LetsOldAttemptsPublish,
    AddsTheSameEventTwice,
    PublishesToEverybody,
    DropsDeliveries,
    DoublesDeliveries,
    SwapsDeliveries,
    DeliversToOneReplicaOnly,
    HidesLosses,
    SkipsInReplay,
    RepeatsInReplay,
    EndsReplayEarly,
    HidesTrimming,
    HidesAnotherEpoch,
    HidesALostTail,
    ChangesBodies,
    ForgetsWhatIsTerminal,
    KeepsItemsInLive,
    MixesUsersInLive,
    ForgetsResults,
    KeepsWhatIsRecorded,
    GivesResultsOfTheSameAttempt,
    GivesResultsOfAnotherTask,
    KeepsResultsOfWhatIsOver,
}

const FAULTS: [Fault; 23] = [
    Fault::LetsOldAttemptsPublish,
    Fault::AddsTheSameEventTwice,
    Fault::PublishesToEverybody,
    Fault::DropsDeliveries,
    Fault::DoublesDeliveries,
    Fault::SwapsDeliveries,
    Fault::DeliversToOneReplicaOnly,
    Fault::HidesLosses,
    Fault::SkipsInReplay,
    Fault::RepeatsInReplay,
    Fault::EndsReplayEarly,
    Fault::HidesTrimming,
    Fault::HidesAnotherEpoch,
    Fault::HidesALostTail,
    Fault::ChangesBodies,
    Fault::ForgetsWhatIsTerminal,
    Fault::KeepsItemsInLive,
    Fault::MixesUsersInLive,
    Fault::ForgetsResults,
    Fault::KeepsWhatIsRecorded,
    Fault::GivesResultsOfTheSameAttempt,
    Fault::GivesResultsOfAnotherTask,
    Fault::KeepsResultsOfWhatIsOver,
];

#[derive(Clone)]
struct Faulty {
    bus: MemoryBus,
    fault: Fault,
    replica: usize,
    /// Results as they were before their task was over, and of every task that was told of.
    kept: Arc<Mutex<HashMap<TaskId, Vec<ItemResult>>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self { bus: MemoryBus::new(&BusConfig::default()), fault, replica: 0, kept: Arc::default() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<TaskId, Vec<ItemResult>>> {
        self.kept.lock().unwrap()
    }

    /// Everybody's stream is one, where that is the fault.
    fn of(&self, user: &UserId) -> UserId {
        match self.fault {
            Fault::PublishesToEverybody => UserId::new("everybody").unwrap(),
            _ => user.clone(),
        }
    }
}

#[async_trait]
impl Fixture for Faulty {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.clone())
    }

    fn feed(&self, replica: usize) -> Arc<dyn Feed> {
        Arc::new(Self { replica, ..self.clone() })
    }

    async fn wipe(&self, user: &UserId) {
        self.bus.wipe(&self.of(user));
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        self.bus.trim(&self.of(user), keep);
    }
}

#[async_trait]
impl Publisher for Faulty {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        let user = &self.of(user);
        let recorded = recorded.filter(|_| self.fault != Fault::KeepsWhatIsRecorded);
        let mut kept = Vec::new();
        if event.is_terminal() {
            kept = self.bus.unrecorded(user, event.task_id, event.attempt.next()).await?;
        }
        self.kept().insert(event.task_id, kept);
        let published = self.bus.report(user, event, recorded).await;
        match (self.fault, published) {
            (Fault::LetsOldAttemptsPublish, Err(BusError::Fenced { .. })) => Ok(Published::Repeat),
            (Fault::AddsTheSameEventTwice, Ok(Published::Repeat)) => {
                Ok(Published::Appended(self.bus.head(user).await?))
            }
            (_, published) => published,
        }
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        let user = &self.of(user);
        let results = self.bus.unrecorded(user, task, attempt).await?;
        match self.fault {
            Fault::ForgetsResults => Ok(Vec::new()),
            Fault::GivesResultsOfTheSameAttempt => self.bus.unrecorded(user, task, attempt.next()).await,
            Fault::GivesResultsOfAnotherTask => {
                let mut all = results;
                let others: Vec<_> = self.kept().keys().copied().filter(|other| *other != task).collect();
                for other in others {
                    all.extend(self.bus.unrecorded(user, other, attempt).await?);
                }
                Ok(all)
            }
            Fault::KeepsResultsOfWhatIsOver if results.is_empty() => {
                Ok(self.kept().get(&task).cloned().unwrap_or_default())
            }
            _ => Ok(results),
        }
    }
}

struct FaultyInbox {
    inbox: Arc<dyn Inbox>,
    fault: Fault,
    replica: usize,
}

impl Inbox for FaultyInbox {
    fn deliver(&self, user: &UserId, mut entries: Vec<Entry>) {
        match self.fault {
            Fault::DropsDeliveries => entries.retain(|entry| !entry.seq.0.is_multiple_of(7)),
            Fault::DoublesDeliveries => {
                entries = entries.into_iter().flat_map(|entry| [entry.clone(), entry]).collect();
            }
            // Every other entry comes late, after the one that follows it.
            Fault::SwapsDeliveries if entries[0].seq.0 == 2 => return,
            Fault::SwapsDeliveries if entries[0].seq.0 == 3 => {
                let late = Entry { seq: crate::task::Seq(2), ..entries[0].clone() };
                entries.push(late);
            }
            Fault::DeliversToOneReplicaOnly if self.replica == 1 => return,
            _ => {}
        }
        if !entries.is_empty() {
            self.inbox.deliver(user, entries);
        }
    }

    fn lost(&self, user: &UserId, loss: Loss) {
        if self.fault != Fault::HidesLosses {
            self.inbox.lost(user, loss);
        }
    }
}

#[async_trait]
impl Feed for Faulty {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        let inbox = FaultyInbox { inbox, fault: self.fault, replica: self.replica };
        self.bus.follow(&self.of(user), Arc::new(inbox)).await
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        self.bus.head(&self.of(user)).await
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        let replay = self.bus.replay(&self.of(user), after, limit).await?;
        let hidden = || Replay::Page { entries: Vec::new(), complete: true };
        Ok(match (self.fault, replay) {
            (Fault::HidesTrimming, Replay::Lost(Loss::Trimmed))
            | (Fault::HidesAnotherEpoch, Replay::Lost(Loss::Epoch))
            | (Fault::HidesALostTail, Replay::Lost(Loss::Ahead)) => hidden(),
            (fault, Replay::Page { mut entries, complete }) => {
                spoil(fault, &mut entries);
                Replay::Page { entries, complete: complete || fault == Fault::EndsReplayEarly }
            }
            (_, lost) => lost,
        })
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        let mut live = self.bus.live(&self.of(user), tasks).await?;
        match self.fault {
            Fault::KeepsItemsInLive => live.iter_mut().for_each(|event| {
                event.items = super::progress(event.task_id, event.attempt.0, event.seq.0).items;
            }),
            Fault::MixesUsersInLive => live.extend(tasks.iter().map(|task| super::progress(*task, 1, 1))),
            _ => {}
        }
        Ok(live)
    }

    fn health(&self) -> Health {
        self.bus.health()
    }
}

fn spoil(fault: Fault, entries: &mut Vec<Entry>) {
    match fault {
        Fault::SkipsInReplay if entries.len() > 1 => drop(entries.remove(0)),
        Fault::RepeatsInReplay => entries.extend(entries.last().cloned()),
        Fault::ChangesBodies => entries.iter_mut().for_each(|entry| entry.body = b"{}".as_slice().into()),
        Fault::ForgetsWhatIsTerminal => entries.iter_mut().for_each(|entry| entry.terminal = false),
        _ => {}
    }
}

async fn passes(fault: Fault) -> bool {
    tokio::spawn(async move { holds(&Faulty::new(fault)).await }).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn the_suite_notices_every_fault() {
    assert!(passes(Fault::None).await, "a sound bus must pass");
    for fault in FAULTS {
        assert!(!passes(fault).await, "nobody noticed a bus that {fault:?}");
    }
}
