//! How the client connects: our own resolver, a deadline for the connection and for TLS, and probes that notice a machine that is gone.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use rustls::ClientConfig;
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
    Within { inner, deadline: reach.handshake }
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

/// A connector with a deadline over everything it does.
#[derive(Debug, Clone)]
pub(crate) struct Within<C> {
    inner: C,
    deadline: Duration,
}

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Boxed<C::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, deadline) = (self.inner.call(uri), self.deadline);
        Box::pin(async move {
            match tokio::time::timeout(deadline, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(format!("no connection within {deadline:?}").into()),
            }
        })
    }
}
