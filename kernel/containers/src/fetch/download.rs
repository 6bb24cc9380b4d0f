//! Downloads over HTTP: redirects, limits, stalls.

use super::sandbox::Temporary;
use super::{FetchError, Job, Progress, tls, uri};
use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

const REDIRECTS_MAX: usize = 10;
/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Downloads into a temporary file; returns the size.
pub async fn http(job: &Job, first: &Uri, to: &mut Temporary) -> Result<u64, FetchError> {
    let response = request(job, first).await?;
    save(job, first, response, to).await
}

async fn request(job: &Job, first: &Uri) -> Result<Response<Incoming>, FetchError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls::config(job.options.ca_file.as_deref())?)
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let shown = uri::shown(first);
    let fail = |reason: String| FetchError::Transfer { uri: shown.clone(), reason };
    let mut at = first.clone();
    for _ in 0..=REDIRECTS_MAX {
        let mut request = Request::get(&at).header(USER_AGENT, "plenum-fetcher").header(ACCEPT, "*/*");
        // Credentials are for the host that they were given with.
        if at.host() == first.host()
            && at.port_u16() == first.port_u16()
            && let Some(user) = uri::credentials(first)
        {
            let encoded = base64::engine::general_purpose::STANDARD.encode(user);
            request = request.header(AUTHORIZATION, format!("Basic {encoded}"));
        }
        let request = request.body(Empty::new()).map_err(|error| fail(error.to_string()))?;
        let response = tokio::time::timeout(job.options.stall_timeout, client.request(request)).await;
        let response = response
            .map_err(|_| FetchError::Stalled { uri: shown.clone(), after: job.options.stall_timeout })?
            .map_err(|error| fail(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(location) = location.filter(|_| status.is_redirection()) else {
            return Err(FetchError::Status { uri: shown, status: status.as_u16() });
        };
        at = uri::redirect(&at, location).map_err(|reason| fail(reason.to_owned()))?;
    }
    Err(fail(format!("more than {REDIRECTS_MAX} redirects")))
}

/// The error and its causes: a client's own text is only "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn save(
    job: &Job,
    from: &Uri,
    response: Response<Incoming>,
    to: &mut Temporary,
) -> Result<u64, FetchError> {
    let (uri, max, stall) = (uri::shown(from), job.options.max_bytes, job.options.stall_timeout);
    let mut body = response.into_body();
    let total = body.size_hint().exact();
    if total.is_some_and(|total| total > max) {
        return Err(FetchError::TooLarge { uri, max });
    }
    let file = to.file.try_clone().map_err(FetchError::io("saving a download"))?;
    let mut file = tokio::fs::File::from_std(file);
    let (mut done, mut told) = (0_u64, Instant::now());
    loop {
        let next = tokio::time::timeout(stall, body.frame()).await;
        let Some(frame) = next.map_err(|_| FetchError::Stalled { uri: uri.clone(), after: stall })? else {
            break;
        };
        let frame =
            frame.map_err(|error| FetchError::Transfer { uri: uri.clone(), reason: chain(&error) })?;
        let Ok(data) = frame.into_data() else { continue };
        done = done.saturating_add(data.len() as u64);
        if done > max {
            return Err(FetchError::TooLarge { uri, max });
        }
        file.write_all(&data).await.map_err(FetchError::io("saving a download"))?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            (job.listener)(Progress::Bytes { uri: uri.clone(), done, total });
        }
    }
    file.flush().await.map_err(FetchError::io("saving a download"))?;
    (job.listener)(Progress::Bytes { uri, done, total });
    Ok(done)
}
