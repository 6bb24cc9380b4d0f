//! How the client connects: our own resolver, a deadline for the connection and for TLS, and probes that notice a machine that is gone.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::task::JoinHandle;
use tower::Service;

use crate::client::BoxError;

/// How far away those are who are called, and so how long is waited for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// For the TCP connection. A machine that is off costs this much.
    pub connect: Duration,
    /// For the connection with TLS. A process that is stopped costs this much.
    pub handshake: Duration,
    /// A silent connection is probed at this interval; after three probes without an answer it is broken.
    pub probe: Duration,
}

impl Reach {
    /// Within a cluster: who is gone is left after a second, a broken connection after four.
    pub const CLUSTER: Self = Self {
        connect: Duration::from_secs(1),
        handshake: Duration::from_secs(5),
        probe: Duration::from_secs(1),
    };
    /// Anywhere.
    pub const WIDE: Self = Self {
        connect: Duration::from_secs(5),
        handshake: Duration::from_secs(15),
        probe: Duration::from_secs(30),
    };
}

/// What the client's pool makes connections with.
pub(crate) type Connector = Within<HttpsConnector<HttpConnector<Names>>>;

/// A connector for HTTP and HTTPS.
pub(crate) fn connector(config: ClientConfig, reach: Reach) -> Connector {
    let mut http = HttpConnector::new_with_resolver(Names);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(reach.connect));
    http.set_keepalive(Some(reach.probe));
    http.set_keepalive_interval(Some(reach.probe));
    http.set_keepalive_retries(Some(3));
    let inner = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Within { inner, deadline: reach.handshake, left: Left::default() }
}

/// Names by [`crate::resolve`].
#[derive(Debug, Clone)]
pub(crate) struct Names;

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Boxed<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found = crate::resolve::lookup(name.as_str()).await?;
            // The connector puts the port in.
            Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

/// A connector with a deadline over everything it does, and whose attempts outlive those who asked for them: a caller who gives up early
/// leaves the attempt to the next one. Where a handshake takes longer than callers wait, as on a machine that is overloaded, they would
/// otherwise begin it anew for ever, and be the load.
#[derive(Debug)]
pub(crate) struct Within<C: Service<Uri>> {
    inner: C,
    deadline: Duration,
    left: Left<C::Response>,
}

impl<C: Service<Uri> + Clone> Clone for Within<C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), deadline: self.deadline, left: Arc::clone(&self.left) }
    }
}

/// Attempts that nobody waits for, by scheme and authority.
type Left<T> = Arc<Mutex<HashMap<String, Attempt<T>>>>;
type Outcome<T> = Result<T, BoxError>;

/// A connection that is being made. It ends with its last holder.
#[derive(Debug)]
struct Attempt<T> {
    task: JoinHandle<Outcome<T>>,
    /// Tells attempts for one address apart.
    number: u64,
}

impl<T> Drop for Attempt<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An attempt that is left to others unless it is waited for to its end.
struct Waiting<T: Send + 'static> {
    attempt: Option<Attempt<T>>,
    key: String,
    left: Left<T>,
}

impl<T: Send + 'static> Future for Waiting<T> {
    type Output = Outcome<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waiting = self.get_mut();
        let Some(attempt) = &mut waiting.attempt else {
            return Poll::Ready(Err("the connection was taken already".into()));
        };
        let outcome = std::task::ready!(Pin::new(&mut attempt.task).poll(context));
        waiting.attempt = None;
        Poll::Ready(outcome.unwrap_or_else(|error| Err(error.into())))
    }
}

impl<T: Send + 'static> Drop for Waiting<T> {
    fn drop(&mut self) {
        let (Some(attempt), Ok(runtime)) = (self.attempt.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let number = attempt.number;
        self.left.lock().insert(self.key.clone(), attempt);
        let (left, key) = (Arc::downgrade(&self.left), std::mem::take(&mut self.key));
        runtime.spawn(async move {
            tokio::time::sleep(KEPT).await;
            let Some(left) = left.upgrade() else { return };
            let mut left = left.lock();
            if left.get(&key).is_some_and(|attempt| attempt.number == number) {
                left.remove(&key);
            }
        });
    }
}

/// For how long an attempt that nobody waits for is kept: servers close a connection on which nothing is asked.
const KEPT: Duration = Duration::from_secs(5);

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    C::Response: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Boxed<C::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let key = format!(
            "{}//{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |a| a.as_str())
        );
        let found = self.left.lock().remove(&key);
        let attempt = found.unwrap_or_else(|| {
            let (connecting, deadline) = (self.inner.call(uri), self.deadline);
            let task = tokio::spawn(async move {
                match tokio::time::timeout(deadline, connecting).await {
                    Ok(connected) => connected.map_err(Into::into),
                    Err(_) => Err(format!("no connection within {deadline:?}").into()),
                }
            });
            Attempt { task, number: NUMBERS.fetch_add(1, Ordering::Relaxed) }
        });
        Box::pin(Waiting { attempt: Some(attempt), key, left: Arc::clone(&self.left) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects after a while, and counts.
    #[derive(Clone, Default)]
    struct Slow(Arc<AtomicU64>);

    impl Service<Uri> for Slow {
        type Response = u64;
        type Error = BoxError;
        type Future = Boxed<u64, BoxError>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(number)
            })
        }
    }

    #[tokio::test]
    async fn an_attempt_is_left_to_the_next_caller() {
        let slow = Slow::default();
        let mut within =
            Within { inner: slow.clone(), deadline: Duration::from_secs(3), left: Left::default() };
        let hasty = Duration::from_millis(50);
        let (a, b) = (Uri::from_static("https://a:1/x"), Uri::from_static("https://b:1/x"));
        for _ in 0..3 {
            assert!(tokio::time::timeout(hasty, within.call(a.clone())).await.is_err());
        }
        assert_eq!(within.clone().call(a.clone()).await.unwrap(), 0, "one attempt served all of them");
        assert_eq!(within.call(b.clone()).await.unwrap(), 1, "another address is another attempt");
        // Two at once are two.
        let (first, second) = tokio::join!(within.clone().call(a.clone()), within.call(a.clone()));
        assert_ne!(first.unwrap(), second.unwrap());
        assert!(within.left.lock().is_empty());
    }
}
