//! Wake-ups inside one process. A token wakes one of the waiting receivers; what a receiver took and did not ack goes
//! back when it is closed or dropped.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::queue::Queue;
use super::{DispatchError, Dispatcher, Token, TokenSource};
use crate::task::{ReplicaId, TaskId};

/// Wake-ups held by this process. Cheap to clone; clones share the queue.
#[derive(Debug, Clone, Default)]
pub struct MemoryDispatch {
    queue: Arc<Queue>,
}

impl MemoryDispatch {
    /// Without any token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Dispatcher for MemoryDispatch {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        self.queue.push(Token { task_id: Some(task), receipt: String::new() });
        Ok(())
    }

    async fn waiting(&self) -> Result<u64, DispatchError> {
        Ok(self.queue.len() as u64)
    }

    async fn receiver(&self, _: &ReplicaId) -> Result<Box<dyn TokenSource>, DispatchError> {
        Ok(Box::new(Receiver { queue: Arc::clone(&self.queue), unacked: Vec::new() }))
    }
}

struct Receiver {
    queue: Arc<Queue>,
    unacked: Vec<Token>,
}

#[async_trait]
impl TokenSource for Receiver {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Token>, DispatchError> {
        let tokens = self.queue.receive(max, wait).await;
        self.unacked.extend_from_slice(&tokens);
        Ok(tokens)
    }

    async fn ack(&mut self, token: Token) -> Result<bool, DispatchError> {
        let held = self.unacked.len();
        self.unacked.retain(|held| held.receipt != token.receipt);
        Ok(self.unacked.len() < held)
    }

    async fn close(self: Box<Self>) -> Result<(), DispatchError> {
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.unacked.drain(..).for_each(|token| self.queue.push(token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::contract;

    struct Fixture([MemoryDispatch; 2]);

    impl contract::Fixture for Fixture {
        fn dispatcher(&self, replica: usize) -> Arc<dyn Dispatcher> {
            Arc::new(self.0[replica].clone())
        }

        fn redelivers(&self) -> bool {
            true
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_contract_holds() {
        let dispatch = MemoryDispatch::new();
        contract::holds(&Fixture([dispatch.clone(), dispatch])).await;
    }
}
