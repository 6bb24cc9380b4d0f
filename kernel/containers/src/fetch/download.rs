//! Downloads over HTTP: redirects, limits, stalls, attempts.

use super::retry::{self, Failure, Place, State};
use super::sandbox::Temporary;
use super::{FetchError, Job, Progress, tls, uri};
use base64::Engine;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE, USER_AGENT,
};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use plenum_base::retry::Backoff;
use std::time::{Duration, Instant};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

const REDIRECTS_MAX: usize = 10;
/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What came of asking a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is in the file.
    Here {
        /// Its size.
        bytes: u64,
        /// What the server calls this content.
        validator: Option<String>,
    },
    /// The server has what the caller has.
    Unchanged,
}

/// Downloads into a temporary file, unless the content is still the one that `known` names.
pub async fn http(
    job: &Job,
    first: &Uri,
    to: &mut Temporary,
    known: Option<&str>,
) -> Result<Outcome, FetchError> {
    let file = to.file.try_clone().map_err(FetchError::io("saving a download"))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut state = State::default();
    let mut backoff = Backoff::new(job.options.backoff, job.options.backoff.saturating_mul(20));
    loop {
        let (error, asked) = match once(job, first, &mut file, &mut state, known).await {
            Ok(false) => return Ok(Outcome::Unchanged),
            Ok(true) => {
                let validator = state.validator().map(str::to_owned);
                return Ok(Outcome::Here { bytes: state.done, validator });
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again(error, asked)) => (error, asked),
        };
        // Who has a copy need not be patient.
        if known.is_some() || !state.again(job.options.attempts) {
            return Err(error);
        }
        let pause = backoff.delay().max(asked.unwrap_or_default());
        (job.listener)(Progress::Again { uri: uri::shown(first), reason: error.to_string(), pause });
        tokio::time::sleep(pause).await;
    }
}

/// False when the content is the one that `known` names.
async fn once(
    job: &Job,
    first: &Uri,
    file: &mut File,
    state: &mut State,
    known: Option<&str>,
) -> Result<bool, Failure> {
    let response = request(job, first, state, known).await?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(false);
    }
    let again = |reason: &str| {
        Failure::Again(FetchError::Transfer { uri: uri::shown(first), reason: reason.to_owned() }, None)
    };
    let place = match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => Place::Nowhere,
        status => state.place(status, response.headers(), response.body().size_hint().exact()),
    };
    if place != Place::End {
        restart(file, state).await.map_err(|error| Failure::Final(saving(error)))?;
    }
    if place == Place::Nowhere {
        return Err(again("it sent another part than was asked for"));
    }
    save(job, first, response, file, state).await.map(|()| true)
}

async fn restart(file: &mut File, state: &mut State) -> std::io::Result<()> {
    file.set_len(0).await?;
    file.rewind().await?;
    state.done = 0;
    Ok(())
}

fn saving(error: std::io::Error) -> FetchError {
    FetchError::io("saving a download")(error)
}

/// Asks for all, or for what is not here yet; follows redirects.
async fn request(
    job: &Job,
    first: &Uri,
    state: &State,
    known: Option<&str>,
) -> Result<Response<Incoming>, Failure> {
    let tls = tls::config(job.options.ca_file.as_deref()).map_err(Failure::Final)?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let shown = uri::shown(first);
    let fail = |reason: String| Failure::Final(FetchError::Transfer { uri: shown.clone(), reason });
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
        if let Some((begin, validator)) = state.rest() {
            request = request.header(RANGE, format!("bytes={begin}-")).header(IF_RANGE, validator);
        }
        if let Some(known) = known {
            let name = if known.starts_with('"') { IF_NONE_MATCH } else { IF_MODIFIED_SINCE };
            request = request.header(name, known);
        }
        let request = request.body(Empty::new()).map_err(|error| fail(error.to_string()))?;
        let response = tokio::time::timeout(job.options.stall_timeout, client.request(request)).await;
        let response = response.map_err(|_| stalled(job, &shown))?.map_err(|error| {
            let failed = FetchError::Transfer { uri: shown.clone(), reason: chain(&error) };
            if retry::untrusted(&error) { Failure::Final(failed) } else { Failure::Again(failed, None) }
        })?;
        let status = response.status();
        let beyond = status == StatusCode::RANGE_NOT_SATISFIABLE && state.rest().is_some();
        let unchanged = status == StatusCode::NOT_MODIFIED && known.is_some();
        if status.is_success() || beyond || unchanged {
            return Ok(response);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(location) = location.filter(|_| status.is_redirection()) else {
            return Err(retry::refused(shown, status, response.headers()));
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

fn stalled(job: &Job, shown: &str) -> Failure {
    let after = job.options.stall_timeout;
    Failure::Again(FetchError::Stalled { uri: shown.to_owned(), after }, None)
}

/// Writes a body behind what is here.
async fn save(
    job: &Job,
    from: &Uri,
    response: Response<Incoming>,
    file: &mut File,
    state: &mut State,
) -> Result<(), Failure> {
    let (uri, max) = (uri::shown(from), job.options.max_bytes);
    let too_large = || Failure::Final(FetchError::TooLarge { uri: uri.clone(), max });
    let local = |error| Failure::Final(saving(error));
    let mut body = response.into_body();
    if body.size_hint().exact().is_some_and(|left| state.done.saturating_add(left) > max) {
        return Err(too_large());
    }
    let mut told = Instant::now();
    let tell = |state: &State| {
        (job.listener)(Progress::Bytes { uri: uri.clone(), done: state.done, total: state.total });
    };
    loop {
        let next = tokio::time::timeout(job.options.stall_timeout, body.frame()).await;
        let frame = match next {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            failed => {
                // What was handed over is in the file before another attempt counts on it.
                file.flush().await.map_err(local)?;
                return Err(match failed {
                    Ok(Some(Err(error))) => {
                        let reason = chain(&error);
                        Failure::Again(FetchError::Transfer { uri: uri.clone(), reason }, None)
                    }
                    _ => stalled(job, &uri),
                });
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        let done = state.done.saturating_add(data.len() as u64);
        if done > max {
            return Err(too_large());
        }
        file.write_all(&data).await.map_err(local)?;
        state.done = done;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(state);
        }
    }
    file.flush().await.map_err(local)?;
    if let Some(total) = state.total.filter(|total| *total != state.done) {
        let reason = format!("it sent {} of {total} bytes", state.done);
        return Err(Failure::Again(FetchError::Transfer { uri: uri.clone(), reason }, None));
    }
    tell(state);
    Ok(())
}
