//! A request's body on its way to a target: lent to one attempt after the other for as long as nobody has read from it, counted against
//! the limit, and watched for progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body as Incoming;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use plenum_base::client::BoxError;

/// The body is larger than this address takes.
#[derive(Debug, thiserror::Error)]
#[error("the body has more than {0} bytes")]
struct TooLarge(u64);

#[derive(Debug)]
struct Shared {
    body: Mutex<Incoming>,
    limit: u64,
    received: AtomicU64,
    /// Whether somebody read from it: then it cannot be sent a second time.
    touched: AtomicBool,
    ended: AtomicBool,
    too_large: AtomicBool,
    /// Whether it broke off, or its framing made no sense.
    broke_off: AtomicBool,
    began: Instant,
    /// Milliseconds after `began`.
    progress: AtomicU64,
}

/// A request's body. Clones are the same body.
#[derive(Debug, Clone)]
pub struct Lent(Arc<Shared>);

impl Lent {
    /// Takes a body that may have `limit` bytes.
    pub fn new(body: Incoming, limit: u64) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Shared {
            body: Mutex::new(body),
            limit,
            received: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            ended: AtomicBool::new(ended),
            too_large: AtomicBool::new(false),
            broke_off: AtomicBool::new(false),
            began: Instant::now(),
            progress: AtomicU64::new(0),
        }))
    }

    /// Reads it to its end. `None` when nothing came for `stall`, or when it broke off or the limit ([`Lent::broke_off`], [`Lent::too_large`]).
    pub async fn gather(&self, stall: Duration) -> Option<Bytes> {
        let mut own = self.clone();
        let mut all = BytesMut::new();
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut own).poll_frame(cx));
            match tokio::time::timeout(stall, next).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        all.extend_from_slice(&data);
                    }
                }
                Ok(None) => return Some(all.freeze()),
                Ok(Some(Err(_))) | Err(_) => return None,
            }
        }
    }

    /// Whether another attempt can send it.
    pub fn is_whole(&self) -> bool {
        !self.0.touched.load(Ordering::Relaxed) || self.is_empty()
    }

    /// Whether somebody began to read it, which happens once there is a connection.
    pub fn is_touched(&self) -> bool {
        self.0.touched.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.ended() && self.0.received.load(Ordering::Relaxed) == 0
    }

    /// Whether everything was read.
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Whether it broke the limit.
    pub fn too_large(&self) -> bool {
        self.0.too_large.load(Ordering::Relaxed)
    }

    /// Whether the caller did not send it whole: what failed then is not the target.
    pub fn broke_off(&self) -> bool {
        self.0.broke_off.load(Ordering::Relaxed)
    }

    /// The time since something was read from it, or since it began.
    pub fn quiet(&self) -> Duration {
        let progress = Duration::from_millis(self.0.progress.load(Ordering::Relaxed));
        self.0.began.elapsed().saturating_sub(progress)
    }

    /// Counts as progress: an attempt begins.
    pub fn touch_clock(&self) {
        let millis = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.progress.store(millis, Ordering::Relaxed);
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let shared = &self.0;
        shared.touched.store(true, Ordering::Relaxed);
        let mut body = shared.body.lock();
        loop {
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            };
            self.touch_clock();
            match frame {
                None => {
                    shared.ended.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    shared.broke_off.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(error.into())));
                }
                // Trailers could smuggle headers past everything that was checked, so they end here.
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let more = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    let received = shared.received.fetch_add(more, Ordering::Relaxed).saturating_add(more);
                    if received > shared.limit {
                        shared.too_large.store(true, Ordering::Relaxed);
                        return Poll::Ready(Some(Err(TooLarge(shared.limit).into())));
                    }
                    if body.is_end_stream() {
                        shared.ended.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.lock().size_hint()
    }
}
