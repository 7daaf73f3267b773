//! The bus with faults.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Faulty, pass};
use crate::bus::{BusError, Feed, Following, Health, Inbox, Published, Publisher, Replay};
use crate::task::{Attempt, Event, ItemResult, Position, Seq, TaskId, UserId};

#[async_trait]
impl<S: Publisher + ?Sized> Publisher for Faulty<S> {
    async fn report(
        &self,
        user: &UserId,
        event: &Event,
        recorded: Option<Seq>,
    ) -> Result<Published, BusError> {
        pass!(self.plan, "publisher.publish", self.inner.report(user, event, recorded))
    }

    async fn unrecorded(
        &self,
        user: &UserId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Vec<ItemResult>, BusError> {
        pass!(self.plan, "publisher.unrecorded", self.inner.unrecorded(user, task, attempt))
    }
}

#[async_trait]
impl<S: Feed + ?Sized> Feed for Faulty<S> {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        pass!(self.plan, "feed.follow", self.inner.follow(user, Arc::clone(&inbox)))
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        pass!(self.plan, "feed.head", self.inner.head(user))
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        pass!(self.plan, "feed.replay", self.inner.replay(user, after, limit))
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        pass!(self.plan, "feed.live", self.inner.live(user, tasks))
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}
