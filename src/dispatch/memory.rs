//! Wake-ups inside one process: a bounded queue of tokens.
//!
//! A token wakes one of the waiting receivers. What a receiver took and did not ack goes back to the queue when it is
//! closed or dropped. A full queue drops the token: so many are waiting already that nobody sleeps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{DispatchError, Dispatcher, Token, TokenSource};
use crate::task::{ReplicaId, TaskId};

/// Tokens that wait at once.
const QUEUE_MAX: usize = 10_000;

/// Wake-ups held by this process. Cheap to clone; clones share the queue.
#[derive(Debug, Clone, Default)]
pub struct MemoryDispatch {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    rung: Notify,
}

#[derive(Debug, Default)]
struct State {
    tokens: VecDeque<Token>,
    delivered: u64,
}

impl MemoryDispatch {
    /// Without any token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, tokens: impl IntoIterator<Item = Token>) {
        for token in tokens {
            let mut state = self.lock();
            if state.tokens.len() < QUEUE_MAX {
                state.tokens.push_back(token);
            }
            self.rung.notify_one();
        }
    }

    /// Takes tokens, each under a name of its own. Rings on for what is left, so that no other receiver sleeps on it.
    fn take(&self, max: usize) -> Vec<Token> {
        let mut state = self.lock();
        let n = state.tokens.len().min(max);
        let mut taken: Vec<_> = state.tokens.drain(..n).collect();
        for token in &mut taken {
            state.delivered += 1;
            token.receipt = state.delivered.to_string();
        }
        if !state.tokens.is_empty() {
            self.rung.notify_one();
        }
        taken
    }
}

#[async_trait]
impl Dispatcher for MemoryDispatch {
    async fn notify(&self, task: TaskId) -> Result<(), DispatchError> {
        self.queue.push([Token { task_id: Some(task), receipt: String::new() }]);
        Ok(())
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
        let end = Instant::now() + wait;
        loop {
            let tokens = self.queue.take(max);
            if !tokens.is_empty() {
                self.unacked.extend_from_slice(&tokens);
                return Ok(tokens);
            }
            if timeout_at(end, self.queue.rung.notified()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn ack(&mut self, token: Token) -> Result<(), DispatchError> {
        self.unacked.retain(|held| held.receipt != token.receipt);
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), DispatchError> {
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.queue.push(self.unacked.drain(..));
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

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let dispatch = MemoryDispatch::new();
        for _ in 0..QUEUE_MAX + 10 {
            dispatch.notify(TaskId::generate()).await.unwrap();
        }
        assert_eq!(dispatch.queue.lock().tokens.len(), QUEUE_MAX);
    }
}
