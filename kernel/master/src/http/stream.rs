//! Event streams as response bodies: RecordIO over chunked HTTP.

use std::ops::Deref;
use std::pin::Pin;
use std::task::Poll;

use axum::body::{Body, Bytes};
use futures_util::stream::poll_fn;
use plenum_api::codec::{self, Encoding};
use plenum_api::recordio;
use tokio::time::Interval;

use crate::shell::owner::Guard;
use crate::shell::queue::Waiting;

/// Events written in one piece at most.
const BATCH: usize = 256;

/// A sign of life, sent at each tick.
pub(crate) struct Heartbeat {
    pub interval: Interval,
    pub record: Bytes,
}

/// A message as a record.
pub(crate) fn record<M: codec::Message>(encoding: Encoding, message: &M) -> Bytes {
    recordio::encode(&codec::encode(encoding, message))
}

/// A body that begins with `first` and goes on with what comes through the queue. When the client is gone, the guard tells.
pub(crate) fn body<T, M>(
    first: Bytes,
    mut waiting: Waiting<T>,
    guard: Guard,
    encoding: Encoding,
    mut heartbeat: Option<Heartbeat>,
) -> Body
where
    T: Deref<Target = M> + Send + 'static,
    M: codec::Message,
{
    let mut first = Some(first).filter(|first| !first.is_empty());
    let mut items = Vec::new();
    let mut message = Vec::new();
    Body::from_stream(poll_fn(move |cx| {
        // Held until the stream is dropped.
        let _ = &guard;
        if let Some(first) = first.take() {
            return Poll::Ready(Some(Ok::<_, std::convert::Infallible>(first)));
        }
        if let Poll::Ready(count) = waiting.poll(cx, &mut items, BATCH) {
            if count == 0 {
                return Poll::Ready(None);
            }
            let mut out = Vec::new();
            for item in items.drain(..) {
                message.clear();
                codec::encode_into(encoding, &*item, &mut message);
                recordio::encode_into(&message, &mut out);
            }
            // A burst must not be paid for in memory for the life of the stream.
            items.shrink_to(16);
            message.shrink_to(16 * 1024);
            return Poll::Ready(Some(Ok(out.into())));
        }
        if let Some(heartbeat) = &mut heartbeat
            && Pin::new(&mut heartbeat.interval).poll_tick(cx).is_ready()
        {
            return Poll::Ready(Some(Ok(heartbeat.record.clone())));
        }
        Poll::Pending
    }))
}
