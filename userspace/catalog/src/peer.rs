//! A role that one of several processes leads, as the catalog calls it: the last one that answered first, then the others; redirects are
//! followed to members of the list only. Calls are repeated, so whatever is sent must bear that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::LOCATION;
use plenum_base::client::{Call, Client, ClientError, Reply};
use plenum_base::leading::member;
use plenum_base::turns::Turns;

/// How long a call may take with everything it is repeated for.
const PATIENCE: Duration = Duration::from_secs(20);
/// What one of several gets of it: it may be dead.
const SHARE: Duration = Duration::from_secs(6);
/// After everybody was asked in vain.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a role is. Clones remember the same.
#[derive(Clone, Debug)]
pub struct Peer {
    client: Client,
    turns: Arc<Mutex<Turns>>,
}

impl Peer {
    /// The role behind `turns`, called with `client`.
    pub fn new(client: Client, turns: Turns) -> Self {
        Self { client, turns: Arc::new(Mutex::new(turns)) }
    }

    fn order(&self) -> Vec<String> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).order()
    }

    /// Sends what `make` makes for a base URL, until one answers that is in charge. On a single machine it is sent once.
    ///
    /// # Errors
    /// The error of the last one asked.
    pub async fn ask(&self, make: impl Fn(&Client, &str) -> Call) -> Result<Reply, ClientError> {
        let end = Instant::now() + PATIENCE;
        let (mut sent_to, mut at): (Option<String>, usize) = (None, 0);
        loop {
            let list = self.order();
            let alone = list.len() <= 1;
            let led = sent_to.take();
            let is_led = led.is_some();
            let url = led.or_else(|| list.get(at % list.len().max(1)).cloned()).unwrap_or_default();
            let left = end.saturating_duration_since(Instant::now());
            let deadline = if alone { left } else { left.min(SHARE) };
            let result = make(&self.client, &url).deadline(deadline).send().await;
            let over = alone || Instant::now() + PAUSE >= end;
            match &result {
                Ok(reply) if reply.status == StatusCode::TEMPORARY_REDIRECT => {
                    let there = reply.headers.get(LOCATION).and_then(|there| there.to_str().ok());
                    // One that was just named and names another: the leadership is on its way. Ask in turn, not in circles.
                    sent_to = there.and_then(|there| member(&list, there)).filter(|_| !is_led);
                }
                Ok(reply) if reply.status != StatusCode::SERVICE_UNAVAILABLE => {
                    self.turns.lock().unwrap_or_else(PoisonError::into_inner).answered(&url);
                    return result;
                }
                Ok(_) | Err(_) => {}
            }
            if over {
                return result;
            }
            if sent_to.is_none() {
                at = at.wrapping_add(1);
                if at.is_multiple_of(list.len().max(1)) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::State;
    use axum::response::{IntoResponse, Response};
    use plenum_base::places::Role;

    use super::*;

    type Script = Arc<Mutex<Vec<Response>>>;

    /// A server that gives these answers in turn, the last first; then 200.
    async fn server(answers: Vec<Response>) -> (String, Script) {
        let script: Script = Arc::new(Mutex::new(answers));
        let next = |State(script): State<Script>| async move {
            script.lock().unwrap().pop().unwrap_or_else(|| StatusCode::OK.into_response())
        };
        let router = Router::new().fallback(next).with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, script)
    }

    fn redirect(to: &str) -> Response {
        (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, format!("{to}/x"))]).into_response()
    }

    #[tokio::test]
    async fn the_leader_is_found_and_nobody_outside_the_list_is_asked() {
        let (stranger, asked) = server(vec![StatusCode::IM_A_TEAPOT.into_response()]).await;
        let (leader, _) = server(vec![StatusCode::SERVICE_UNAVAILABLE.into_response()]).await;
        let (standby, answers) = server(vec![redirect(&leader), redirect(&stranger)]).await;
        let dead = "http://127.0.0.1:1".to_owned();
        let turns = Turns::fixed(Role::Services, vec![dead, standby, leader]);
        let peer = Peer::new(Client::plain().unwrap(), turns);
        let reply = peer.ask(|client, base| client.get(&format!("{base}/x"))).await.unwrap();
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(asked.lock().unwrap().len(), 1, "the stranger was not asked");
        assert!(answers.lock().unwrap().len() < 2);
    }

    #[tokio::test]
    async fn on_a_single_machine_a_call_is_made_once() {
        let (url, answers) =
            server(vec![StatusCode::OK.into_response(), StatusCode::SERVICE_UNAVAILABLE.into_response()])
                .await;
        let peer = Peer::new(Client::plain().unwrap(), Turns::fixed(Role::Services, vec![url]));
        let reply = peer.ask(|client, base| client.get(base)).await.unwrap();
        assert_eq!((reply.status, answers.lock().unwrap().len()), (StatusCode::SERVICE_UNAVAILABLE, 1));
        let dead = Peer::new(
            Client::plain().unwrap(),
            Turns::fixed(Role::Services, vec!["http://127.0.0.1:1".to_owned()]),
        );
        assert!(dead.ask(|client, base| client.get(base)).await.is_err());
    }
}
