//! Asks instances whether they are ready, many at a time.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, USER_AGENT};
use plenum_base::client::{Client, ClientError, Reach};
use plenum_base::tls;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::core::Event;
use crate::core::readiness::{Answer, Probe, Probed};

/// Questions under way at a time.
const MOST: usize = 256;
/// The longest body that is shown.
const LONGEST: usize = 16 * 1024;

/// Until nobody listens, or nobody asks.
pub(super) async fn ask(mut probes: mpsc::UnboundedReceiver<Probe>, to: mpsc::Sender<Event>) {
    let client = match tls::unverified_client_config() {
        Ok(config) => Client::with_reach(config, Reach::WIDE),
        Err(error) => return tracing::error!(%error, "readiness checks cannot be asked"),
    };
    let free = Arc::new(Semaphore::new(MOST));
    let mut asked = JoinSet::new();
    while let Some(probe) = probes.recv().await {
        let Ok(turn) = Arc::clone(&free).acquire_owned().await else { return };
        let (client, to) = (client.clone(), to.clone());
        asked.spawn(async move {
            let answer = one(&client, &probe).await.map_err(|error| reason(&error));
            drop(turn);
            let Probe { app, instance, .. } = probe;
            // Nobody listens any more: then it does not matter.
            let _ = to.send(Event::Probed(Box::new(Probed { app, instance, answer }))).await;
        });
        while asked.try_join_next().is_some() {}
    }
}

/// Asks once. Redirects are answers like others.
async fn one(client: &Client, probe: &Probe) -> Result<Answer, ClientError> {
    let deadline = Duration::from_millis(probe.timeout.0.max(1));
    let call = client.get(&probe.url).deadline(deadline);
    let call = call.header(CONNECTION, "close").header(USER_AGENT, "plenum-readiness");
    let reply = call.send().await?;
    let status = reply.status.as_u16();
    if !probe.keep {
        return Ok(Answer { status, ..Answer::default() });
    }
    let content_type = reply.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let body = match reply.bytes_up_to(LONGEST).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(ClientError::TooLarge { limit, .. }) => format!("(more than {limit} bytes)"),
        Err(error) => return Err(error),
    };
    Ok(Answer { status, content_type, body })
}

/// What was wrong, in the words of one who waits for it.
fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Deadline { waited, .. } => format!("it did not answer within {waited:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;
    use crate::core::id::{InstanceId, PathId};

    async fn answers(urls: &[(String, u64, bool)]) -> Vec<Result<Answer, String>> {
        let (probes, probes_out) = mpsc::unbounded_channel();
        let (told, mut heard) = mpsc::channel(8);
        let asking = tokio::spawn(ask(probes_out, told));
        let app = PathId::parse("/a").unwrap();
        let instance = |n: usize| InstanceId::from_key(&format!("a.instance-{n}"));
        for (n, (url, timeout, keep)) in urls.iter().enumerate() {
            let (url, timeout, keep) = (url.clone(), plenum_api::Millis(*timeout), *keep);
            probes.send(Probe { app: app.clone(), instance: instance(n), url, timeout, keep }).unwrap();
        }
        let mut all = Vec::new();
        while all.len() < urls.len() {
            let Some(Event::Probed(probed)) = heard.recv().await else { panic!("an answer to each") };
            let n = (0..urls.len()).find(|n| instance(*n) == probed.instance).unwrap();
            all.push((n, probed.answer));
        }
        drop(probes);
        asking.await.unwrap();
        all.sort_by_key(|(n, _)| *n);
        all.into_iter().map(|(_, answer)| answer).collect()
    }

    #[tokio::test]
    async fn everyone_asked_has_an_answer_in_time() {
        let app = axum::Router::new()
            .route("/warm", get(async || (http::StatusCode::SERVICE_UNAVAILABLE, "warming up")))
            .route("/hangs", get(async || tokio::time::sleep(Duration::from_secs(60)).await))
            .route("/large", get(async || "x".repeat(LONGEST + 1)))
            .route("/moved", get(async || axum::response::Redirect::to("/warm")));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let at = |path: &str, keep| (format!("http://{here}{path}"), 2000, keep);
        let hangs = (format!("http://{here}/hangs"), 50, false);
        let refused = (format!("http://{nobody}/"), 2000, false);
        let urls =
            [at("/warm", true), at("/warm", false), at("/large", true), at("/moved", false), hangs, refused];
        let all = answers(&urls).await;
        let warm = all[0].as_ref().unwrap();
        assert_eq!((warm.status, warm.body.as_str()), (503, "warming up"));
        assert!(warm.content_type.starts_with("text/plain"), "{warm:?}");
        assert_eq!(all[1], Ok(Answer { status: 503, ..Answer::default() }));
        assert_eq!(all[2].as_ref().unwrap().body, "(more than 16384 bytes)");
        assert_eq!(all[3].as_ref().unwrap().status, 303);
        assert_eq!(all[4], Err("it did not answer within 50ms".to_owned()));
        assert!(all[5].as_ref().unwrap_err().contains("cannot be reached"), "{:?}", all[5]);
    }
}
