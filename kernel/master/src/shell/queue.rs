//! What waits to be sent to one stream or agent: without an end for bursts, with one for those who do not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plenum_store::Validity;
use tokio::sync::mpsc;

/// Items that may wait. A reader that is this far behind is disconnected: it has stopped, and its memory is needed.
const LIMIT: usize = 200_000;

/// The sending end. Dropping it ends the stream once everything in it is out.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: mpsc::UnboundedSender<T>,
    waiting: Arc<AtomicUsize>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    items: mpsc::UnboundedReceiver<T>,
    waiting: Arc<AtomicUsize>,
    /// What still waits when the leadership is over is never sent.
    validity: Validity,
}

/// A queue of things that a leader says.
pub(crate) fn queue<T>(validity: Validity) -> (Queue<T>, Waiting<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Queue { items: sender, waiting: Arc::clone(&waiting) }, Waiting { items: receiver, waiting, validity })
}

impl<T> Queue<T> {
    /// Adds an item; false when the reader is gone or too far behind.
    pub fn push(&self, item: T) -> bool {
        self.waiting.fetch_add(1, Ordering::Relaxed) < LIMIT && self.items.send(item).is_ok()
    }
}

impl<T> Waiting<T> {
    /// Takes up to `most` items, waiting for the first; none when the stream has ended.
    pub async fn take(&mut self, out: &mut Vec<T>, most: usize) -> usize {
        let count = self.items.recv_many(out, most).await;
        self.taken(out, count)
    }

    /// As `take`, for streams that are polled.
    pub fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
        out: &mut Vec<T>,
        most: usize,
    ) -> std::task::Poll<usize> {
        let count = std::task::ready!(self.items.poll_recv_many(cx, out, most));
        std::task::Poll::Ready(self.taken(out, count))
    }

    /// Asked right before sending: this process may have been stopped since the items were made.
    fn taken(&self, out: &mut Vec<T>, count: usize) -> usize {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        if self.validity.holds() {
            return count;
        }
        out.clear();
        0
    }
}
