//! Whether a connection has a request at work: from its head to the last byte of the answer's body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::timeout;

/// The requests at work on one connection. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Working {
    count: Arc<watch::Sender<usize>>,
}

impl Working {
    /// Notes a request that begins.
    pub(super) fn begin(&self) -> AtWork {
        self.count.send_modify(|count| *count += 1);
        AtWork { count: Arc::clone(&self.count) }
    }

    /// Waits until there has been no request at work for as long as `quiet`.
    pub(super) async fn ceased(&self, quiet: Duration) {
        let mut count = self.count.subscribe();
        loop {
            // The sender lives in `self`, so these waits cannot fail.
            let _ = count.wait_for(|count| *count == 0).await;
            if timeout(quiet, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }
}

/// A request at work, until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork {
    count: Arc<watch::Sender<usize>>,
}

impl AtWork {
    /// Goes on until a body was sent, or will not be.
    pub(super) fn until_sent(self, body: Body) -> Sending {
        Sending { body, _at_work: self }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

/// The body of an answer whose request is at work until the end of it.
pub(super) struct Sending {
    body: Body,
    _at_work: AtWork,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
