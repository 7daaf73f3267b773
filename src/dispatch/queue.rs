//! A bounded queue of tokens inside one process: what receivers of the memory and the Postgres backend wait on.
//!
//! A full queue drops the token: so many are waiting already that nobody sleeps.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Token;

/// Tokens that wait at once.
pub(super) const QUEUE_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    rung: Notify,
}

#[derive(Debug, Default)]
struct State {
    tokens: VecDeque<Token>,
    delivered: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, token: Token) {
        let mut state = self.lock();
        if state.tokens.len() < QUEUE_MAX {
            state.tokens.push_back(token);
        }
        self.rung.notify_one();
    }

    /// Tokens that nobody has taken.
    pub(super) fn len(&self) -> usize {
        self.lock().tokens.len()
    }

    /// Waits until `end` for at most `max` tokens, each under a name of its own. Cancel-safe.
    pub(super) async fn receive(&self, max: usize, wait: Duration) -> Vec<Token> {
        let end = Instant::now() + wait;
        loop {
            let tokens = self.take(max);
            if !tokens.is_empty() || timeout_at(end, self.rung.notified()).await.is_err() {
                return tokens;
            }
        }
    }

    /// Takes what waits. Rings on for what is left, so that no other receiver sleeps on it.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { task_id: None, receipt: String::new() }
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let queue = Queue::default();
        (0..QUEUE_MAX + 10).for_each(|_| queue.push(token()));
        assert_eq!(queue.receive(usize::MAX, Duration::ZERO).await.len(), QUEUE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_receiver_leaves_wakes_the_next() {
        let queue = Queue::default();
        (0..3).for_each(|_| queue.push(token()));
        let receive = || queue.receive(1, Duration::from_secs(5));
        let (one, two, three) = tokio::join!(receive(), receive(), receive());
        assert_eq!([one.len(), two.len(), three.len()], [1, 1, 1]);
        assert!(receive().await.is_empty());
    }
}
