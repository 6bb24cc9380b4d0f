//! WebSocket connections: asked for and agreed to in HTTP, then bytes in both directions until either side ends.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use plenum_base::service::Shutdown;

/// Asks the target to speak WebSocket.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Tells the caller what the target agreed to.
pub fn agree(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Copies in both directions until one side ends.
pub async fn splice(client: OnUpgrade, server: OnUpgrade, shutdown: Shutdown) {
    let work = async {
        let (client, server) = tokio::try_join!(client, server).map_err(std::io::Error::other)?;
        tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await
    };
    if let Some(Err(error)) = shutdown.until(work).await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}
