//! Event streams of executors: who listens, and what happens when somebody stops reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_api::executor;
use tokio::sync::mpsc;

use super::Input;
use crate::core::Event;

/// Events that wait for one slow executor; beyond, its stream is closed and it may come back.
const QUEUE: usize = 1024;

/// The reading end of a stream. Dropping it tells the agent.
#[derive(Debug)]
pub(crate) struct ExecutorStream {
    pub events: mpsc::Receiver<Arc<executor::Event>>,
    container: String,
    stream: u64,
    inbox: mpsc::Sender<Input>,
}

impl Drop for ExecutorStream {
    fn drop(&mut self) {
        let gone =
            Event::ExecutorGone { container: std::mem::take(&mut self.container), stream: self.stream };
        let inbox = self.inbox.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { inbox.send(Input::Event(gone)).await });
        }
    }
}

/// The writing ends.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: BTreeMap<String, mpsc::Sender<Arc<executor::Event>>>,
}

impl Streams {
    /// Opens the stream of a container; one that was open before ends.
    pub fn open(&mut self, container: &str, stream: u64, inbox: &mpsc::Sender<Input>) -> ExecutorStream {
        let (sender, events) = mpsc::channel(QUEUE);
        self.open.insert(container.to_owned(), sender);
        ExecutorStream { events, container: container.to_owned(), stream, inbox: inbox.clone() }
    }

    /// Sends an event to whoever listens.
    pub fn send(&mut self, container: &str, event: executor::Event) {
        let Some(sender) = self.open.get(container) else { return };
        if sender.try_send(Arc::new(event)).is_err() {
            tracing::warn!(container, "an executor does not read its events; its stream is closed");
            self.open.remove(container);
        }
    }

    /// Ends a stream.
    pub fn close(&mut self, container: &str) {
        self.open.remove(container);
    }
}
