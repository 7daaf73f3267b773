//! The dispatch with faults.

use std::time::Duration;

use async_trait::async_trait;

use super::{Faulty, Plan, pass};
use crate::dispatch::{DispatchError, Dispatcher, Token, TokenSource};
use crate::task::{ReplicaId, TaskId};

#[async_trait]
impl<S: Dispatcher + ?Sized> Dispatcher for Faulty<S> {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        pass!(self.plan, "dispatcher.notify", self.inner.notify(task))
    }

    async fn waiting(&self) -> Result<u64, DispatchError> {
        pass!(self.plan, "dispatcher.waiting", self.inner.waiting())
    }

    async fn receiver(&self, worker: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
        let inner = pass!(self.plan, "dispatcher.receiver", self.inner.receiver(worker))?;
        Ok(Box::new(Receiver { inner, plan: self.plan.clone() }))
    }
}

struct Receiver {
    inner: Box<dyn TokenSource>,
    plan: Plan,
}

#[async_trait]
impl TokenSource for Receiver {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, DispatchError> {
        pass!(self.plan, "tokens.receive", self.inner.receive(max, wait))
    }

    async fn ack(&mut self, token: Token) -> Result<bool, DispatchError> {
        pass!(self.plan, "tokens.ack", self.inner.ack(token.clone()))
    }

    async fn close(self: Box<Self>) -> Result<(), DispatchError> {
        match self.plan.meet("tokens.close") {
            None => self.inner.close().await,
            Some(super::Fault::Hang) => self.plan.hang("tokens.close").await,
            Some(super::Fault::Panic) => panic!("{}: tokens.close", super::WORDS),
            // It is gone either way: what is not closed is dropped.
            Some(super::Fault::Before | super::Fault::After) => Err(super::Away::away("tokens.close")),
        }
    }
}
