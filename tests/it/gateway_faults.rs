//! Faults in front of every port of a gateway, for what a real server cannot be made to do at the right moment.

use std::sync::Arc;

use async_trait::async_trait;
use milepost::bus::{BusError, Feed, Following, Health, Inbox, Loss, Replay};
use milepost::faulty::{Faulty, Plan};
use milepost::gateway::Parts;
use milepost::task::{Event, Position, TaskId, UserId};

/// Puts the faults of `plan` in front of every port.
pub fn wrap(plan: &Plan, parts: &mut Parts) {
    parts.store = Arc::new(Faulty::new(Arc::clone(&parts.store), plan));
    parts.feed = Arc::new(Faulty::new(Arc::clone(&parts.feed), plan));
    parts.publisher = Arc::new(Faulty::new(Arc::clone(&parts.publisher), plan));
    parts.dispatcher = Arc::new(Faulty::new(Arc::clone(&parts.dispatcher), plan));
    parts.tickets = Arc::new(Faulty::new(Arc::clone(&parts.tickets), plan));
    parts.clusters = Arc::new(Faulty::new(Arc::clone(&parts.clusters), plan));
}

/// A feed whose streams are lost whenever somebody wants to go on in one.
pub struct Losing(pub Arc<dyn Feed>);

#[async_trait]
impl Feed for Losing {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        self.0.follow(user, inbox).await
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        self.0.head(user).await
    }

    async fn replay(&self, _: &UserId, _: &Position, _: usize) -> Result<Replay, BusError> {
        Ok(Replay::Lost(Loss::Epoch))
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        self.0.live(user, tasks).await
    }

    fn health(&self) -> Health {
        self.0.health()
    }
}
