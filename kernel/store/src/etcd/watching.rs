//! A watch on etcd that survives lost connections: it opens a new stream after the last revision it delivered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Event, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep, timeout};

use super::Etcd;
use super::convert::{self, Call, Span};
use super::pool::Endpoint;
use crate::watch::WatchSource;
use crate::{Change, Revision, StoreError, WatchEvent};

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a member may take to accept a watch, unless its store has less patience.
const ACCEPT: Duration = Duration::from_secs(2);

pub(super) struct EtcdWatch {
    store: Etcd,
    prefix: String,
    /// Everything up to this revision has been delivered or is in `pending`.
    cursor: u64,
    pending: VecDeque<WatchEvent>,
    /// With the member it comes from, which has to be looked after while it is silent.
    stream: Option<(WatchStream, Arc<Endpoint>)>,
    pause: Duration,
}

impl EtcdWatch {
    pub(super) fn new(store: Etcd, prefix: &str, after: Revision) -> Self {
        let pending = VecDeque::new();
        Self { store, prefix: prefix.to_owned(), cursor: after.0, pending, stream: None, pause: FIRST_PAUSE }
    }

    /// Opens a stream and sees it accepted.
    pub(super) async fn connect(&mut self) -> Result<(), StoreError> {
        let span = Span::prefix(&self.prefix);
        let from = i64::try_from(self.cursor.saturating_add(1)).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_start_revision(from).with_progress_notify();
        let options = options.with_range(span.end.unwrap_or_default());
        // etcd catches a watch up with as much as it likes in one message, so there is no limit to set.
        let deadline = self.store.deadline();
        let endpoint = self.store.pool.ready(Instant::now() + deadline).await?;
        let mut client = endpoint.client.watch_client().max_decoding_message_size(usize::MAX);
        let opened = timeout(deadline.min(ACCEPT), async {
            let mut stream = client.watch(span.start, Some(options)).await?;
            let first = stream.message().await?;
            Ok::<_, etcd_client::Error>((stream, first))
        });
        match opened.await {
            Ok(Ok((stream, Some(first)))) => {
                self.stream = Some((stream, endpoint));
                match self.take(&first) {
                    Err(error @ StoreError::Broken { .. }) => Err(self.refused(error).await),
                    other => other,
                }
            }
            Ok(Ok((_, None))) => Err(StoreError::unavailable("etcd ended the watch at once")),
            Ok(Err(e)) => Err(convert::error(&e, Call::Read)),
            Err(_) => {
                endpoint.suspect();
                Err(StoreError::deadline(deadline.min(ACCEPT), false))
            }
        }
    }

    /// etcd refuses a watch with the same words when its users are just being changed, so it is asked once more in another way.
    async fn refused(&self, error: StoreError) -> StoreError {
        let options = GetOptions::new().with_limit(1).with_keys_only();
        match self.store.get_span(&Span::prefix(&self.prefix), options).await {
            Ok(_) => StoreError::unavailable("etcd refused the watch while its users were changed"),
            Err(StoreError::Broken { .. }) => convert::denied(error, [self.prefix.as_str()]),
            Err(other) => other,
        }
    }

    /// Takes a message of the stream in.
    fn take(&mut self, message: &WatchResponse) -> Result<(), StoreError> {
        if message.canceled() {
            self.stream = None;
            if message.compact_revision() > 0 {
                let oldest = convert::number(message.compact_revision());
                self.pending.push_back(WatchEvent::Compacted { oldest });
                return Ok(());
            }
            let reason = message.cancel_reason().to_owned();
            return Err(if reason.contains("permission denied") {
                StoreError::broken(format!("etcd refuses the watch: {reason}"))
            } else {
                StoreError::unavailable(format!("etcd ended the watch: {reason}"))
            });
        }
        for event in message.events() {
            self.take_event(event)?;
        }
        self.pause = FIRST_PAUSE;
        Ok(())
    }

    fn take_event(&mut self, event: &Event) -> Result<(), StoreError> {
        let kv = event.kv().ok_or_else(|| StoreError::broken("etcd sent a change without a key"))?;
        let revision = convert::number(kv.mod_revision());
        let change = match event.event_type() {
            EventType::Put => Change::Put(convert::entry(kv.clone())?),
            EventType::Delete => Change::Delete { key: convert::key(kv.key().to_vec())? },
        };
        self.cursor = self.cursor.max(revision.0);
        // A message holds whole revisions, and all changes of a revision come one after the other.
        match self.pending.back_mut() {
            Some(WatchEvent::Changes { revision: last, changes }) if *last == revision => {
                changes.push(change)
            }
            _ => self.pending.push_back(WatchEvent::Changes { revision, changes: vec![change] }),
        }
        Ok(())
    }

    /// After a failure that may pass: lets go of the stream and waits a little longer each time.
    async fn recover(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.stream = None;
        if !error.is_retryable() {
            return Err(error);
        }
        tracing::debug!(%error, prefix = self.prefix, "the watch lost its connection");
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        sleep(pause).await;
        // Streams do not renew a token that ran out; calls do, but there may be none.
        if let Some(endpoint) = self.store.pool.order().first() {
            let _ = timeout(self.store.deadline(), endpoint.client.refresh_token()).await;
        }
        Ok(())
    }
}

#[async_trait]
impl WatchSource for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            // A compaction is final: it is told again and again.
            if let Some(WatchEvent::Compacted { oldest }) = self.pending.front() {
                return Ok(WatchEvent::Compacted { oldest: *oldest });
            }
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let outcome = match &mut self.stream {
                None => self.connect().await,
                Some((stream, endpoint)) => tokio::select! {
                    // What has arrived is told before the stream is left.
                    biased;
                    message = stream.message() => match message {
                        Ok(Some(message)) => self.take(&message),
                        Ok(None) => Err(StoreError::unavailable("etcd ended the watch")),
                        Err(e) => Err(convert::error(&e, Call::Read)),
                    },
                    () = endpoint.ended() => {
                        self.stream = None;
                        continue;
                    }
                },
            };
            if let Err(error) = outcome {
                self.recover(error).await?;
            }
        }
    }
}
