//! Who listens to events. One that happens is encoded by whoever tells of it and put into the ring; a pump, and nobody else, wakes those
//! who listen, a few at a time, so that a thousand of them hold up neither the core nor who answers requests.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plenum_base::clock::OsClock;
use tokio::sync::{Notify, watch};

use super::Lead;
use crate::core::ring::{self, CAPACITY, Filter, Found, Ring};
use crate::core::{Notice, notices};

/// Groups in which listeners are woken.
const WAVES: usize = 64;
/// So many are woken at once; then the pump rests.
const AT_ONCE: usize = 32;
/// For so long. What happens meanwhile reaches everybody with one waking.
const REST: Duration = Duration::from_millis(1);
/// A listener that hears nothing else is sent a comment, and the id to go on from, after so long.
const ALIVE: Duration = Duration::from_secs(15);

/// The events and those who listen. Clones are the same.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    ring: Mutex<Ring>,
    /// There is something new, for the pump.
    fresh: Notify,
    waves: [watch::Sender<()>; WAVES],
    joined: AtomicUsize,
    listening: AtomicUsize,
    over: AtomicBool,
}

/// What there is to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events so far, each of them encoded once.
    pub encoded: u64,
    /// Bytes of the ring in use.
    pub bytes: usize,
    /// Listeners now.
    pub listening: usize,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Streams {
    /// Nobody listens yet. See [`Ring::new`] for `leadership`.
    pub(super) fn new(leadership: u64) -> Self {
        Self::of_size(leadership, CAPACITY)
    }

    fn of_size(leadership: u64, capacity: usize) -> Self {
        Self(Arc::new(Shared {
            ring: Mutex::new(Ring::new(leadership, capacity)),
            fresh: Notify::new(),
            waves: std::array::from_fn(|_| watch::Sender::new(())),
            joined: AtomicUsize::new(0),
            listening: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who listen. Costs the same however many they are.
    pub(super) fn publish(&self, notice: &Notice) {
        let encoded = ring::encode(notice);
        self.ring().push(encoded);
        self.0.fresh.notify_one();
    }

    /// Lets everybody go who listens, and nobody go on from before: what happened is not known for certain.
    pub(super) fn cut(&self) {
        self.ring().cut();
        self.0.fresh.notify_one();
    }

    /// Ends all streams for good.
    pub(super) fn end(&self) {
        self.0.over.store(true, Ordering::Release);
        self.0.waves.iter().for_each(|wave| wave.send_replace(()));
    }

    /// Begins to listen behind the event of the id `last`, or with what comes next. `client` is named to all others.
    pub fn listen(&self, last: Option<&str>, filter: Filter, client: &str) -> Listener {
        let now = OsClock.now();
        let number = self.0.joined.fetch_add(1, Ordering::Relaxed);
        let woken = self.0.waves.get(number % WAVES).map(watch::Sender::subscribe);
        let (position, gap) = self.ring().join(last, now);
        self.0.listening.fetch_add(1, Ordering::Relaxed);
        // Something to read at once: the head of the answer leaves with it.
        let mut ready = VecDeque::from([Bytes::from_static(b":\n\n")]);
        ready.extend(gap);
        self.publish(&notices::attached(client, now));
        Listener { streams: self.clone(), position, filter, woken, ready, client: client.into() }
    }

    /// What there is to be counted.
    pub fn counts(&self) -> Counts {
        let (encoded, bytes) = self.ring().counts();
        Counts { encoded, bytes, listening: self.0.listening.load(Ordering::Relaxed) }
    }

    /// Wakes those who listen, for as long as this process leads.
    pub(super) async fn pump(&self, lead: &Lead) {
        let mut woken = 0;
        loop {
            self.0.fresh.notified().await;
            if !lead.holds() {
                return self.end();
            }
            for wave in &self.0.waves {
                let count = wave.receiver_count();
                if count > 0 {
                    wave.send_replace(());
                    woken += count;
                }
                if woken >= AT_ONCE {
                    woken = 0;
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

/// One who listens: a position in the ring.
pub struct Listener {
    streams: Streams,
    position: u64,
    filter: Filter,
    woken: Option<watch::Receiver<()>>,
    ready: VecDeque<Bytes>,
    client: Box<str>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Listener {
    /// What is to be sent next; none when this listener is let go: it fell behind what is kept, or this process does not lead any more.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.next_within(ALIVE).await
    }

    /// The same; after `silence` a sign of life.
    async fn next_within(&mut self, silence: Duration) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.streams.0.over.load(Ordering::Acquire) {
                return None;
            }
            let found = self.streams.ring().read(&mut self.position, &self.filter, &mut self.ready);
            match found {
                Found::Behind => return None,
                Found::Some => {}
                Found::All if self.ready.is_empty() => {
                    // So far all of it was handed over: nothing is kept for what may never come.
                    self.ready.shrink_to_fit();
                    let woken = self.woken.as_mut()?;
                    match tokio::time::timeout(silence, woken.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return None,
                        Err(_) => return Some(self.alive()),
                    }
                }
                Found::All => {}
            }
        }
    }

    /// A comment, and the id to go on from: what the filter held back needs not be looked at again.
    fn alive(&self) -> Bytes {
        Bytes::from(format!(":\n{}", self.streams.ring().mark(self.position)))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.woken = None;
        self.streams.0.listening.fetch_sub(1, Ordering::Relaxed);
        self.streams.publish(&notices::detached(&self.client, OsClock.now()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn happen(streams: &Streams, n: usize) {
        streams.publish(&Notice { kind: "event", body: json!({ "n": n }) });
    }

    async fn text(listener: &mut Listener) -> Option<String> {
        listener.next().await.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_listener_hears_itself_come_then_events_then_that_all_is_well() {
        let streams = Streams::new(3);
        let lead = Lead::alone();
        let pump = {
            let streams = streams.clone();
            tokio::spawn(async move { streams.pump(&lead).await })
        };
        let mut one = streams.listen(None, Filter::all(), "1.2.3.4");
        let mut other = streams.listen(None, Filter::only(["event"]), "5.6.7.8");
        assert_eq!(text(&mut one).await.unwrap(), ":\n\n");
        let attached = text(&mut one).await.unwrap();
        assert!(attached.starts_with("event: event_stream_attached\ndata: {"), "{attached}");
        assert!(
            attached.contains("\"remoteAddress\":\"1.2.3.4\"") && attached.ends_with("id: 3-1\n\n"),
            "{attached}"
        );
        assert!(text(&mut one).await.unwrap().contains("5.6.7.8"));
        happen(&streams, 1);
        assert!(text(&mut one).await.unwrap().ends_with("data: {\"n\":1}\nid: 3-3\n\n"));
        assert_eq!(text(&mut other).await.unwrap(), ":\n\n");
        assert!(text(&mut other).await.unwrap().ends_with("id: 3-3\n\n"));
        drop(one);
        // Its end is not for the other's filter; the id goes on all the same.
        let alive = other.next_within(Duration::from_millis(1)).await.unwrap();
        assert_eq!(alive.as_ref(), b":\nid: 3-4\n\n");
        assert_eq!(streams.counts(), Counts { encoded: 4, listening: 1, ..streams.counts() });
        streams.end();
        assert_eq!(text(&mut other).await, None);
        pump.abort();
    }

    #[tokio::test]
    async fn who_falls_behind_is_let_go_and_comes_back_to_a_gap() {
        let streams = Streams::of_size(1, 1000);
        let mut slow = streams.listen(None, Filter::only(["event"]), "a");
        assert_eq!(text(&mut slow).await.unwrap(), ":\n\n");
        happen(&streams, 0);
        let seen = text(&mut slow).await.unwrap();
        let last = seen.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
        let mut again = streams.listen(Some(last), Filter::only(["event"]), "a");
        happen(&streams, 1);
        assert_eq!(text(&mut again).await.unwrap(), ":\n\n");
        assert!(text(&mut again).await.unwrap().contains("{\"n\":1}"), "what came in between is there");
        for n in 2..100 {
            happen(&streams, n);
        }
        assert_eq!(text(&mut slow).await, None, "it is let go");
        let mut late = streams.listen(Some(last), Filter::only(["event"]), "a");
        assert_eq!(text(&mut late).await.unwrap(), ":\n\n");
        let gap = text(&mut late).await.unwrap();
        assert!(gap.starts_with("event: gap\n") && gap.contains(last), "{gap}");
        happen(&streams, 100);
        assert!(text(&mut late).await.unwrap().contains("{\"n\":100}"));
        streams.cut();
        assert_eq!(text(&mut late).await, None, "after a cut everybody begins anew");
    }

    #[test]
    fn a_listener_is_small() {
        assert!(size_of::<Listener>() <= 160, "{}", size_of::<Listener>());
    }
}
