//! What a session needs of a transport: put frames in, push them out, end. Implemented by [`super::websocket`] and
//! [`super::sse`].

use std::future::Future;

use super::close::Close;
use super::outbox::Item;
use super::protocol::{Control, Frame};

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// One client's connection. Calls are not cancel-safe: after a dropped one the connection is of no more use.
pub(crate) trait Wire: Send {
    /// The word for it in metrics.
    const KIND: &'static str;

    /// Buffers a control frame.
    fn control(&mut self, frame: Control) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Buffers an event that stands for `merged` events.
    fn event(&mut self, frame: &Frame, merged: u32) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Buffers a sign of life.
    fn ping(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Writes out what is buffered.
    fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Says goodbye as well as it can, within a short time.
    fn close(self, close: Close) -> impl Future<Output = ()> + Send;
}

/// How many of a batch's items are terminal events, and when the items in it ended. For metrics.
pub(crate) fn facts(items: &[Item]) -> (u64, impl Iterator<Item = i64> + '_) {
    let frames = || {
        items.iter().filter_map(|item| match item {
            Item::Event { frame, .. } => Some(frame),
            Item::Resync(_) => None,
        })
    };
    let terminal = frames().filter(|frame| frame.terminal).count();
    (u64::try_from(terminal).unwrap_or(u64::MAX), frames().flat_map(|frame| frame.done_us.iter().copied()))
}
